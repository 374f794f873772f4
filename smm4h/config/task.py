"""Task: labels, columns, official files, metric and submission of what is classified."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from smm4h.config.decision import Costs
from smm4h.metrics import Measure, Objective, bootstrap_interval, confusion_matrix, find_measure, precision, recall


@dataclass(frozen=True)
class Columns:
    """Column names in the input files; of several names, the first that occurs in a file is read."""

    text: list[str]
    label: list[str]
    id: list[str] = field(default_factory=list)  # none: tweets are numbered from 0
    user: list[str] = field(default_factory=list)  # none: shared users can't be counted
    source: list[str] = field(default_factory=list)  # corpus or platform; none: as `files` names sources, if it does


class TaskFile(NamedTuple):
    """An official file: its name within --data_dir, and the source of its tweets where the task names one."""

    name: str
    source: str = ""


SOURCE = re.compile(r"[_-]?\{source\}")
SEPARATORS = {".csv": ","}  # by the ending of a file's name; others have tabs


@dataclass(frozen=True)
class Submission:
    """The shape of the official submission."""

    file: str  # `{source}` in it stands for the source of a test file
    columns: list[str]  # names of the columns of ids and labels
    cells: dict[str, str] = field(default_factory=dict)  # what each column holds: id, label, source, or this text
    files: dict[str, str] = field(default_factory=dict)  # file for each source, where `file` does not say it
    header: bool = True
    separator: str = ""  # none: as the file's name ends
    labels: dict[str, str] = field(default_factory=dict)  # how labels are written, where not as the task names them
    packing: str = "each"  # a zip for each file, `none`, or the name of one zip with all files
    validation: bool = False  # whether the validation tweets are handed in, too, as predicted out of fold

    @property
    def layout(self) -> dict[str, str]:
        """Columns in their order, and what each holds: id, label, source, or the text itself."""
        return self.cells or dict(zip(self.columns, ("id", "label"), strict=True))

    def file_of(self, source: str) -> str:
        """Return the name of the file for the tweets of a source; without one, `{source}` and its hyphen vanish."""
        file = self.files.get(source) or self.file
        return file.replace("{source}", source) if source else SOURCE.sub("", file)

    def separator_of(self, name: str) -> str:
        """Return what separates the fields of a file."""
        return self.separator or SEPARATORS.get(PurePath(name).suffix.lower(), "\t")


DEFAULT_SUBMISSION = Submission("prediction.tsv", ["tweet_id", "Class"])


@dataclass(frozen=True)
class Task:
    """A classification task; the content of a task file."""

    name: str
    labels: list[str]  # in the order of the class indices
    positive: list[str]  # the rare labels, which the metric is about
    measure: str  # the metric, see `metrics.find_measure`
    columns: Columns
    files: dict[str, list[TaskFile]] = field(default_factory=dict)  # by part: training, validation, test, gold
    spellings: dict[str, list[str]] = field(default_factory=dict)  # of labels that files write in further ways
    header: list[str] = field(default_factory=list)  # column names of files of tweets that have no header
    label_header: list[str] = field(default_factory=list)  # column names of files of labels that have no header
    unknown_labels: str = "refuse"  # or "drop": rows whose label is none of the task's are left out
    one_text_per_file: bool = False  # a folder of .txt files holds a text in each, its id is the file's name
    submission: Submission = DEFAULT_SUBMISSION
    about: str = ""  # the goal in one line, for report and model card
    meanings: dict[str, str] = field(default_factory=dict)  # of labels that need an explanation
    published: dict[str, float] = field(default_factory=dict)  # scores of other systems, by their names
    costs: Costs | None = None  # of errors, which `decision: costs` makes least

    @property
    def n_classes(self) -> int:
        return len(self.labels)

    @property
    def positive_indices(self) -> list[int]:
        return [self.labels.index(label) for label in self.positive]

    @property
    def objective(self) -> Objective:
        return Objective(self.metric, tuple(self.positive_indices))

    @property
    def metric(self) -> Measure:
        return find_measure(self.measure)

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """Return the task's metric for class indices (n_tweets,), with interval, precision, recall and confusion."""
        confusion = confusion_matrix(gold, predicted, self.n_classes)
        measure, positive = self.metric, self.positive_indices
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

    @property
    def label_of_spelling(self) -> dict[str, str]:
        """The task's label that each further spelling stands for."""
        return {name: label for label, names in self.spellings.items() for name in names}

    def named(self, label: str) -> str:
        """Return the label with its meaning in brackets, if the task names one."""
        return f"{label} ({self.meanings[label]})" if label in self.meanings else label

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
