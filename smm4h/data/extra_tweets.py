"""Extra training tweets: labelled rows, such as paraphrases, that train and are never held out nor scored.

A row that is a twin of a tweet must not teach the runs that hold the tweet out, and no run learns from twins of test
tweets. A twin has the tweet's text after normalisation or its id, was made from it by the column of parents, or is of
the same user where users are kept in one fold.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, concatenate_datasets

from smm4h.config.job import Job
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.dataset import NUMBERED, PART, column, content_hash, read_tweets, renumbered
from smm4h.data.duplicates import normalized_texts
from smm4h.data.folds import fold_column, folds_of
from smm4h.data.pseudo_labels import counts_by_label
from smm4h.data.readers.tables import SPOILT_ID, SPREADSHEET_ID, Finding
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically

# Names that files of other corpora and of language models have, after the task's own.
COMMON_NAMES = {"text": ["text", "tweet"], "label": ["label", "Class", "class"], "id": ["tweet_id", "id"]}
WITHOUT_IDS = (
    "extra rows have neither an id nor a parent, so that only copies of a held-out tweet's text are found: paraphrases "
    "of held-out tweets would flatter the out-of-fold score; name the tweet that each was made from in the column"
)


@dataclass(frozen=True)
class ExtraTweets:
    """Extra training tweets of some files.

    Args:
        tweets: row, id, user, text and label, as labelled tweets have them.
        ids: (n_extra,) ids as the files have them; empty where a file has none.
        parents: (n_extra,) ids of the tweets that rows were made from; empty where the file does not say.
        files: (n_extra,) names of the files.
        counts: number of rows of each file.
        findings: what was odd about the files.
    """

    tweets: Dataset
    ids: np.ndarray
    parents: np.ndarray
    files: np.ndarray
    counts: list[int]
    findings: list[Finding]

    @property
    def labels(self) -> np.ndarray:
        """Class indices (n_extra,)."""
        return column(self.tweets, "label").to_numpy()

    @cached_property
    def keys(self) -> np.ndarray:
        """The `normalized_text` (n_extra,) of each row."""
        return normalized_texts(self.tweets)

    def content_hash(self) -> str:
        """Return the SHA-256 of all that a run's result depends on."""
        known = ["\x1f".join(values) for values in (self.ids.tolist(), self.parents.tolist())]
        return hashlib.sha256("\x1e".join([content_hash(self.tweets), *known]).encode()).hexdigest()

    def twins_of(self, tweets: Dataset, task: Task, *, by_user: bool = False) -> np.ndarray:
        """Return which rows (n_extra,) are twins of any of some tweets."""
        shared = _shared(self.keys, normalized_texts(tweets))
        if task.columns.id:  # else ids are row numbers
            ids = column(tweets, "id").to_pylist()
            shared |= _shared(self.ids, ids) | _shared(self.parents, ids)
        if by_user:
            shared |= _shared(column(self.tweets, "user").to_pylist(), column(tweets, "user").to_pylist())
        return shared


def _shared(values: Iterable[str], others: Iterable[str]) -> np.ndarray:
    """Return which values are among the others; an empty one is not."""
    known = set(others) - {""}
    return np.array([value in known for value in values], dtype=bool)


def read_extra_tweets(job: Job) -> ExtraTweets | None:
    """Read the files of --extra_train_file; None without any.

    A file may lack ids. Its columns are the task's, or `text`, `label` and `id`.

    Raises `InputError` with file and line for what no labelled file may have either.
    """
    settings, task = job.settings, job.task
    if not settings.extra_train_file:
        return None
    names = {kind: list(dict.fromkeys([*getattr(task.columns, kind), *more])) for kind, more in COMMON_NAMES.items()}
    columns = replace(task.columns, **names, source=[settings.extra_parent_column])
    read_as = replace(task, columns=columns, header=[], one_text_per_file=False)
    parts, ids, parents, files, counts, findings = [], [], [], [], [], []
    for name in settings.extra_train_file:
        tweets, found = read_tweets([name], read_as, labelled=True, encoding=settings.encoding, ids_may_lack=True)
        has_ids = not any(finding.what == NUMBERED for finding in found)
        ids.append(column(tweets, "id").to_pylist() if has_ids else [""] * len(tweets))
        has_parents = "source" in tweets.column_names
        parents.append(column(tweets, "source").to_pylist() if has_parents else [""] * len(tweets))
        if any(map(SPREADSHEET_ID.fullmatch, parents[-1])):
            raise InputError(f"{name}, column {settings.extra_parent_column}: {SPOILT_ID}")
        if not has_ids and not any(parents[-1]):
            found.append(Finding(name, len(tweets), f"{WITHOUT_IDS} {settings.extra_parent_column}"))
        parts.append(tweets.select_columns([name for name in tweets.column_names if name not in ("source", PART)]))
        files += [Path(name).name] * len(tweets)
        counts.append(len(tweets))
        findings += [finding for finding in found if finding.what != NUMBERED]
    tweets = renumbered(concatenate_datasets(parts))
    stripped = [[value.strip() for part in values for value in part] for values in (ids, parents)]
    known = [np.array(values, dtype=object) for values in (*stripped, files)]
    return ExtraTweets(tweets, *known, counts, findings)


