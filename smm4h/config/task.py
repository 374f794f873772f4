"""Task: labels, columns, official files, metric and submission of what is classified."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from smm4h.config.decision import Costs, Decision, Pulled, check_decision, check_set_decision
from smm4h.metrics import (
    OF_ALL_LABELS,
    Measure,
    Objective,
    bootstrap_interval,
    confusion_matrix,
    f1,
    find_measure,
    precision,
    recall,
)
from smm4h.models.label_spaces import GIVEN, LabelSetSpace, LabelSpace
from smm4h.set_metrics import compare_label_sets, measure_of_pairs, score_label_sets
from smm4h.utils.errors import InputError


@dataclass(frozen=True)
class Columns:
    """Column names in the input files; of several names, the first that occurs in a file is read."""

    text: list[str]
    label: list[str]
    id: list[str] = field(default_factory=list)  # none: tweets are numbered from 0
    user: list[str] = field(default_factory=list)  # none: shared users can't be counted
    source: list[str] = field(default_factory=list)  # corpus or platform; none: as `files` names sources, if it does
    context: list[str] = field(
        default_factory=list
    )  # of `context:`, a second text such as a claim; none: there is none
    group: list[str] = field(default_factory=list)  # of `by:`, such as the language; none: all tweets are one group


class TaskFile(NamedTuple):
    """An official file: its name within --data_dir, and the source of its tweets where the task names one."""

    name: str
    source: str = ""


ONE_LABEL_CELL = re.compile(r"label:\s*(.+)")  # what a submission's column for one of several labels holds
SOURCE = re.compile(r"[_-]?\{source\}")
SEPARATORS = {".csv": ","}  # by the ending of a file's name; others have tabs


@dataclass(frozen=True)
class Submission:
    """The shape of the official submission."""

    file: str  # `{source}` in it stands for the source of a test file
    columns: list[str]  # names of the columns of ids and labels
    # What each column holds: id, label, source, `label: NAME` for whether a label is given, or this text.
    cells: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # file for each source, where `file` does not say it
    header: bool = True
    separator: str = ""  # none: as the file's name ends
    labels: dict[str, str] = field(default_factory=dict)  # how labels are written, where not as the task names them
    packing: str = "each"  # a zip for each file, `none`, or the name of one zip with all files
    validation: bool = False  # whether the validation tweets are handed in, too, as predicted out of fold
    joint: str = ""  # of label sets: what stands between a tweet's labels, or `json`; empty: each tweet has one label
    marks: list[str] = field(default_factory=lambda: ["1", "0"])  # in a label's own column: given, absent

    @property
    def layout(self) -> dict[str, str]:
        """Columns in their order, and what each holds: id, label, source, or the text itself."""
        return self.cells or dict(zip(self.columns, ("id", "label"), strict=True))

    def file_of(self, source: str) -> str:
        """Return the name of the file for the tweets of a source; without one, `{source}` and its hyphen vanish."""
        file = self.files.get(source) or self.file
        return file.replace("{source}", source) if source else SOURCE.sub("", file)

    @property
    def joins_labels(self) -> bool:
        """Whether a cell of text holds all labels of a tweet; JSON has lists for that."""
        names = [self.file, *self.files.values()]
        is_text = any(PurePath(name).suffix.lower() not in (".json", ".jsonl") for name in names)
        return is_text and bool(self.joint) and "label" in self.layout.values()

    def separator_of(self, name: str) -> str:
        """Return what separates the fields of a file."""
        return self.separator or SEPARATORS.get(PurePath(name).suffix.lower(), "\t")


@dataclass(frozen=True)
class MultiLabel:
    """How files hold the labels of a multi-label task.

    Args:
        columns: by label, its column of 0 and 1 (or no and yes, false and true); empty: one column lists the labels.
        separator: of the labels in that column; empty: any of `label_spaces.SEPARATORS`, or JSON.
    """

    columns: dict[str, str] = field(default_factory=dict)
    separator: str = ""


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
    official_test_rows: int | None = None  # of the test file that `published` is about; None: unknown
    costs: Costs | None = None  # of errors, which `decision: costs` makes least
    further_measures: list[str] = field(default_factory=list)  # scored beside the metric, without effect
    average: str = "pooled"  # or "groups": the metric is the mean over the groups
    unscored: list[str] = field(default_factory=list)  # patterns of the names of groups that are not scored
    multi_label: MultiLabel | None = None  # how files hold several labels a tweet; None: each tweet has one label

    @property
    def n_classes(self) -> int:
        return len(self.labels)

    @property
    def positive_indices(self) -> list[int]:
        return [self.labels.index(label) for label in self.positive]

    @property
    def by(self) -> str:
        """What groups are, such as `language`; empty where the task has none."""
        return self.columns.group[0] if self.columns.group else ""

    @property
    def context(self) -> str:
        """What a second text is, such as `claim`; empty where the task has none."""
        return self.columns.context[0] if self.columns.context else ""

    @property
    def label_column(self) -> str:
        """Name of the column of labels in files that are written."""
        return "labels" if self.multi_label and self.multi_label.columns else next(iter(self.columns.label), "")

    @property
    def space(self) -> LabelSpace:
        """What a tweet's labels can be: one of the labels, or any set of them."""
        if self.multi_label is None:
            return LabelSpace(tuple(self.labels))
        return LabelSetSpace(tuple(self.labels), self.multi_label.separator)

    def has_rare(self, labels: np.ndarray) -> np.ndarray:
        """Return which tweets (n_tweets,) have a positive label, by classes (n_tweets,) or soft labels, their most
        probable ones (n_tweets, n_labels).
        """
        classes = labels if labels.ndim == 1 else self.space.most_probable(labels)
        return self.space.has_any(classes, self.positive_indices)

    @property
    def scored_by(self) -> str:
        """What the groups of a score are: the task's own, or the labels of a multi-label task; empty without any."""
        return "label" if self.multi_label else self.by

    @property
    def groups_are(self) -> str:
        """What the groups of a score are, in the plural."""
        return "labels" if self.multi_label else "groups"

    @property
    def output_names(self) -> list[str]:
        """Names of the columns of ids and labels in predictions: as the submission has them, else as the tweets do."""
        if self.has_submission:
            return self.submission.columns
        id_name, label_name = DEFAULT_SUBMISSION.columns
        return [next(iter(self.columns.id), id_name), self.label_column or label_name]

    @property
    def has_submission(self) -> bool:
        """Whether the task file says what is handed in."""
        return replace(self.submission, joint="") != DEFAULT_SUBMISSION

    @property
    def objective(self) -> Objective:
        """What is optimised and scored, over the classes that are decided, see `LabelSpace.decided`."""
        if self.multi_label:
            measure, is_mean = measure_of_pairs(self.measure)
            return Objective(measure, (self.space.decided.index(GIVEN),), averages_groups=is_mean)
        averages_groups = self.average == "groups"
        return Objective(self.metric, tuple(self.positive_indices), averages_groups, tuple(self.unscored))

    @property
    def metric(self) -> Measure:
        return find_measure(self.measure)

    @property
    def measured(self) -> str:
        """The metric in words, with the labels that it is about, and how groups count."""
        labels = "all labels" if self.measure in OF_ALL_LABELS else ", ".join(self.positive)
        groups = f", mean over {self.by}" if self.average == "groups" else ""
        return f"{self.measure} of {labels}{groups}" + (f" without {', '.join(self.unscored)}" if self.unscored else "")

    def score(self, gold: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None = None) -> dict[str, Any]:
        """Return the task's metric for class indices (n_tweets,), with interval, precision, recall and confusion.

        The metric stands first. With groups (n_tweets,), the result also has the score of each (`groups`), of all of
        them together (`pooled`) and the mean over them (`mean_over_groups`).

        Raises:
            InputError: where the metric is a mean over groups, and no tweet has one.
        """
        if self.multi_label:
            sets = self.space.indicators(gold), self.space.indicators(predicted)
            return score_label_sets(self.labels, *sets, self.measure, self.further_measures)
        objective = self.objective
        if groups is None or not any(groups):
            if self.average == "groups":
                raise InputError(f"the metric is the mean over {self.by}, and the tweets to be scored have none")
            return self._score(replace(objective, unscored=()), gold, predicted, None)
        overall = self._score(objective, gold, predicted, groups)
        by_name, alone = {}, replace(objective, averages_groups=False, unscored=())
        for name in np.unique(np.asarray(groups, dtype=str)).tolist():
            own = groups == name
            counts = {"tweets": int(own.sum()), "scored": objective.is_scored(name)}
            by_name[name] = {**self._score(alone, gold[own], predicted[own], None), **counts}
        kinds = {"pooled": False, "mean_over_groups": True}
        whole = {
            kind: self._score(replace(objective, averages_groups=averages), gold, predicted, groups)
            for kind, averages in kinds.items()
        }
        return {**overall, **whole, "groups": by_name}

    def checked_decision(self, decision: Decision) -> Decision:
        """Return a decision with the task's costs filled in; raise `InputError` where the task can't have it."""
        if isinstance(decision, Pulled) and self.measure not in Pulled.OF:
            measures = " and ".join(Pulled.OF)
            raise InputError(
                f"--decision {decision}: {self.measure} does not weigh precision and recall of the positive labels "
                f"alike, as {measures} do; choose tuned"
            )
        if not self.multi_label:
            return check_decision(decision, self.labels, self.positive, self.costs)
        check_set_decision(decision)
        return check_decision(decision, self.space.decided, [GIVEN], self.costs)

    def compare(
        self, gold: np.ndarray, left: np.ndarray, right: np.ndarray, groups: np.ndarray | None = None
    ) -> dict[str, float | list[float]]:
        """Return by how much `left` scores higher than `right`, classes (n_tweets,); see `metrics.paired_bootstrap`."""
        if self.multi_label:
            return compare_label_sets(*map(self.space.indicators, (gold, left, right)), self.measure)
        return self.objective.compare(gold, left, right, self.n_classes, groups)

    def _score(
        self, objective: Objective, gold: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None
    ) -> dict[str, Any]:
        """Return an objective's metric, the further measures, and precision, recall and confusion of what is scored."""
        cells, positive = objective.cells(gold, groups, self.n_classes), objective.positive
        confusion = confusion_matrix(cells.rows, predicted[cells.kept], self.n_classes, n_rows=cells.n_rows)
        total = confusion.reshape(-1, self.n_classes, self.n_classes).sum(axis=0)
        further = {name: replace(objective, measure=find_measure(name)) for name in self.further_measures}
        return {
            self.measure: float(cells.measure(confusion, positive)),
            "interval": list(bootstrap_interval(confusion, cells.measure, positive)),
            "precision": float(precision(total, positive)),
            "recall": float(recall(total, positive)),
            **{name: other.score(gold, predicted, self.n_classes, groups) for name, other in further.items()},
            "confusion": total.tolist(),
        }

    def score_classes(self, score: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return by label `precision`, `recall` and `f1`, each as value and interval, and `support`, its gold tweets.

        Args:
            score: the result of `score`.
        """
        measures = {"precision": precision, "recall": recall, "f1": f1}
        return {
            label: {
                **{
                    name: {
                        "value": float(measure(matrix, [index])),
                        "interval": list(bootstrap_interval(matrix, measure, [index])),
                    }
                    for name, measure in measures.items()
                },
                "support": int(matrix[index].sum()),
            }
            for label, (matrix, index) in self._confusions(score).items()
        }

    def given(self, score: dict[str, Any]) -> dict[str, int]:
        """Return by label how many tweets were given it, from the result of `score`."""
        return {label: int(confusion[:, row].sum()) for label, (confusion, row) in self._confusions(score).items()}

    def _confusions(self, score: dict[str, Any]) -> dict[str, tuple[np.ndarray, int]]:
        """Return by label a confusion matrix, and the row of the label in it."""
        if self.multi_label:
            return {label: (np.array(of_label["confusion"]), 1) for label, of_label in score["groups"].items()}
        return {label: (np.array(score["confusion"]), index) for index, label in enumerate(self.labels)}

    def indices(self, labels: Sequence[str]) -> np.ndarray:
        """Return the classes (n_tweets,) of labels, as `LabelSpace.names` writes them; raise KeyError for others."""
        return self.space.classes(labels)

    @property
    def label_of_spelling(self) -> dict[str, str]:
        """The task's label that each further spelling stands for."""
        return {name: label for label, names in self.spellings.items() for name in names}

    def named(self, label: str) -> str:
        """Return the label with its meaning in brackets, if the task names one."""
        return f"{label} ({self.meanings[label]})" if label in self.meanings else label

    @property
    def decided_names(self) -> list[str]:
        """Names of the rows of a score's confusion matrix, in words for people."""
        return [f"label {name}" for name in self.space.decided] if self.multi_label else [*map(self.named, self.labels)]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
