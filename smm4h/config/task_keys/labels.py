"""The keys of a task file that are about its labels: their names and spellings, which are rare, what they mean."""

from smm4h.config.task_keys.content import Content


def read_labels(content: Content) -> list[str]:
    """Return the labels of a task file, in the order of the class indices."""
    value = content.get("labels")
    labels = list(content.mapping("labels", value, "")) if isinstance(value, dict) else content.strings("labels", value)
    if len(labels) < 2 or len(set(labels)) < len(labels):
        content.fail("labels", "at least two labels, each named once, are needed")
    return labels


def read_spellings(content: Content) -> dict[str, list[str]]:
    """Return the further spellings of labels, of `labels: {noADE: [NoADE, noADE]}`."""
    value = content.get("labels")
    if not isinstance(value, dict):
        return {}
    owner: dict[str, str] = {label: label for label in read_labels(content)}
    spellings = {}
    for label, names in content.mapping("labels", value, "").items():
        spellings[label] = [name for name in content.strings("labels", names or label) if name != label]
        for name in spellings[label]:
            if owner.setdefault(name, label) != label:
                content.fail("labels", f"{name} is a spelling of {owner[name]} and of {label}", label)
    return {label: names for label, names in spellings.items() if names}


def read_positive(content: Content) -> list[str]:
    """Return the rare labels, by default all."""
    labels = read_labels(content)
    positive = content.strings("positive", content.get("positive", labels))
    for label in positive:
        if label not in labels:
            content.fail("positive", f"{label} is none of the labels {', '.join(labels)}")
    return positive


def read_meanings(content: Content) -> dict[str, str]:
    """Return what some labels mean."""
    value, labels = content.mapping("meanings", content.get("meanings", {}), "{1: defect}"), read_labels(content)
    for label in value:
        if label not in labels:
            content.fail("meanings", f"{label} is none of the labels {', '.join(labels)}")
    return {label: str(meaning) for label, meaning in value.items()}
