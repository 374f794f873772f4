"""A job's splits: labelled tweets with their folds, test tweets, unlabelled tweets, and gold labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets import Dataset, concatenate_datasets

from smm4h.config.job import Job
from smm4h.config.task import Task
from smm4h.data.dataset import (
    check_groups,
    column,
    content_hash,
    read_labelled_tweets,
    read_tweets,
    renumbered,
    why_not_scored,
)
from smm4h.data.duplicates import cross_findings, leak_groups, shared_texts
from smm4h.data.extra_tweets import ExtraTweets, extra_findings, read_extra_tweets
from smm4h.data.folds import add_folds, stratified_choice
from smm4h.data.hub_dataset import read_hub_tweets
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.outputs.labels import in_order_of, joined
from smm4h.data.readers.outside import OutsidePredictions, content_hashes, copy_of_gold, read_outside
from smm4h.data.readers.tables import Finding
from smm4h.utils.errors import InputError
from smm4h.utils.files import is_same_file

UNUSED_LABELS = "tweets have a label, which is not used"
UNUSED_TEST_LABELS = f"{UNUSED_LABELS}: test tweets are scored by the labels of --gold_file"


@dataclass(frozen=True)
class Splits:
    """Labelled tweets with their fold columns, tweets to predict, and further tweets to pseudo-label."""

    labelled: Dataset
    test: Dataset | None
    unlabelled: Dataset | None
    findings: list[Finding]  # about all files, and between them
    extra: ExtraTweets | None = None  # train, and are never held out
    outside: dict[str, OutsidePredictions] | None = None  # by member: predictions of models from elsewhere
    adaptation: dict[str, Dataset] = field(default_factory=dict)  # by file: texts that encoders are adapted to
    shared: dict[str, dict[str, int]] = field(default_factory=dict)  # by such a file, see `shared_texts`
    test_labels: np.ndarray | None = None  # (n_test_tweets,) class indices that came with them, see `read_gold`

    @property
    def pool(self) -> Dataset | None:
        """The tweets to pseudo-label: the unlabelled ones, else the test tweets."""
        return self.test if self.unlabelled is None else self.unlabelled

    @property
    def gold(self) -> np.ndarray:
        """Class indices (n_tweets,) of the labelled tweets."""
        return column(self.labelled, "label").to_numpy()

    def content_hashes(self) -> dict[str, str | None]:
        """Return the `content_hash` of each split, for the job's fingerprint; None without test tweets."""
        hashes = {"labelled": content_hash(self.labelled), "test": self.test and content_hash(self.test)}
        if self.unlabelled is not None:
            hashes["unlabelled"] = content_hash(self.unlabelled)
        if self.extra is not None:
            hashes["extra"] = self.extra.content_hash()
        return hashes

    def hashes(self) -> tuple[dict[str, str | None], dict[str, dict[str, str]], dict[str, str]]:
        """Return all content hashes that a plan needs: of the splits, of members from elsewhere, of adaptations."""
        return self.content_hashes(), self.outside_hashes(), self.adaptation_hashes()

    def adaptation_counts(self) -> dict[str, dict[str, int]]:
        """Return how many texts there are in each file that encoders are adapted to, and whose they are, too."""
        return {file: {"texts": len(texts), **self.shared[file]} for file, texts in self.adaptation.items()}

    def adaptation_hashes(self) -> dict[str, str]:
        """Return the `content_hash` of each file that encoders are adapted to."""
        return {file: content_hash(texts) for file, texts in self.adaptation.items()}

    def outside_hashes(self) -> dict[str, dict[str, str]]:
        """Return by member from elsewhere the content hashes of its predictions, for the job's identity."""
        return {name: content_hashes(predictions) for name, predictions in (self.outside or {}).items()}


