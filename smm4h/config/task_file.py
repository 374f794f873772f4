"""Task files, `tasks/*.yaml`: found by name, read and checked, with a function for each key.

A wrong key or value is refused with file, line and remedy.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from smm4h.config.decision import Costs
from smm4h.config.task import DEFAULT_SUBMISSION, Columns, Submission, Task, TaskFile
from smm4h.metrics import MEASURES, find_measure
from smm4h.utils.errors import CONTROL, HAS_CONTROL, InputError, nearest
from smm4h.utils.files import KeyPath, read_yaml

TASKS = Path(__file__).parents[1] / "tasks"  # a link to the checkout's folder; pip installs what it leads to
LONGEST_FILE_NAME = 200  # bytes; file systems allow 255, of which temporary names need some
FIRST_YEAR = "2020"  # of the task files that lie in no year's folder
OWN_DATA = "own_data"  # the template for tasks of one's own
FILE_PARTS = ("training", "training_labels", "validation", "validation_labels", "test", "gold")


def known_tasks() -> dict[str, Path]:
    """Return the task files that come with this project, by name: `task5`, `2020/task5`, `2024/task5`."""
    tasks = {}
    for path in sorted(TASKS.rglob("*.yaml")):
        name = path.relative_to(TASKS).with_suffix("").as_posix()
        tasks[name] = path
        if "/" not in name and name != OWN_DATA:
            tasks[f"{FIRST_YEAR}/{name}"] = path
    return tasks


def find_task(name: str | Path) -> Path:
    """Return the task file of a path or a name; raise `InputError` with the nearest name for one that there is not."""
    if Path(name).exists():
        return Path(name)
    tasks, asked = known_tasks(), Path(name).as_posix().removeprefix("./").removeprefix("tasks/").removesuffix(".yaml")
    if asked in tasks:
        return tasks[asked]
    hint = nearest(asked, tasks) or f"; there are {', '.join(tasks)}"
    raise InputError(f"--task {name}: there is no such task file{hint}")


@dataclass(frozen=True)
class Content:
    """The content of a task file, with the line of each key."""

    path: Path
    keys: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a key's value; the default where it is left out or empty."""
        value = self.keys.get(key)
        return default if value is None else value

    def fail(self, key: str, message: str, *below: str) -> NoReturn:
        """Raise `InputError` with the line of a key, or of one below it."""
        line = self.lines.get((key, *below)) or self.lines.get((key,))
        raise InputError(f"{self.path}{f', line {line}' if line else ''}: {message}")

    def strings(self, key: str, value: Any) -> list[str]:
        """Return a value as a list of names; raise `InputError` for truth values and the like."""
        values = value if isinstance(value, list) else [value]
        for item in values:
            if isinstance(item, bool) or not isinstance(item, str | int | float):
                self.fail(key, f"{item!r} is not a name here; put it in quotes (YAML reads yes and no as truth values)")
            if CONTROL.search(str(item)):
                self.fail(key, HAS_CONTROL.format(f"name {str(item)!r}"))
        return [str(item) for item in values]

    def mapping(self, key: str, value: Any, example: str) -> dict[str, Any]:
        """Return a mapping with its keys as strings; raise `InputError` for any other value."""
        if not isinstance(value, dict):
            self.fail(key, f"a mapping such as {example} is expected")
        return {self.strings(key, name)[0]: content for name, content in value.items()}

    def choice(self, key: str, value: Any, choices: Iterable[str], what: str) -> str:
        """Return a value that is one of some names; raise `InputError` with the nearest for any other."""
        choices = list(choices)
        if value not in choices:
            self.fail(key, f"no {what} {value}{nearest(str(value), choices)}; there are {', '.join(choices)}")
        return value

    def check_keys(self, key: str, value: Mapping[str, Any], known: Iterable[str], what: str) -> None:
        """Raise `InputError` for a key below `key` that is none of the known ones."""
        known = sorted(known)
        for name in value:
            if name not in known:
                self.fail(key, f"no {what} {name}{nearest(name, known)}; there are {', '.join(known)}", name)


