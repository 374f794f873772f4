"""Tweets from files, folders and pipes in batches, and rows of predictions to files and pipes.

Memory holds one batch, whatever the size of the input.
"""

import csv
import gzip
import io
import itertools
import json
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from smm4h.config.task import Task
from smm4h.data.dataset import CONTEXT, GROUP, count_cut_ids, cut_id_findings, tweets_of, wanted_columns
from smm4h.data.readers.files import CHUNK, Source, StandardInput, kind_of, name_of, reading
from smm4h.data.readers.formats import input_files, read_tables
from smm4h.data.readers.spreadsheets import protect
from smm4h.data.readers.tables import Findings, Table, Wanted
from smm4h.utils.errors import InputError
from smm4h.utils.files import PIPE, is_same_file

N_NUMBERS = 3  # columns of numbers that labels come with: probability, margin, votes


@dataclass(frozen=True)
class Block:
    """A batch of consecutive tweets of the input; `number` counts batches from 0."""

    number: int
    ids: list[str]
    texts: list[str]
    groups: list[str] | None = None  # where the task has groups
    contexts: list[str] | None = None  # where the task has second texts
    users: list[str] | None = None  # where the task names their column
    passed: dict[str, list[str]] = field(default_factory=dict)  # columns that are passed on, by name


def inputs_of(path: str, private: Path) -> list[Path]:
    """Return the input's files: the file itself, a folder's files by name, or a copy of standard input.

    Args:
        private: folder for the copy.

    Raises:
        InputError: for a file or folder that does not exist, or of no known kind.
    """
    if path == PIPE:
        copy = StandardInput(private / "tweets.tsv")
        with copy.open("wb") as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
        return [copy]
    return input_files(path)


def header_of(file: Path, task: Task, encoding: str | None = None) -> list[str]:
    """Return the names of a file's columns; raise `InputError` for a file of no tweets."""
    wanted = wanted_columns(task, labelled=False, ids_may_lack=True)
    return next(iter(read_tables(file, encoding, wanted=wanted, size=1, encoding_flag="--encoding"))).names


