"""Rows of a file held against its header: one place for all formats with rows of fields."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from smm4h.data.readers.files import Source
from smm4h.data.readers.tables import (
    ID_LIKE,
    LONG_ID,
    LazyColumn,
    Table,
    Wanted,
    cell_text,
    texts_of,
    unquote,
    without_halves,
)
from smm4h.utils.errors import InputError


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
        self.names = [without_halves(name) for name in self.names]  # or they could not be printed
        while self.names and not self.names[-1]:  # no flag or task file can name a column without a name
            self.names = self.names[:-1]
        self.width, self.raw_width = len(self.names), raw_width
        wanted, where = self.source.wanted, self.source.name
        if self.header_line is not None:
            where += f", {self.unit} {self.header_line}"
        self.positions = wanted.check(self.names, where, self.hint) if wanted else {}
        self.needed = max(self.positions.values(), default=-1) + 1
        # Only a label that stands behind the text tells whether a tab in the tweet has moved the fields.
        self.shows_moves = "label" in self.positions and self.positions["label"] > self.positions["text"]
        self.needs_content = wanted is None or "id" in self.positions or self.unit == "row"

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: list[list], lines: Sequence[int]) -> None:
        """Add rows of the header's width or another one; drop, fill up or refuse what differs.

        Empty rows are left out where tweets need ids: spreadsheets save them by the hundred.
        """
        if not self.has_row_names and not self.was_short and self._are_plain(rows):
            self.rows += rows
            self.lines += lines
            self.has_whole = self.has_whole or bool(rows)
            return
        counts = dict.fromkeys(("empty", "surplus", "short", "row names"), 0)
        for fields, line in zip(rows, lines, strict=True):
            fields = fields[1:] if self.has_row_names else fields
            if self._is_empty(fields):
                counts["empty"] += 1
                continue
            counts["row names"] += self.has_row_names
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
            if self.positions:
                self._check_unbroken(fields, line, is_short)
            self.rows.append(fields)
            self.lines.append(line)
        for kind, what in {
            "row names": "lines had one field more than the header: the first was dropped, as R's name of the row",
            "surplus": f"{self.unit}s had more fields than the header; the extra ones were dropped",
            "short": f"{self.unit}s end before columns that are not read",
            "empty": f"empty {self.unit}s were left out",
        }.items():
            if counts[kind]:
                self.source.find(what, counts[kind])

    def _are_plain(self, rows: list[list]) -> bool:
        """Return whether all rows have the header's width, and none is an empty one to be left out."""
        if not set(map(len, rows)) <= {self.width}:
            return False
        if "id" in self.positions:
            index = self.positions["id"]
            return all(is_filled(fields[index]) for fields in rows)
        return not (self.needs_content and any(map(self._is_empty, rows)))

    def _is_empty(self, fields: Sequence) -> bool:
        """Return whether a row holds nothing, so that it is no tweet."""
        if self.needs_content:
            return not any(map(is_filled, fields))
        return len(fields) <= 1 and self.width != 1 and not any(map(is_filled, fields))

    def _check_unbroken(self, fields: Sequence, line: int, is_short: bool) -> None:
        """Raise `InputError` for a row that may be the rest of the short one before, broken by a tweet's line end.

        The rest does not begin with an id; where there are no ids, either all rows are short or none.
        """
        if "id" in self.positions:
            is_rest = self.was_short and not ID_LIKE.fullmatch(str(fields[self.positions["id"]]).strip(' "'))
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
        if not any(is_filled(value) for value in fields):
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

    def table(self) -> Table:
        """Return the rows so far as a table, and forget them."""
        rows, lines, self.rows, self.lines = self.rows, self.lines, [], []
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(self.width)]
        table = Table(self.source.name, self.names, columns, lines, [], self.unit, self.quotes_are_text)
        if self.is_quoted:
            table.columns = [[unquote(cell) for cell in column] for column in columns]
        if not self.has_text:
            for index in sorted(set(self.positions.values())):
                name = self.names[index]
                lists = name in self.source.wanted.lists
                table.columns[index] = texts_of(columns[index], name, table.where, self.source.findings, lists=lists)
            self._pass_on(table, columns)
        table.findings = self.source.take_findings()
        if not self.has_text and self.source.wanted is None:  # the caller reads some columns only
            table.columns = [self._lazy_column(table, index) for index in range(self.width)]
        return table

    def _pass_on(self, table: Table, columns: list[list]) -> None:
        """Turn the columns that are passed on into text, unless the task reads them and has done so."""
        passed = self.source.wanted.passed if self.source.wanted else ()
        for index in {self.names.index(name) for name in passed if name in self.names} - {*self.positions.values()}:
            table.columns[index] = [cell_text(cell) for cell in columns[index]]

    def _lazy_column(self, table: Table, index: int) -> LazyColumn:
        cells = table.columns[index]
        return LazyColumn(
            len(cells), lambda: texts_of(cells, self.names[index], table.where, table.findings, lists=True)
        )


def tables_of(
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
        rows.has_row_names = has_row_names(again, rows.names, rows.source.wanted, True)
    records = itertools.chain([first] if first is not None else [], records)
    while batch := list(itertools.islice(records, size)):
        rows.add([fields for _, fields in batch], [line for line, _ in batch])
        if size is not None:
            yield rows.table()
    yield rows.table()


def is_filled(value: object) -> bool:
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def has_row_names(rows: Iterable[list[str]], names: Sequence[str], wanted: Wanted | None, is_quoted: bool) -> bool:
    """Return whether every row begins with a row name, for which R's write.table leaves the header without a name.

    A label behind the last column, as in an official test file, and a separator within each tweet give rows of the same
    width. So the first fields must be no tweet ids, the next ones must look like ids where ids are due, and what would
    be texts must not all be labels. Without columns of ids to look at, R's quotes or its numbers from 1 are needed.
    """
    positions = wanted.positions(names) if wanted else {}
    all_long = all_labels = all_blank = all_numbered = True
    number = 0
    for fields in rows:
        if len(fields) == 1 and not fields[0].strip():
            continue
        if len(fields) != len(names) + 1:
            return False
        first, last = unquote(fields[0]).strip(), unquote(fields[-1]).strip()
        if "id" in positions and not ID_LIKE.fullmatch(unquote(fields[positions["id"] + 1]).strip()):
            return False
        number += 1
        all_numbered = all_numbered and first == str(number)
        all_long = all_long and bool(LONG_ID.fullmatch(first))
        all_blank = all_blank and not last
        all_labels = all_labels and wanted is not None and wanted.is_trailing_label(last)
    if number == 0 or all_blank or all_long or not ("id" in positions or is_quoted or all_numbered):
        return False
    return not (all_labels and positions.get("text") == len(names) - 1)
