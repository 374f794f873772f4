"""Readers of tweet files (TSV, CSV, JSON, Parquet, Excel, each also .gz): tables of strings, with findings.

A file is read whole or in tables of some rows by the same code, so that both give the same tweets. What holds for the
whole file (encoding, line ends, R's row names) is found out before its first row is read. No message contains a tweet's
text: messages name file and line instead.
"""

import csv
import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from smm4h.data.readers.excel import excel_tables
from smm4h.data.readers.files import Source, StandardInput, kind_of, reading
from smm4h.data.readers.json_objects import json_tables
from smm4h.data.readers.rows import Rows, has_row_names, tables_of
from smm4h.data.readers.spreadsheets import KINDS, is_protected, without_protection
from smm4h.data.readers.tables import (
    ARROW_NOT_TEXT,
    WRAPPED,
    Finding,
    LazyColumn,
    Table,
    Wanted,
    cell_text,
    texts_of,
    unquote,
)
from smm4h.utils.errors import InputError
from smm4h.utils.files import is_stream

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
        if is_stream(path):
            raise InputError(f"{path} is a pipe or a device, which can be read only once; write it to a file first")
        if path.is_dir():
            parts = sorted(file for file in path.iterdir() if kind_of(file) in READERS and file.name[0] not in "._")
            files = [file for file in parts if file.is_file()]
            if not files:
                raise InputError(f"{path} holds no file of {', '.join(READERS)}, or the same with .gz")
            for file in path.iterdir():
                if file.suffix.lower() in INSTEAD and file.name[0] not in "._":
                    remedy = INSTEAD[file.suffix.lower()]
                    raise InputError(f"{file} can't be read with the other files of {path}; {remedy}, or move it away")
            return files
        path.stat()
    if kind_of(path) not in READERS:
        if path.suffix.lower() == ".gz":
            raise InputError(f"{path}: name it after what is compressed in it, such as tweets.tsv.gz")
        remedy = INSTEAD.get(path.suffix.lower(), "convert it, or rename it to what it is")
        raise InputError(f"{path} is none of {', '.join(READERS)}, or the same with .gz; {remedy}")
    return [path]


def _tsv_tables(source: Source, size: int | None) -> Iterator[Table]:
    """Yield tables of tab-separated tweets, one a physical line; quotes, U+0085 and U+2028 are part of the text."""
    if source.wanted and source.wanted.one_text_per_file and kind_of(source.path) == ".txt":
        yield _whole_text(source)
        return
    source.survey()
    yield from _tab_separated(source, size)


def _whole_text(source: Source) -> Table:
    """Return a file as a table of one text, whose id is the file's name."""
    source.survey()
    with source.text(newline="") as stream:
        text = "\n".join(stream.read().splitlines())
    columns, folder = source.wanted.columns, str(source.path.parent)
    findings = [finding._replace(where=folder) for finding in source.take_findings()]
    names = [(columns.id or ["id"])[0], columns.text[0]]
    return Table(folder, names, [[source.path.stem], [text]], [source.path.name], findings, "file")


def _tab_separated(source: Source, size: int | None) -> Iterator[Table]:
    end = source.line_end
    with source.text() as text:
        source.skip_declaration(text)
        header = text.readline()
        if not header:
            raise InputError(f"{source.name} is empty; a header line and one tweet a line are expected")
        names, is_quoted = _header_names(header.removesuffix(end).removesuffix("\r").split("\t"))
        has_header = not (source.wanted and source.wanted.has_no_header(names, f"{source.name}, line 1"))
        if not has_header:
            names = list(source.wanted.header)
            text.seek(0)
        rows = Rows(
            *(source, names, "judged", "write one tweet a line, tabs between its fields and none inside"),
            hint=_other_separator(header, source, "\t"),
            quotes_are_text=not is_quoted,
            is_quoted=is_quoted,
            has_text=not source.has_halves,
            header_line=source.header_line,
        )
        if is_quoted:
            source.find("header and cells are quoted; the quotes were taken off")
        number, is_first = source.header_line + has_header, has_header
        while content := text.read() if size is None else "".join(itertools.islice(text, size)):
            lines = content.replace("\r\n", "\n").removesuffix("\r").split(end) if end == "\n" else content.split(end)
            if lines[-1] == "":
                lines.pop()
            fields = [line.split("\t") for line in lines]
            if is_first:
                is_first = False
                first = next((row for row in fields if len(row) > 1 or row[0].strip()), [])
                if len(first) == rows.raw_width + 1 == rows.width + 1:
                    rows.has_row_names = has_row_names(_physical_rows(source), rows.names, source.wanted, is_quoted)
            rows.add(fields, range(number, number + len(fields)))
            number += len(fields)
            if size is not None and len(rows):
                yield rows.table()
        yield rows.table()


