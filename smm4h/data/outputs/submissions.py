"""Submissions in the shape that a task's organisers ask for: text or JSON, zipped or plain, one file or several.

All files that leave the project for a scorer are written here.
"""

import csv
import hashlib
import io
import itertools
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from smm4h.config.plans.plan import Plan
from smm4h.config.task import ONE_LABEL_CELL, Submission
from smm4h.data.dataset import column
from smm4h.models.label_spaces import JSON_LIST
from smm4h.utils.console import console
from smm4h.utils.derived import DerivedFiles
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json, write_atomically, write_json

DATE = (1980, 1, 1, 0, 0, 0)  # of all files within zips: equal labels give equal bytes
VALIDATION = "validation"  # the part with the labelled validation tweets, and its folder


Answers = Sequence[str | Sequence[str]]  # of each tweet its label, or the labels of its set


@dataclass(frozen=True)
class Part:
    """The answers on the tweets of one file: ids and labels, in its order."""

    source: str  # as the task names the file; empty: it does not
    ids: Sequence[str]
    labels: Answers | Mapping[str, Answers]  # as the task names them; of subtasks, those of each

    def answers(self) -> dict[str, Answers]:
        """Return the labels by what a column of them holds: `label`, or the name of a subtask."""
        return dict(self.labels) if isinstance(self.labels, Mapping) else {"label": self.labels}


def write_shape(plan: Plan, submission: Submission, test: Dataset | None) -> None:
    """Write the submission's shape, and how many test tweets in a row are from which source.

    Nothing is written where the plan says it all.
    """
    sources = column(test, "source").to_pylist() if test is not None and "source" in test.column_names else []
    runs = [[source, len(list(rows))] for source, rows in itertools.groupby(sources)]
    content = {"shape": asdict(submission), "sources": runs}
    planned = {"shape": asdict(Submission(**plan.identity["task"]["submission"])), "sources": []}
    if content != (read_json(plan.shape_file) if plan.shape_file.exists() else planned):
        write_json(plan.shape_file, content)


def read_sources(plan: Plan) -> list[tuple[str, int]]:
    """Return the sources of test tweets and how many in a row are from each; empty where they have none."""
    if not plan.shape_file.exists():
        return []
    return [(source, count) for source, count in read_json(plan.shape_file)["sources"]]


def parts_of(
    ids: Sequence[str], labels: Answers | Mapping[str, Answers], sources: Sequence[tuple[str, int]]
) -> list[Part]:
    """Return the answers on the test tweets, a part for each source in a row; of subtasks, labels of each."""
    parts, start = [], 0
    for source, count in sources or [("", len(ids))]:
        rows = slice(start, start + count)
        several = isinstance(labels, Mapping)
        own = {name: values[rows] for name, values in labels.items()} if several else labels[rows]
        parts.append(Part(source, ids[rows], own))
        start += count
    return parts


def submission_text(submission: Submission, name: str, parts: Sequence[Part]) -> str:
    """Return a submission file's content.

    Args:
        name: of the file, whose ending tells the format: .csv, .jsonl, .json (an object by id), else tabs.

    Raises:
        InputError: for an id that stands there with two labels, in JSON by id, and a tab or line end in a field between
            tabs.
    """
    layout, kind = submission.layout, Path(name).suffix.lower()
    written = [known for part in parts for known in _known(part, submission, as_list=kind in (".json", ".jsonl"))]
    rows = [[known.get(held, held) for held in layout.values()] for known in written]
    if kind == ".json":
        return _json_by_id(list(layout), rows, list(layout.values()).index("id"))
    if kind == ".jsonl":
        objects = (dict(zip(layout, row, strict=True)) for row in rows)
        return "".join(json.dumps(content, ensure_ascii=False) + "\n" for content in objects)
    return _separated([list(layout)] * submission.header + rows, submission.separator_of(name), name)


def _known(part: Part, submission: Submission, *, as_list: bool) -> Iterator[dict[str, str | list[str]]]:
    """Yield for each tweet what the columns of a submission may hold, but for constant texts."""
    answers = part.answers()
    for i, *labels in zip(part.ids, *answers.values(), strict=True):
        cells = {"id": i, "source": part.source}
        for name, of_tweet in zip(answers, labels, strict=True):
            cells |= _cells(name, of_tweet, submission, as_list)
        yield cells