def load_splits(job: Job) -> Splits:
    """Read all of a job's files, or its data set of the Hub, and assign folds.

    With `unlabelled_rows` pool, rows of the labelled files whose label is empty follow the tweets to pseudo-label.

    Raises:
        InputError: for input that cannot be read, and for members with pseudo labels without tweets to label.
    """
    settings, files = job.settings, job.input_files()
    test_labels = None
    if settings.dataset_name:
        labelled, without_label, test, test_labels, findings = read_hub_tweets(
            settings.dataset_name,
            settings.dataset_config_name,
            job.task,
            token=job.members[0].args.token,
            cache_dir=job.members[0].args.cache_dir,
            with_test_labels=not (files.test or files.gold),
        )
    else:
        labelled, without_label, findings = read_labelled_tweets(files.labelled, job.task, encoding=settings.encoding)
        test = None
    if files.test:
        is_gold = any(is_same_file(file.path, path) for file in files.test for path in files.gold)
        unused = None if is_gold else UNUSED_TEST_LABELS
        test, more = read_tweets(files.test, job.task, labelled=False, encoding=settings.encoding, unused_labels=unused)
        findings += more
    unlabelled, more = None, []
    if settings.unlabelled_file:
        unlabelled, more = read_texts(
            [settings.unlabelled_file], job.task, settings.encoding, unused_labels=UNUSED_LABELS
        )
    findings += more
    if settings.max_train_samples:
        labels = column(labelled, "label").to_numpy()
        kept = stratified_choice(labels, settings.max_train_samples, seed=job.members[0].args.seed)
        labelled = renumbered(labelled.select(kept))
    if test is not None and settings.max_predict_samples:
        test = renumbered(test.select(range(min(settings.max_predict_samples, len(test)))))
        test_labels = None if test_labels is None else test_labels[: len(test)]
    if unlabelled is not None:
        findings += pool_findings(shared_texts(unlabelled, labelled, test))
    if settings.unlabelled_rows == "pool" and without_label is not None:
        pool = test if unlabelled is None else unlabelled
        parts = [part for part in (pool, without_label) if part is not None]
        unlabelled = renumbered(concatenate_datasets(parts))
    check_pool(test if unlabelled is None else unlabelled, job)
    check_groups(labelled, job.task)
    seeds = sorted({member.args.fold_seed for member in job.members})
    is_grouped = settings.fold_by == "stratified_group"
    groups = leak_groups(labelled, job.task, by_user=settings.group_users) if is_grouped else None
    labelled = add_folds(labelled, settings.n_folds, seeds, groups, space=job.task.space)
    findings += cross_findings(labelled, test, seeds, job.task)
    if (extra := read_extra_tweets(job)) is not None:
        findings += extra_findings(extra, labelled, test, seeds, job)
    adaptation, shared = {}, {}
    for file in job.adaptation_files:
        adaptation[file], more = read_texts(
            [file], job.task, settings.encoding, ids_may_lack=True, unused_labels=UNUSED_LABELS
        )
        shared[file] = shared_texts(adaptation[file], labelled, test)
        findings += [*more, *adaptation_findings(file, shared[file], job)]
    further = {"extra": extra, "adaptation": adaptation, "shared": shared, "test_labels": test_labels}
    splits = Splits(labelled, test, unlabelled, findings, **further)
    return replace(splits, outside=read_outside_members(job, splits))


def read_outside_members(job: Job, splits: Splits) -> dict[str, OutsidePredictions]:
    """Return the predictions of the members from elsewhere, by name, and add what is suspicious to the findings.

    Raises `InputError` for predictions that are not of the job's tweets or show a leak, see `read_outside`.
    """
    settings, outside = job.settings, {}
    teachers = {member.name for stage in job.stages if stage > 1 for member in job.teachers_of(stage)}
    for member in job.members:
        if not member.is_outside:
            continue
        is_teacher = splits.unlabelled is not None and member.name in teachers
        parts = {
            "out_of_fold": splits.labelled,
            "test": splits.test,
            "unlabelled": splits.unlabelled if is_teacher else None,
        }
        ids = {part: None if tweets is None else column(tweets, "id") for part, tweets in parts.items()}
        is_cut = bool(settings.max_train_samples or settings.max_predict_samples)
        outside[member.name] = read_outside(member, job.task, ids, settings.encoding, is_cut=is_cut)
        if suspicion := copy_of_gold(member.name, outside[member.name]["out_of_fold"], splits.gold, job.task.space):
            splits.findings.append(Finding("predictions", len(splits.labelled), suspicion))
    return outside


