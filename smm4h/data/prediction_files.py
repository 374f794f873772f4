"""The one file format between stages: row, id, a probability for each class, and who made them.

Parquet with columns row, id and one a class (`p_` and the label); its metadata says who made it.
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

MAKER = b"smm4h"  # the key of the Parquet metadata that says who made the file


@dataclass(frozen=True)
class Predictions:
    rows: np.ndarray  # (n_tweets,) row numbers of the input
    ids: pa.ChunkedArray  # of strings
    probabilities: np.ndarray  # (n_tweets, n_classes)
    labels: list[str]
    maker: dict[str, Any]  # member, fold, part, fingerprint of the run


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes predictions, all or nothing; raises ValueError for probabilities that are not finite."""
    if not np.isfinite(predictions.probabilities).all():
        raise ValueError(f"{path}: some probabilities are not finite; the run has diverged")
    columns = {"row": pa.array(predictions.rows, pa.int64()), "id": predictions.ids}
    for index, label in enumerate(predictions.labels):
        columns[f"p_{label}"] = pa.array(predictions.probabilities[:, index], pa.float32())
    table = pa.table(columns).replace_schema_metadata({MAKER: json.dumps(predictions.maker, sort_keys=True)})
    write_atomically(path, lambda partial: pa.parquet.write_table(table, partial))


def read_predictions(path: Path) -> Predictions:
    """Reads predictions; raises `InputError` for a file of another kind."""
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
    """Whether these predictions have been made already, by this maker."""
    try:
        return path.is_file() and read_predictions(path).maker == maker
    except InputError:
        return False


@dataclass(frozen=True)
class LabelFile:
    path: str
    ids: pa.ChunkedArray
    labels: pa.ChunkedArray
    lines: Sequence[int]

    def first(self, n_rows: int) -> "LabelFile":
        """The first rows alone."""
        return LabelFile(self.path, self.ids.slice(0, n_rows), self.labels.slice(0, n_rows), self.lines[:n_rows])

    def indices(self, labels: Sequence[str]) -> np.ndarray:
        """Class indices (n_rows,) by the position in `labels`; raises `InputError` for a label that is not there."""
        found = pa.compute.index_in(self.labels, value_set=pa.array(list(labels), pa.string()))
        if found.null_count:
            line = self.lines[int(np.argmax(found.is_null().to_numpy()))]
            raise InputError(
                f"{self.path}, line {line}: the label is none of {', '.join(labels)}; "
                "correct it, or name the right --task"
            )
        return found.to_numpy().astype(np.int64)


def read_labels(path: str | Path) -> LabelFile:
    """Reads a label file, or the single one within a zip; raises `InputError` for a file without the two columns."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not there; name an existing label file (tweet_id and Class, tab-separated)")
    content = _unzipped(path) if path.suffix == ".zip" else path.read_bytes()
    try:  # the fast way, which takes only what is in perfect order
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


def first_difference(one: pa.ChunkedArray, other: pa.ChunkedArray) -> int | None:
    """The first row at which two columns differ, the shorter one's length where one begins the other, else None."""
    if one.equals(other):
        return None
    shorter = min(len(one), len(other))
    differs = pa.compute.not_equal(one.slice(0, shorter), other.slice(0, shorter)).to_numpy()
    return int(np.argmax(differs)) if differs.any() else shorter


def check_same_tweets(file: LabelFile, ids: pa.ChunkedArray, other: str) -> None:
    """Raises `InputError` with the first differing row where a label file has other tweets, or another order."""
    row = first_difference(file.ids, ids)
    if row is None:
        return
    if row < min(len(file.ids), len(ids)):
        raise InputError(
            f"{file.path}, line {file.lines[row]}: tweet {file.ids[row]} stands where {other} has {ids[row]}; "
            "the same tweets in the same order are needed"
        )
    raise InputError(
        f"{file.path} has {len(file.ids)} rows, {other} has {len(ids)}; the same tweets in the same order are needed"
    )


def label_text(ids: Sequence[str], labels: Sequence[str], columns: Sequence[str] = ("tweet_id", "Class")) -> str:
    """A label file's content: header, then the rows in the order given, LF line ends."""
    rows = [f"{tweet_id}\t{label}\n" for tweet_id, label in zip(ids, labels, strict=True)]
    return "\t".join(columns) + "\n" + "".join(rows)


def write_labels(path: Path, ids: pa.ChunkedArray, labels: Sequence[str]) -> None:
    """Writes a label file, all or nothing."""
    write_text(path, label_text(ids.to_pylist(), labels))


def write_submission(path: Path, submission: Submission, ids: pa.ChunkedArray, labels: Sequence[str]) -> None:
    """Writes the official zip, one file and no folder, and checks it by reading it back.

    The zip carries no time of its making, so that the same labels give the same bytes.
    """
    content = label_text(ids.to_pylist(), labels, submission.columns)

    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            entry = zipfile.ZipInfo(submission.file, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)

    write_atomically(path, write)
    back = read_labels(path)
    if first_difference(back.ids, ids) is not None or back.labels.to_pylist() != list(labels):
        raise RuntimeError(f"{path} does not read back as it was written")


def _unzipped(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1 or "/" in names[0]:
                raise InputError(f"{path} holds {len(names)} files; exactly one, in no folder, is expected")
            return archive.read(names[0])
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} can't be read as a zip ({error})") from None
