"""Labelled tweets -> fold index columns in the same Dataset."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, Value
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from smm4h.data.dataset import GROUP, column
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically


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


def add_folds(
    labelled: Dataset, n_folds: int, seeds: Sequence[int], groups: np.ndarray | None = None, flag: str = "--n_folds"
) -> Dataset:
    """Return the dataset with one fold column a seed.

    Args:
        groups: (n_tweets,) or None; tweets of a group are held out together.
        flag: of the command, which says how many folds there are.

    Raises:
        InputError: where a class has fewer tweets than there are folds, as some folds could not learn or test it.
    """
    labels = column(labelled, "label").to_numpy()
    names = labelled.features["label"].names
    counts = np.bincount(labels, minlength=len(names))
    for name, count in zip(names, counts, strict=True):
        if count < n_folds:
            raise InputError(
                f"label {name} has {count} tweets, fewer than the {n_folds} folds; label or keep more of them, or cut "
                f"fewer folds ({flag})"
            )
    for seed in seeds:
        if groups is None:
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


def write_folds(labelled: Dataset, path: Path) -> None:
    """Write row, id, group if there are any, label name and fold columns; no text."""
    group = [GROUP] if GROUP in labelled.column_names else []
    columns = ["row", "id", *group, "label", *(c for c in labelled.column_names if c.startswith("fold_"))]
    table = labelled.select_columns(columns).to_pandas()
    names = np.array(labelled.features["label"].names, dtype=object)  # once: `features` makes a copy at every access
    table["label"] = names[table["label"]]
    write_atomically(path, lambda partial: table.to_parquet(partial, index=False))
