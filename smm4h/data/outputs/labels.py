"""Labels of tweets, whatever file they are from: compared by value, joined by id."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from smm4h.data.readers.labels import label_key
from smm4h.data.readers.tables import LONGEST_NAME, Finding
from smm4h.models.label_spaces import SEPARATORS, LabelSetSpace, LabelSpace
from smm4h.utils.errors import InputError

LONGEST_LABEL = 100  # characters, where no task names the labels
SHOWABLE_ID = re.compile(rf"\S{{1,{LONGEST_NAME}}}")  # any other may be a tweet's text in the wrong column


def class_indices(values: pa.ChunkedArray, labels: Sequence[str]) -> np.ndarray:
    """Return the position in `labels` of each value (n_rows,), -1 where there is none.

    A value that is written as a label is that label; else it is the first label of the same number.
    """
    by_key = {label_key(label): index for index, label in reversed(list(enumerate(labels)))}
    exact = {label: index for index, label in enumerate(labels)}
    distinct = pa.compute.unique(values)
    indices = [exact.get(value, by_key.get(label_key(value), -1)) for value in distinct.to_pylist()]
    return np.array(indices, dtype=np.int64)[pa.compute.index_in(values, value_set=distinct).to_numpy()]


def labels_of(files: Sequence["LabelFile"]) -> list[str]:
    """Return the labels that files name, numbers in their order, other labels alphabetically.

    Labels of the same number are one, written as the first file does that has it, in the file's shortest spelling.

    Raises `InputError` for a label that is too long for one, before it is printed, and for one that lists others.
    """
    spellings: dict[str | Decimal, str] = {}
    for file in files:
        for label in sorted(file.distinct_labels(), key=lambda label: (len(label), label)):
            if len(label) > LONGEST_LABEL:
                raise InputError(
                    f"{file.path}: a label has {len(label)} characters, so this may be the text; call the column of "
                    "the labels Class, or name the --task"
                )
            spellings.setdefault(label_key(label), label)
    labels = set(spellings.values())
    for label in spellings.values():
        parts = [part.strip() for separator in SEPARATORS if separator in label for part in label.split(separator)]
        if parts and labels.issuperset(parts):
            raise InputError(
                f"{files[0].path}: {label} lists several labels; name the --task, which says what they are"
            )
    keys = sorted(spellings, key=lambda key: (isinstance(key, str), key))
    return [spellings[key] for key in keys]


def _code(text: str, space: LabelSetSpace) -> int:
    """Return the class of a text that lists labels; -1 for one with an unknown label."""
    indices = class_indices(pa.chunked_array([pa.array(space.split(text), pa.string())]), space.labels)
    return -1 if (indices < 0).any() else int(sum({1 << index for index in indices.tolist()}))


@dataclass(frozen=True)
class LabelFile:
    """A label file's rows: ids and labels (n_rows,), and the line of each row for messages."""

    path: str
    ids: pa.ChunkedArray
    labels: pa.ChunkedArray | None  # None: the file has probabilities only
    lines: Sequence[int]
    unit: str = "line"  # what `lines` counts; `row` for formats without lines
    classes: tuple[str, ...] = ()  # labels of the columns of `probabilities`
    probabilities: np.ndarray | None = None  # (n_rows, n_classes), where the file has a column for each class
    findings: Sequence[Finding] = ()

    def where(self, row: int) -> str:
        """Return file and line of a row, for a message."""
        return f"{self.path}, {self.unit} {self.lines[row]}"

    def take(self, rows: np.ndarray) -> "LabelFile":
        """Return some rows (n_taken,), in their order."""
        indices = pa.array(rows)
        return replace(
            self,
            ids=self.ids.take(indices),
            labels=None if self.labels is None else self.labels.take(indices),
            lines=[self.lines[row] for row in rows.tolist()],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
        )

    def first(self, n_rows: int) -> "LabelFile":
        """Return the first `n_rows` rows only."""
        return self.take(np.arange(n_rows))

    def distinct_labels(self) -> list[str]:
        """Return the labels that the file names."""
        named = [] if self.labels is None else self.labels.unique().to_pylist()
        return list(dict.fromkeys([*named, *self.classes]))

    def indices(self, labels: Sequence[str]) -> np.ndarray:
        """Return class indices (n_rows,), positions in `labels`; raise `InputError` for an unknown label.

        Of a file without labels, the most probable class.
        """
        if self.labels is None:
            return self.probabilities_of(labels).argmax(axis=1)
        indices = class_indices(self.labels, labels)
        if (indices < 0).any():
            raise InputError(
                f"{self.where(int((indices < 0).argmax()))}: the label is none of {', '.join(labels)}; "
                "correct it, or name the right --task"
            )
        return indices

    def classes_in(self, space: LabelSpace) -> np.ndarray:
        """Return the classes (n_rows,) of a label space; raise `InputError` for an unknown label.

        Of a file without labels, what its probabilities speak for.
        """
        if space.problem_type is None:
            return self.indices(space.labels)
        if self.labels is None:
            return space.most_probable(self.probabilities_of(space.labels))
        distinct = pa.compute.unique(self.labels)
        codes = np.array([_code(text, space) for text in distinct.to_pylist()], dtype=np.int64)
        classes = codes[pa.compute.index_in(self.labels, value_set=distinct).to_numpy()]
        if (classes < 0).any():
            raise InputError(
                f"{self.where(int((classes < 0).argmax()))}: a label is none of {', '.join(space.labels)}; correct it, "
                "or name the right --task"
            )
        return classes

    def probabilities_of(self, labels: Sequence[str]) -> np.ndarray | None:
        """Return probabilities (n_rows, n_classes) in the order of `labels`; None where the file lacks some.

        Raises `InputError` for a file without labels whose probabilities are those of other classes.
        """
        if self.probabilities is not None:
            order = class_indices(pa.chunked_array([pa.array(labels, pa.string())]), self.classes)
            if len(labels) == len(self.classes) and sorted(order.tolist()) == list(range(len(labels))):
                return self.probabilities[:, order]
        if self.labels is None:
            raise InputError(
                f"{self.path}: probabilities of {', '.join(self.classes)} where {', '.join(labels)} are the labels; "
                "name the right --task, or files of one task"
            )
        return None


