"""A job's tweets, as its settings name them: labelled ones with their folds, those to predict, and gold labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from smm4h.config.job import Job
from smm4h.data.dataset import column, content_hash, read_hub_tweets, read_tweets, renumbered
from smm4h.data.duplicates import cross_findings, leak_groups
from smm4h.data.folds import add_folds, stratified_choice
from smm4h.data.prediction_files import check_same_tweets, read_labels
from smm4h.data.readers import Finding
from smm4h.utils.errors import InputError


def input_files(job: Job) -> tuple[list[Path], Path | None, Path | None]:
    """The labelled files in order, the test and the gold file, as flags name them or the task within --data_dir."""
    settings, official = job.settings, {}
    if settings.data_dir:
        official = {part: Path(settings.data_dir) / name for part, name in job.task.files.items()}
        if "training" not in official:
            raise InputError(
                f"{settings.task} names no files for --data_dir; name them with --train_file and --test_file"
            )
    if settings.train_file:
        official.pop("validation", None)  # it belongs to the official training file
    if settings.test_file or ("gold" in official and not official["gold"].is_file()):
        official.pop("gold", None)  # it belongs to the official test file, and few have it
    flags = ("train_file", "training"), ("validation_file", "validation"), ("test_file", "test"), ("gold_file", "gold")
    named = {part: getattr(settings, flag) or official.get(part) for flag, part in flags}
    training, validation, test, gold = (Path(path) if path else None for path in named.values())
    if training is None:
        raise InputError("name the tweets: --data_dir with the official files, or --train_file and --test_file")
    return [path for path in (training, validation) if path], test, gold


@dataclass(frozen=True)
class Splits:
    """A job's tweets: the labelled ones with their fold columns, those to predict, and those to be pseudo-labelled."""

    labelled: Dataset
    test: Dataset | None
    unlabelled: Dataset | None
    findings: list[Finding]  # what was odd about any of them

    @property
    def pool(self) -> Dataset | None:
        """Where pseudo-labelled tweets come from."""
        return self.test if self.unlabelled is None else self.unlabelled

    @property
    def gold(self) -> np.ndarray:
        """Class indices (n_tweets,) of the labelled ones."""
        return column(self.labelled, "label").to_numpy()

    def content_hashes(self) -> dict[str, str | None]:
        hashes = {"labelled": content_hash(self.labelled), "test": self.test and content_hash(self.test)}
        if self.unlabelled is not None:
            hashes["unlabelled"] = content_hash(self.unlabelled)
        return hashes


def load_splits(job: Job) -> Splits:
    """Reads all files, or the data set of the Hub, and cuts the folds."""
    settings = job.settings
    if settings.dataset_name:
        labelled, test, findings = read_hub_tweets(
            settings.dataset_name,
            settings.dataset_config_name,
            job.task,
            token=job.members[0].get("token"),
            cache_dir=job.members[0].get("cache_dir"),
        )
    else:
        training, test_file, _ = input_files(job)
        labelled, findings = read_tweets(training, job.task, labelled=True, encoding=settings.encoding)
        test, more = read_unlabelled(test_file, job)
        findings += more
    unlabelled, more = read_unlabelled(settings.unlabelled_file, job)
    findings += more
    if settings.max_train_samples:
        labels = column(labelled, "label").to_numpy()
        kept = stratified_choice(labels, settings.max_train_samples, seed=job.members[0].get("seed"))
        labelled = renumbered(labelled.select(kept))
    if test is not None and settings.max_predict_samples:
        test = renumbered(test.select(range(min(settings.max_predict_samples, len(test)))))
    if test is None and unlabelled is None and any(member.get("pseudo_labels") for member in job.members):
        raise InputError(
            "members with pseudo_labels need unlabelled tweets: --test_file or --unlabelled_file, or a recipe without "
            "such members"
        )
    seeds = sorted({member.get("fold_seed") for member in job.members})
    is_grouped = settings.fold_by == "stratified_group"
    groups = leak_groups(labelled, job.task, by_user=settings.group_users) if is_grouped else None
    labelled = add_folds(labelled, settings.n_folds, seeds, groups)
    return Splits(labelled, test, unlabelled, findings + cross_findings(labelled, test, seeds, job.task))


def read_unlabelled(path: str | Path | None, job: Job) -> tuple[Dataset | None, list[Finding]]:
    if not path:
        return None, []
    return read_tweets([path], job.task, labelled=False, encoding=job.settings.encoding)


def read_gold(job: Job, test: Dataset | None) -> np.ndarray | None:
    """The test tweets' right labels (n_tweets,), where a gold file is there; nothing but the last table uses them."""
    path = None if job.settings.dataset_name else input_files(job)[2]
    if path is None or test is None:
        return None
    gold = read_labels(path)
    n_tweets = len(test)
    if job.settings.max_predict_samples and n_tweets < len(gold.ids):
        gold = gold.first(n_tweets)
    check_same_tweets(gold, column(test, "id"), "the test file")
    return gold.indices(job.task.labels)
