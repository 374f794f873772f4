"""The key `multi_label:` of a task file, and what a task of several labels a tweet can't have beside it."""

from typing import Any

from smm4h.config.task import MultiLabel
from smm4h.config.task_keys.content import Content
from smm4h.config.task_keys.labels import read_labels
from smm4h.models.label_spaces import MOST_LABELS, SEPARATORS, LabelSetSpace
from smm4h.set_metrics import measure_of_pairs

KEY = "multi_label"
IN_COLUMNS = "columns"  # value: each label has a column of its name
FORMS = (
    f"write true, what separates the labels ({' '.join(SEPARATORS)}), {IN_COLUMNS}, or a mapping of labels to columns"
)
MEASURES = "f1 (of all labels, micro), macro_f1 (the mean over labels), f2 and the like"


def read_multi_label(content: Content) -> MultiLabel | None:
    """Return how files hold several labels a tweet; None for a task of one label a tweet."""
    value = content.get(KEY)
    if value is None or value is False:
        return None
    labels = read_labels(content)
    multi_label = _form_of(content, value, labels)
    free = LabelSetSpace(tuple(labels)).separators
    if len(labels) > MOST_LABELS:
        content.fail("labels", f"{len(labels)} labels; a multi-label task can have {MOST_LABELS}")
    if not free or (multi_label.separator and multi_label.separator not in free):
        content.fail(
            "labels", f"some label holds {multi_label.separator or ' and '.join(SEPARATORS)}, which separates labels"
        )
    if blank := [label for label in labels if label != label.strip()]:
        content.fail("labels", f"label {blank[0]!r} has blanks at its ends, which are cut off where labels are listed")
    return multi_label


def _form_of(content: Content, value: Any, labels: list[str]) -> MultiLabel:
    if isinstance(value, dict):
        named = {label: content.strings(KEY, name)[0] for label, name in content.mapping(KEY, value, "").items()}
        if set(named) != set(labels) or len(set(named.values())) < len(named):
            content.fail(KEY, f"name a column of its own for each of {', '.join(labels)}, and for nothing else")
        return MultiLabel({label: named[label] for label in labels})
    if value == IN_COLUMNS:
        return MultiLabel({label: label for label in labels})
    if value is not True and value not in SEPARATORS:
        content.fail(KEY, f"{value!r}: {FORMS}")
    return MultiLabel(separator="" if value is True else value)


def check_beside(content: Content, multi_label: MultiLabel | None, measures: list[str]) -> None:
    """Raise `InputError` for keys that mean nothing where a tweet has several labels."""
    if multi_label is None:
        return
    for key, why in (
        ("positive", "all labels of a multi-label task are scored"),
        ("by", "a multi-label task is scored by label, and not by group"),
        ("unscored", "all labels of a multi-label task are scored"),
    ):
        if content.get(key) is not None:
            content.fail(key, f"{why}; leave `{key}:` out")
    for name in measures:
        if measure_of_pairs(name) is None:
            content.fail("measure", f"{name} is no measure of label sets; choose {MEASURES}")
