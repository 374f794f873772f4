"""A data set of the Hub as tweets: its splits train and validation are labelled tweets, its split test test tweets."""

import traceback
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, List

from smm4h.config.job import TweetFile
from smm4h.config.task import Task
from smm4h.data.dataset import tweets_of, tweets_of_tables, why_not_scored
from smm4h.data.readers.formats import arrow_table
from smm4h.data.readers.labels import UNKNOWN
from smm4h.data.readers.tables import Finding, Table
from smm4h.utils.errors import InputError
from smm4h.utils.tracebacks import reason_of, without_secrets

READS_NO_ROW = ("load.py", "builder.py")  # of the package datasets: their ValueErrors are about names of configs
HIDDEN_LABELS = (
    "test tweets are not scored by their split's labels, some or all of which are hidden or not the task's; "
    "--gold_file may name others"
)


class HubTweets(NamedTuple):
    """The tweets of a data set of the Hub; None stands for tweets of a kind that it lacks."""

    labelled: Dataset  # of the splits train and validation, in this order
    without_label: Dataset | None  # of these splits
    test: Dataset | None  # of the split test
    test_labels: np.ndarray | None  # (n_test_tweets,) class indices; None unless they are asked for and all there
    findings: list[Finding]


def read_hub_tweets(
    name: str,
    config: str | None,
    task: Task,
    *,
    token: str | None = None,
    cache_dir: str | None = None,
    with_test_labels: bool = True,
) -> HubTweets:
    """Return the tweets of a data set of the Hub.

    Raises:
        InputError: for a data set that cannot be loaded or has no split train.
    """
    from datasets import load_dataset

    try:
        splits = load_dataset(name, config, token=token, cache_dir=cache_dir)
    except Exception as error:  # a dozen classes, by cause: no network, no such name, no permission
        raise InputError(f"--dataset_name {without_secrets(name)} can't be loaded: {_hub_reason(error)}") from None
    tables = {
        part: _hub_table(splits[part], f"{name}/{part}") for part in ("train", "validation", "test") if part in splits
    }
    if "train" not in tables:
        raise InputError(f"--dataset_name {name} has no split train (it has {', '.join(splits)})")
    parts = [(tables[part], TweetFile(Path(part)), False) for part in ("train", "validation") if part in tables]
    labelled, without_label, findings = tweets_of_tables(parts, task, labelled=True)
    if "test" not in tables:
        return HubTweets(labelled, without_label, None, None, findings)
    test, _, more = tweets_of_tables([(tables["test"], TweetFile(Path("test")), False)], task, labelled=False)
    test_labels, found = None, []
    if with_test_labels:
        test_labels, found = _hub_test_labels(replace(tables["test"], findings=[]), test, task)
    return HubTweets(labelled, without_label, test, test_labels, [*findings, *more, *found])


def _hub_test_labels(table: Table, test: Dataset, task: Task) -> tuple[np.ndarray | None, list[Finding]]:
    """Return the class indices (n_tweets,) of a split's tweets, and a finding on them.

    None stands for labels of which some or all are hidden or unknown, in whatever way: they are no reason to refuse a
    job, which can do without; and for those of groups that the metric does not score.
    """
    multi = task.multi_label
    names = multi.columns.values() if multi and multi.columns else task.columns.label
    if not any(name in table.names for name in names):
        return None, []
    try:
        labels = tweets_of(table, task, labelled=True)["label"].to_numpy()
    except InputError:
        labels = np.array([UNKNOWN])
    hidden = Finding(table.path, len(table.lines), HIDDEN_LABELS)
    if (labels < 0).any() or (multi and not labels.any()):
        return None, [hidden]
    if reason := why_not_scored(test, task):
        return None, [hidden._replace(what=f"test tweets are not scored by their split's labels: {reason}")]
    return labels, [hidden._replace(what="test tweets have a label, by which they are scored")]


def _hub_reason(error: Exception) -> str:
    """Return why a data set can't be loaded: the library's words on names and access, never those on what it read."""
    kind, frames = type(error), traceback.extract_tb(error.__traceback__)
    is_of_access = isinstance(error, OSError) or kind.__module__.startswith("huggingface_hub")
    if is_of_access or (kind is ValueError and frames and Path(frames[-1].filename).name in READS_NO_ROW):
        return f"{reason_of(error)} ({kind.__name__})"
    return f"{kind.__name__}; load_dataset of the package datasets shows what it can't read"


def _hub_table(split: Dataset, path: str) -> Table:
    """Return a split as a table of strings, labels by name."""
    for name, feature in split.features.items():
        if isinstance(feature, ClassLabel):  # task files use the label's name, not its number
            names = feature.names
            values = [names[i] if i is not None and i >= 0 else "" for i in split[name]]
            split = split.remove_columns(name).add_column(name, values)
        elif isinstance(feature, List) and isinstance(feature.feature, ClassLabel):
            names = feature.feature.names
            lists = [[names[i] for i in of_tweet or () if i >= 0] for of_tweet in split[name]]  # -1: hidden
            split = split.remove_columns(name).add_column(name, lists)
    return arrow_table(split.with_format(None).data.table, path, lists=split.column_names)
