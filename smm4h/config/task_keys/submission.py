"""The key `submission:` of a task file: the shape of what is handed in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from smm4h.config.task import DEFAULT_SUBMISSION, ONE_LABEL_CELL, Submission
from smm4h.config.task_keys.content import Content
from smm4h.config.task_keys.labels import read_labels
from smm4h.config.task_keys.multi_label import read_multi_label
from smm4h.models.label_spaces import JSON_LIST, LabelSetSpace

LONGEST_FILE_NAME = 200  # bytes; file systems allow 255, of which temporary names need some
SUBMISSION_KEYS = ("file", "columns", "header", "separator", "labels", "zip", "validation", "joint", "marks")
LABEL_SETS = "labels"  # column of labels in other files than the submission, where that has a column for each
SEPARATOR_NAMES = {"tab": "\t", "comma": ",", "semicolon": ";"}


def read_submission(content: Content) -> Submission:
    """Return the shape of what is handed in; the default one where the task file names none."""
    if content.get("submission") is None:
        return replace(DEFAULT_SUBMISSION, joint=_joint(content, None))
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
        columns=[names["id"], names.get("label", LABEL_SETS)],
        cells=cells if isinstance(value["columns"], dict) else {},
        files=files,
        header=value.get("header", True),
        separator=_separator(content, value.get("separator")),
        labels=_written_labels(content, value.get("labels") or {}),
        packing=_packing(content, value.get("zip", True)),
        validation=value.get("validation", False),
        joint=_joint(content, value.get("joint")),
        marks=_marks(content, value.get("marks")),
    )


def _joint(content: Content, value: Any) -> str:
    """Return what stands between the labels of a multi-label task: by default what the task says of its files."""
    multi_label = read_multi_label(content)
    if multi_label is None:
        if value is not None:
            content.fail("submission", "joint: only a multi-label task has several labels to join", "joint")
        return ""
    if value is not None:
        joint = content.strings("submission", value)[0]
        if joint != JSON_LIST and (not joint or any(joint in label for label in read_labels(content))):
            content.fail("submission", f"joint {joint!r} must separate the labels, none of which may hold it", "joint")
        return joint
    return multi_label.separator or LabelSetSpace(tuple(read_labels(content))).separators[0]


def _marks(content: Content, value: Any) -> list[str]:
    """Return what a label's own column holds where the label is given, and where it is absent."""
    marks = ["1", "0"] if value is None else content.strings("submission", value)
    if len(marks) != 2 or marks[0] == marks[1]:
        content.fail(
            "submission", 'marks: write what stands for a given and for an absent label: ["yes", "no"]', "marks"
        )
    return marks


def _cells(content: Content, value: Any) -> dict[str, str]:
    """Return what each column holds: of a list of two, ids and labels; of a mapping, what it says."""
    if not isinstance(value, dict):
        names = content.strings("submission", value)
        if len(names) != 2 or names[0] == names[1]:
            content.fail("submission", "two `columns:`, of ids and labels, or a mapping of columns to what they hold")
        return {names[0]: "id", names[1]: "label"}
    cells = {name: "" if held is None else content.strings("submission", held)[0] for name, held in value.items()}
    held = list(cells.values())
    of_labels = [match[1] for text in held if (match := ONE_LABEL_CELL.fullmatch(text))]
    if of_labels and read_multi_label(content) is not None:
        if sorted(of_labels) != sorted(read_labels(content)) or "label" in held:
            content.fail(
                "submission", "name a column for each label, `label: NAME`, or one for all, `label`", "columns"
            )
        held.append("label")
    for needed in ("id", "label"):
        if held.count(needed) != 1:
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
    labels = read_labels(content)
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
