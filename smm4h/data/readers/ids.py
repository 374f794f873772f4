"""Ids of tweets: taken out of what spreadsheets put around them, and refused where they have lost digits."""

import re

from smm4h.data.readers.tables import SPOILT_ID, SPREADSHEET_ID, Finding, Table
from smm4h.utils.errors import CONTROL, HAS_CONTROL, InputError

PROTECTED_ID = re.compile(r"""=?"([^"]*)"|'([^']+)""")  # from a spreadsheet that was to take it for text
PROTECTION = ("=", "'", '"')  # what such an id begins with
PROTECTED = "ids were wrapped in quotes, or protected from a spreadsheet; they were unwrapped"


def checked_ids(table: Table, column: int) -> list[str]:
    """Return the ids of a table; raise `InputError` for a missing one and for one that a spreadsheet has spoilt."""
    ids = [tweet_id.strip() for tweet_id in table.columns[column]]
    n_protected = 0
    for index, tweet_id in enumerate(ids):
        if tweet_id[:1] in PROTECTION and (match := PROTECTED_ID.fullmatch(tweet_id)):
            ids[index], n_protected = (match[1] or match[2] or "").strip(), n_protected + 1
    if n_protected:
        table.findings.append(Finding(table.path, n_protected, PROTECTED))
    if CONTROL.search("".join(ids)):
        row = next(row for row, tweet_id in enumerate(ids) if CONTROL.search(tweet_id))
        raise InputError(f"{table.where(row)}: {HAS_CONTROL.format('id')}")
    for index, tweet_id in enumerate(ids):
        if not tweet_id or "." in tweet_id or "E" in tweet_id or "e" in tweet_id:
            if not tweet_id:
                raise InputError(f"{table.where(index)}: no id; every tweet needs one")
            if SPREADSHEET_ID.fullmatch(tweet_id):
                raise InputError(f"{table.where(index)}: {SPOILT_ID}")
    return ids
