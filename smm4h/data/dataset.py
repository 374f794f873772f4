"""Tables -> one HF Dataset of tweets (row, id, user, text, label), and its columns as arrays.

No message contains a tweet's text: messages name file and line instead.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value

from smm4h.config.task import Columns, Task
from smm4h.data.readers import Finding, Table, arrow_table, read_table, unwrap_quotes
from smm4h.utils.errors import InputError


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Return a column as Arrow holds it, (n_rows,); `dataset[name]` would decode row by row, a hundred times slower."""
    return dataset.select_columns(name).with_format("arrow")[:][name]


SPREADSHEET_ID = re.compile(r"\d+(\.\d+)?[eE]\+?\d+|\d+\.0+")


def _column(table: Table, wanted: Sequence[str], flag: str) -> list[str]:
    """Return the first column of a table that has one of the wanted names; raise `InputError` if there is none.

    Args:
        flag: `NAME` of the flag `--NAME_column_name`, for the message.
    """
    for name in wanted:
        if name in table.names:
            return table.columns[table.names.index(name)]
    header = ", ".join(table.names)
    if len(header) > 200 or any(name.isdigit() for name in table.names):  # a tweet: keep it out of the message
        raise InputError(
            f"{table.path}, line 1: no header here; the first line must name the columns ({' or '.join(wanted)})"
        )
    raise InputError(
        f"{table.path}, line 1: no column {' or '.join(wanted)} among {header}; name it with --{flag}_column_name "
        "or in the task file"
    )


def tweets_of(table: Table, task: Task, *, labelled: bool) -> pd.DataFrame:
    """Return a frame of tweets with columns id, user, text and, of a labelled file, label (class index).

    What is odd but usable is added to the table's findings. Without a column of ids, tweets are numbered from 0.

    Raises:
        InputError: with file and line, for a missing id, an id that a spreadsheet has spoilt, and an unknown label.
    """
    columns: Columns = task.columns
    n_tweets = len(table.lines)
    texts = _column(table, columns.text, "text")
    if table.path.lower().endswith((".tsv", ".txt")):
        unwrapped = [unwrap_quotes(text) for text in texts]
        changed = sum(a is not b and a != b for a, b in zip(texts, unwrapped, strict=True))
        if changed:
            table.findings.append(Finding(table.path, changed, "tweets were wrapped in quotes; they were unwrapped"))
        texts = unwrapped
    if columns.id:
        ids = [tweet_id.strip() for tweet_id in _column(table, columns.id, "id")]
        for index, tweet_id in enumerate(ids):
            if not tweet_id or "." in tweet_id or "E" in tweet_id or "e" in tweet_id:
                if not tweet_id:
                    raise InputError(f"{table.where(index)}: no id; every tweet needs one")
                if SPREADSHEET_ID.fullmatch(tweet_id):
                    raise InputError(
                        f"{table.where(index)}: the id is written as a decimal number, so its last digits are lost; "
                        "go back to a copy that no spreadsheet or float has touched"
                    )
    else:
        ids = [str(row) for row in range(n_tweets)]
    has_users = columns.user and any(name in table.names for name in columns.user)
    users = _column(table, columns.user, "user") if has_users else [""] * n_tweets
    tweets = {"id": ids, "user": users, "text": texts}
    if labelled:
        index = {label: i for i, label in enumerate(task.labels)}
        classes = [index.get(label.strip(), -1) for label in _column(table, columns.label, "label")]
        if -1 in classes:
            raise InputError(
                f"{table.where(classes.index(-1))}: the label is none of {', '.join(task.labels)}; "
                "correct it, or the labels of the task file"
            )
        tweets["label"] = classes
    empty = sum(not text.strip() for text in texts)
    if empty:
        table.findings.append(Finding(table.path, empty, "tweets have no text"))
    return pd.DataFrame(tweets)


