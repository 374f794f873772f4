"""The out-of-fold table, one file for an ensemble: every labelled tweet's row, id, gold label and each member's word.

Parquet with columns row, id, gold (a label's name) and, for each member and label, `member p_label`: the probability by
the one run of the member that held the tweet out. Whatever is chosen, is chosen on it.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from smm4h.ballots import Ballots, ballots_of
from smm4h.errors import InputError
from smm4h.files import write_atomically
from smm4h.predictions import MAKER


def write_out_of_fold(path: Path, ballots: Ballots, gold: np.ndarray) -> None:
    """Writes the table of members' held-out probabilities and gold class indices (n_tweets,), all or nothing."""
    columns = {"row": pa.array(np.arange(len(gold))), "id": ballots.ids, "gold": pa.array(ballots.names(gold))}
    for member, probabilities in zip(ballots.voters, ballots.probabilities, strict=True):
        for label, column in zip(ballots.labels, probabilities.T, strict=True):
            columns[f"{member} p_{label}"] = pa.array(column, pa.float32())
    about = {"members": ballots.voters, "labels": ballots.labels}
    table = pa.table(columns).replace_schema_metadata({MAKER: json.dumps(about)})
    write_atomically(path, lambda partial: pa.parquet.write_table(table, partial))


def read_out_of_fold(path: Path) -> tuple[Ballots, np.ndarray]:
    """The members' held-out ballots and the gold class indices (n_tweets,).

    Raises `InputError` for a file of another kind, and for one whose rows are not every tweet once, in order.
    """
    try:
        table = pa.parquet.read_table(path)
        about = json.loads((table.schema.metadata or {})[MAKER])
        members, labels = about["members"], about["labels"]
        parts = [[table.column(f"{member} p_{label}").to_numpy() for label in labels] for member in members]
        rows, gold = table.column("row").to_numpy(), table.column("gold").to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError):
        raise InputError(f"{path} is not an out-of-fold table; give the job's command again to have it made") from None
    if not np.array_equal(rows, np.arange(len(rows))):
        raise InputError(f"{path} does not hold every tweet exactly once; remove it and give the job's command again")
    index = {label: place for place, label in enumerate(labels)}
    probabilities = [np.stack(part, axis=1) for part in parts]
    return ballots_of(members, table.column("id"), labels, probabilities), np.array([index[label] for label in gold])
