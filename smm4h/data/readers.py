"""Readers of tweet files (TSV, CSV, JSON, Parquet, Excel, each also .gz): tables of strings, with findings.

A file is read whole or in tables of some rows by the same code, so that both give the same tweets. What holds for the
whole file (encoding, line ends, R's row names) is found out before its first row is read. No message contains a tweet's
text: messages name file and line instead.
"""

import codecs
import csv
import datetime
import decimal
import functools
import gzip
import io
import itertools
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from smm4h.config.task import Columns
from smm4h.utils.errors import InputError, path_message

CHUNK = 1 << 20  # bytes
LONGEST_NAME = 40  # characters of a column's name; a longer one is a tweet
WRAPPED = re.compile(r'"((?:[^"]|"")*)"')
ESCAPED = re.compile(r'"((?:[^"]|\\")*)"')  # R's write.table: \" for a quote, a single \ for itself
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)", re.ASCII)
SURROGATE = re.compile("[\ud800-\udfff]")
ID_LIKE = re.compile(r"(?=\D*\d)[\w-]+", re.ASCII)  # one word with a digit
LONG_ID = re.compile(r"\d{9,}", re.ASCII)  # a tweet id, not the number that R gives a row


class Finding(NamedTuple):
    """One line of the report on the input: where, how many, and what."""

    where: str
    count: int
    what: str


class Findings(dict[tuple[str, str], int]):
    """Findings by where and what, those of several tables of a file summed up."""

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings; equal ones count together."""
        for finding in findings:
            key = (finding.where, finding.what)
            self[key] = self.get(key, 0) + finding.count

    def summed(self) -> list[Finding]:
        """Return each finding once, in the order in which they were made."""
        return [Finding(where, count, what) for (where, what), count in self.items()]


@dataclass
class Table:
    """A file's columns of strings, with the line of each row."""

    path: str
    names: list[str]
    columns: list[Sequence[str]]  # where one holds no text, reading it raises `InputError`
    lines: Sequence[int]
    findings: list[Finding] = field(default_factory=list)
    unit: str = "line"  # what `lines` counts; `row` for formats without lines
    quotes_are_text: bool = False  # of formats without quoting, where some tweets come wrapped in quotes all the same

    def where(self, index: int) -> str:
        """Return file and line of a row, for a message."""
        return f"{self.path}, {self.unit} {self.lines[index]}"


@dataclass(frozen=True)
class Wanted:
    """The columns that will be read from a file, by their possible names; others may lack, and hold anything.

    Args:
        columns: no label: of unlabelled tweets.
        labels: of the task; a label behind the last column is no part of a tweet.
        ids_may_lack: whether a file without a column of ids is read, too.
    """

    columns: Columns
    labels: Sequence[str] = ()
    ids_may_lack: bool = False

    def positions(self, names: Sequence[str]) -> dict[str, int]:
        """Return the position of text, id, user and label in a header; of those that it lacks, none."""
        found = {}
        for kind in ("text", "id", "user", "label"):
            present = [name for name in getattr(self.columns, kind) if name in names]
            if present:
                found[kind] = names.index(present[0])
        return found

    def lacks(self, names: Sequence[str]) -> list[str]:
        """Return which of text, id and label a header lacks."""
        found = self.positions(names)
        needed = ("text", "label") if self.ids_may_lack else ("text", "id", "label")
        return [kind for kind in needed if getattr(self.columns, kind) and kind not in found]

    def check(self, names: Sequence[str], where: str, hint: str = "") -> dict[str, int]:
        """Return `positions`; raise `InputError` where a column is missing or its name stands twice.

        Args:
            hint: what the file looks like instead, for the message.
        """
        if missing := self.lacks(names):
            wanted = " or ".join(getattr(self.columns, missing[0]))
            if hint:
                raise InputError(f"{where}: no column {wanted}; {hint}")
            header = ", ".join(names)
            if len(header) > 200 or any(self._is_value(name) for name in names):
                raise InputError(f"{where}: no header here; the first line must name the columns ({wanted})")
            raise InputError(
                f"{where}: no column {wanted} among {header}; name it with --{missing[0]}_column_name or in the task "
                "file"
            )
        found = self.positions(names)
        for position in found.values():
            if names.count(names[position]) > 1:
                raise InputError(
                    f"{where}: {names.count(names[position])} columns are named {names[position]}; rename or remove "
                    "those that are not to be read"
                )
        return found

    def _is_value(self, name: str) -> bool:
        """Return whether a name in a header is a tweet's field, which must not be shown."""
        is_text = len(name) > LONGEST_NAME or len(name.split()) > 3 or any(mark in name for mark in ',;{"@')
        return is_text or name.isdigit() or name in self.labels or bool(NUMBER.fullmatch(name))

    def is_trailing_label(self, value: str) -> bool:
        """Return whether a field beyond the header is a label, as in official test files, or part of a tweet."""
        value = _unquote(value.strip())
        return not value or value in self.labels or bool(NUMBER.fullmatch(value))


class StandardInput(type(Path())):
    """The path of a copy of standard input, which messages call standard input."""


