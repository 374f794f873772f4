"""Prediction files, the format between stages, and label files in the official format.

Predictions are Parquet with columns row, id and a probability for each class (`p_` and the label); the file's metadata
records the run that made it.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from smm4h.config.task import Submission
from smm4h.data.readers import read_tsv
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically, write_text

MAKER = b"smm4h"  # key of the Parquet metadata with the run that made the file


@dataclass(frozen=True)
class Predictions:
    """Probabilities for some tweets, and the run that made them."""

    rows: np.ndarray  # (n_tweets,) row numbers of the input
    ids: pa.ChunkedArray  # of strings
    probabilities: np.ndarray  # (n_tweets, n_classes)
    labels: list[str]
    maker: dict[str, Any]  # member, fold, part, fingerprint of the run


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions atomically; raise ValueError for probabilities that are not finite."""
    if not np.isfinite(predictions.probabilities).all():
        raise ValueError(f"{path}: some probabilities are not finite; the run has diverged")
    columns = {"row": pa.array(predictions.rows, pa.int64()), "id": predictions.ids}
    for index, label in enumerate(predictions.labels):
        columns[f"p_{label}"] = pa.array(predictions.probabilities[:, index], pa.float32())
    table = pa.table(columns).replace_schema_metadata({MAKER: json.dumps(predictions.maker, sort_keys=True)})
    write_atomically(path, lambda partial: pa.parquet.write_table(table, partial))


def read_predictions(path: Path) -> Predictions:
    """Read predictions; raise `InputError` for a file of another kind."""
    try:
        table = pa.parquet.read_table(path)
        maker = json.loads((table.schema.metadata or {})[MAKER])
    except (OSError, pa.ArrowInvalid, KeyError):
        raise InputError(
            f"{path} is not a predictions file of this project; remove its run to have it made anew"
        ) from None
    names = [name for name in table.column_names if name.startswith("p_")]
    return Predictions(
        rows=table.column("row").to_numpy(),
        ids=table.column("id"),
        probabilities=np.column_stack([table.column(name).to_numpy() for name in names]),
        labels=[name.removeprefix("p_") for name in names],
        maker=maker,
    )


def is_complete(path: Path, maker: dict[str, Any]) -> bool:
    """Return whether the file exists and was made by this run; a file of another kind does not count."""
    try:
        return path.is_file() and read_predictions(path).maker == maker
    except InputError:
        return False


@dataclass(frozen=True)
class LabelFile:
    """A label file's rows: ids and labels (n_rows,), and the line of each row for messages."""

    path: str
    ids: pa.ChunkedArray
    labels: pa.ChunkedArray
    lines: Sequence[int]

    def first(self, n_rows: int) -> "LabelFile":
        """Return the first `n_rows` rows only."""
        return LabelFile(self.path, self.ids.slice(0, n_rows), self.labels.slice(0, n_rows), self.lines[:n_rows])

    def indices(self, labels: Sequence[str]) -> np.ndarray:
        """Return class indices (n_rows,), positions in `labels`; raise `InputError` for an unknown label."""
        indices = pa.compute.index_in(self.labels, value_set=pa.array(list(labels), pa.string()))
        if indices.null_count:
            line = self.lines[int(np.argmax(indices.is_null().to_numpy()))]
            raise InputError(
                f"{self.path}, line {line}: the label is none of {', '.join(labels)}; "
                "correct it, or name the right --task"
            )
        return indices.to_numpy().astype(np.int64)


def read_labels(path: str | Path) -> LabelFile:
    """Read a label file, or the single one within a zip.

    Raises:
        InputError: for a missing file, and for a file without exactly two columns or without rows.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not there; name an existing label file (tweet_id and Class, tab-separated)")
    content = _unzipped(path) if path.suffix == ".zip" else path.read_bytes()
    try:  # fast, but strict: other files go to `read_tsv`, which reads odd ones and names the line of an error
        table = pa.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in content.split(b"\n", 1)[0].decode().split("\t")}
            ),
        )
        names, columns, lines = table.column_names, table.columns, range(2, table.num_rows + 2)
        if any(not pa.types.is_string(column.type) for column in columns):
            raise pa.ArrowInvalid("column names")
    except (pa.ArrowInvalid, UnicodeDecodeError):
        table = read_tsv(path, None, content)
        names, lines = table.names, table.lines
        columns = [pa.chunked_array([pa.array(column, pa.string())]) for column in table.columns]
    if len(names) != 2:
        raise InputError(f"{path}, line 1: a header and two columns are expected, tweet id and label")
    if len(columns[0]) == 0:
        raise InputError(f"{path} has a header and no rows; one tweet a line is expected below it")
    ids, labels = (pa.compute.utf8_trim_whitespace(column) for column in columns)
    return LabelFile(str(path), ids, labels, lines)


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
            f"{file.path}, line {file.lines[row]}: tweet {file.ids[row]} stands where {source} has {ids[row]}; "
            "the same tweets in the same order are needed"
        )
    raise InputError(
        f"{file.path} has {len(file.ids)} rows, {source} has {len(ids)}; the same tweets in the same order are needed"
    )


def label_text(ids: Sequence[str], labels: Sequence[str], columns: Sequence[str] = ("tweet_id", "Class")) -> str:
    """Return a label file's content: header, then the rows in the order given, LF line ends."""
    rows = [f"{tweet_id}\t{label}\n" for tweet_id, label in zip(ids, labels, strict=True)]
    return "\t".join(columns) + "\n" + "".join(rows)


def write_labels(path: Path, ids: pa.ChunkedArray, labels: Sequence[str]) -> None:
    """Write a label file atomically."""
    write_text(path, label_text(ids.to_pylist(), labels))


def write_submission(path: Path, submission: Submission, ids: pa.ChunkedArray, labels: Sequence[str]) -> None:
    """Write the official zip, one file and no folder, and check it by reading it back.

    Its file has a constant date, so that equal labels give equal bytes.

    Raises:
        RuntimeError: where the zip does not read back as it was written.
    """
    content = label_text(ids.to_pylist(), labels, submission.columns)

    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            entry = zipfile.ZipInfo(submission.file, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)

    write_atomically(path, write)
    reread = read_labels(path)
    if first_difference(reread.ids, ids) is not None or reread.labels.to_pylist() != list(labels):
        raise RuntimeError(f"{path} does not read back as it was written")


def _unzipped(path: Path) -> bytes:
    """Return the content of the single file of a zip; raise `InputError` for another number of files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1 or "/" in names[0]:
                raise InputError(f"{path} holds {len(names)} files; exactly one, in no folder, is expected")
            return archive.read(names[0])
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} can't be read as a zip ({error})") from None