def check_pool(pool: Dataset | None, job: Job) -> None:
    """Raise `InputError` where members learn from pseudo labels, and there is no tweet that could get one."""
    if not any(member.args.pseudo_labels for member in job.members):
        return
    if pool is None:
        raise InputError(
            "members with pseudo_labels need unlabelled tweets: --test_file or --unlabelled_file, or a recipe without "
            "such members, as --preset rare is"
        )
    fraction, chosen = job.settings.pseudo_fraction, job.settings.members
    are_wanted = any(member.args.pseudo_labels for member in job.members if not chosen or member.name in chosen)
    if are_wanted and fraction * len(pool) < 1:
        raise InputError(
            f"--pseudo_fraction {fraction:g} of {len(pool)} tweets leaves none for a fold's pseudo labels; raise it, "
            "or name more tweets"
        )


def pool_findings(shared: Mapping[str, int]) -> list[Finding]:
    """Return what is odd about the tweets of --unlabelled_file.

    Args:
        shared: see `shared_texts`.
    """
    what = {
        "labelled": "unlabelled tweets have a duplicate among the labelled ones, and are left out where it is held out",
        "test": "unlabelled tweets have a duplicate among the test tweets, on which their learners may do better",
        "repeated": "unlabelled tweets repeat another one; each copy is learnt from",
    }
    return [Finding("unlabelled", shared[name], what[name]) for name in what if shared.get(name)]


def adaptation_findings(file: str, shared: Mapping[str, int], job: Job) -> list[Finding]:
    """Return what is odd about the texts of a file that encoders are adapted to.

    Args:
        shared: see `shared_texts`.
    """
    using = [member.adaptation for member in job.members if member.adaptation and member.adaptation.unlabelled == file]
    findings = []
    for name in ("labelled", "test"):
        are_kept_out = not all(getattr(adaptation, name) for adaptation in using)
        but = f", which the encoder reads in spite of {name}: false; take them out of the file" if are_kept_out else ""
        findings.append(Finding(file, shared.get(name, 0), f"texts have a duplicate among the {name} tweets{but}"))
    findings.append(Finding(file, shared["repeated"], "texts repeat another one; each copy is read"))
    return [finding for finding in findings if finding.count]


def read_texts(
    files: Sequence[str | Path], task: Task, encoding: str | None, **options: Any
) -> tuple[Dataset, list[Finding]]:
    """Return tweets to learn from without labels, and the findings; raise `InputError` where none has a text.

    Args:
        options: `ids_may_lack` and `unused_labels` of `read_tweets`.
    """
    texts, findings = read_tweets(files, task, labelled=False, encoding=encoding, **options)
    if not any(text and not text.isspace() for text in column(texts, "text").to_pylist()):
        raise InputError(f"{files[0]} has no text in any row; name the right column, or another file")
    return texts, findings


def read_gold(job: Job, splits: Splits) -> np.ndarray | None:
    """Return the test tweets' gold labels (n_tweets,); only the final scores use them.

    They are those of the gold file, whose tweets are joined by id, or by row where ids repeat; else those that the test
    split of a data set of the Hub comes with. Without either, None.

    Raises:
        InputError: where the gold file has other tweets than the test file, or an unknown label.
    """
    test, paths = splits.test, job.input_files().gold
    if test is None or not paths:
        return splits.test_labels
    gold = joined([read_labels(path, job.task) for path in paths])
    if reason := why_not_scored(test, job.task):
        raise InputError(f"{reason}; leave the gold file out, or give test tweets that are scored")
    ids = column(test, "id")
    if job.settings.max_predict_samples and len(test) < len(gold.ids):
        first = gold.first(len(test))
        is_kept = pa.compute.is_in(gold.ids, value_set=ids).to_numpy()
        gold = first if first.ids.equals(ids) else gold.take(np.flatnonzero(is_kept))
    return in_order_of(gold, ids, "the test file").classes_in(job.task.space)