def name_of(path: Path) -> str:
    """Return what messages call a file."""
    return "standard input" if isinstance(path, StandardInput) else str(path)


# Paths


READ_ERRORS = (
    *(OSError, EOFError, ValueError, LookupError, ArithmeticError, RecursionError, TypeError, AttributeError),
    *(NotImplementedError, SyntaxError, zlib.error, struct.error, csv.Error, zipfile.BadZipFile, pa.ArrowException),
)


@contextmanager
def reading(path: Path, kind: str = "") -> Iterator[None]:
    """Turn whatever libraries raise at a path or a file's content into an `InputError`.

    Args:
        kind: of file that is expected, for the message.
    """
    try:
        yield
    except InputError:
        raise
    except READ_ERRORS as error:
        name = name_of(path)
        shown = name if len(name) <= 200 else f"{name[:100]}...{name[-80:]}"
        is_system = isinstance(error, OSError) and error.errno is not None
        if is_system and (message := path_message(error)):
            raise InputError(message) from None
        reason = _reason(error)
        if kind and not is_system:
            raise InputError(f"{shown} is not a {kind} file, or a damaged one ({reason})") from None
        raise InputError(f"{shown} can't be read ({reason}); check the name, or get another copy") from None


def _reason(error: BaseException) -> str:
    """Return an error's cause without anything that it may quote from the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "nested too deeply"
    says = (gzip.BadGzipFile, EOFError, zlib.error, zipfile.BadZipFile, csv.Error, pa.ArrowInvalid)
    text = (str(error).splitlines() or [""])[0] if isinstance(error, says) else ""
    return text[:120].rstrip(". ") or "damaged content"


def kind_of(path: Path) -> str:
    """Return a file's kind by its name, compressed or not: `.tsv` for `a.tsv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


INSTEAD = {
    ".xls": "save it as .xlsx or .csv",
    ".ods": "save it as .xlsx or .csv",
    ".zip": "unpack it first",
    ".bz2": "unpack it first",
    ".xz": "unpack it first",
    ".zst": "unpack it first",
}


def input_files(path: str | Path) -> list[Path]:
    """Return the files of an input: the file itself, or the readable files of a folder by name.

    Raises:
        InputError: for a path that does not exist, and for a file of no known kind.
    """
    path = path if isinstance(path, Path) else Path(path)
    with reading(path):
        if path.is_dir():
            parts = sorted(file for file in path.iterdir() if kind_of(file) in READERS and file.name[0] not in "._")
            files = [file for file in parts if file.is_file()]
            if not files:
                raise InputError(f"{path} holds no file of {', '.join(READERS)}, or the same with .gz")
            return files
        path.stat()
    if kind_of(path) not in READERS:
        if path.suffix.lower() == ".gz":
            raise InputError(f"{path}: name it after what is compressed in it, such as tweets.tsv.gz")
        remedy = INSTEAD.get(path.suffix.lower(), "convert it, or rename it to what it is")
        raise InputError(f"{path} is none of {', '.join(READERS)}, or the same with .gz; {remedy}")
    return [path]


# Encodings and line ends


MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
PACKED = {b"\x1f\x8b": ".gz", b"PK\x03\x04": ".zip or .xlsx", b"PAR1\x15": ".parquet"}