def _physical_rows(source: Source) -> Iterator[list[str]]:
    """Yield the fields of all lines below the header."""
    with source.text() as text:
        source.skip_declaration(text)
        text.readline()
        for line in text:
            yield line.removesuffix(source.line_end).removesuffix("\r").split("\t")


def _header_names(fields: Sequence[str]) -> tuple[list[str], bool]:
    """Return a header's names, and whether all of them are quoted."""
    names = [name.strip() for name in fields]
    filled = [name for name in names if name]
    is_quoted = bool(filled) and all(len(name) > 1 and WRAPPED.fullmatch(name) for name in filled)
    return ([unquote(name).strip() for name in names] if is_quoted else names), is_quoted


DECLARATION = re.compile(r'"?sep=(.)"?')  # of the separator, in a first line for Excel
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
    if not source.wanted.lacks(_split_header(header, "|")):
        return "its columns are separated by |; write tabs, commas or semicolons in its place"
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
        declared = DECLARATION.fullmatch(header.strip("\r\n"))
        if declared:
            source.header_line = 2
            header = next((line for line in text if line.strip("\r\n")), "")
    separator = declared[1] if declared and declared[1] in SEPARATORS else _separator_of(header, source)
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
    if source.wanted and source.wanted.has_no_header(names, f"{source.name}, line 1"):
        records, names = _csv_records(source, separator), list(source.wanted.header)
        header = ""
    rows = Rows(
        source, names, "refused", remedy, hint=hint, has_text=not source.has_halves, header_line=source.header_line
    )
    reread = (lambda: (fields for _, fields in _csv_records(source, separator))) if header[:1] == '"' else None
    yield from tables_of(rows, records, size, reread)


def _separator_of(header: str, source: Source) -> str:
    """Return the first separator by which the header names all wanted columns, or at least several ones; or a comma.

    A line that is no header has as many fields as the task's header.
    """
    splits = {separator: _split_header(header, separator) for separator in SEPARATORS}
    complete = [s for s, names in splits.items() if source.wanted and not source.wanted.lacks(names)]
    complete += [s for s, names in splits.items() if source.wanted and len(names) == len(source.wanted.header)]
    return next(iter([*complete, *(s for s, names in splits.items() if len(names) > 1)]), ",")