def _cells(name: str, labels: str | Sequence[str], submission: Submission, as_list: bool) -> dict[str, Any]:
    """Return by what a column may hold the cell of a tweet's label, or the cells of its set of labels.

    Args:
        name: of the cell with the label, or with all labels.
        as_list: whether several labels stand there as a list, as in JSON.
    """
    if isinstance(labels, str):
        return {name: submission.labels.get(labels, labels)}
    written = [submission.labels.get(label, label) for label in labels]
    held = {text: match[1] for text in submission.layout.values() if (match := ONE_LABEL_CELL.fullmatch(text))}
    given, absent = submission.marks
    marks = {text: given if label in labels else absent for text, label in held.items()}
    return {name: written if as_list else _listed(written, submission.joint), **marks}


def _listed(labels: Sequence[str], joint: str) -> str:
    """Return the labels of a tweet as one text."""
    return json.dumps(labels, ensure_ascii=False) if joint == JSON_LIST else joint.join(labels)


def _separated(rows: Sequence[Sequence[str]], separator: str, name: str) -> str:
    """Return rows of fields: between tabs as they are, else quoted as spreadsheets do."""
    if separator == "\t":
        for row in rows:
            if any(mark in field for field in row for mark in "\t\n\r"):
                raise InputError(f"{name}: an id or label holds a tab or a line end; end the file's name in .csv")
        return "".join("\t".join(row) + "\n" for row in rows)
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n", delimiter=separator).writerows(rows)
    return stream.getvalue()


def _json_by_id(columns: Sequence[str], rows: Sequence[Sequence[str]], of_id: int) -> str:
    """Return JSON with an object for each id, which holds the other columns."""
    content: dict[str, dict[str, str]] = {}
    for row in rows:
        answer = {name: value for i, (name, value) in enumerate(zip(columns, row, strict=True)) if i != of_id}
        if content.setdefault(row[of_id], answer) != answer:
            raise InputError("two test tweets have the same id and other labels, which JSON by id can't hold")
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def submission_files(submission: Submission, parts: Sequence[Part]) -> dict[Path, dict[str, str]]:
    """Return the content of each file to hand in, by its path below the folder of submissions.

    Of a zip, the content is that of each file in it; of a plain file, that of its only one.
    """
    texts: dict[tuple[str, str], str] = {}  # by folder and name
    for folder, is_validation in (("", False), (VALIDATION, True)):
        asked = [part for part in parts if (part.source == VALIDATION and submission.validation) == is_validation]
        by_name: dict[str, list[Part]] = {}
        for part in asked:
            by_name.setdefault(submission.file_of(part.source), []).append(part)
        for name, of_file in by_name.items():
            texts[folder, name] = submission_text(submission, name, of_file)
    files: dict[Path, dict[str, str]] = {}
    for (folder, name), text in texts.items():
        packed = {"each": f"{Path(name).stem}.zip", "none": name}.get(submission.packing, submission.packing)
        files.setdefault(Path(folder, packed), {})[name] = text
    return files


def write_submission_files(derived: DerivedFiles, files: Mapping[Path, dict[str, str]]) -> list[Path]:
    """Write files to hand in, by their paths below `submission/`, where they are not whole; return their paths.

    Files that an earlier shape of the submission left in the same folders are removed: nobody should hand them in.
    """
    paths = {derived.folder / "submission" / name: texts for name, texts in files.items()}
    for path, texts in paths.items():
        if path.exists() and not holds(path, texts):
            console.print(f"note: {path} differs from the vote; it is made again", markup=False, soft_wrap=True)
            path.unlink()
        inputs = hashlib.sha256(repr(texts).encode()).hexdigest()
        derived.make(path, partial(write_submission_file, path, texts), inputs)
    recorded = [path for folder in {path.parent for path in paths} for path in derived.recorded_in(folder)]
    if former := [path for path in recorded if path not in paths]:
        derived.remove(former)
    return list(paths)


def write_submission_file(path: Path, texts: dict[str, str]) -> None:
    """Write a zip of some files in no folder, or a plain file where the name does not end in .zip; check a zip.

    Raises:
        RuntimeError: where a zip does not read back as it was written.
    """

    def write(partial: Path) -> None:
        partial.write_bytes(_packed(path, texts))
        if not holds(partial, texts):
            raise RuntimeError(f"{path} does not read back as it was written")

    write_atomically(path, write)


def _packed(path: Path, texts: dict[str, str]) -> bytes:
    if path.suffix.lower() != ".zip":
        (text,) = texts.values()
        return text.encode("utf-8")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            entry = zipfile.ZipInfo(name, date_time=DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text)
    return stream.getvalue()


def holds(path: Path, texts: dict[str, str]) -> bool:
    """Return whether a written file has this content."""
    contents = {name: text.encode("utf-8") for name, text in texts.items()}
    try:
        if path.suffix.lower() != ".zip":
            return [path.read_bytes()] == list(contents.values())
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()} == contents
    except (OSError, zipfile.BadZipFile):
        return False