@dataclass
class Source:
    """A file to be read, by its path or by its content, and how."""

    path: Path
    encoding: str | None = None
    wanted: Wanted | None = None
    encoding_flag: str | None = None  # of the command, for messages; None: it has none
    content: bytes | None = None
    findings: list[Finding] = field(default_factory=list)  # for the first table
    codec: str = "utf-8-sig"
    line_end: str = "\n"
    has_zeros: bool = False
    has_halves: bool = False  # of characters of two UTF-16 units, which some rare encodings can hold

    @property
    def name(self) -> str:
        return name_of(self.path)

    def open(self) -> BinaryIO:
        """Open for reading bytes, decompressed."""
        if self.content is not None:
            return io.BytesIO(self.content)
        return gzip.open(self.path, "rb") if self.path.suffix.lower() == ".gz" else self.path.open("rb")

    def load(self) -> None:
        """Keep the content in memory, so that it is read and decompressed once."""
        with self.open() as stream:
            self.content = stream.read()

    def text(self, newline: str | None = None) -> io.TextIOWrapper:
        """Open for reading text; lines end at `newline`, by default as the whole file's do."""
        return io.TextIOWrapper(self.open(), encoding=self.codec, newline=self.line_end if newline is None else newline)

    def find(self, what: str, count: int = 0) -> None:
        """Add a finding for the next table."""
        self.findings.append(Finding(self.name, count, what))

    def take_findings(self) -> list[Finding]:
        """Return the findings that no table has yet."""
        findings, self.findings = self.findings, []
        return findings

    def survey(self) -> None:
        """Find out encoding and line ends of the whole file; an encoding that was named wins.

        Raises:
            InputError: with the line where no encoding fits, for lines of different encodings, for a file that is no
                text, and for an unknown encoding.
        """
        with self.open() as stream:
            start = stream.read(8)
        for magic, kind in PACKED.items():
            if start.startswith(magic):
                remedy = "unpack it first" if isinstance(self.path, StandardInput) else "give it that name"
                raise InputError(f"{self.name} is no text, but by its first bytes {kind}; {remedy}")
        marked = next((codec for mark, codec in MARKS.items() if start.startswith(mark)), None)
        named = _known_codec(self.encoding) if self.encoding else None
        self.codec = named or marked or "utf-8-sig"
        wrong = self._first_undecodable()
        if wrong is None:
            says = f"read as {self.encoding or self.codec.removesuffix('-sig')}"
            if marked and not named:
                says += ", by its byte order mark"
        elif named or marked:
            raise InputError(f"{self.name}, line {wrong}: not valid {self.encoding or marked}; {self._remedy()}")
        else:
            says = self._as_cp1252()
        self.find(says)
        if self.line_end == "\r":
            self.find("lines end in carriage returns alone")

    def _first_undecodable(self) -> int | None:
        """Return the line of the first byte that the codec does not know; look at line ends and zeros on the way."""
        decoder, n_lines, has_returns = codecs.getincrementaldecoder(self.codec)(), 0, False
        self.has_zeros = False
        with self.open() as stream:
            while True:
                chunk = stream.read(CHUNK)
                try:
                    text = decoder.decode(chunk, final=not chunk)
                except UnicodeError as error:
                    good = error.object[: error.start] if isinstance(error, UnicodeDecodeError) else b""
                    return n_lines + good.count(b"\n") + 1
                n_lines += text.count("\n")
                has_returns = has_returns or "\r" in text
                self.has_zeros = self.has_zeros or "\0" in text
                self.has_halves = self.has_halves or bool(self.encoding and SURROGATE.search(text))
                if not chunk:
                    self.line_end = "\r" if has_returns and not n_lines else "\n"
                    return None

    def _as_cp1252(self) -> str:
        """Take cp1252 for a file that is not UTF-8; return the finding, with the first line that is not UTF-8."""
        wrong, right, n_wrong, n_right, undefined = 0, 0, 0, 0, 0
        with self.open() as stream:
            for number, line in enumerate(stream, start=1):
                if line.isascii():
                    continue
                try:
                    line.decode("utf-8")
                    n_right, right = n_right + 1, right or number
                except UnicodeDecodeError:
                    n_wrong, wrong = n_wrong + 1, wrong or number
                    if not undefined and not _is_valid(line, "cp1252"):
                        undefined = number
        if n_right:
            raise InputError(
                f"{self.name}, line {wrong}: not valid UTF-8 ({n_wrong} {_lines(n_wrong)}), but line {right} is "
                f"({n_right} {_lines(n_right)} with more than ASCII); mend the lines that are wrong, or "
                f"{self._remedy()}"
            )
        if undefined:
            raise InputError(f"{self.name}, line {undefined}: not valid UTF-8 or cp1252; {self._remedy()}")
        self.codec = "cp1252"
        self._first_undecodable()
        return f"read as cp1252, because line {wrong} is not valid UTF-8"

    def _remedy(self) -> str:
        return f"name the file's {self.encoding_flag}" if self.encoding_flag else "save the file as UTF-8"


def _lines(count: int) -> str:
    return "line" if count == 1 else "lines"


def _is_valid(line: bytes, codec: str) -> bool:
    try:
        line.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _known_codec(encoding: str) -> str:
    """Return the codec of an encoding, for UTF-8 the one that skips a byte order mark."""
    try:
        b"".decode(encoding)
        codecs.getincrementaldecoder(encoding)
        name = codecs.lookup(encoding).name
        io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    except (LookupError, ValueError):
        raise InputError(f"--encoding {encoding} is no encoding that Python knows; utf-8 or cp1252?") from None
    return "utf-8-sig" if name == "utf-8" else encoding


# Cells


def unwrap_quotes(text: str) -> str:
    """Return a tweet that is wholly wrapped as a CSV field, `"a ""b"" c"`, as the text it was: `a "b" c`."""
    match = WRAPPED.fullmatch(text) if text[:1] == '"' else None
    return match[1].replace('""', '"') if match else text


def wrap_quotes(text: str) -> str:
    """Invert `unwrap_quotes`, for writing: wrap only texts that reading would unwrap."""
    return '"' + text.replace('"', '""') + '"' if WRAPPED.fullmatch(text) else text


def _unquote(cell: str) -> str:
    """Return the text of a cell that was quoted as all cells of its file are, quotes within doubled or escaped."""
    if cell[:1] != '"' or cell[-1:] != '"' or len(cell) < 2:
        return cell
    inner = cell[1:-1]
    if '"' not in inner:
        return inner
    if WRAPPED.fullmatch(cell):
        return inner.replace('""', '"')
    return inner.replace('\\"', '"') if ESCAPED.fullmatch(cell) else cell


class _LazyColumn(Sequence):
    """A column of strings that are made when it is first read: what nobody reads may hold anything."""

    def __init__(self, length: int, make: Callable[[], list[str]]) -> None:
        self.length, self.make, self.made = length, make, None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if self.made is None:
            self.made = self.make()
        return self.made[index]


