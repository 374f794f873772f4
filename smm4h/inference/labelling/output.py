"""The file for people to label: columns that Label Studio and Argilla import, and that training reads back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from smm4h.config.task import Task
from smm4h.data.readers.spreadsheets import SIGNALS
from smm4h.data.streaming import Writer
from smm4h.inference.labelling.choice import Choice
from smm4h.inference.labelling.pool import JudgedPool, PoolTweet
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically

CHOSEN_BY = "chosen_by"  # column: `gain` or `random`
OWN_ID = "id"  # Label Studio numbers its tasks in a column of this name
NUMBER = "number"  # column of ids where the task names none


@dataclass(frozen=True)
class Layout:
    """Names of the columns that hold a tweet, as the task names them, by a field of `PoolTweet`.

    Args:
        blank: empty columns to be filled in, if any. Label Studio lets the data's columns win over the answers'
            in what it exports, so that a file for it must not have any.
        suggest: whether the job's own label and its probability stand beside each tweet.
    """

    tweet: dict[str, str]
    blank: list[str]
    suggest: bool


def layout_of(task: Task, *, suggest: bool, blank_label: bool) -> Layout:
    """Return the layout by which training reads the file back: the first names of the task's columns."""
    columns = task.columns
    ids = [name for name in columns.id if name.lower() != OWN_ID] or columns.id or [NUMBER]
    further = {"context": columns.context, "group": columns.group, "user": columns.user}
    tweet = {"id": ids[0], "text": columns.text[0], **{name: names[0] for name, names in further.items() if names}}
    return Layout(tweet, _blank_columns(task) if blank_label else [], suggest)


def _blank_columns(task: Task) -> list[str]:
    """Return the columns to be filled in; raise `InputError` where an empty cell would be read as a label set."""
    if task.multi_label and not task.multi_label.columns:
        raise InputError(
            f"--blank_label: an empty cell of {task.label_column} says that a tweet has no label; leave the flag out, "
            "and add the column when the tweets are labelled"
        )
    return [*task.multi_label.columns.values()] if task.multi_label else task.columns.label[:1]


def write_chosen(
    path: Path,
    choice: Choice,
    tweets: Mapping[int, PoolTweet],
    pool: JudgedPool,
    gain: np.ndarray,
    layout: Layout,
    task: Task,
) -> None:
    """Write the chosen tweets in the format of the file's name; only its owner can read it, as it holds tweets.

    Args:
        tweets: the chosen ones, by row of the pool.
        gain: (n_tweets,) of the pool.
    """
    rows = choice.rows
    columns = {
        new: [_cell(getattr(tweets[row], name), path) for row in rows.tolist()] for name, new in layout.tweet.items()
    }
    columns = {name: values for name, values in columns.items() if name in _needed(layout) or any(values)}
    columns |= {name: [""] * len(rows) for name in layout.blank}
    of_pool = dict(zip(SIGNALS, (pool.signals.disagreement, pool.signals.margin, pool.signals.rare), strict=True))
    own = {CHOSEN_BY: choice.by, "gain": gain[rows].tolist()}
    own |= {name: values[rows].tolist() for name, values in of_pool.items()}
    if layout.suggest:
        own["suggestion"] = task.space.names(pool.predicted[rows])
        own["suggestion_score"] = pool.probability[rows].tolist()
    table = pa.table(columns | {name: values for name, values in own.items() if name not in columns})

    def write(partial: Path) -> None:
        with Writer(partial, table.schema, foreign=table.schema.names) as writer:
            writer.write(table)

    write_atomically(path, write, private=True)


def _needed(layout: Layout) -> set[str]:
    """Return the columns that are written even where they are empty."""
    return {layout.tweet[name] for name in ("id", "text", "context") if name in layout.tweet}


def _cell(value: str | None, path: Path) -> str:
    """Return a value as the file can hold it: a format without quoting takes no line ends and tabs."""
    text = value or ""
    is_plain = path.name.lower().removesuffix(".gz").endswith((".tsv", ".txt"))
    return " ".join(text.split()) if is_plain else text