def read_task(name: str | Path) -> Task:
    """Read and check a task file, by its path or its name; raise `InputError` with file, line and remedy."""
    path = find_task(name)
    content = Content(path, *read_yaml(path))
    known = [*(key for key in KEYS if key not in DERIVED), *PARTIAL, FBETA]
    for key in content.keys:
        if key not in known:
            content.fail(str(key), f"a task has no key {key}{nearest(str(key), known)}")
    for key in ("name", "labels", "columns"):
        if content.get(key) is None:
            content.fail(key, f"the task needs `{key}:`; tasks/own_data.yaml shows all keys")
    return Task(**{field: read(content) for field, read in KEYS.items()})


def _name(content: Content) -> str:
    return str(content.get("name"))


def _labels(content: Content) -> list[str]:
    value = content.get("labels")
    labels = list(content.mapping("labels", value, "")) if isinstance(value, dict) else content.strings("labels", value)
    if len(labels) < 2 or len(set(labels)) < len(labels):
        content.fail("labels", "at least two labels, each named once, are needed")
    return labels


def _spellings(content: Content) -> dict[str, list[str]]:
    """Return the further spellings of labels, of `labels: {noADE: [NoADE, noADE]}`."""
    value = content.get("labels")
    if not isinstance(value, dict):
        return {}
    owner: dict[str, str] = {label: label for label in _labels(content)}
    spellings = {}
    for label, names in content.mapping("labels", value, "").items():
        spellings[label] = [name for name in content.strings("labels", names or label) if name != label]
        for name in spellings[label]:
            if owner.setdefault(name, label) != label:
                content.fail("labels", f"{name} is a spelling of {owner[name]} and of {label}", label)
    return {label: names for label, names in spellings.items() if names}


def _positive(content: Content) -> list[str]:
    labels = _labels(content)
    positive = content.strings("positive", content.get("positive", labels))
    for label in positive:
        if label not in labels:
            content.fail("positive", f"{label} is none of the labels {', '.join(labels)}")
    return positive


def _measures(content: Content) -> list[str]:
    """Return the metric and, after it, further measures, of one name or a list."""
    if (beta := content.get(FBETA)) is not None:
        return [_f_beta(content, beta)]
    names = content.strings("measure", content.get("measure", "f1"))
    for name in names:
        if find_measure(name) is None:
            content.choice("measure", name, [*MEASURES, "f2", "f0.5"], "measure")
    return list(dict.fromkeys(names)) or ["f1"]


def _measure(content: Content) -> str:
    return _measures(content)[0]


def _f_beta(content: Content, beta: Any) -> str:
    """Return the metric's name of a weight of the recall; raise `InputError` for any other value."""
    if content.get("measure") is not None:
        content.fail(FBETA, "`measure:` names the metric already; keep one of them")
    name = f"f{beta:g}" if isinstance(beta, int | float) and not isinstance(beta, bool) else ""
    if find_measure(name) is None:
        content.fail(FBETA, f"{beta!r} is no weight of the recall; write a number above 0, such as fbeta: 2")
    return name


def _further_measures(content: Content) -> list[str]:
    return _measures(content)[1:]


def _average(content: Content) -> str:
    value = content.choice("average", content.get("average", "pooled"), ("pooled", "groups"), "average")
    if value == "groups" and content.get("by") is None:
        content.fail("average", "name the column that holds the groups, such as `by: language`")
    return value


def _unscored(content: Content) -> list[str]:
    if content.get("unscored") is not None and content.get("by") is None:
        content.fail("unscored", "name the column that holds the groups, such as `by: language`")
    return content.strings("unscored", content.get("unscored", []))


def _columns(content: Content) -> Columns:
    value = content.mapping("columns", content.get("columns"), "{text: tweet, label: class, id: tweet_id}")
    known = {f.name for f in fields(Columns)} - set(PARTIAL.values())
    content.check_keys("columns", value, known, "column")
    for key in ("text", "label"):
        if key not in value:
            content.fail("columns", f"name the column that holds the {key}")
    named = {key: content.strings("columns", names) for key, names in value.items() if names is not None}
    for key, field in PARTIAL.items():
        if content.get(key) is not None:
            named[field] = content.strings(key, content.get(key))
    return Columns(**named)


