"""Pseudo labels: unlabelled tweets, labelled by teachers, that join each fold's training set; and files of them."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset

from smm4h.config.task import Task
from smm4h.data.dataset import CONTEXT, GROUP, column
from smm4h.data.duplicates import normalized_texts
from smm4h.data.folds import folds_of
from smm4h.data.readers.formats import read_table
from smm4h.data.readers.tables import wrap_quotes
from smm4h.models.label_spaces import ONE_LABEL, LabelSpace
from smm4h.models.voting import mean_probabilities
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_text

ROW = "row"  # column with the tweet's row among the unlabelled ones; ids may repeat


def hard_labels(labels: np.ndarray) -> np.ndarray:
    """Return hard labels (n_tweets,): class indices unchanged, soft labels (n_tweets, n_classes) by argmax."""
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


@dataclass(frozen=True)
class PseudoLabels:
    """Unlabelled tweets, by row, that join a run's training set, with the teachers' labels for them."""

    rows: np.ndarray  # (n_pseudo,)
    labels: np.ndarray  # (n_pseudo,) class indices, or (n_pseudo, n_classes) probabilities

    def classes_in(self, space: LabelSpace) -> np.ndarray:
        """Return the classes (n_pseudo,); of soft labels the most probable ones."""
        return self.labels if self.labels.ndim == 1 else space.most_probable(self.labels)

    def select(self, kept: np.ndarray) -> "PseudoLabels":
        """Return the pseudo labels at these indices, or under this mask."""
        return PseudoLabels(self.rows[kept], self.labels[kept])


def part_file(folder: Path, stage: int, fold_seed: int, fold: int | None) -> Path:
    """Return the path of a fold's pseudo labels in a job; they depend on the folds' seed and on the stage.

    Args:
        fold: None: a refit's, which holds no tweets out.
    """
    folder = folder if stage == 2 else folder / f"round-{stage - 1}"
    return folder / f"seed-{fold_seed}" / f"{part_name(fold)}.tsv"


def part_name(fold: int | None) -> str:
    """Return the name of a fold's part, or of a refit's."""
    return "refit" if fold is None else f"fold-{fold}"


@dataclass(frozen=True)
class HeldOutKeys:
    """Ids and normalised texts of a fold's held-out tweets; tweets that share any are kept from its training set."""

    keys: set[str]  # of `normalized_texts`
    ids: set[str]


def held_out_keys_by_fold(labelled: Dataset, task: Task, fold_seed: int, n_folds: int) -> list[HeldOutKeys]:
    """Return for each fold the normalised texts and ids of the tweets that it holds out.

    A text that is empty after normalisation is left out, and so are ids where the task names no id column, because they
    are row numbers.
    """
    keys, folds = normalized_texts(labelled), folds_of(labelled, fold_seed)
    ids = np.array(column(labelled, "id").to_pylist(), dtype=object)
    known = [set(ids[folds == fold]) if task.columns.id else set() for fold in range(n_folds)]
    return [HeldOutKeys(set(keys[folds == fold]) - {""}, known[fold]) for fold in range(n_folds)]


def is_held_out(tweets: Dataset, held_out: HeldOutKeys) -> np.ndarray:
    """Return which tweets (n_tweets,) are among the held-out ones, by id or by normalised text."""
    ids, keys = column(tweets, "id").to_pylist(), normalized_texts(tweets)
    return np.array([a in held_out.ids or k in held_out.keys for a, k in zip(ids, keys, strict=True)], dtype=bool)


def cut_disjoint_parts(n_tweets: int, fraction: float, n_parts: int, seed: int) -> list[np.ndarray]:
    """Return rows of `n_parts` disjoint random parts, each with `fraction` of the tweets and in ascending order.

    Raises:
        InputError: where so many parts of that size do not fit.
    """
    if not 0 < fraction * n_parts <= 1 + 1e-9:
        raise InputError(f"--fraction {fraction}: {n_parts} different parts can have {1 / n_parts:.3g} each at most")
    shuffled = np.random.default_rng(seed).permutation(n_tweets)
    bounds = [round(i * fraction * n_tweets) for i in range(n_parts + 1)]
    return [np.sort(shuffled[low:high]) for low, high in itertools.pairwise(bounds)]


