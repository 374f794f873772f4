"""Tables of strings: findings, the columns that are wanted, and how a cell becomes text."""

import datetime
import decimal
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from smm4h.config.task import Columns
from smm4h.utils.errors import InputError
from smm4h.utils.wording import of_one

NAME_PART = re.compile(r"[^\W_]+")
# By which a line is known as a header, though no column of the task is in it.
COLUMN_WORDS = frozenset(
    (
        *("id", "ids", "tweet", "tweets", "text", "texts", "sentence", "content", "message", "body", "post", "comment"),
        *("label", "labels", "class", "classes", "annotation", "gold", "target", "category", "score", "title"),
        *("user", "author", "username", "created", "date", "time", "lang", "language", "split", "source", "index"),
    )
)
MARK = "mark of "  # and a name: kind of a column of marks, see `Wanted.marks`
LONGEST_NAME = 40  # characters of a column's name; a longer one is a tweet
WRAPPED = re.compile(r'"((?:[^"]|"")*)"')
ESCAPED = re.compile(r'"((?:[^"]|\\")*)"')  # R's write.table: \" for a quote, a single \ for itself
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
SURROGATE = re.compile("[\ud800-\udfff]")
ID_LIKE = re.compile(r"(?=\D*\d)[\w-]+", re.ASCII)  # one word with a digit
COLUMN_NAME = re.compile(r"[A-Za-z_]{1,30}", re.ASCII)
SPREADSHEET_ID = re.compile(r"\d+([.,]\d+)?[eE]\+\d+|\d+[.,]\d+[eE]\d+|\d+\.0+", re.ASCII)
LONG_ID = re.compile(r"\d{9,}", re.ASCII)  # a tweet id, not the number that R gives a row


# 1.23E+18, 1e+18, Java's 1.23E18, 123.0; but 12e5 may be an id of letters and digits, as Reddit has them
SPOILT_ID = (
    "the id is written as a decimal number, so its last digits are lost; go back to a copy that no spreadsheet or "
    "float has touched"
)