NOT_TEXT: dict[type, str] = {
    list: "lists",
    dict: "objects",
    datetime.datetime: "dates",
    datetime.date: "dates",
    datetime.time: "times",
    datetime.timedelta: "durations",
}
ARROW_NOT_TEXT: list[tuple[Callable[[pa.DataType], bool], str]] = [
    (pa.types.is_struct, "structs"),
    (pa.types.is_map, "maps"),
    (pa.types.is_nested, "lists"),
    (pa.types.is_date, "dates"),
    (pa.types.is_timestamp, "dates"),
    (pa.types.is_time, "times"),
    (pa.types.is_temporal, "durations"),
]


def _text(value: object) -> str:
    """Return a cell as a string, None and NaN as an empty one; raise TypeError for what is no text.

    Whole floats keep their `.0`, by which the id check recognises ids that have lost digits.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, decimal.Decimal):
        return "" if value.is_nan() else format(value, "f")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        if value.is_integer() and abs(value) < 2**53:
            return f"{value:.1f}"  # `1.0`, which the id check refuses
        return repr(value)
    raise TypeError(NOT_TEXT.get(type(value), "other values"))


def texts_of(cells: Iterable[object], name: str, where: Callable[[int], str], findings: list[Finding]) -> list[str]:
    """Return a column's cells as strings: the one place where a value becomes text.

    Half a character of two UTF-16 units, as a tweet cut in the middle of an emoji has it, becomes U+FFFD, because no
    file can hold it.

    Args:
        where: file and line of a row, for messages.
        findings: that a finding on mended cells is added to.

    Raises:
        InputError: with the line, for a value that is no text.
    """
    texts, mended = [], 0
    for row, value in enumerate(cells):
        try:
            text = _text(value)
        except UnicodeDecodeError:
            raise InputError(f"{where(row)}: column {name} holds bytes that are not valid UTF-8; mend them") from None
        except TypeError as error:
            raise InputError(f"{where(row)}: column {name} holds {error}; text is expected") from None
        if not text.isascii() and SURROGATE.search(text):
            text, mended = SURROGATE.sub("\ufffd", text), mended + 1
        texts.append(text)
    if mended:
        what = f"cells of column {name} held half a character, such as half an emoji; it was replaced by U+FFFD"
        findings.append(Finding(where(0).rpartition(",")[0], mended, what))
    return texts


# Rows against their header


@dataclass
class Rows:
    """Rows of fields by position, held against their header: the shape of a table, for all formats of rows.

    Args:
        source: file and wanted columns.
        names: the header.
        surplus: what fields beyond the header are: `refused`, `dropped`, or `judged`, which drops only what can be no
            part of a tweet.
        remedy: for rows with too few or too many fields.
    """

    source: Source
    names: list[str]
    surplus: str
    remedy: str
    unit: str = "line"
    hint: str = ""
    header_line: int | None = 1
    quotes_are_text: bool = False
    is_quoted: bool = False
    has_row_names: bool = False
    has_text: bool = True  # cells are strings already
    rows: list[list] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    was_short: bool = False  # whether the last row ended before columns that are not read
    has_whole: bool = False  # whether some row had the header's width

    def __post_init__(self) -> None:
        raw_width = len(self.names)
        while self.names and not self.names[-1]:  # no flag or task file can name a column without a name
            self.names = self.names[:-1]
        self.width, self.raw_width = len(self.names), raw_width
        wanted, where = self.source.wanted, self.source.name
        if self.header_line is not None:
            where += f", {self.unit} {self.header_line}"
        self.found = wanted.check(self.names, where, self.hint) if wanted else dict(enumerate(range(self.width)))
        self.needed = max(self.found.values(), default=-1) + 1
        # Only a label that stands behind the text tells whether a tab in the tweet has moved the fields.
        self.shows_moves = "label" in self.found and self.found["label"] > self.found["text"]

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: list[list], lines: Sequence[int]) -> None:
        """Add rows of the header's width or another one; drop, fill up or refuse what differs."""
        if not self.has_row_names and not self.was_short and set(map(len, rows)) <= {self.width}:
            self.rows += rows
            self.lines += lines
            self.has_whole = self.has_whole or bool(rows)
            return
        counts = dict.fromkeys(("blank", "surplus", "short", "row names"), 0)
        for fields, line in zip(rows, lines, strict=True):
            if len(fields) == 1 and self.width != 1 and not _is_filled(fields[0]):
                counts["blank"] += 1
                continue
            if self.has_row_names:
                fields = fields[1:]
                counts["row names"] += 1
            is_short = len(fields) < self.width
            if len(fields) > self.width:
                counts["surplus"] += self._has_surplus(fields[self.width :], line)
                fields = fields[: self.width]
            elif is_short:
                if len(fields) < self.needed:
                    raise InputError(
                        f"{self.source.name}, {self.unit} {line}: {len(fields)} fields where the header names "
                        f"{self.width}; {self.remedy}"
                    )
                counts["short"] += 1
                fields = [*fields, *[""] * (self.width - len(fields))]
            self._check_unbroken(fields, line, is_short)
            self.rows.append(fields)
            self.lines.append(line)
        for kind, what in {
            "row names": "lines had one field more than the header: the first was dropped, as R's name of the row",
            "surplus": f"{self.unit}s had more fields than the header; the extra ones were dropped",
            "short": f"{self.unit}s end before columns that are not read",
            "blank": "blank lines were passed over",
        }.items():
            if counts[kind]:
                self.source.find(what, counts[kind])

    def _check_unbroken(self, fields: Sequence, line: int, is_short: bool) -> None:
        """Raise `InputError` for a row that may be the rest of the short one before, broken by a tweet's line end.

        The rest does not begin with an id; where there are no ids, either all rows are short or none.
        """
        if "id" in self.found:
            is_rest = self.was_short and not ID_LIKE.fullmatch(str(fields[self.found["id"]]).strip(' "'))
            self.was_short = is_short
        else:
            is_rest = self.has_whole if is_short else self.was_short
            self.was_short = self.was_short or is_short
        self.has_whole = self.has_whole or not is_short
        if is_rest:
            raise InputError(
                f"{self.source.name}, {self.unit} {line}: this may be the rest of a tweet with a line end, as not all "
                f"{self.unit}s have the {self.width} fields that the header names; {self.remedy}"
            )

    def _has_surplus(self, fields: Sequence, line: int) -> bool:
        """Return whether fields beyond the header hold anything; raise `InputError` where they may be a tweet's."""
        if not any(_is_filled(value) for value in fields):
            return False
        wanted = self.source.wanted
        is_safe = (
            self.shows_moves or wanted is None or all(wanted.is_trailing_label(value) for value in map(str, fields))
        )
        if self.surplus == "refused" or (self.surplus == "judged" and not is_safe):
            raise InputError(
                f"{self.source.name}, {self.unit} {line}: {self.width + len(fields)} fields where the header names "
                f"{self.width}; {self.remedy}"
            )
        return True

    def table(self, *, is_last: bool) -> Table:
        """Return the rows so far as a table and forget them, but for empty ones at its end, before the last table.

        Empty rows at a file's end are left out where tweets need ids: spreadsheets save them by the hundred.
        """
        n_kept = len(self.rows)
        if "id" in self.found or self.unit == "row":
            while n_kept and not any(_is_filled(value) for value in self.rows[n_kept - 1]):
                n_kept -= 1
        rows, lines, held_back = self.rows[:n_kept], self.lines[:n_kept], len(self.rows) - n_kept
        self.rows, self.lines = ([], []) if is_last else (self.rows[n_kept:], self.lines[n_kept:])
        if is_last and held_back:
            self.source.find(f"empty {self.unit}s at the end were left out", held_back)
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(self.width)]
        table = Table(self.source.name, self.names, columns, lines, [], self.unit, self.quotes_are_text)
        if self.is_quoted:
            table.columns = [[_unquote(cell) for cell in column] for column in columns]
        if not self.has_text:
            for index in sorted(set(self.found.values())):
                table.columns[index] = texts_of(columns[index], self.names[index], table.where, self.source.findings)
        table.findings = self.source.take_findings()
        return table