def _files(content: Content) -> dict[str, list[TaskFile]]:
    """Return the files of each part: of one name, of a list, or of a mapping of sources to names."""
    value = content.mapping("files", content.get("files", {}), "{training: train.tsv, test: test.tsv}")
    content.check_keys("files", value, FILE_PARTS, "part")
    files = {}
    for part, names in value.items():
        if isinstance(names, dict):
            files[part] = [TaskFile(str(name), source) for source, name in content.mapping("files", names, "").items()]
        else:
            files[part] = [TaskFile(name) for name in content.strings("files", names)]
    for part in ("training", "validation"):
        texts, labels = files.get(part, []), files.get(f"{part}_labels", [])
        if labels and len(labels) not in (1, len(texts)):
            content.fail("files", f"{len(texts)} {part} files, but {len(labels)} of their labels; name as many, or one")
    return files


def _submission(content: Content) -> Submission:
    if content.get("submission") is None:
        return DEFAULT_SUBMISSION
    value = content.mapping("submission", content.get("submission"), "{file: answer.tsv, columns: [id, label]}")
    content.check_keys("submission", value, SUBMISSION_KEYS, "key")
    if not {"file", "columns"} <= set(value):
        content.fail(
            "submission", "`file:` and `columns:` are needed, such as {file: answer.tsv, columns: [id, label]}"
        )
    cells = _cells(content, value["columns"])
    names = {held: name for name, held in cells.items()}
    file, files = _submitted_files(content, value["file"])
    for name in [file, *files.values()]:
        if reason := unfit_submission(name):
            content.fail("submission", f"the submission's file {name[:60]!r} {reason}", "file")
    for flag in ("header", "validation"):
        if not isinstance(value.get(flag, False), bool):
            content.fail("submission", f"{flag}: true or false is expected", flag)
    return Submission(
        file=file,
        columns=[names["id"], names["label"]],
        cells=cells if isinstance(value["columns"], dict) else {},
        files=files,
        header=value.get("header", True),
        separator=_separator(content, value.get("separator")),
        labels=_written_labels(content, value.get("labels") or {}),
        packing=_packing(content, value.get("zip", True)),
        validation=value.get("validation", False),
    )


def _cells(content: Content, value: Any) -> dict[str, str]:
    """Return what each column holds: of a list of two, ids and labels; of a mapping, what it says."""
    if not isinstance(value, dict):
        names = content.strings("submission", value)
        if len(names) != 2 or names[0] == names[1]:
            content.fail("submission", "two `columns:`, of ids and labels, or a mapping of columns to what they hold")
        return {names[0]: "id", names[1]: "label"}
    cells = {name: "" if held is None else content.strings("submission", held)[0] for name, held in value.items()}
    for needed in ("id", "label"):
        if list(cells.values()).count(needed) != 1:
            content.fail("submission", f"exactly one of the columns must hold the {needed}", "columns")
    return cells


def _submitted_files(content: Content, value: Any) -> tuple[str, dict[str, str]]:
    """Return the submission's file, and the one for each source where there is a mapping of these."""
    if not isinstance(value, dict):
        return content.strings("submission", value)[0], {}
    files = {source: content.strings("submission", name)[0] for source, name in value.items()}
    if not files:
        content.fail("submission", "name the file", "file")
    return next(iter(files.values())), files


def unfit_submission(name: str) -> str:
    """Return why a name is no submission's file; empty where it is one."""
    if not name.strip() or name in (".", "..") or Path(name).name != name or "\\" in name:
        return "must be a name without a folder, such as prediction.tsv"
    if len(name.encode("utf-8")) > LONGEST_FILE_NAME:
        return f"is too long; {LONGEST_FILE_NAME} bytes at most are allowed"
    if Path(name).suffix.lower() in (".parquet", ".gz", ".zip", ".xlsx"):
        return "is a text, within a zip unless `zip: false` says otherwise; end its name in .tsv or .csv"
    return ""