def draw_random_part(n_tweets: int, fraction: float, seed: int) -> np.ndarray:
    """Return rows of a random part with `fraction` of the tweets, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(n_tweets)[: round(fraction * n_tweets)])


@dataclass(frozen=True)
class Filters:
    """Which of the teachers' labels are accepted."""

    confidence: float = 0.0  # minimal mean probability of the label
    agreement: float = 0.0  # minimal share of teachers that predict the label
    prior: np.ndarray | None = None  # (n_classes,) share of tweets that gets each label; None: the most probable ones
    space: LabelSpace = ONE_LABEL

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the label (n_tweets,) of each tweet by the teachers' probabilities (n_teachers, n_tweets, n_classes).

        With a prior, each class takes its share of the tweets, the most probable first; tweets that are left get -1.
        """
        mean = mean_probabilities(probabilities)
        return self.space.most_probable(mean) if self.prior is None else self.space.by_share(mean, self.prior)

    def believed(self, probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return whether each label (n_tweets,) is accepted; a set, where each label's presence or absence is."""
        decided = self.space.decided_classes(labels)
        pairs = self.space.to_decide(probabilities)
        confidence = mean_probabilities(pairs)[np.arange(len(decided)), decided]
        agreement = (pairs.argmax(axis=2) == decided).mean(axis=0)
        passed = (confidence >= self.confidence) & (agreement >= self.agreement)
        return (labels >= 0) & passed.reshape(len(labels), -1).all(axis=1)


def write_part(path: Path, tweets: Dataset, part: PseudoLabels, task: Task) -> None:
    """Write a fold's pseudo labels: row, id, user, text, label and, of soft labels, the probabilities."""
    ids, users, texts = (column(tweets, name).to_pylist() for name in ("id", "user", "text"))
    columns, is_soft = task.columns, part.labels.ndim == 2
    header = [ROW, (columns.id or ["id"])[0], (columns.user or ["user"])[0], columns.text[0], task.label_column]
    further = {
        getattr(columns, name)[0]: column(tweets, name).to_pylist()
        for name in (GROUP, CONTEXT)
        if name in tweets.column_names
    }
    header += further
    lines = ["\t".join(header + ([f"p_{label}" for label in task.labels] if is_soft else []))]
    names = task.space.names(part.classes_in(task.space))
    for index, (row, label) in enumerate(zip(part.rows.tolist(), names, strict=True)):
        text = wrap_quotes(" ".join(texts[row].split()))
        user = " ".join(users[row].split())
        probs = [f"{prob:.6f}" for prob in part.labels[index]] if is_soft else []
        more = [" ".join(values[row].split()) for values in further.values()]
        lines.append("\t".join([str(row), ids[row], user, text, label, *more, *probs]))
    write_text(path, "\n".join(lines) + "\n", private=True)


def read_part(path: Path, ids: pa.ChunkedArray, task: Task) -> PseudoLabels:
    """Read a fold's pseudo labels.

    Args:
        ids: of all unlabelled tweets, by row.

    Raises:
        InputError: where the file's ids are not those of the rows that it names, and for a file that was changed.
    """
    table = read_table(path)
    by_name = dict(zip(table.names, table.columns, strict=True))
    names = [f"p_{label}" for label in task.labels]
    try:
        rows = np.array([int(row) for row in by_name[ROW]], dtype=np.int64)
        actual_ids = ids.take(pa.array(rows)).to_pylist() if len(rows) else []
        if actual_ids != list(by_name[table.names[1]]):
            raise InputError(f"{path} was made from other tweets; remove its folder to have it made anew")
        if not set(names) <= set(table.names):
            return PseudoLabels(rows, task.indices(by_name[task.label_column]))
        probs = np.array([[float(prob) for prob in by_name[name]] for name in names], dtype=np.float32).T
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} was changed after it was made; remove its folder to have it made anew") from None
    return PseudoLabels(rows, probs if task.multi_label else probs / probs.sum(axis=1, keepdims=True))


def counts_by_label(classes: np.ndarray, space: LabelSpace) -> dict[str, int]:
    """Return the number of tweets by label, from classes (n_tweets,)."""
    return dict(zip(space.labels, space.counts(classes).tolist(), strict=True))
