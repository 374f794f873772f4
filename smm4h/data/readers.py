"""Readers of tweet files (TSV, CSV, JSON lines, Parquet): tables of strings, with findings about each file.

No message contains a tweet's text: messages name file and line instead.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet

from smm4h.utils.errors import InputError
from smm4h.utils.files import check_is_file

WRAPPED = re.compile(r'"((?:[^"]|"")*)"')


class Finding(NamedTuple):
    """One line of the report on the input: where, how many, and what."""

    where: str
    count: int
    what: str


@dataclass
class Table:
    """A file's columns of strings, with the line of each row."""

    path: str
    names: list[str]
    columns: list[list[str]]
    lines: Sequence[int]
    findings: list[Finding] = field(default_factory=list)
    unit: str = "line"  # what `lines` counts; `row` for formats without lines

    def where(self, index: int) -> str:
        """Return file and line of a row, for a message."""
        return f"{self.path}, {self.unit} {self.lines[index]}"


def decode(content: bytes, path: str, encoding: str | None = None) -> tuple[str, str]:
    """Return the text and the encoding that it was in: the given one, else UTF-8 where it is valid, else cp1252.

    Raises:
        InputError: with the line where no encoding fits, and for an unknown encoding.
    """
    for candidate in [encoding] if encoding else ["utf-8-sig", "cp1252"]:
        try:
            return content.decode(candidate), candidate.removesuffix("-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
        except LookupError:
            raise InputError(f"--encoding {encoding} is no encoding that Python knows; utf-8 or cp1252?") from None
    raise InputError(f"{path}, line {line}: not valid {encoding or 'UTF-8 or cp1252'}; name the file's --encoding")


def unwrap_quotes(text: str) -> str:
    """Return a tweet that is wholly wrapped as a CSV field, `"a ""b"" c"`, as the text it was: `a "b" c`."""
    match = WRAPPED.fullmatch(text) if text[:1] == '"' else None
    return match[1].replace('""', '"') if match else text


def wrap_quotes(text: str) -> str:
    """Invert `unwrap_quotes`, for writing: wrap only texts that reading would unwrap."""
    return '"' + text.replace('"', '""') + '"' if WRAPPED.fullmatch(text) else text


def read_tsv(path: Path, encoding: str | None, content: bytes | None = None, first_line: int = 2) -> Table:
    """Read tab-separated tweets, one a physical line; quotes, U+0085 and U+2028 are part of the text.

    Fields beyond the header's are dropped and counted.

    Args:
        content: instead of the file's content, the header and the lines from `first_line` on.

    Raises:
        InputError: with the line, for a line with too few fields; for an empty file.
    """
    text, used_encoding = decode(path.read_bytes() if content is None else content, str(path), encoding)
    findings = [Finding(str(path), 0, f"read as {used_encoding}")]
    raw_lines = text.split("\n")
    if raw_lines[-1] == "":
        raw_lines.pop()
    if not raw_lines:
        raise InputError(f"{path} is empty; a header line and one tweet a line are expected")
    rows, lines, extra, blank = [], [], 0, 0
    names = [name.strip() for name in raw_lines[0].removesuffix("\r").split("\t")]
    width = len(names)
    while width and not names[width - 1]:  # no flag or task file can name a column without a name
        width -= 1
    for number, line in enumerate(raw_lines[1:], start=first_line):
        fields = line.removesuffix("\r").split("\t")
        if len(fields) != width:
            if len(fields) == 1 and not fields[0].strip():
                blank += 1
                continue
            if len(fields) < width:
                raise InputError(
                    f"{path}, line {number}: {len(fields)} fields where the header names {width}; "
                    "write one tweet a line, tabs between its fields and none inside"
                )
            extra += any(value.strip() for value in fields[width:])
            del fields[width:]
        rows.append(fields)
        lines.append(number)
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
    if extra:
        findings.append(Finding(str(path), extra, "lines had more fields than the header; the extra ones were dropped"))
    if blank:
        findings.append(Finding(str(path), blank, "blank lines were passed over"))
    return Table(str(path), names[:width], columns, lines, findings)


def read_csv(path: Path, encoding: str | None) -> Table:
    """Read comma-separated tweets, quoted as spreadsheets do; a quoted field may hold line ends."""
    text, used_encoding = decode(path.read_bytes(), str(path), encoding)
    (table,) = csv_tables(io.StringIO(text, newline=""), str(path))
    table.findings.append(Finding(str(path), 0, f"read as {used_encoding}"))
    return table


def csv_tables(lines: Iterable[str], path: str, size: int | None = None) -> Iterator[Table]:
    """Yield tables of comma-separated lines.

    Args:
        lines: with their line ends.
        size: rows of each table; None: a single table.

    Raises:
        InputError: with the line, for a row of another width than the header and for unclosed quotes; for no lines.
    """
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, strict=True)
    rows, numbers, names = [], [], None

    def table() -> Table:
        return Table(path, names, [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names], numbers)

    try:
        for fields in reader:
            if not fields:
                continue
            if names is None:
                names = [name.strip() for name in fields]
            elif len(fields) != len(names):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields where the header names {len(names)}; "
                    "put quotes around a tweet that holds a comma"
                )
            else:
                rows.append(fields)
                numbers.append(reader.line_num)
                if len(rows) == size:
                    yield table()
                    rows, numbers = [], []
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; is this comma-separated with closed quotes?"
        ) from None
    if names is None:
        raise InputError(f"{path} is empty; a header line and the tweets are expected")
    if rows or size is None:
        yield table()