def _is_filled(value: object) -> bool:
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def _has_row_names(rows: Iterable[list[str]], names: Sequence[str], wanted: Wanted | None, is_quoted: bool) -> bool:
    """Return whether every row begins with a row name, for which R's write.table leaves the header without a name.

    A label behind the last column, as in an official test file, and a separator within each tweet give rows of the same
    width. So the first fields must be no tweet ids, the next ones must look like ids where ids are due, and what would
    be texts must not all be labels. Without columns of ids to look at, R's quotes or its numbers from 1 are needed.
    """
    found = wanted.positions(names) if wanted else {}
    all_long = all_labels = all_blank = all_numbered = True
    number = 0
    for fields in rows:
        if len(fields) == 1 and not fields[0].strip():
            continue
        if len(fields) != len(names) + 1:
            return False
        first, last = _unquote(fields[0]).strip(), _unquote(fields[-1]).strip()
        if "id" in found and not ID_LIKE.fullmatch(_unquote(fields[found["id"] + 1]).strip()):
            return False
        number += 1
        all_numbered = all_numbered and first == str(number)
        all_long = all_long and bool(LONG_ID.fullmatch(first))
        all_blank = all_blank and not last
        all_labels = all_labels and wanted is not None and wanted.is_trailing_label(last)
    if number == 0 or all_blank or all_long or not ("id" in found or is_quoted or all_numbered):
        return False
    return not (all_labels and found.get("text") == len(names) - 1)


# Formats


def _tsv_tables(source: Source, size: int | None) -> Iterator[Table]:
    """Yield tables of tab-separated tweets, one a physical line; quotes, U+0085 and U+2028 are part of the text."""
    source.survey()
    yield from _tab_separated(source, size)


