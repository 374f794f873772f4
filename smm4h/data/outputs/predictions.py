"""Prediction files, the format between stages: Parquet with columns row, id, a probability for each class (`p_` and the
label) and, where the task has groups, group; the file's metadata records the run that made it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from smm4h.data.dataset import GROUP
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically

PROBABILITY = "p_"  # and a label: the name of a column of probabilities
PROBLEM_TYPE = "problem_type"  # key of the metadata of label sets' probabilities, which do not sum to 1
MAKER = b"smm4h"  # key of the Parquet metadata with the run that made the file


@dataclass(frozen=True)
class Predictions:
    """Probabilities for some tweets, and the run that made them."""

    rows: np.ndarray  # (n_tweets,) row numbers of the input
    ids: pa.ChunkedArray  # of strings
    probabilities: np.ndarray  # (n_tweets, n_classes)
    labels: list[str]
    maker: dict[str, Any]  # member, fold, part, fingerprint of the run
    groups: pa.ChunkedArray | None = None  # of strings, where the task has groups

    @property
    def problem_type(self) -> str | None:
        """That of `LabelSpace`: None for one label a tweet, whose probabilities sum to 1."""
        return self.maker.get(PROBLEM_TYPE)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions atomically; raise ValueError for probabilities that are not finite."""
    if not np.isfinite(predictions.probabilities).all():
        raise ValueError(f"{path}: some probabilities are not finite; the run has diverged")
    columns = {"row": pa.array(predictions.rows, pa.int64()), "id": predictions.ids}
    for index, label in enumerate(predictions.labels):
        columns[f"{PROBABILITY}{label}"] = pa.array(predictions.probabilities[:, index], pa.float32())
    if predictions.groups is not None:
        columns[GROUP] = predictions.groups
    table = pa.table(columns).replace_schema_metadata({MAKER: json.dumps(predictions.maker, sort_keys=True)})
    write_atomically(path, lambda partial: pa.parquet.write_table(table, partial))


def read_predictions(path: Path) -> Predictions:
    """Read predictions; raise `InputError` for a missing file and for one of another kind."""
    if not path.is_file():
        raise InputError(f"{path} is not there, though its run is done; remove the run's folder to have it made anew")
    try:
        table = pa.parquet.read_table(path, partitioning=None)
        maker = json.loads((table.schema.metadata or {})[MAKER])
        names = [name for name in table.column_names if name.startswith(PROBABILITY)]
        return Predictions(
            rows=table.column("row").to_numpy(),
            ids=table.column("id"),
            probabilities=np.column_stack([table.column(name).to_numpy() for name in names]),
            labels=[name.removeprefix(PROBABILITY) for name in names],
            maker=maker,
            groups=table.column(GROUP) if GROUP in table.column_names else None,
        )
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        raise InputError(
            f"{path} is not a predictions file of this project; remove its run to have it made anew"
        ) from None


def is_complete(path: Path, maker: dict[str, Any]) -> bool:
    """Return whether the file exists and was made by this run; a file of another kind does not count."""
    try:
        return path.is_file() and read_predictions(path).maker == maker
    except InputError:
        return False