def _separator(content: Content, value: Any) -> str:
    if value is None:
        return ""
    if value not in (*SEPARATOR_NAMES, *SEPARATOR_NAMES.values()):
        content.fail("submission", f"separator {value!r}: choose {', '.join(SEPARATOR_NAMES)}", "separator")
    return SEPARATOR_NAMES.get(value, value)


def _written_labels(content: Content, value: Any) -> dict[str, str]:
    """Return how labels are written in the submission; each must stay another one."""
    labels = _labels(content)
    written = {
        label: content.strings("submission", name)[0]
        for label, name in content.mapping("submission", value, "{labels: {none: 0}}").items()
    }
    content.check_keys("submission", written, labels, "label")
    if len({written.get(label, label) for label in labels}) < len(labels):
        content.fail("submission", "two labels would be written alike", "labels")
    return {label: name for label, name in written.items() if name != label}


def _packing(content: Content, value: Any) -> str:
    """Return `each` for a zip for each file, `none`, or the name of one zip for all files."""
    if isinstance(value, bool):
        return "each" if value else "none"
    name = content.strings("submission", value)[0]
    if Path(name).name != name or "\\" in name or Path(name).suffix.lower() != ".zip":
        content.fail("submission", f"zip: {name} must be true, false or a name that ends in .zip", "zip")
    return name


def _header(content: Content) -> list[str]:
    return content.strings("header", content.get("header", []))


def _label_header(content: Content) -> list[str]:
    return content.strings("label_header", content.get("label_header", []))


def _unknown_labels(content: Content) -> str:
    value = content.get("unknown_labels", "refuse")
    return content.choice("unknown_labels", value, ("refuse", "drop"), "way with unknown labels")


def _one_text_per_file(content: Content) -> bool:
    value = content.get("one_text_per_file", False)
    if not isinstance(value, bool):
        content.fail("one_text_per_file", "true or false is expected")
    return value


def _about(content: Content) -> str:
    return str(content.get("about", ""))


def _meanings(content: Content) -> dict[str, str]:
    value, labels = content.mapping("meanings", content.get("meanings", {}), "{1: defect}"), _labels(content)
    for label in value:
        if label not in labels:
            content.fail("meanings", f"{label} is none of the labels {', '.join(labels)}")
    return {label: str(meaning) for label, meaning in value.items()}


def _published(content: Content) -> dict[str, float]:
    value = content.get("published", {})
    if not isinstance(value, dict) or not all(isinstance(score, int | float) for score in value.values()):
        content.fail("published", "a mapping of names to scores is expected, such as {mean of all teams: 0.65}")
    return {str(name): float(score) for name, score in value.items()}


def _costs(content: Content) -> Costs | None:
    value = content.get("costs")
    try:
        return None if value is None else Costs.from_mapping(value)
    except ValueError as error:
        content.fail("costs", str(error))


SUBMISSION_KEYS = ("file", "columns", "header", "separator", "labels", "zip", "validation")
SEPARATOR_NAMES = {"tab": "\t", "comma": ",", "semicolon": ";"}


# What fills each field of a task.
KEYS: dict[str, Callable[[Content], Any]] = {
    "name": _name,
    "labels": _labels,
    "spellings": _spellings,
    "positive": _positive,
    "measure": _measure,
    "columns": _columns,
    "files": _files,
    "header": _header,
    "label_header": _label_header,
    "unknown_labels": _unknown_labels,
    "one_text_per_file": _one_text_per_file,
    "submission": _submission,
    "about": _about,
    "meanings": _meanings,
    "published": _published,
    "costs": _costs,
    "further_measures": _further_measures,
    "average": _average,
    "unscored": _unscored,
}
FBETA = "fbeta"  # `fbeta: 2` stands for `measure: f2`
DERIVED = ("spellings", "further_measures")  # fields that no key of their own fills
PARTIAL = {"by": "group", "context": "context"}  # keys of one column, and its field of `Columns`