def _tab_separated(source: Source, size: int | None) -> Iterator[Table]:
    end = source.line_end
    with source.text() as text:
        header = text.readline()
        if not header:
            raise InputError(f"{source.name} is empty; a header line and one tweet a line are expected")
        names, is_quoted = _header_names(header.removesuffix(end).removesuffix("\r").split("\t"))
        rows = Rows(
            *(source, names, "judged", "write one tweet a line, tabs between its fields and none inside"),
            hint=_other_separator(header, source, "\t"),
            quotes_are_text=not is_quoted,
            is_quoted=is_quoted,
            has_text=not source.has_halves,
        )
        if is_quoted:
            source.find("header and cells are quoted; the quotes were taken off")
        number, is_first = 2, True
        while content := text.read() if size is None else "".join(itertools.islice(text, size)):
            lines = content.replace("\r\n", "\n").removesuffix("\r").split(end) if end == "\n" else content.split(end)
            if lines[-1] == "":
                lines.pop()
            fields = [line.split("\t") for line in lines]
            if is_first:
                is_first = False
                first = next((row for row in fields if len(row) > 1 or row[0].strip()), [])
                if len(first) == rows.raw_width + 1 == rows.width + 1:
                    rows.has_row_names = _has_row_names(_physical_rows(source), rows.names, source.wanted, is_quoted)
            rows.add(fields, range(number, number + len(fields)))
            number += len(fields)
            if size is not None and len(rows):
                yield rows.table(is_last=False)
        yield rows.table(is_last=True)


def _physical_rows(source: Source) -> Iterator[list[str]]:
    """Yield the fields of all lines below the header."""
    with source.text() as text:
        text.readline()
        for line in text:
            yield line.removesuffix(source.line_end).removesuffix("\r").split("\t")


def _header_names(fields: Sequence[str]) -> tuple[list[str], bool]:
    """Return a header's names, and whether all of them are quoted."""
    names = [name.strip() for name in fields]
    filled = [name for name in names if name]
    is_quoted = bool(filled) and all(len(name) > 1 and WRAPPED.fullmatch(name) for name in filled)
    return ([_unquote(name).strip() for name in names] if is_quoted else names), is_quoted


SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _other_separator(header: str, source: Source, separator: str) -> str:
    """Return a hint on a header that is JSON or has another separator, and on a file of zero bytes."""
    if source.wanted is None:
        return ""
    if source.has_zeros:
        return "the file holds zero bytes, as UTF-16 does; save it as UTF-8"
    remedy = "write it to such a file first" if isinstance(source.path, StandardInput) else "name the file so"
    if header.lstrip()[:1] in ("{", "["):
        return f"it looks like JSON, .jsonl; {remedy}"
    for other, name in SEPARATORS.items():
        if other != separator and not source.wanted.lacks(_split_header(header, other)):
            return f"its columns are separated by {name}, as in .csv; {remedy}"
    return ""


def _split_header(header: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([header.strip("\r\n")], delimiter=separator), [])]
    except csv.Error:
        return []


def _csv_tables(source: Source, size: int | None) -> Iterator[Table]:
    """Yield tables of comma-separated tweets, quoted as spreadsheets do; a quoted field may hold line ends."""
    source.survey()
    csv.field_size_limit(2**31 - 1)
    with source.text(newline="") as text:
        header = next((line for line in text if line.strip("\r\n")), "")
    separator = _separator_of(header, source)
    if separator == "\t":  # lines rather than quotes: a tweet's lone quote must not swallow the next tweets
        source.find("separated by tabs, not commas")
        yield from _tab_separated(source, size)
        return
    if separator != ",":
        source.find(f"separated by {SEPARATORS[separator]}, not commas")
    records = _csv_records(source, separator)
    try:
        _, names = next(records)
    except StopIteration:
        raise InputError(f"{source.name} is empty; a header line and the tweets are expected") from None
    remedy = f"put quotes around a tweet that holds a {'comma' if separator == ',' else 'semicolon'}"
    hint = _other_separator(header, source, separator)
    names = [name.strip() for name in names]
    rows = Rows(source, names, "refused", remedy, hint=hint, has_text=not source.has_halves)
    reread = (lambda: (fields for _, fields in _csv_records(source, separator))) if header[0] == '"' else None
    yield from _tables_of(rows, records, size, reread)


def _separator_of(header: str, source: Source) -> str:
    """Return the first separator by which the header names all wanted columns; a comma where none does."""
    for separator in SEPARATORS:
        if not source.wanted.lacks(_split_header(header, separator)) if source.wanted else separator in header:
            return separator
    return ","


