"""Cells of files that people open in a spreadsheet, which would run some of them as formulas."""

import re
from collections.abc import Sequence
from dataclasses import replace

from smm4h.data.readers.tables import NUMBER, LazyColumn, Table, Wanted, unwrap_quotes

KINDS = (".csv", ".tsv", ".txt", ".xlsx")  # that spreadsheets open
SIGNALS = ("disagreement", "margin", "p_rare")  # columns of a file to be labelled
PROBABILITY = "probability"  # column of predictions: of the label

# Excel, LibreOffice and Google Sheets compute a cell that begins so, also behind blanks and an opening quote;
# with East Asian settings in full-width signs, too.
FORMULA = re.compile(r"""'*["\s]*[=+\-@＝＋－＠]""")
PROTECTED = re.compile(r"""'+["\s]*[=+\-@＝＋－＠]""")


def protect(cell: str) -> str:
    """Return a cell that a spreadsheet shows as it is: with an apostrophe before what would be a formula.

    Numbers stay: they are computed to themselves. The remedy is the one that OWASP recommends against CSV injection.
    """
    return f"'{cell}" if FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


def unprotect(cell: str) -> str:
    """Invert `protect`."""
    return cell[1:] if PROTECTED.match(cell) else cell


def is_protected(names: Sequence[str], wanted: Wanted | None) -> bool:
    """Return whether a file with tweets is one of this project's, by its columns: to be labelled, or predicted."""
    is_predicted = wanted is not None and PROBABILITY in names and not set(wanted.columns.text).isdisjoint(names)
    return is_predicted or set(SIGNALS) <= set(names)


def without_protection(table: Table) -> Table:
    """Return a table with its cells as they were before `protect`; columns that nobody reads are left alone."""

    def original(cell: str) -> str:
        return unprotect(unwrap_quotes(cell) if table.quotes_are_text else cell)

    def column(cells: Sequence[str]) -> Sequence[str]:
        return LazyColumn(len(cells), lambda: [original(cell) if isinstance(cell, str) else cell for cell in cells])

    return replace(table, columns=[column(cells) for cells in table.columns], quotes_are_text=False)