def to_dataset(tweets: pd.DataFrame, task: Task) -> Dataset:
    """Return the HF Dataset of a frame of tweets, in the frame's order, with row numbers from 0."""
    features = {"row": Value("int64"), "id": Value("string"), "user": Value("string"), "text": Value("string")}
    arrays = {"row": pa.array(np.arange(len(tweets)))}
    for name in ("id", "user", "text"):
        arrays[name] = pa.array(tweets[name].tolist(), pa.string())
    if "label" in tweets:
        features["label"] = ClassLabel(names=task.labels)
        arrays["label"] = pa.array(tweets["label"].to_numpy(), pa.int64())
    features = Features(features)
    return Dataset(pa.table(arrays).cast(features.arrow_schema))


def read_tweets(
    paths: Sequence[str | Path], task: Task, *, labelled: bool, encoding: str | None = None
) -> tuple[Dataset, list[Finding]]:
    """Return the tweets of some files, in the order of the files, and the findings about them."""
    return _tweets([read_table(path, encoding) for path in paths], task, labelled=labelled)


def _tweets(tables: Iterable[Table], task: Task, *, labelled: bool) -> tuple[Dataset, list[Finding]]:
    """Return the tweets of some tables as one dataset, and the findings about them."""
    parts, findings = [], []
    for table in tables:
        tweets = tweets_of(table, task, labelled=labelled)
        findings += [*table.findings, *_repeated_ids(table.path, tweets["id"])]
        parts.append(tweets)
    dataset = to_dataset(pd.concat(parts, ignore_index=True), task)
    if len(dataset) == 0:
        raise InputError(f"{tables[0].path} holds no tweet; one a line is expected below the header")
    return dataset, findings


def read_hub_tweets(
    name: str, config: str | None, task: Task, *, token: str | None = None, cache_dir: str | None = None
) -> tuple[Dataset, Dataset | None, list[Finding]]:
    """Return labelled tweets, test tweets, if any, and findings, from a data set of the Hub.

    Labelled are the splits train and validation, in this order; test tweets are the split test.

    Raises:
        InputError: for a data set that cannot be loaded or has no split train.
    """
    from datasets import load_dataset

    try:
        splits = load_dataset(name, config, token=token, cache_dir=cache_dir)
    except Exception as error:  # a dozen classes, by cause: no network, no such name, no permission
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"--dataset_name {name} can't be loaded: {reason} ({type(error).__name__})") from None
    tables = {
        part: _hub_table(splits[part], f"{name}/{part}") for part in ("train", "validation", "test") if part in splits
    }
    if "train" not in tables:
        raise InputError(f"--dataset_name {name} has no split train (it has {', '.join(splits)})")
    labelled, findings = _tweets([tables[p] for p in ("train", "validation") if p in tables], task, labelled=True)
    if "test" not in tables:
        return labelled, None, findings
    test, more = _tweets([tables["test"]], task, labelled=False)
    return labelled, test, findings + more


def _hub_table(split: Dataset, path: str) -> Table:
    """Return a split as a table of strings, labels by name."""
    for name, feature in split.features.items():
        if isinstance(feature, ClassLabel):  # task files use the label's name, not its number
            names = feature.names
            values = [names[i] if i is not None and i >= 0 else "" for i in split[name]]
            split = split.remove_columns(name).add_column(name, values)
    return arrow_table(split.with_format(None).data.table, path)


def _repeated_ids(path: str, ids: pd.Series) -> list[Finding]:
    repeated = int(ids.duplicated(keep=False).sum())
    return (
        [Finding(path, repeated, "tweets share their id with another one of the file; all are kept")]
        if repeated
        else []
    )


def renumbered(dataset: Dataset) -> Dataset:
    """Return the dataset with rows numbered from 0, after a selection of tweets."""
    schema, rows = dataset.features.arrow_schema, pa.array(np.arange(len(dataset)))
    table = dataset.flatten_indices().data.table
    return Dataset(table.set_column(table.column_names.index("row"), "row", rows).cast(schema))


def content_hash(dataset: Dataset) -> str:
    """Return the SHA-256 of ids, texts and labels; files that differ in format or encoding only have equal hashes."""
    digest = hashlib.sha256()
    for name in ("id", "text", "label"):
        if name in dataset.column_names:
            for value in column(dataset, name).to_pylist():
                digest.update(str(value).encode("utf-8", "surrogatepass"))
                digest.update(b"\x1f")
            digest.update(b"\x1e")
    return digest.hexdigest()
