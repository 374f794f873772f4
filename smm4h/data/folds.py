"""Labelled tweets -> fold index columns in the same Dataset."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, Value
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from smm4h.data.dataset import GROUP, column
from smm4h.models.label_spaces import LabelSpace
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically
from smm4h.utils.wording import counted


def fold_column(seed: int) -> str:
    """Return the name of the column with the folds of this seed; a tweet's fold is the one that holds it out."""
    return f"fold_{seed}"


def folds_of(labelled: Dataset, seed: int) -> np.ndarray:
    """Return the fold (n_tweets,) of this seed that holds each tweet out."""
    return column(labelled, fold_column(seed)).to_numpy()


def stratified_folds(labels: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Return the fold (n_tweets,) that holds each tweet out, from scikit-learn's shuffled StratifiedKFold."""
    folds = np.empty(len(labels), dtype=np.int8)
    splitter = StratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels)):
        folds[held_out] = fold
    return folds


def grouped_folds(labels: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Return the fold (n_tweets,) that holds each tweet out, a group's tweets together, from StratifiedGroupKFold.

    Raises:
        InputError: where the groups are so large that some fold holds out no tweet of a class.
    """
    folds = np.empty(len(labels), dtype=np.int8)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
        folds[held_out] = fold
    for label in np.unique(labels):
        counts = np.bincount(folds[labels == label], minlength=n_folds)
        if counts.min() == 0:
            raise InputError(
                f"--fold_by stratified_group: with duplicates (and users) kept together, fold {counts.argmin()} of "
                f"seed {seed} holds no tweet of a label out; cut fewer folds (--n_folds), or leave out --group_users"
            )
    return folds


def one_label(labelled: Dataset) -> LabelSpace:
    """Return the label space of tweets of one label each."""
    return LabelSpace(tuple(labelled.features["label"].names))


def label_set_folds(targets: np.ndarray, n_folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the fold (n_tweets,) that holds each tweet out, with each label spread over all folds.

    Iterative stratification (Sechidis et al. 2011, "On the stratification of multi-label data"): the label with the
    fewest tweets left is spread first, each tweet to the fold that lacks most of the label, then of any tweets. Tweets
    without a label come last.

    Args:
        targets: (n_tweets, n_labels) whether a tweet has a label.
        groups: (n_tweets,) or None; tweets of a group are held out together, the largest groups first.
    """
    rng = np.random.default_rng(seed)
    unit_of = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_units = unit_of.max(initial=-1) + 1
    counts = np.zeros((n_units, targets.shape[1]))  # of each unit, a tweet or a group: its tweets with each label
    np.add.at(counts, unit_of, targets)
    sizes = np.bincount(unit_of, minlength=n_units)
    lacking, room = np.tile(counts.sum(axis=0) / n_folds, (n_folds, 1)), np.full(n_folds, len(targets) / n_folds)
    order, fold_of, n_left = rng.permutation(n_units), np.full(n_units, -1), counts.sum(axis=0)

    def put(units: np.ndarray, wanted: Callable[[], np.ndarray]) -> None:
        """Put each unit into the fold that lacks most; of equal ones into a random one."""
        for unit in units.tolist():
            need = wanted()
            best = np.flatnonzero(need >= need.max() - 1e-9)
            best = best[room[best] >= room[best].max() - 1e-9]
            fold = int(best[rng.integers(len(best))] if len(best) > 1 else best[0])
            fold_of[unit], lacking[fold], room[fold] = fold, lacking[fold] - counts[unit], room[fold] - sizes[unit]
            n_left[:] -= counts[unit]

    while (n_left > 0).any():
        label = int(np.where(n_left > 0, n_left, np.inf).argmin())
        free = order[(fold_of[order] == -1) & (counts[order, label] > 0)]
        put(free[np.argsort(-counts[free, label], kind="stable")], lambda label=label: lacking[:, label])
    free = order[fold_of[order] == -1]
    put(free[np.argsort(-sizes[free], kind="stable")], lambda: room)
    return fold_of[unit_of].astype(np.int8)


def add_folds(
    labelled: Dataset,
    n_folds: int,
    seeds: Sequence[int],
    groups: np.ndarray | None = None,
    flag: str = "--n_folds",
    space: LabelSpace | None = None,
) -> Dataset:
    """Return the dataset with one fold column a seed.

    Args:
        groups: (n_tweets,) or None; tweets of a group are held out together.
        flag: of the command, which says how many folds there are.
        space: of label sets; a tweet's one label has its names in the dataset.

    Raises:
        InputError: where a class has fewer tweets than there are folds, as some folds could not learn or test it; of
            label sets, where a label has fewer than two tweets, one to learn from and one to test on.
    """
    labels, space = column(labelled, "label").to_numpy(), space or one_label(labelled)
    are_sets = space.problem_type is not None
    for name, count in zip(space.labels, space.counts(labels), strict=True):
        if are_sets and count < 2:
            raise InputError(
                f"label {name} is given to {counted(int(count), 'tweet')}, and needs two, one to learn from and one "
                "to test on; label more of them, or leave it out of the task's `labels` (a column of a submission may "
                "hold a constant in its place)"
            )
        if not are_sets and count < n_folds:
            raise InputError(
                f"label {name} has {counted(int(count), 'tweet')}, fewer than the {n_folds} folds; label or keep more "
                f"of them, or cut fewer folds ({flag})"
            )
    for seed in seeds:
        if are_sets:
            folds = label_set_folds(space.targets(labels), n_folds, seed, groups)
        elif groups is None:
            folds = stratified_folds(labels, n_folds, seed)
        else:
            folds = grouped_folds(labels, groups, n_folds, seed)
        labelled = labelled.add_column(fold_column(seed), folds, feature=Value("int8"))
    return labelled


def stratified_choice(labels: np.ndarray, n_kept: int, seed: int) -> np.ndarray:
    """Return rows (n_kept,) of random tweets in ascending order, classes in proportion; all rows if there are no more.

    Each class is shuffled and spread evenly over the unit interval; the tweets with the lowest positions are kept.
    """
    rng, positions = np.random.default_rng(seed), np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        positions[rng.permutation(rows)] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.sort(np.argsort(positions, kind="stable")[:n_kept])


def read_fold_labels(path: Path) -> list[str]:
    """Return the label of each labelled tweet, from a job's folds file; raise `InputError` where it is missing."""
    if not path.is_file():
        raise InputError(f"{path} is missing; give the job's command, which makes it again")
    return pd.read_parquet(path, columns=["label"])["label"].tolist()


def write_folds(labelled: Dataset, path: Path, space: LabelSpace | None = None) -> None:
    """Write row, id, group if there are any, label name and fold columns; no text."""
    group = [GROUP] if GROUP in labelled.column_names else []
    columns = ["row", "id", *group, "label", *(c for c in labelled.column_names if c.startswith("fold_"))]
    table = labelled.select_columns(columns).to_pandas()
    table["label"] = (space or one_label(labelled)).names(table["label"].to_numpy())
    write_atomically(path, lambda partial: table.to_parquet(partial, index=False))