class Finding(NamedTuple):
    """One line of the report on the input: where, how many, and what."""

    where: str
    count: int  # 0: nothing was counted
    what: str

    def __str__(self) -> str:
        what = of_one(self.what) if self.count == 1 else self.what
        return f"{self.where}: {self.count} {what}" if self.count else f"{self.where}: {what}"

    @property
    def is_odd(self) -> bool:
        """Return whether users should know of it; a file in UTF-8 is not odd."""
        return self.what != "read as utf-8"


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
        ids_may_lack: whether a file without columns of ids and of groups is read, too.
        has_flags: whether the command has flags that name columns, for messages.
        header: names of the columns of a text file that has no header.
        one_text_per_file: whether a .txt file is one text, whose id is the file's name.
        marks: names of the columns of a label each, of a multi-label task.
        lists: names of columns whose cells may be lists, which are read as JSON.
        passed: names of further columns that are read, whatever they hold, see `cell_text`.
    """

    columns: Columns
    labels: Sequence[str] = ()
    ids_may_lack: bool = False
    has_flags: bool = True
    header: Sequence[str] = ()
    one_text_per_file: bool = False
    marks: Sequence[str] = ()
    lists: Sequence[str] = ()
    passed: Sequence[str] = ()

    def has_no_header(self, first: Sequence[str], where: str) -> bool:
        """Return whether a file whose first line has these fields lacks a header, as the task says that files do.

        Raises:
            InputError: where the first line looks like a header of other names.
        """
        if not self.header or not self.lacks(first):
            return False
        if len(first) > 1 and all(COLUMN_NAME.fullmatch(name) for name in first):
            raise InputError(
                f"{where}: this looks like a header, but its names are not the task's ({', '.join(self.header)}); add "
                "them to the task's columns, or remove the line"
            )
        return True

    def positions(self, names: Sequence[str]) -> dict[str, int]:
        """Return the position of each column in a header; of those that it lacks, none."""
        found = {}
        for kind in ("text", "id", "user", "label", "source", "group", "context"):
            present = [name for name in getattr(self.columns, kind) if name in names]
            if present:
                found[kind] = names.index(present[0])
        return found | {f"{MARK}{name}": names.index(name) for name in self.marks if name in names}

    def lacks(self, names: Sequence[str]) -> list[str]:
        """Return which of text, second text, id, label and, of labelled tweets, group a header lacks.

        Tweets to predict and extra training tweets may lack their groups; what a source is may be said by the task's
        `files`.
        """
        found = self.positions(names)
        needed = ("text", "context", "label") if self.ids_may_lack else ("text", "context", "id", "label")
        if self.columns.label and self.columns.group != ["source"] and not self.ids_may_lack:
            needed += ("group",)
        marks = [f"{MARK}{name}" for name in self.marks]
        return [kind for kind in (*needed, *marks) if self.named(kind) and kind not in found]

    def named(self, kind: str) -> list[str]:
        """Return the names that a column of a kind may have."""
        return [kind.removeprefix(MARK)] if kind.startswith(MARK) else getattr(self.columns, kind)

    def check(self, names: Sequence[str], where: str, hint: str = "") -> dict[str, int]:
        """Return `positions`; raise `InputError` where a column is missing or its name stands twice.

        Args:
            hint: what the file looks like instead, for the message.
        """
        if missing := self.lacks(names):
            wanted = " or ".join(self.named(missing[0]))
            if not any(names):
                raise InputError(f"{where}: this line is empty, but must name the columns ({wanted})")
            if hint:
                raise InputError(f"{where}: no column {wanted}; {hint}")
            header = ", ".join(names)
            is_header = self.positions(names) or looks_like_header(names)
            if len(header) > 200 or any(is_value(name, self.labels) for name in names) or not is_header:
                raise InputError(f"{where}: no header here; the first line must name the columns ({wanted})")
            is_mark = missing[0].startswith(MARK)
            flag = (
                "name it in the task file"
                if is_mark
                else f"name it with --{missing[0]}_column_name or in the task file"
            )
            remedy = flag if self.has_flags else "rename it"
            raise InputError(f"{where}: no column {wanted} among {header}; {remedy}")
        found = self.positions(names)
        for position in found.values():
            if names.count(names[position]) > 1:
                raise InputError(
                    f"{where}: {names.count(names[position])} columns are named {names[position]}; rename or remove "
                    "those that are not to be read"
                )
        return found

    def is_trailing_label(self, value: str) -> bool:
        """Return whether a field beyond the header is a label, as in official test files, or part of a tweet."""
        value = unquote(value.strip())
        return not value or value in self.labels or bool(NUMBER.fullmatch(value))


def is_value(name: str, labels: Sequence[str] = ()) -> bool:
    """Return whether a name in a header is a tweet's field, which must not be shown.

    Args:
        labels: of the task.
    """
    is_text = len(name) > LONGEST_NAME or len(name.split()) > 3 or any(mark in name for mark in ',;{"@')
    return is_text or name.isdigit() or name in labels or bool(NUMBER.fullmatch(name))


def looks_like_header(names: Sequence[str]) -> bool:
    """Return whether some names are a header by a word such as `id` in one of them, and not cells, nor any sentence."""
    if any(len(name) > LONGEST_NAME or len(name.split()) > 2 for name in names):
        return False
    has_word = any(" " not in name and COLUMN_WORDS & set(NAME_PART.findall(name.lower())) for name in names)
    return has_word or all(len(name) <= 1 for name in names)


def unwrap_quotes(text: str) -> str:
    """Return a tweet that is wholly wrapped as a CSV field, `"a ""b"" c"`, as the text it was: `a "b" c`."""
    match = WRAPPED.fullmatch(text) if text[:1] == '"' else None
    return match[1].replace('""', '"') if match else text


def wrap_quotes(text: str) -> str:
    """Invert `unwrap_quotes`, for writing: wrap texts that begin with a quote.

    Most readers of a .tsv take such a text for a quoted one, and one without a second quote swallows the lines below.
    """
    return '"' + text.replace('"', '""') + '"' if text[:1] == '"' else text


def unquote(cell: str) -> str:
    """Return the text of a cell that was quoted as all cells of its file are, quotes within doubled or escaped."""
    if cell[:1] != '"' or cell[-1:] != '"' or len(cell) < 2:
        return cell
    inner = cell[1:-1]
    if '"' not in inner:
        return inner
    if WRAPPED.fullmatch(cell):
        return inner.replace('""', '"')
    return inner.replace('\\"', '"') if ESCAPED.fullmatch(cell) else cell


class LazyColumn(Sequence):
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
    raise TypeError(NOT_TEXT.get(type(value)) or getattr(value, "what", "other values"))


def is_list(value: object) -> bool:
    """Return whether a cell is a list."""
    return isinstance(value, list)


def cell_text(value: object) -> str:
    """Return any value of a column that is passed on as text: dates in ISO form, lists and objects as JSON."""
    try:
        text = _text(value)
    except UnicodeDecodeError:
        text = value.decode("utf-8", "replace")
    except TypeError:
        is_moment = isinstance(value, datetime.date | datetime.time)
        text = value.isoformat() if is_moment else _structure_text(value)
    return text if text.isascii() else without_halves(text)


def _structure_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def without_halves(text: str) -> str:
    """Return a text with its pairs of UTF-16 units joined, and U+FFFD for each unit that stands alone."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def texts_of(
    cells: Iterable[object], name: str, where: Callable[[int], str], findings: list[Finding], *, lists: bool = False
) -> list[str]:
    """Return a column's cells as strings: the one place where a value becomes text.

    Half a character of two UTF-16 units, as a tweet cut in the middle of an emoji has it, becomes U+FFFD, because no
    file can hold it; two halves become the character.

    Args:
        where: file and line of a row, for messages.
        findings: that a finding on mended cells is added to.
        lists: whether cells may be lists of texts and numbers, which become JSON.

    Raises:
        InputError: with the line, for a value that is no text.
    """
    texts, mended = [], 0
    for row, value in enumerate(cells):
        try:
            text = json.dumps([*map(_text, value)], ensure_ascii=False) if lists and is_list(value) else _text(value)
        except UnicodeDecodeError:
            raise InputError(f"{where(row)}: column {name} holds bytes that are not valid UTF-8; mend them") from None
        except TypeError as error:
            raise InputError(f"{where(row)}: column {name} holds {error}; text is expected") from None
        if not text.isascii() and SURROGATE.search(text):
            text, mended = without_halves(text), mended + 1
        texts.append(text)
    if mended:
        what = f"cells of column {name} held half a character, such as half an emoji; it was replaced by U+FFFD"
        findings.append(Finding(where(0).rpartition(",")[0], mended, what))
    return texts