def _csv_records(source: Source, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of all records, the header first; raise `InputError` for unclosed quotes."""
    with source.text(newline="") as text:
        reader = csv.reader(text, strict=True, delimiter=separator)
        try:
            for fields in reader:
                if fields:
                    yield reader.line_num, fields
        except csv.Error as error:
            raise InputError(
                f"{source.name}, line {reader.line_num}: {error}; is this comma-separated with closed quotes?"
            ) from None


def _tables_of(
    rows: Rows,
    records: Iterator[tuple[int, list]],
    size: int | None,
    reread: Callable[[], Iterator[list[str]]] | None = None,
) -> Iterator[Table]:
    """Yield tables of records, each with its line.

    Args:
        reread: yields all records' fields anew, the header first, to look for R's row names.
    """
    first = next(records, None)
    if first is not None and reread and len(first[1]) == rows.raw_width + 1 == rows.width + 1:
        again = reread()
        next(again)
        rows.has_row_names = _has_row_names(again, rows.names, rows.source.wanted, True)
    records = itertools.chain([first] if first is not None else [], records)
    while batch := list(itertools.islice(records, size)):
        rows.add([fields for _, fields in batch], [line for line, _ in batch])
        if size is not None:
            yield rows.table(is_last=False)
    yield rows.table(is_last=True)


class _Repeating(dict):
    """A JSON object in which some key stands twice."""


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    return content if len(content) == len(pairs) else _Repeating(content)


JSON = json.JSONDecoder(object_pairs_hook=_json_object)
BLANK = re.compile(r"[ \t\n\r]*")


def _json_tables(source: Source, size: int | None) -> Iterator[Table]:
    """Yield tables of JSON objects, one a line or all in one array; each has the keys of the first that are read."""
    source.survey()
    with source.text() as text:
        start = next((line for line in text if line.strip()), "").lstrip()
    if source.line_end == "\r" and not _is_json(start):  # white space within the only object
        source.line_end = "\n"
    objects = _array_objects(source) if start.startswith("[") else _line_objects(source)
    first = next(objects, None)
    if first is None:
        raise InputError(f"{source.name} is empty; one JSON object a line is expected")
    names = [SURROGATE.sub("\ufffd", name) for name in first[1]]
    rows = Rows(source, names, "dropped", "", header_line=first[0], has_text=False)
    needed = [(name, names[index]) for index, name in enumerate(first[1]) if index in set(rows.found.values())]

    def records() -> Iterator[tuple[int, list]]:
        for line, content in itertools.chain([first], objects):
            for name, shown in needed:
                if name not in content:
                    raise InputError(f"{source.name}, line {line}: no key {shown}, which line {first[0]} has")
            yield line, [content.get(name) for name in first[1]]

    yield from _tables_of(rows, records(), size)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _line_objects(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    with source.text() as text:
        for number, line in enumerate(text, start=1):
            if line.strip():
                with _decoding_json(source, number - 1):
                    content = JSON.decode(line)
                yield number, _checked_object(content, source, number)


def _array_objects(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of an array, each with the line that it begins on; the array's text is held in memory."""
    with source.text() as stream:
        text = stream.read()
    position, number, counted, follows = text.index("[") + 1, 1, 0, "]"
    while True:
        position = BLANK.match(text, position).end()
        number, counted = number + text.count("\n", counted, position), position
        mark = text[position : position + 1]
        if mark == "]" and follows:
            break
        if follows == ",":
            if mark != ",":
                raise InputError(f"{source.name}, line {number}: not JSON (a comma or ] is expected here)")
            position, follows = position + 1, ""
            continue
        with _decoding_json(source, 0):
            content, position = JSON.raw_decode(text, position)
        yield number, _checked_object(content, source, number)
        follows = ","
    if text[position + 1 :].strip():
        raise InputError(f"{source.name}, line {number}: not JSON (more text behind the array)")


@contextmanager
def _decoding_json(source: Source, lines_before: int) -> Iterator[None]:
    """Turn errors of decoding JSON into an `InputError` with their line."""
    try:
        yield
    except json.JSONDecodeError as error:
        where = f"{source.name}, line {lines_before + error.lineno}"
        raise InputError(f"{where}: not JSON ({error.msg}); write one object a line") from None
    except (ValueError, RecursionError):
        where = f"{source.name}, line {lines_before + 1}"
        raise InputError(
            f"{where}: no JSON that can be read, a number is too long or it is nested too deeply"
        ) from None


def _checked_object(content: Any, source: Source, line: int) -> dict[str, Any]:
    """Return a JSON object; raise `InputError` for any other value, and for a wanted key that stands twice."""
    if not isinstance(content, dict):
        raise InputError(f"{source.name}, line {line}: an object {{...}} is expected")
    if isinstance(content, _Repeating):
        raise InputError(f"{source.name}, line {line}: a key stands twice in this object; keep one of them")
    return content


def _parquet_tables(source: Source, size: int | None) -> Iterator[Table]:
    """Yield tables of Parquet; a row's number, from 0, stands for its line. The encoding is ignored."""
    with reading(source.path, "Parquet"), source.open() as stream:
        packed = stream if source.path.suffix.lower() != ".gz" else io.BytesIO(stream.read())
        file, row = pa.parquet.ParquetFile(packed), 0
        names = file.schema_arrow.names
        columns = None
        if source.wanted:
            columns = [names[index] for index in set(source.wanted.check(names, source.name).values())]
        if size is None:
            yield arrow_table(file.read(columns=columns), source.name, 0, names)
            return
        for batch in file.iter_batches(batch_size=size, columns=columns):
            yield arrow_table(pa.Table.from_batches([batch]), source.name, row, names)
            row += batch.num_rows
        if row == 0:
            yield Table(source.name, names, [[] for _ in names], [], unit="row")


def arrow_table(table: pa.Table, path: str, first_row: int = 0, names: Sequence[str] | None = None) -> Table:
    """Return Arrow columns as a table of strings, its rows numbered from `first_row`.

    Args:
        names: of all columns, where `table` has only some of them; the others must not be read.
    """
    names = list(table.column_names if names is None else names)
    lines = range(first_row, first_row + table.num_rows)
    result = Table(path, names, [], lines, unit="row")
    for name in names:
        make = functools.partial(_arrow_texts, table, name, result)
        result.columns.append(_LazyColumn(table.num_rows, make))
    return result


def _arrow_texts(table: pa.Table, name: str, result: Table) -> list[str]:
    """Return an Arrow column as strings; raise `InputError` for a type that is no text."""
    indices = table.schema.get_all_field_indices(name)
    if len(indices) != 1:
        raise InputError(f"{result.path}: column {name} stands {len(indices)} times in what was read; rename it")
    column = table.column(indices[0])
    kind = column.type
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    for is_kind, words in ARROW_NOT_TEXT:
        if is_kind(kind):
            raise InputError(f"{result.path}: column {name} holds {words}; text is expected")
    with reading(Path(result.path)):
        try:
            cells = column.to_pylist()
        except UnicodeDecodeError:
            cells = _cells_one_by_one(column, name, result)
    return texts_of(cells, name, result.where, result.findings)


def _cells_one_by_one(column: pa.ChunkedArray, name: str, table: Table) -> list[object]:
    """Return a column's cells; raise `InputError` with the row of the first that is not UTF-8."""
    cells = []
    for row, cell in enumerate(column):
        try:
            cells.append(cell.as_py())
        except UnicodeDecodeError:
            raise InputError(
                f"{table.where(row)}: column {name} holds bytes that are not valid UTF-8; mend them"
            ) from None
    return cells


def _excel_tables(source: Source, size: int | None) -> Iterator[Table]:
    """Yield tables of a spreadsheet's first sheet; rows are numbered as in the spreadsheet, from 1."""
    try:
        import openpyxl
    except ImportError:
        raise InputError(
            f'{source.name}: reading .xlsx needs openpyxl; pip install "smm4h[excel]", or save the file as .csv'
        ) from None
    with reading(source.path, ".xlsx"):
        with source.open() as stream:
            book = openpyxl.load_workbook(io.BytesIO(stream.read()), read_only=True, data_only=True)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what other programs write there may be wrong
        records = ((number, list(row)) for number, row in enumerate(sheet.iter_rows(values_only=True), start=1))
        line, header = next(((n, row) for n, row in records if any(map(_is_filled, row))), (1, []))
        if not header:
            raise InputError(f"{source.name} is empty; a header row and the tweets are expected in its first sheet")
        names = ["" if name is None else str(name).strip() for name in header]
        if len(book.worksheets) > 1:
            source.find("sheets behind the first one were not read", len(book.worksheets) - 1)
        rows = Rows(source, names, "dropped", "fill it in", unit="row", header_line=line, has_text=False)
        filled = ((n, [*row, *[None] * (rows.width - len(row))]) for n, row in records)
        yield from _tables_of(rows, filled, size)


READERS: dict[str, Callable[[Source, int | None], Iterator[Table]]] = {
    ".tsv": _tsv_tables,
    ".txt": _tsv_tables,
    ".csv": _csv_tables,
    ".jsonl": _json_tables,
    ".json": _json_tables,
    ".parquet": _parquet_tables,
    ".xlsx": _excel_tables,
}


def read_tables(
    path: Path,
    encoding: str | None = None,
    *,
    wanted: Wanted | None = None,
    size: int | None = None,
    encoding_flag: str | None = None,
    content: bytes | None = None,
) -> Iterator[Table]:
    """Yield the tables of a file, read by the kind that its name ends in; findings stand in the table they belong to.

    Args:
        wanted: columns that are read; None: all of them.
        size: rows of each table, about; None: a single table with all rows.
        encoding_flag: of the command, for messages; None: it has none.
        content: instead of the file's.

    Raises:
        InputError: with file, line and remedy, for whatever can't be read.
    """
    source = Source(path, encoding, wanted, encoding_flag, content)
    with reading(path):
        if size is None and content is None and kind_of(path) != ".parquet":
            source.load()
        yield from READERS[kind_of(path)](source, size)


def read_table(
    path: str | Path,
    encoding: str | None = None,
    *,
    wanted: Wanted | None = None,
    encoding_flag: str | None = None,
) -> Table:
    """Read a file by its extension, compressed or not; raise `InputError` for whatever can't be read."""
    files = input_files(path)
    if files != [Path(path)]:
        raise InputError(f"{path} is a folder, where a file is expected; name a file in it")
    (table,) = read_tables(files[0], encoding, wanted=wanted, encoding_flag=encoding_flag)
    return table


def read_tsv(path: Path, encoding: str | None = None, content: bytes | None = None) -> Table:
    """Read a tab-separated file, whatever its name; `content` stands for the file's."""
    source = Source(Path(path), encoding, content=content)
    with reading(source.path):
        if content is None:
            source.load()
        (table,) = _tsv_tables(source, None)
    return table
