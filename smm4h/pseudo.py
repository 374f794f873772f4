"""Voted test tweets -> a part for each fold, without twins of the tweets that it holds out; and files of such parts."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset

from smm4h.arrow import column
from smm4h.corpus import read_table, text_keys, wrap_quotes
from smm4h.errors import InputError
from smm4h.files import write_text
from smm4h.folds import folds_of
from smm4h.tasks import Task

ROW = "row"  # the column that says which row of the tweets a pseudo-labelled one is; ids may repeat


def part_file(folder: Path, fold_seed: int, fold: int) -> Path:
    """Where a job keeps the part of a fold; which twins it lacks depends on the seed of the folds."""
    return folder / f"seed-{fold_seed}" / f"fold-{fold}.tsv"


def keys_by_fold(labelled: Dataset, fold_seed: int, n_folds: int) -> list[set[str]]:
    """For each fold the twin keys of the tweets it holds out; a tweet without words twins nobody."""
    keys, folds = text_keys(labelled), folds_of(labelled, fold_seed)
    return [set(keys[folds == fold]) - {""} for fold in range(n_folds)]


def cut_parts(n_tweets: int, fraction: float, n_parts: int, seed: int) -> list[np.ndarray]:
    """Rows of `n_parts` disjoint random parts, each with `fraction` of the tweets and in ascending order.

    Raises `InputError` where so many parts of that size do not fit.
    """
    if not 0 < fraction * n_parts <= 1 + 1e-9:
        raise InputError(f"--fraction {fraction}: {n_parts} different parts can have {1 / n_parts:.3g} each at most")
    shuffled = np.random.default_rng(seed).permutation(n_tweets)
    bounds = [round(i * fraction * n_tweets) for i in range(n_parts + 1)]
    return [np.sort(shuffled[low:high]) for low, high in itertools.pairwise(bounds)]


def write_parts(
    folder: Path,
    tweets: Dataset,
    voted: np.ndarray,
    task: Task,
    parts: Sequence[np.ndarray],
    held_out: Sequence[set[str]] | None,
) -> list[int]:
    """Writes fold-0.tsv and so on, and returns how many twins of held-out tweets each one leaves out."""
    keys, left_out = text_keys(tweets), []
    ids, users, texts = (column(tweets, name).to_pylist() for name in ("id", "user", "text"))
    columns = task.columns
    header = [ROW, (columns.id or ["id"])[0], (columns.user or ["user"])[0], columns.text[0], columns.label[0]]
    for fold, rows in enumerate(parts):
        kept = [int(row) for row in rows if held_out is None or keys[row] not in held_out[fold]]
        left_out.append(len(rows) - len(kept))
        lines = [
            [str(row), ids[row], users[row], wrap_quotes(" ".join(texts[row].split())), task.labels[voted[row]]]
            for row in kept
        ]
        write_text(folder / f"fold-{fold}.tsv", "".join("\t".join(line) + "\n" for line in [header, *lines]))
    return left_out


def read_part(path: Path, test_ids: pa.ChunkedArray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Rows and class indices of a part; raises `InputError` where its ids are not those of the rows."""
    table = read_table(path)
    by_name = dict(zip(table.names, table.columns, strict=True))
    rows = np.array([int(row) for row in by_name[ROW]], dtype=np.int64)
    ids = test_ids.take(pa.array(rows)).to_pylist() if len(rows) else []
    if ids != by_name[table.names[1]]:
        raise InputError(f"{path} was made from other tweets; remove its folder to have it made anew")
    return rows, task.indices(by_name[task.columns.label[0]])
