"""The key `submission:` of a task file: the shape of what is handed in."""

from pathlib import Path
from typing import Any

from smm4h.config.task import DEFAULT_SUBMISSION, Submission
from smm4h.config.task_keys.content import Content
from smm4h.config.task_keys.labels import read_labels

LONGEST_FILE_NAME = 200  # bytes; file systems allow 255, of which temporary names need some
SUBMISSION_KEYS = ("file", "columns", "header", "separator", "labels", "zip", "validation")
SEPARATOR_NAMES = {"tab": "\t", "comma": ",", "semicolon": ";"}


def read_submission(content: Content) -> Submission:
    """Return the shape of what is handed in; the default one where the task file names none."""
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