def read_jsonl(path: Path, encoding: str | None, content: bytes | None = None, first_line: int = 1) -> Table:
    """Read JSON lines, one object a line, all with the keys of the first.

    Args:
        content: instead of the file's content, the lines from `first_line` on.

    Raises:
        InputError: with the line, for a line that is no object or lacks a key; for an empty file.
    """
    text, used_encoding = decode(path.read_bytes() if content is None else content, str(path), encoding)
    rows, lines, names = [], [], None
    for number, line in enumerate(text.split("\n"), start=first_line):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg}); write one object a line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: an object {{...}} is expected")
        names = names or list(row)
        if not set(names) <= set(row):
            missing = next(name for name in names if name not in row)
            raise InputError(f"{path}, line {number}: no key {missing}, which line {lines[0]} has")
        rows.append([_as_text(row[name], name, f"{path}, line {number}") for name in names])
        lines.append(number)
    if names is None:
        raise InputError(f"{path} is empty; one JSON object a line is expected")
    columns = [list(column) for column in zip(*rows, strict=True)]
    return Table(str(path), names, columns, lines, [Finding(str(path), 0, f"read as {used_encoding}")])


def read_parquet(path: Path, encoding: str | None) -> Table:
    """Read Parquet; a row's number stands for its line. The encoding is ignored."""
    try:
        table = pa.parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a Parquet file ({str(error).splitlines()[0]})") from None
    return arrow_table(table, str(path))


def arrow_table(table: pa.Table, path: str, first_row: int = 0) -> Table:
    """Return Arrow columns as a table of strings, its rows numbered from `first_row`."""
    columns = []
    for name in table.column_names:
        values = enumerate(table.column(name).to_pylist(), start=first_row)
        columns.append([_as_text(value, name, f"{path}, row {row}") for row, value in values])
    return Table(path, table.column_names, columns, range(first_row, first_row + table.num_rows), unit="row")


def _as_text(value: object, name: str, where: str) -> str:
    """Return a cell as a string, None as an empty one.

    Whole floats keep their `.0`, by which the id check recognises ids that have lost digits.
    """
    if value is None:
        return ""
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 2**53:
            return f"{value:.1f}"  # `1.0`, which the id check refuses
        return repr(value)
    return str(value)


READERS: dict[str, Callable[[Path, str | None], Table]] = {
    ".tsv": read_tsv,
    ".txt": read_tsv,
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".json": read_jsonl,
    ".parquet": read_parquet,
}


def read_table(path: str | Path, encoding: str | None = None) -> Table:
    """Read a file by its extension; raise `InputError` for a missing file or an unknown kind."""
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is none of {', '.join(READERS)}; convert it, or rename it to what it is")
    check_is_file(path)
    try:
        return reader(path, encoding)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from None