def extra_findings(
    extra: ExtraTweets, labelled: Dataset, test: Dataset | None, seeds: Sequence[int], job: Job
) -> list[Finding]:
    """Return the findings about extra training tweets: how many there are, and which are left out where."""
    labels = column(extra.tweets, "label").to_numpy()
    shares = ", ".join(f"{name}: {count}" for name, count in counts_by_label(labels, job.task.space).items())
    where = "extra training tweets"
    found = [*extra.findings, Finding(where, len(labels), f"rows train and are never held out ({shares})")]
    if test is not None and (n_twins := int(extra.twins_of(test, job.task).sum())):
        found.append(Finding(where, n_twins, "rows are twins of test tweets; no run trains on them"))
    known_ids = {i for tweets in (labelled, test) if tweets is not None for i in column(tweets, "id").to_pylist()}
    if strange := sum(bool(parent) and parent not in known_ids for parent in extra.parents):
        found.append(Finding(where, strange, "rows have a parent that is no labelled and no test tweet's id"))
    label_of = dict(zip(normalized_texts(labelled), column(labelled, "label").to_pylist(), strict=True))
    known = zip(extra.keys, labels.tolist(), strict=True)
    contradicted = sum(label_of.get(key, label) != label for key, label in known if key)
    if contradicted:
        found.append(Finding(where, contradicted, "rows have a near twin among the labelled tweets with another label"))
    for seed in seeds:
        counts = [int(mask.sum()) for mask in twins_by_fold(extra, labelled, seed, job)]
        if any(counts):
            by_fold = ", ".join(f"fold {fold}: {count}" for fold, count in enumerate(counts))
            what = f"extra rows are left out of the runs that hold a twin of theirs out ({by_fold})"
            found.append(Finding(f"folds of seed {seed}", sum(counts), what))
    return found


def twins_by_fold(extra: ExtraTweets, labelled: Dataset, seed: int, job: Job) -> list[np.ndarray]:
    """Return for each fold which rows (n_extra,) are twins of tweets that the fold holds out."""
    folds = folds_of(labelled, seed)
    by_user = job.settings.group_users
    return [
        extra.twins_of(labelled.select(np.flatnonzero(folds == fold)), job.task, by_user=by_user)
        for fold in range(job.settings.n_folds)
    ]


TEST_TWIN = "is_twin_of_test"


def write_extra_tweets(
    path: Path, extra: ExtraTweets, labelled: Dataset, test: Dataset | None, seeds: Sequence[int], job: Job
) -> None:
    """Write row, id, label name and file of each extra tweet, and which folds of each seed leave it out; no text."""
    table = pd.DataFrame(
        {
            "row": np.arange(len(extra.tweets)),
            "id": column(extra.tweets, "id").to_pylist(),
            "label": job.task.space.names(column(extra.tweets, "label").to_numpy()),
            "file": extra.files,
            TEST_TWIN: False if test is None else extra.twins_of(test, job.task),
        }
    )
    for seed in seeds:
        masks = np.array(twins_by_fold(extra, labelled, seed, job))  # (n_folds, n_extra)
        table[fold_column(seed)] = [np.flatnonzero(column).tolist() for column in masks.T]
    write_atomically(path, lambda partial: table.to_parquet(partial, index=False))


def extra_rows(path: Path, run: Run) -> np.ndarray:
    """Return the extra tweets (n_rows,) that a run trains on, by row."""
    if not run.member.args.extra_train:
        return np.zeros(0, dtype=np.int64)
    name = fold_column(run.member.args.fold_seed)
    table = pd.read_parquet(path, columns=[TEST_TWIN, name])
    is_held_out = np.array([run.fold in folds for folds in table[name]], dtype=bool)  # a refit's fold is None
    return np.flatnonzero(~table[TEST_TWIN].to_numpy() & ~is_held_out)