def leave_out_labels(
    given: str, files: Sequence[Path], output: str, task: Task, columns: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """Return the files of an input without those of a folder that an earlier prediction has written, and notices.

    Args:
        given: the input as it was named; the file that is named itself is never left out.
        files: those that it stands for.
        output: must be none of the others.
        columns: that predictions have: id, label, `N_NUMBERS` of numbers, every label's probability.

    Raises:
        InputError: where the output is one of the files with tweets, and where no other file is left.
    """
    if not Path(given).is_dir():
        return list(files), []
    left_out = [file for file in files if _holds_labels(file, task, columns)]
    kept = [file for file in files if file not in left_out]
    for file in kept:
        if output != PIPE and is_same_file(output, file):
            raise InputError(f"--output {output} is {file}, which this command reads; name another file")
    if not kept:
        raise InputError(f"{given} holds no tweets, only labels that were predicted before ({left_out[0].name})")
    return kept, [f"{file} was left out: it holds labels that were predicted before" for file in left_out]


def _holds_labels(file: Path, task: Task, columns: Sequence[str]) -> bool:
    """Return whether a file's columns are predictions', as far as their names tell.

    Either there are no others, and no text, or the tweets' own were passed on beside the label and what labels come
    with: the probability, margin or votes, or every label's probability.
    """
    try:
        names = next(iter(read_tables(file, size=1))).names
    except InputError:
        return False  # whatever it is, its reader says it
    if len(names) < 2 or names[0] != columns[0]:
        return False
    if not set(names) & set(task.columns.text) and set(names[1:]) <= set(columns[1:]):
        return True
    numbers, of_labels = columns[2 : 2 + N_NUMBERS], columns[2 + N_NUMBERS :]
    has_all = bool(of_labels) and set(of_labels) <= set(names)
    return columns[1] in names and (has_all or bool(set(names) & set(numbers)))


def read_blocks(
    paths: Sequence[Path],
    task: Task,
    size: int,
    encoding: str | None = None,
    *,
    number_missing_ids: bool = False,
    findings: Findings | None = None,
    encoding_flag: str | None = "--encoding",
    passed: Sequence[str] = (),
) -> Iterator[Block]:
    """Yield the tweets of some files, one file after the next, about `size` at a time; no block spans two files.

    The tweets and their order are those of `read_tweets`, whatever the size.

    Args:
        number_missing_ids: whether tweets of a file without the task's column of ids are numbered, which is a finding;
            else such a file is refused. Numbers go on over all blocks and files.
        findings: emptied at the start, then filled with the findings of the blocks so far; when the last block is read,
            `findings.summed()` holds each finding on each file once, with its count over all blocks.
        encoding_flag: the command's flag for the encoding, for messages; None: it has none.
        passed: names of further columns that blocks hold as text; of a file without one, empty texts.

    Raises:
        InputError: as `smm4h.data.readers.formats.read_tables` does, when the faulty line is reached.
    """
    findings = Findings() if findings is None else findings
    findings.clear()
    wanted = replace(wanted_columns(task, labelled=False, ids_may_lack=number_missing_ids), passed=passed)
    numbers, n_before = itertools.count(), 0
    for path in paths:
        n_long = n_cut = 0
        for table in read_tables(path, encoding, wanted=wanted, size=size, encoding_flag=encoding_flag):
            tweets = tweets_of(table, task, labelled=False, ids_may_lack=number_missing_ids, first_number=n_before)
            findings.add(table.findings)
            ids = tweets["id"].tolist()
            n_before += len(ids)
            n_long, n_cut = (a + b for a, b in zip((n_long, n_cut), count_cut_ids(ids), strict=True))
            if ids:
                texts = tweets["text"].tolist()
                names = (GROUP, CONTEXT, "user") if task.columns.user else (GROUP, CONTEXT)
                further = {f"{name}s": tweets[name].tolist() for name in names if name in tweets}
                columns = {name: _passed_column(table, name, wanted, texts) for name in passed}
                yield Block(next(numbers), ids, texts, **further, passed=columns)
        findings.add(cut_id_findings(name_of(path), n_long, n_cut))


def _passed_column(table: Table, name: str, wanted: Wanted, texts: list[str]) -> list[str]:
    """Return a column that is passed on; the texts as they were read, which is without a format's quotes."""
    if name not in table.names:
        return [""] * len(texts)
    position = table.names.index(name)
    return texts if position == wanted.positions(table.names)["text"] else list(table.columns[position])


def count_lines(paths: Sequence[Path]) -> int | None:
    """Return about how many tweets some files hold, for a progress bar: Parquet by rows, other files by lines.

    None stands for a number that only reading would tell, a spreadsheet's.
    """
    total = 0
    for path in paths:
        kind = kind_of(path)
        if kind == ".xlsx":
            return None
        with reading(path), Source(path).open() as stream:
            if kind == ".parquet":
                total += pa.parquet.ParquetFile(stream).metadata.num_rows
            else:
                total += sum(chunk.count(b"\n") for chunk in iter(lambda stream=stream: stream.read(CHUNK), b""))
    return total


class Writer:
    """Writes rows, table by table, in the format of the file's name; to be used in a `with`."""

    def __init__(self, path: Path | None, schema: pa.Schema, foreign: Collection[str] = ()) -> None:
        """Prepare writing.

        Args:
            path: None: standard output, tab-separated.
            schema: of the tables that will be written.
            foreign: names of columns whose cells may hold anything: in a .tsv, tabs and line ends become spaces, which
                `n_flattened` counts, a cell that begins with a quote is quoted as in a .csv, because most readers take
                quotes off, and what a spreadsheet would compute is protected.
        """
        self.path, self.schema, self.kind = path, schema, ".tsv" if path is None else kind_of(path)
        self.foreign = [name in foreign for name in schema.names]
        self.n_flattened = 0

    def __enter__(self) -> "Writer":
        names = self.schema.names
        if self.kind == ".parquet":
            self.parquet = pa.parquet.ParquetWriter(self.path, self.schema)
            return self
        if self.path is None:
            self.stream = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="", write_through=True)
        else:
            raw = self.file = self.path.open("wb")
            if self.path.suffix.lower() == ".gz":  # without name and time, so that equal labels give equal bytes
                raw = gzip.GzipFile("", "wb", fileobj=self.file, mtime=0)
            self.stream = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        if self.kind == ".csv":
            self.csv = csv.writer(self.stream, lineterminator="\n")
            self.csv.writerow(map(protect, names))
        elif self.kind != ".jsonl":
            self.stream.write("\t".join(self._tsv_cells(names)) + "\n")
        return self

    def __exit__(self, *exception) -> None:
        if self.kind == ".parquet":
            self.parquet.close()
        elif self.path is None:
            self.stream.flush()
            self.stream.detach()
        else:
            self.stream.close()
            self.file.close()

    def write(self, table: pa.Table) -> None:
        """Write a table's rows."""
        if self.kind == ".parquet":
            self.parquet.write_table(table)
            return
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        if self.kind == ".csv":
            self.csv.writerows([protect(_format(value)) for value in row] for row in rows)
        elif self.kind == ".jsonl":
            names = table.column_names
            self.stream.writelines(
                json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
            )
        else:
            self.stream.writelines("\t".join(self._tsv_cells(row)) + "\n" for row in rows)

    def _tsv_cells(self, row: Sequence[Any]) -> Iterator[str]:
        for value, is_foreign in zip(row, self.foreign, strict=True):
            cell = _format(value)
            if is_foreign:
                flat = BREAKS.sub(" ", cell)
                self.n_flattened += flat != cell
                cell = flat if self.path is None else protect(flat)  # no spreadsheet opens a pipe
                cell = '"' + cell.replace('"', '""') + '"' if cell[:1] == '"' else cell
            yield cell


BREAKS = re.compile("[\t\n\r]+")
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
    except InputError:
        return None
