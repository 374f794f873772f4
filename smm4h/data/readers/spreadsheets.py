"""Cells of files that people open in a spreadsheet, which would run some of them as formulas."""

import re

from smm4h.data.readers.tables import NUMBER

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
