"""The key `subtasks:` of a task file: several tasks on the same posts, which are handed in together."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from smm4h.config.output_paths import JOB_NAMES, WHOLE_NAMES
from smm4h.config.task import Submission
from smm4h.config.task_keys.content import Content
from smm4h.config.task_keys.multi_label import KEY as MULTI_LABEL
from smm4h.config.task_keys.submission import read_submission

NAME = re.compile(r"[A-Za-z0-9][\w-]{0,99}", re.ASCII)
HELD = ("id", "label", "source")  # what columns of a submission hold besides
ONE_LABEL = "a subtask gives a tweet one label; write a task file of its own for the multi-label task"
COMMON = ("name", "subtasks", "submission")  # keys that a subtask has none of its own of
MERGED = ("columns", "files")  # keys whose content a subtask adds to
DEFAULT_FILE, DEFAULT_ID = "prediction.tsv", "tweet_id"


@dataclass(frozen=True)
class Subtasks:
    """Several subtasks, such as T, N and M: each a task with one label a post, trained for itself."""

    name: str  # of the task
    names: list[str]  # of the subtasks, in the order of the task file
    submission: Submission  # of all of them: the cells hold id, source, a subtask's labels by its name, or a text

    @property
    def columns(self) -> dict[str, str]:
        """The column of the submission with each subtask's labels."""
        return {held: name for name, held in self.submission.layout.items() if held in self.names}


def content_of_subtask(content: Content, subtask: str) -> Content:
    """Return the task file that a subtask would have alone: the common keys, and over them its own.

    Raises `InputError` for a subtask that there is not.
    """
    own = content.mapping("subtasks", _subtasks(content)[_known(content, subtask)], "{labels: [a, b]}")
    common = {key: value for key, value in content.keys.items() if key not in COMMON}
    merged = {key: {**common.get(key, {}), **own[key]} for key in MERGED if _both_are_mappings(common, own, key)}
    keys = {
        **common,
        **own,
        **merged,
        "name": f"{content.get('name')}-{subtask}",
        "submission": _submission_of(content, subtask),
    }
    lines = {key: line for key, line in content.lines.items() if key[0] not in own or key[0] in MERGED}
    lines |= {key[2:]: line for key, line in content.lines.items() if key[:2] == ("subtasks", subtask) and key[2:]}
    return Content(content.path, keys, lines)


def _both_are_mappings(common: Mapping[str, Any], own: Mapping[str, Any], key: str) -> bool:
    return isinstance(common.get(key), dict) and isinstance(own.get(key), dict)


def _known(content: Content, subtask: str) -> str:
    names = list(_subtasks(content))
    return content.choice("subtasks", subtask, names, "subtask")


def _subtasks(content: Content) -> dict[str, Any]:
    """Return what is said of each subtask, by its name, which names a folder, too."""
    subtasks = content.mapping("subtasks", content.get("subtasks"), "{T: {labels: [T1, T2]}, N: {labels: [N0, N1]}}")
    reserved = {name.casefold() for name in (*JOB_NAMES, *WHOLE_NAMES, *HELD)}
    if content.get(MULTI_LABEL):
        content.fail(MULTI_LABEL, ONE_LABEL)
    for name, own in subtasks.items():
        if not NAME.fullmatch(name) or name.casefold() in reserved:
            content.fail("subtasks", f"subtask {name[:40]!r} names a folder; use other letters, digits, - and _", name)
        for key in content.mapping("subtasks", own, "{labels: [a, b]}"):
            if key == MULTI_LABEL:
                content.fail("subtasks", ONE_LABEL, name, key)
            if key in COMMON:
                content.fail("subtasks", f"{key} is common to all subtasks; move it out of subtask {name}", name, key)
    if len({name.casefold() for name in subtasks}) < max(2, len(subtasks)):
        content.fail("subtasks", "at least two subtasks with different names are needed; of one, write its keys alone")
    return subtasks


def read_subtasks_of(content: Content) -> Subtasks:
    """Return the subtasks of a task file that has some, and the shape in which all of them are handed in."""
    names = list(_subtasks(content))
    keys = dict(content.mapping("submission", content.get("submission", {}), "{file: answer.tsv, columns: {id: id}}"))
    keys.setdefault("file", DEFAULT_FILE)
    keys.setdefault("columns", {DEFAULT_ID: "id", **{name: name for name in names}})
    columns = content.mapping("submission", keys["columns"], f"{{id: id, {names[0]}_label: {names[0]}}}")
    for name in names:
        if list(columns.values()).count(name) != 1:
            content.fail("submission", f"exactly one of the columns must hold the subtask {name}", "columns")
    if keys.get("validation"):
        content.fail("submission", "validation: a task with subtasks hands in test posts only", "validation")
    written = content.mapping("submission", keys.get("labels") or {}, f"{{{names[0]}: {{a: A}}}}")
    content.check_keys("submission", written, names, "subtask")
    whole = {**keys, "labels": {}, "columns": {name: _alone(held, names[0], names) for name, held in columns.items()}}
    shape = read_submission(
        Content(content.path, {**content.keys, "labels": names, "submission": whole}, content.lines)
    )
    cells = {name: "" if held is None else str(held) for name, held in columns.items()}
    return Subtasks(str(content.get("name")), names, replace(shape, cells=cells))


def _alone(held: Any, subtask: str, names: list[str]) -> Any:
    """Return what a column holds in the submission of one subtask alone; None for another subtask's labels."""
    return {subtask: "label"}.get(held, None if held in names else held)


def _submission_of(content: Content, subtask: str) -> dict[str, Any]:
    """Return the submission of a subtask alone, under a name of its own: it can't be taken for the joint one."""
    subtasks = read_subtasks_of(content)
    shape, value = subtasks.submission, content.get("submission", {})
    columns = {name: _alone(held, subtask, subtasks.names) for name, held in shape.cells.items()}
    alone = {
        **value,
        "file": {source: _named(file, subtask) for source, file in shape.files.items()} or _named(shape.file, subtask),
        "columns": {name: held for name, held in columns.items() if held is not None},
        "labels": (value.get("labels") or {}).get(subtask, {}),
    }
    return {**alone, "zip": _named(value["zip"], subtask)} if isinstance(value.get("zip"), str) else alone


def _named(file: str, subtask: str) -> str:
    return f"{PurePath(file).stem}_{subtask}{PurePath(file).suffix}"
