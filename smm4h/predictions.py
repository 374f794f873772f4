"""The one file format between stages: row, id, a probability for each class, and who made them.

Parquet with columns row, id and one a class (`p_` and the label); its metadata says who made it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from smm4h.errors import InputError
from smm4h.files import write_atomically

MAKER = b"smm4h"  # the key of the Parquet metadata that says who made the file


@dataclass(frozen=True)
class Predictions:
    rows: np.ndarray  # (n_tweets,) row numbers of the input
    ids: pa.ChunkedArray  # of strings
    probabilities: np.ndarray  # (n_tweets, n_classes)
    labels: list[str]
    maker: dict[str, Any]  # member, fold, part, fingerprint of the run


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes predictions, all or nothing; raises ValueError for probabilities that are not finite."""
    if not np.isfinite(predictions.probabilities).all():
        raise ValueError(f"{path}: some probabilities are not finite; the run has diverged")
    columns = {"row": pa.array(predictions.rows, pa.int64()), "id": predictions.ids}
    for index, label in enumerate(predictions.labels):
        columns[f"p_{label}"] = pa.array(predictions.probabilities[:, index], pa.float32())
    table = pa.table(columns).replace_schema_metadata({MAKER: json.dumps(predictions.maker, sort_keys=True)})
    write_atomically(path, lambda partial: pa.parquet.write_table(table, partial))


def read_predictions(path: Path) -> Predictions:
    """Reads predictions; raises `InputError` for a file of another kind."""
    try:
        table = pa.parquet.read_table(path)
        maker = json.loads((table.schema.metadata or {})[MAKER])
    except (OSError, pa.ArrowInvalid, KeyError):
        raise InputError(
            f"{path} is not a predictions file of this project; remove its run to have it made anew"
        ) from None
    names = [name for name in table.column_names if name.startswith("p_")]
    return Predictions(
        rows=table.column("row").to_numpy(),
        ids=table.column("id"),
        probabilities=np.column_stack([table.column(name).to_numpy() for name in names]),
        labels=[name.removeprefix("p_") for name in names],
        maker=maker,
    )


def is_whole(path: Path, maker: dict[str, Any]) -> bool:
    """Whether these predictions have been made already, by this maker."""
    try:
        return path.is_file() and read_predictions(path).maker == maker
    except InputError:
        return False
