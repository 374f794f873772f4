"""Tweets from files, folders and pipes in batches, and rows of predictions to files and pipes.

Memory holds one batch, whatever the size of the input.
"""

import codecs
import csv
import gzip
import io
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet

from smm4h.config.task import Task
from smm4h.data.dataset import tweets_of
from smm4h.data.readers import READERS, Table, arrow_table, csv_tables, read_jsonl, read_tsv
from smm4h.utils.errors import InputError

PIPE = "-"
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Block:
    """A batch of consecutive tweets of the input; `number` counts batches from 0."""

    number: int
    ids: list[str]
    texts: list[str]


def inputs_of(path: str) -> list[Path]:
    """Return the input's files: the file itself, a folder's files by name, or a copy of standard input.

    Raises:
        InputError: for a file or folder that does not exist, or of no known kind.
    """
    if path == PIPE:
        with tempfile.NamedTemporaryFile(prefix="tweets", suffix=".tsv", delete=False) as spool:
            shutil.copyfileobj(sys.stdin.buffer, spool)
        return [Path(spool.name)]
    given = Path(path)
    files = sorted(f for f in given.iterdir() if kind_of(f) in READERS) if given.is_dir() else [given]
    if not files:
        raise InputError(f"{path} holds no file of {', '.join(READERS)}, or the same with .gz")
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is not there; name an existing file or folder, or - for a pipe")
        if kind_of(file) not in READERS:
            raise InputError(f"{file} is none of {', '.join(READERS)}, or the same with .gz")
    return files


def kind_of(path: Path) -> str:
    """Return a file's kind by its name, compressed or not: `.tsv` for `a.tsv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _open(path: Path) -> BinaryIO:
    """Open a file for reading bytes, decompressed."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def read_blocks(paths: Sequence[Path], task: Task, size: int, encoding: str | None = None) -> Iterator[Block]:
    """Yield the tweets of some files, one file after the next, `size` at a time; a block never spans two files.

    Raises:
        InputError: as the readers of `smm4h.data.readers` do, when the faulty line is reached.
    """
    numbers, n_before = itertools.count(), 0
    for path in paths:
        for table in _tables(path, size, encoding):
            tweets = tweets_of(table, task, labelled=False)
            ids = tweets["id"].tolist()
            if not task.columns.id:  # number the tweets over all blocks and files
                ids = [str(n_before + int(tweet_id)) for tweet_id in ids]
            n_before += len(ids)
            yield Block(next(numbers), ids, tweets["text"].tolist())


def count_lines(paths: Sequence[Path]) -> int:
    """Return about how many tweets some files hold, for a progress bar: Parquet by rows, other files by lines."""
    total = 0
    for path in paths:
        with _open(path) as stream:
            if kind_of(path) == ".parquet":
                total += pa.parquet.ParquetFile(stream).metadata.num_rows
            else:
                total += sum(chunk.count(b"\n") for chunk in iter(lambda stream=stream: stream.read(CHUNK), b""))
    return total


def _tables(path: Path, size: int, encoding: str | None) -> Iterator[Table]:
    """Yield a file's tables of `size` rows."""
    kind = kind_of(path)
    try:
        with ExitStack() as stack:
            if kind == ".parquet":
                yield from _parquet_tables(stack.enter_context(_open(path)), path, size)
                return
            encoding = encoding or _detect_encoding(path)
            stream = stack.enter_context(_open(path))
            if kind == ".csv":
                lines = io.TextIOWrapper(stream, encoding=_accept_bom(encoding), newline="")
                yield from csv_tables(lines, str(path), size)
            else:
                yield from _line_tables(stream, path, kind, size, encoding)
    except (OSError, EOFError) as error:
        raise InputError(f"{path} can't be read ({error})") from None


def _parquet_tables(stream: BinaryIO, path: Path, size: int) -> Iterator[Table]:
    try:
        file, row = pa.parquet.ParquetFile(stream), 0
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a Parquet file ({str(error).splitlines()[0]})") from None
    for batch in file.iter_batches(batch_size=size):
        yield arrow_table(pa.Table.from_batches([batch]), str(path), row)
        row += batch.num_rows


def _line_tables(stream: BinaryIO, path: Path, kind: str, size: int, encoding: str) -> Iterator[Table]:
    """Yield tables of a file that holds a tweet a line."""
    has_header = kind not in (".jsonl", ".json")
    header, line = (stream.readline(), 2) if has_header else (b"", 1)
    reader = read_tsv if has_header else read_jsonl
    while lines := list(itertools.islice(stream, size)):
        content = header + (b"" if header.endswith(b"\n") or not header else b"\n") + b"".join(lines)
        if any(tweet_line.strip() for tweet_line in lines):
            yield reader(path, _accept_bom(encoding), content, line)
        line += len(lines)


def _accept_bom(encoding: str) -> str:
    """Return the codec; for UTF-8 the one that skips a byte order mark."""
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _detect_encoding(path: Path) -> str:
    """Return `utf-8` where the whole file is valid UTF-8, else `cp1252`; reads the file once, a chunk at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _open(path) as stream:
        try:
            while chunk := stream.read(CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


class Writer:
    """Writes rows, table by table, in the format of the file's name; to be used in a `with`."""

    def __init__(self, path: Path | None, schema: pa.Schema) -> None:
        """Prepare writing.

        Args:
            path: None: standard output, tab-separated.
            schema: of the tables that will be written.
        """
        self.path, self.schema, self.kind = path, schema, ".tsv" if path is None else kind_of(path)

    def __enter__(self) -> "Writer":
        names = self.schema.names
        if self.kind == ".parquet":
            self.parquet = pa.parquet.ParquetWriter(self.path, self.schema)
            return self
        if self.path is None:
            self.stream = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="", write_through=True)
        else:
            raw = gzip.open(self.path, "wb") if self.path.suffix.lower() == ".gz" else self.path.open("wb")
            self.stream = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        if self.kind == ".csv":
            self.csv = csv.writer(self.stream, lineterminator="\n")
            self.csv.writerow(names)
        elif self.kind != ".jsonl":
            self.stream.write("\t".join(names) + "\n")
        return self

    def __exit__(self, *exception) -> None:
        if self.kind == ".parquet":
            self.parquet.close()
        elif self.path is None:
            self.stream.flush()
            self.stream.detach()
        else:
            self.stream.close()

    def write(self, table: pa.Table) -> None:
        """Write a table's rows."""
        if self.kind == ".parquet":
            self.parquet.write_table(table)
            return
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        if self.kind == ".csv":
            self.csv.writerows([_format(value) for value in row] for row in rows)
        elif self.kind == ".jsonl":
            names = table.column_names
            self.stream.writelines(
                json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
            )
        else:
            self.stream.writelines("\t".join(_format(value) for value in row) + "\n" for row in rows)


WRITABLE = (".tsv", ".txt", ".csv", ".jsonl", ".parquet")


def _format(value: Any) -> str:
    """Return a value as text; floats with six decimals."""
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def check_output(name: str) -> None:
    """Raise `InputError` for an output whose name does not tell a format."""
    path = Path(name)
    if name != PIPE and (kind_of(path) not in WRITABLE or path.suffixes[-2:] == [".parquet", ".gz"]):
        raise InputError(f"--output {path}: choose a name that ends in {', '.join(WRITABLE)}, or -")


def estimate_tweets(paths: Sequence[Path]) -> int | None:
    """Return about how many tweets some files hold, or None for unreadable files, which their reader reports."""
    try:
        return count_lines(paths)
    except (OSError, EOFError, pa.ArrowInvalid):
        return None