def joined(files: Sequence[LabelFile]) -> LabelFile:
    """Return label files as one, one file's rows after the other's."""
    if len(files) == 1:
        return files[0]
    ids = pa.chunked_array([chunk for file in files for chunk in file.ids.chunks], pa.string())
    labels = pa.chunked_array([chunk for file in files for chunk in _named_labels(file).chunks], pa.string())
    lines = [line for file in files for line in file.lines]
    return LabelFile(", ".join(file.path for file in files), ids, labels, lines, files[0].unit)


def _named_labels(file: LabelFile) -> pa.ChunkedArray:
    if file.labels is None:
        raise InputError(f"{file.path} has probabilities and no labels; labels are needed here")
    return file.labels


def first_difference(left: pa.ChunkedArray, right: pa.ChunkedArray) -> int | None:
    """Return the first row at which two columns differ, or None.

    Where a column is the beginning of a longer one, the first difference is the shorter length.
    """
    if left.equals(right):
        return None
    shorter = min(len(left), len(right))
    differs = pa.compute.not_equal(left.slice(0, shorter), right.slice(0, shorter)).to_numpy()
    return int(np.argmax(differs)) if differs.any() else shorter


def check_same_tweets(file: LabelFile, ids: pa.ChunkedArray, source: str) -> None:
    """Raise `InputError` with the first differing row if a label file has other tweets than `ids`, or another order.

    Args:
        source: where `ids` are from, for the message.
    """
    row = first_difference(file.ids, ids)
    if row is None:
        return
    if row < min(len(file.ids), len(ids)):
        raise InputError(
            f"{file.where(row)}: tweet {_shown(file.ids[row])} stands where {source} has {_shown(ids[row])}; "
            "the same tweets in the same order are needed"
        )
    raise InputError(
        f"{file.path} has {len(file.ids)} rows, {source} has {len(ids)}; the same tweets in the same order are needed"
    )


def _shown(tweet_id: pa.StringScalar) -> str:
    """Return an id for a message, or dots for what may be a text."""
    return str(tweet_id) if SHOWABLE_ID.fullmatch(str(tweet_id)) else "..."


def in_order_of(
    file: LabelFile, ids: pa.ChunkedArray, source: str, where: Callable[[int], str] | None = None
) -> LabelFile:
    """Return a label file's rows in the order of `ids`, joined by id.

    Where ids repeat, rows are joined by their number, and the order must be the same.

    Args:
        ids: of the tweets.
        source: the file that they are from, for messages.
        where: returns file and line of a row of `ids`, for messages.

    Raises:
        InputError: for a tweet that is missing or that `ids` lack, with file and line.
    """
    if first_difference(file.ids, ids) is None:
        return file
    if any(len(column) != pa.compute.count_distinct(column).as_py() for column in (file.ids, ids)):
        check_same_tweets(file, ids, source)
    is_extra = pd.isna(pa.compute.index_in(file.ids, value_set=ids).to_pandas())
    order = pa.compute.index_in(ids, value_set=file.ids)
    is_missing = pd.isna(order.to_pandas())
    remedy = "the same tweets are needed in both files"
    if is_extra.any():
        row, more = int(is_extra.argmax()), int(is_extra.sum()) - 1
        others = f", nor are {more} more" if more else ""
        raise InputError(f"{file.where(row)}: tweet {_shown(file.ids[row])} is not in {source}{others}; {remedy}")
    if is_missing.any():
        row, more = int(is_missing.argmax()), int(is_missing.sum()) - 1
        others = f" and {more} more" if more else ""
        line = where(row) if where else source
        raise InputError(f"{file.path} lacks tweet {_shown(ids[row])} ({line}){others}; {remedy}")
    return file.take(order.to_numpy())
