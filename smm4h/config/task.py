"""Task: labels, columns, official files, metric and submission of what is classified, read from `tasks/*.yaml`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.metrics import MEASURES, Objective, bootstrap_interval, confusion_matrix, precision, recall
from smm4h.utils.errors import InputError, nearest
from smm4h.utils.files import read_yaml


@dataclass(frozen=True)
class Columns:
    """Column names in the input files; of several names, the first that occurs in a file is read."""

    text: list[str]
    label: list[str]
    id: list[str] = field(default_factory=list)  # none: tweets are numbered from 0
    user: list[str] = field(default_factory=list)  # none: shared users can't be counted


@dataclass(frozen=True)
class Submission:
    """The official submission: a zip of one tab-separated file with a header."""

    file: str
    columns: list[str]


@dataclass(frozen=True)
class Task:
    """A classification task; the content of a task file."""

    name: str
    labels: list[str]  # in the order of the class indices
    positive: list[str]  # the rare labels, which the metric is about
    measure: str  # the metric, a key of `MEASURES`
    columns: Columns
    files: dict[str, str] = field(default_factory=dict)  # training, validation, test, gold: names within --data_dir
    submission: Submission = Submission("prediction.tsv", ["tweet_id", "Class"])
    about: str = ""  # the goal in one line, for report and model card
    meanings: dict[str, str] = field(default_factory=dict)  # of labels that need an explanation
    published: dict[str, float] = field(default_factory=dict)  # scores of other systems, by their names

    @property
    def n_classes(self) -> int:
        return len(self.labels)

    @property
    def positive_indices(self) -> list[int]:
        return [self.labels.index(label) for label in self.positive]

    @property
    def objective(self) -> Objective:
        return Objective(MEASURES[self.measure], tuple(self.positive_indices))

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """Return the task's metric for class indices (n_tweets,), with interval, precision, recall and confusion."""
        confusion = confusion_matrix(gold, predicted, self.n_classes)
        measure, positive = MEASURES[self.measure], self.positive_indices
        return {
            self.measure: float(measure(confusion, positive)),
            "interval": list(bootstrap_interval(confusion, measure, positive)),
            "precision": float(precision(confusion, positive)),
            "recall": float(recall(confusion, positive)),
            "confusion": confusion.tolist(),
        }

    def indices(self, labels: Sequence[str]) -> np.ndarray:
        """Return the class indices (n_tweets,) of labels; raise KeyError for an unknown label."""
        index = {label: i for i, label in enumerate(self.labels)}
        return np.array([index[label] for label in labels], dtype=np.int64)

    def named(self, label: str) -> str:
        """Return the label with its meaning in brackets, if the task names one."""
        return f"{label} ({self.meanings[label]})" if label in self.meanings else label

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


FILE_PARTS = ("training", "validation", "test", "gold")


def read_task(path: str | Path) -> Task:
    """Read and check a task file; raise `InputError` with file, line and remedy."""
    content, lines = read_yaml(path)

    def fail(key: str, message: str) -> None:
        where = f", line {lines[(key,)]}" if (key,) in lines else ""
        raise InputError(f"{path}{where}: {message}")

    known = {f.name for f in fields(Task)}
    for key in content:
        if key not in known:
            fail(key, f"a task has no key {key}{nearest(str(key), known)}")
    for key in ("name", "labels", "columns"):
        if key not in content:
            fail(key, f"the task needs `{key}:`; tasks/own_data.yaml shows all keys")
    labels = _strings(content["labels"], "labels", fail)
    if len(labels) < 2 or len(set(labels)) < len(labels):
        fail("labels", "at least two labels, each named once, are needed")
    positive = _strings(content.get("positive", labels), "positive", fail)
    for label in positive:
        if label not in labels:
            fail("positive", f"{label} is none of the labels {', '.join(labels)}")
    measure = content.get("measure", "f1")
    if measure not in MEASURES:
        fail(
            "measure",
            f"no measure {measure}{nearest(str(measure), MEASURES)}; there are {_list(MEASURES)}",
        )
    files = content.get("files") or {}
    for part in files:
        if part not in FILE_PARTS:
            fail("files", f"no part {part}{nearest(str(part), FILE_PARTS)}; there are {_list(FILE_PARTS)}")
    return Task(
        name=str(content["name"]),
        labels=labels,
        positive=positive,
        measure=measure,
        columns=_columns(content["columns"], fail),
        files={part: str(name) for part, name in files.items()},
        about=str(content.get("about") or ""),
        meanings=_meanings(content.get("meanings") or {}, labels, fail),
        published=_published(content.get("published") or {}, fail),
        **({"submission": _submission(content["submission"], fail)} if "submission" in content else {}),
    )


def _meanings(value: Any, labels: Sequence[str], fail) -> dict[str, str]:
    if not isinstance(value, dict):
        fail("meanings", "a mapping such as {1: defect} is expected")
    for label in value:
        if str(label) not in labels:
            fail("meanings", f"{label} is none of the labels {_list(labels)}")
    return {str(label): str(meaning) for label, meaning in value.items()}


def _published(value: Any, fail) -> dict[str, float]:
    if not isinstance(value, dict) or not all(isinstance(score, int | float) for score in value.values()):
        fail("published", "a mapping of names to scores is expected, such as {mean of all teams: 0.65}")
    return {str(name): float(score) for name, score in value.items()}


def _list(names) -> str:
    return ", ".join(names)


def _strings(value: Any, key: str, fail) -> list[str]:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if isinstance(item, bool) or not isinstance(item, str | int):
            fail(key, f"{item!r} is not a name here; put it in quotes (YAML reads yes and no as truth values)")
    return [str(item) for item in values]


def _columns(value: Any, fail) -> Columns:
    known = {f.name for f in fields(Columns)}
    if not isinstance(value, dict):
        fail("columns", "a mapping such as {text: tweet, label: class, id: tweet_id} is expected")
    for key in value:
        if key not in known:
            fail("columns", f"no column {key}{nearest(str(key), known)}; there are {_list(sorted(known))}")
    for key in ("text", "label"):
        if key not in value:
            fail("columns", f"name the column that holds the {key}")
    return Columns(**{key: _strings(names, "columns", fail) for key, names in value.items() if names is not None})


def _submission(value: Any, fail) -> Submission:
    if not isinstance(value, dict) or set(value) != {"file", "columns"} or len(value["columns"]) != 2:
        fail("submission", "exactly `file:` and two `columns:` (id and label) are expected")
    return Submission(str(value["file"]), _strings(value["columns"], "submission", fail))
