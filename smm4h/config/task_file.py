"""Task files, `tasks/*.yaml`: found by name, read and checked, with a function for each key.

A wrong key or value is refused with file, line and remedy.
"""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from smm4h.config.decision import Costs
from smm4h.config.task import Columns, Task, TaskFile
from smm4h.config.task_keys.content import Content
from smm4h.config.task_keys.labels import read_labels, read_meanings, read_positive, read_spellings
from smm4h.config.task_keys.multi_label import check_beside, read_multi_label
from smm4h.config.task_keys.submission import read_submission
from smm4h.config.task_keys.subtasks import NAME, Subtasks, content_of_subtask, read_subtasks_of
from smm4h.metrics import MEASURES, find_measure
from smm4h.utils.errors import InputError, nearest
from smm4h.utils.files import read_yaml

TASKS = Path(__file__).parents[1] / "tasks"  # a link to the checkout's folder; pip installs what it leads to
FIRST_YEAR = "2020"  # of the task files that lie in no year's folder
OWN_DATA = "own_data"  # the template for tasks of one's own
NEEDED = "the task needs `{}:`; tasks/own_data.yaml shows all keys"
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
    """Return the task file of a path or a name; raise `InputError` with the nearest name for one that there is not.

    A subtask that the name ends in, such as `2026/task6:T`, is what the result ends in, too.
    """
    plain, subtask = split_subtask(name)
    if subtask:
        return Path(f"{find_task(plain)}:{subtask}")
    if Path(name).is_file():  # a folder of data may have a task's name, too: 2024/task5
        return Path(name)
    tasks, asked = known_tasks(), Path(name).as_posix().removeprefix("./").removeprefix("tasks/").removesuffix(".yaml")
    if asked in tasks:
        return tasks[asked]
    hint = nearest(asked, tasks) or f"; there are {', '.join(tasks)}"
    raise InputError(f"--task {name}: there is no such task file{hint}")


def split_subtask(name: str | Path) -> tuple[str, str]:
    """Return the task file's name and the subtask that follows it after a colon; without one, an empty subtask."""
    plain, _, subtask = str(name).rpartition(":")
    is_subtask = bool(plain) and NAME.fullmatch(subtask) is not None and not Path(name).is_file()
    return (plain, subtask) if is_subtask else (str(name), "")


def read_task(name: str | Path) -> Task:
    """Read and check a task file, by its path or its name; raise `InputError` with file, line and remedy.

    Of a task file with subtasks, the name must say which one is meant: `2026/task6:T`.
    """
    plain, subtask = split_subtask(find_task(name))
    content = _content_of(plain)
    if content.get("subtasks") is None:
        if subtask:
            content.fail("name", f"the task has no subtasks, and {subtask} is meant to be one; leave `:{subtask}` out")
        return _task_of(content)
    subtasks = read_subtasks_of(content)
    if not subtask:
        content.fail("subtasks", f"the task has subtasks; name one of them, such as {name}:{subtasks.names[0]}")
    return _task_of(content_of_subtask(content, subtask))


def read_subtasks(name: str | Path) -> Subtasks | None:
    """Return the subtasks of a task file by its path or its name; None where it has none, or the name says which.

    Raises `InputError` with file, line and remedy, for what is wrong with any of them.
    """
    plain, subtask = split_subtask(find_task(name))
    content = _content_of(plain)
    if subtask or content.get("subtasks") is None:
        return None
    subtasks = read_subtasks_of(content)
    for one in subtasks.names:
        _task_of(content_of_subtask(content, one))
    return subtasks


def _content_of(path: str) -> Content:
    """Return the content of a task file; raise `InputError` for a key that there is not."""
    content = Content(Path(path), *read_yaml(path))
    known = [*(key for key in KEYS if key not in DERIVED), *PARTIAL, FBETA, "subtasks"]
    for key in content.keys:
        if key not in known:
            content.fail(key, f"a task has no key {key}{nearest(key, known)}")
    if content.get("name") is None:
        content.fail("name", NEEDED.format("name"))
    return content


def _task_of(content: Content) -> Task:
    """Return the task of a file's content, or of one subtask's; raise `InputError` for what is wrong or missing."""
    known = [*(key for key in KEYS if key not in DERIVED), *PARTIAL, FBETA]
    for key in content.keys:
        if key not in known:
            content.fail(key, f"a subtask has no key {key}{nearest(key, known)}")
    for key in ("labels", "columns"):
        if content.get(key) is None:
            content.fail(key, NEEDED.format(key))
    values = {field: read(content) for field, read in KEYS.items()}
    check_beside(content, values["multi_label"], _measures(content))
    return Task(**values)


def _name(content: Content) -> str:
    return str(content.get("name"))


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
    multi_label = read_multi_label(content)
    if multi_label is not None and multi_label.columns:
        if value.get("label") is not None:
            content.fail("columns", "`multi_label:` names the columns of the labels; leave `label:` out", "label")
        value = {**value, "label": next(iter(multi_label.columns.values()))}
    for key in ("text", "label"):
        if key not in value:
            content.fail("columns", f"name the column that holds the {key}")
    named = {key: content.strings("columns", names) for key, names in value.items() if names is not None}
    for key, field in PARTIAL.items():
        if content.get(key) is not None:
            named[field] = content.strings(key, content.get(key))
    for key, kind in (("context", "text"), ("by", "label"), ("by", "text")):
        if set(named.get(PARTIAL[key], [])).intersection(named[kind]):
            content.fail(key, f"this is the column of the {kind}; name another one")
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


def _published(content: Content) -> dict[str, float]:
    value = content.get("published", {})
    if not isinstance(value, dict) or not all(isinstance(score, int | float) for score in value.values()):
        content.fail("published", "a mapping of names to scores is expected, such as {mean of all teams: 0.65}")
    return {str(name): float(score) for name, score in value.items()}


def _official_test_rows(content: Content) -> int | None:
    value = content.get("official_test_rows")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        content.fail("official_test_rows", "a number of rows is expected, such as 4602")
    return value


def _costs(content: Content) -> Costs | None:
    value = content.get("costs")
    try:
        return None if value is None else Costs.from_mapping(value)
    except ValueError as error:
        content.fail("costs", str(error))


# What fills each field of a task.
KEYS: dict[str, Callable[[Content], Any]] = {
    "name": _name,
    "labels": read_labels,
    "spellings": read_spellings,
    "positive": read_positive,
    "measure": _measure,
    "columns": _columns,
    "files": _files,
    "header": _header,
    "label_header": _label_header,
    "unknown_labels": _unknown_labels,
    "one_text_per_file": _one_text_per_file,
    "submission": read_submission,
    "about": _about,
    "meanings": read_meanings,
    "published": _published,
    "official_test_rows": _official_test_rows,
    "costs": _costs,
    "further_measures": _further_measures,
    "average": _average,
    "unscored": _unscored,
    "multi_label": read_multi_label,
}
FBETA = "fbeta"  # `fbeta: 2` stands for `measure: f2`
DERIVED = ("spellings", "further_measures")  # fields that no key of their own fills
PARTIAL = {"by": "group", "context": "context"}  # keys of one column, and its field of `Columns`
