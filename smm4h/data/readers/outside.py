"""Predictions of a model from elsewhere, read for a job's tweets, so that the model votes as a member."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from smm4h.config.job import Member
from smm4h.config.task import Task
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.outputs.labels import LabelFile, in_order_of
from smm4h.data.readers.formats import read_table
from smm4h.data.readers.spreadsheets import PROBABILITY
from smm4h.models.label_spaces import ONE_LABEL, LabelSpace
from smm4h.utils.errors import InputError

TOLERANCE = 0.02  # by which a tweet's probabilities may miss a sum of 1, since files are often rounded
ROW = "row"  # column: the tweet's row in the input
OutsidePredictions = dict[str, np.ndarray]  # by part of the job's tweets: probabilities (n_tweets, n_classes), float32


def read_outside(
    member: Member, task: Task, ids: dict[str, pa.ChunkedArray | None], encoding: str | None, *, is_cut: bool
) -> OutsidePredictions:
    """Read a member's predictions files, in the order of the job's tweets.

    Args:
        ids: of the tweets of each part that the job has: `out_of_fold` (the labelled ones), `test` and `unlabelled`.
        is_cut: whether the job keeps only some of its tweets, so that files may hold more.

    Raises `InputError` where a file does not hold every tweet exactly once, has no probabilities or such as nobody
    predicts, and where the file of a part is missing.
    """
    parts = {}
    for part, of_part in ids.items():
        path = member.outside_files.get(part)
        if of_part is None:
            continue
        if path is None:
            raise InputError(
                f"member {member.name}: its predictions of the {part} tweets are missing; name their file, "
                f"`{part}: FILE`, beside out_of_fold"
            )
        file = in_rows(read_labels(path, task, encoding), encoding)
        if is_cut:
            is_known = pa.compute.is_in(file.ids, value_set=of_part.combine_chunks()).to_numpy(zero_copy_only=False)
            file = file.take(np.flatnonzero(is_known))
        _check_once(file, of_part)
        source = "the labelled tweets" if part == "out_of_fold" else f"the {part} tweets"
        file = in_order_of(file, of_part, source)
        parts[part] = checked_probabilities(file, task, encoding)
    return parts


def in_rows(file: LabelFile, encoding: str | None) -> LabelFile:
    """Return a file's rows in the order of its column `row`, if it has one that numbers all of them from 0.

    Where ids repeat, tweets are told apart by it.
    """
    if len(file.ids) == pa.compute.count_distinct(file.ids).as_py():
        return file
    rows = _column(file, ROW, encoding, int)
    if rows is None or not np.array_equal(np.sort(rows), np.arange(len(file.ids))):
        return file
    return file.take(np.argsort(rows))


def _check_once(file: LabelFile, ids: pa.ChunkedArray) -> None:
    """Raise `InputError` for a tweet that a file has twice, where the job's ids do not repeat."""
    if len(ids) == pa.compute.count_distinct(ids).as_py():
        is_again = file.ids.to_pandas().duplicated()
        if is_again.any():
            raise InputError(
                f"{file.where(int(is_again.argmax()))}: this tweet stands there a second time; name it once"
            )


def _column(file: LabelFile, name: str, encoding: str | None, kind: Callable[[str], int | float]) -> np.ndarray | None:
    """Return the numbers (n_rows,) of another column of a file; None where it has none, or no numbers."""
    if file.path.lower().endswith(".zip"):
        return None
    table = read_table(Path(file.path), encoding, encoding_flag="--encoding")
    if table.names.count(name) != 1 or len(table.lines) != len(file.ids):
        return None
    try:
        return np.array([kind(value) for value in table.columns[table.names.index(name)]])
    except ValueError:
        return None


def checked_probabilities(file: LabelFile, task: Task, encoding: str | None) -> np.ndarray:
    """Return the probabilities (n_tweets, n_classes) of a file, each tweet's scaled to a sum of 1, if of one label.

    Raises `InputError` for a file without a probability of each label, and for probabilities that are all 0 or 1.
    """
    values = file.probabilities_of(task.labels)
    if values is None and not task.multi_label:
        values = _binary(file, task.labels, encoding)
    if values is None:
        names = ", ".join(f"p_{label}" for label in task.labels)
        raise InputError(
            f"{file.path}: a member needs a probability of each label; give the file the columns {names} (of a judge "
            "that only names labels: ask it several times, and write how often it named each)"
        )
    total = np.ones(len(values)) if task.multi_label else values.sum(axis=1, dtype=np.float64)
    wrong = ~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1) | (np.abs(total - 1) > TOLERANCE)
    if wrong.any():
        row = min(np.flatnonzero(wrong).tolist(), key=lambda row: file.lines[row])
        raise InputError(f"{file.where(row)}: the probabilities of the labels do not sum to 1; correct the file")
    if np.isin(values, (0.0, 1.0)).all():
        raise InputError(
            f"{file.path}: all probabilities are 0 or 1, as in a copy of the gold labels or in labels without any "
            "probability; a member needs probabilities, out of fold"
        )
    return (values / total[:, np.newaxis]).astype(np.float32)


def _binary(file: LabelFile, labels: Sequence[str], encoding: str | None) -> np.ndarray | None:
    """Return the probabilities (n_tweets, 2) of two labels from each tweet's label and the label's own probability.

    This is what predict.py writes. None where there are other columns or more labels.
    """
    if len(labels) != 2 or file.labels is None:
        return None
    of_label = _column_in_order(file, encoding)
    if of_label is None or not ((of_label >= 0) & (of_label <= 1)).all():
        return None
    chosen = file.indices(labels)
    values = np.empty((len(chosen), 2), dtype=np.float32)
    rows = np.arange(len(chosen))
    values[rows, chosen], values[rows, 1 - chosen] = of_label, 1 - of_label
    return values


def _column_in_order(file: LabelFile, encoding: str | None) -> np.ndarray | None:
    """Return the column of probabilities (n_rows,) in the order of the file's rows, which may have been joined."""
    whole = read_labels(file.path, None, encoding) if not file.path.lower().endswith(".zip") else None
    if whole is None:
        return None
    values = _column(whole, PROBABILITY, encoding, float)
    if values is None:
        return None
    by_line = dict(zip(whole.lines, values.tolist(), strict=True))
    return np.array([by_line[line] for line in file.lines])


def content_hashes(predictions: OutsidePredictions) -> dict[str, str]:
    """Return the SHA-256 of each part's probabilities, which stand for the files in a job's identity."""
    return {
        part: hashlib.sha256(np.ascontiguousarray(probs).tobytes()).hexdigest() for part, probs in predictions.items()
    }


def copy_of_gold(name: str, out_of_fold: np.ndarray, gold: np.ndarray, space: LabelSpace = ONE_LABEL) -> str | None:
    """Return what is suspicious about out-of-fold probabilities (n_tweets, n_classes) that are right on every tweet."""
    if (space.most_probable(out_of_fold) != gold).any():
        return None
    return (
        f"labelled tweets, all of them, get their gold label from member {name}, out of fold: SUSPICIOUS, as a copy of "
        "the gold labels or a model that had seen them would be; if so, no score of a vote with it means anything"
    )
