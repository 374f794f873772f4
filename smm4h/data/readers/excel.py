"""Excel files (.xlsx): tables of the first sheet."""

import io
import re
import zipfile
from collections.abc import Iterator

from smm4h.data.readers.files import Source, reading
from smm4h.data.readers.rows import Rows, is_filled, tables_of
from smm4h.data.readers.tables import Table
from smm4h.utils.errors import InputError

FORMULA = re.compile(rb"<(\w+:)?f[\s/>]")
COMPUTED = re.compile(rb"(</(\w+:)?f>|<(\w+:)?f\s[^>]*/>)\s*<(\w+:)?v>[^<]")  # a formula with its value


def excel_tables(source: Source, size: int | None) -> Iterator[Table]:
    """Yield tables of a spreadsheet's first sheet; rows are numbered as in the spreadsheet, from 1."""
    try:
        import openpyxl
    except ImportError:
        raise InputError(
            f'{source.name}: reading .xlsx needs openpyxl; pip install "smm4h[excel]", or save the file as .csv'
        ) from None
    with reading(source.path, ".xlsx"):
        with source.open() as stream:
            content = stream.read()
        n_sheets = len(openpyxl.load_workbook(io.BytesIO(content), read_only=True).worksheets)
        records = enumerate(_excel_rows(content), start=1)
        line, header = next(((n, row) for n, row in records if any(map(is_filled, row))), (1, []))
        if not header:
            raise InputError(f"{source.name} is empty; a header row and the tweets are expected in its first sheet")
        names = ["" if name is None else str(name).strip() for name in header]
        if n_sheets > 1:
            source.find("sheets behind the first one were not read", n_sheets - 1)
        rows = Rows(source, names, "dropped", "fill it in", unit="row", header_line=line, has_text=False)
        filled = ((n, [*row, *[None] * (rows.width - len(row))]) for n, row in records)
        yield from tables_of(rows, filled, size)


class Formula:
    """A cell with a formula whose value the file does not have, because no spreadsheet program has computed it.

    Libraries write a text that begins with `=` as one, too.
    """

    what = "formulas without values (save the file as .csv, or such cells as text)"


def _excel_rows(content: bytes) -> Iterator[list]:
    """Yield the rows of a spreadsheet's first sheet; a `Formula` stands where a formula's value is missing."""
    values = _first_sheet(content, data_only=True)
    if not _lacks_values(content):
        yield from map(list, values)
        return
    for row, formulas in zip(values, _first_sheet(content, data_only=False), strict=True):
        yield [
            Formula() if value is None and formula is not None else value
            for value, formula in zip(row, formulas, strict=True)
        ]


def _first_sheet(content: bytes, *, data_only: bool) -> Iterator[tuple]:
    import openpyxl

    sheet = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=data_only).worksheets[0]
    sheet.reset_dimensions()  # what other programs write there may be wrong
    return sheet.iter_rows(values_only=True)


def _lacks_values(content: bytes) -> bool:
    """Return whether no formula has a value: of a file that a spreadsheet program has saved, all have one."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sheets = [archive.read(name) for name in archive.namelist() if name.startswith("xl/worksheets/")]
    return any(map(FORMULA.search, sheets)) and not any(map(COMPUTED.search, sheets))
