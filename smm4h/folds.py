"""Labelled tweets -> fold index columns in the same Dataset."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, Value
from sklearn.model_selection import StratifiedKFold

from smm4h.arrow import column
from smm4h.errors import InputError
from smm4h.files import write_atomically


def fold_column(seed: int) -> str:
    """The column that says which fold of this seed holds a tweet out."""
    return f"fold_{seed}"


def folds_of(labelled: Dataset, seed: int) -> np.ndarray:
    """The fold (n_tweets,) of this seed that holds each tweet out."""
    return column(labelled, fold_column(seed)).to_numpy()


def stratified_folds(labels: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """The fold (n_tweets,) that holds each tweet out; scikit-learn's shuffled StratifiedKFold, row for row."""
    folds = np.empty(len(labels), dtype=np.int8)
    splitter = StratifiedKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels)):
        folds[held_out] = fold
    return folds


def add_folds(labelled: Dataset, n_folds: int, seeds: Sequence[int]) -> Dataset:
    """Adds one fold column a seed.

    Raises `InputError` where a class has fewer tweets than there are folds: some folds could not learn or test it.
    """
    labels = column(labelled, "label").to_numpy()
    names = labelled.features["label"].names
    counts = np.bincount(labels, minlength=len(names))
    for name, count in zip(names, counts, strict=True):
        if count < n_folds:
            raise InputError(
                f"label {name} has {count} tweets, fewer than the {n_folds} folds; label more of them, keep more "
                "(--max_train_samples) or cut fewer folds (--n_folds)"
            )
    for seed in seeds:
        folds = stratified_folds(labels, n_folds, seed)
        labelled = labelled.add_column(fold_column(seed), folds, feature=Value("int8"))
    return labelled


def stratified_choice(labels: np.ndarray, n_kept: int, seed: int) -> np.ndarray:
    """Positions of `n_kept` random tweets in ascending order, each class by its share; all where there are no more.

    Each class is shuffled and spread evenly over the unit interval; the lowest places are kept.
    """
    rng, places = np.random.default_rng(seed), np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        places[rng.permutation(rows)] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.sort(np.argsort(places, kind="stable")[:n_kept])


def write_folds(labelled: Dataset, path: Path) -> None:
    """Saves row, id, label name and fold columns; no text."""
    columns = ["row", "id", "label", *(c for c in labelled.column_names if c.startswith("fold_"))]
    table = labelled.select_columns(columns).to_pandas()
    names = np.array(labelled.features["label"].names, dtype=object)  # once: `features` is a copy at every access
    table["label"] = names[table["label"]]
    write_atomically(path, lambda partial: table.to_parquet(partial, index=False))