def _csv_records(source: Source, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of all records, the header first; raise `InputError` for unclosed quotes."""
    with source.text(newline="") as text:
        source.skip_declaration(text)
        reader, skipped = csv.reader(text, strict=True, delimiter=separator), source.header_line - 1
        try:
            for fields in reader:
                if fields:
                    yield reader.line_num + skipped, fields
        except csv.Error as error:
            raise InputError(
                f"{source.name}, line {reader.line_num + skipped}: {error}; is this comma-separated with closed quotes?"
            ) from None


def _parquet_tables(source: Source, size: int | None) -> Iterator[Table]:
    """Yield tables of Parquet; a row's number, from 0, stands for its line. The encoding is ignored."""
    with reading(source.path, "Parquet"), source.open() as stream:
        packed = stream if source.path.suffix.lower() != ".gz" else io.BytesIO(stream.read())
        file, row = pa.parquet.ParquetFile(packed), 0
        names = file.schema_arrow.names
        columns, passed = None, []
        if source.wanted:
            columns = [names[index] for index in set(source.wanted.check(names, source.name).values())]
            passed = [name for name in source.wanted.passed if name in names and name not in columns]
            columns += passed
        lists = source.wanted.lists if source.wanted else names
        if size is None:
            yield _filled_table(file.read(columns=columns), source.name, 0, names, lists, passed)
            return
        for batch in file.iter_batches(batch_size=size, columns=columns):
            yield _filled_table(pa.Table.from_batches([batch]), source.name, row, names, lists, passed)
            row += batch.num_rows
        if row == 0:
            yield Table(source.name, names, [[] for _ in names], [], unit="row")


def _filled_table(
    table: pa.Table, path: str, first_row: int, names: Sequence[str], lists: Sequence[str], passed: Sequence[str]
) -> Table:
    """Return Arrow columns as a table of strings without the rows in which all of them are empty.

    Args:
        passed: names of columns that are only passed on; a row with nothing else is empty.
    """
    is_empty = np.ones(table.num_rows, dtype=bool)
    for column in (table.column(name) for name in table.column_names if name not in passed):
        is_null = pa.compute.is_null(column, nan_is_null=pa.types.is_floating(column.type))
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            is_blank = pa.compute.equal(pa.compute.utf8_trim_whitespace(column), "")
            is_null = pa.compute.or_(is_null, pa.compute.fill_null(is_blank, True))
        is_empty &= is_null.to_numpy()
        if not is_empty.any():
            return arrow_table(table, path, first_row, names, lists, passed)
    kept = np.flatnonzero(~is_empty)
    result = arrow_table(table.take(pa.array(kept)), path, first_row, names, lists, passed)
    result.lines = (first_row + kept).tolist()
    result.findings.append(Finding(path, int(is_empty.sum()), "empty rows were left out"))
    return result


def arrow_table(
    table: pa.Table,
    path: str,
    first_row: int = 0,
    names: Sequence[str] | None = None,
    lists: Sequence[str] = (),
    passed: Sequence[str] = (),
) -> Table:
    """Return Arrow columns as a table of strings, its rows numbered from `first_row`.

    Args:
        names: of all columns, where `table` has only some of them; the others must not be read.
        lists: names of columns whose cells may be lists, which are read as JSON.
        passed: names of columns that may hold anything, see `cell_text`.
    """
    names = list(table.column_names if names is None else names)
    lines = range(first_row, first_row + table.num_rows)
    result = Table(path, names, [], lines, unit="row")
    for name in names:
        own = (_passed_texts,) if name in passed else (_arrow_texts, name in lists)
        make = functools.partial(own[0], table, name, result, *own[1:])
        result.columns.append(LazyColumn(table.num_rows, make))
    return result


def _passed_texts(table: pa.Table, name: str, result: Table) -> list[str]:
    """Return an Arrow column of any type as strings."""
    with reading(Path(result.path)):
        return [cell_text(cell) for cell in table.column(name).to_pylist()]


def _arrow_texts(table: pa.Table, name: str, result: Table, may_be_lists: bool) -> list[str]:
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
        if is_kind(kind) and not (may_be_lists and is_list_type(kind)):
            raise InputError(f"{result.path}: column {name} holds {words}; text is expected")
    with reading(Path(result.path)):
        try:
            cells = column.to_pylist()
        except UnicodeDecodeError:
            cells = _cells_one_by_one(column, name, result)
    return texts_of(cells, name, result.where, result.findings, lists=may_be_lists)


def is_list_type(kind: pa.DataType) -> bool:
    """Return whether Arrow cells are lists of simple values."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and not pa.types.is_nested(kind.value_type)


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


READERS: dict[str, Callable[[Source, int | None], Iterator[Table]]] = {
    ".tsv": _tsv_tables,
    ".txt": _tsv_tables,
    ".csv": _csv_tables,
    ".jsonl": json_tables,
    ".json": json_tables,
    ".parquet": _parquet_tables,
    ".xlsx": excel_tables,
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
        kind = kind_of(path)
        if size is None and content is None and kind != ".parquet":
            source.load()
        for table in READERS[kind](source, size):
            yield without_protection(table) if kind in KINDS and is_protected(table.names, wanted) else table


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
