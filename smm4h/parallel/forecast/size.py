"""Size of a job's runs: how many tweets each learns from and predicts, and how many steps that takes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from smm4h.config.job import Job, Member
from smm4h.config.task import Task
from smm4h.data.splits import Splits


@dataclass(frozen=True)
class JobSize:
    """Numbers of a job's tweets.

    Args:
        labels: class indices (n_tweets,) of the labelled tweets.
        pseudo_fraction: share of the pool that joins a learner's training part.
        n_adaptation: texts of each file that encoders are adapted to, by the hash of its content.
    """

    task: Task
    labels: np.ndarray
    n_extra: int
    n_test: int
    n_unlabelled: int
    n_folds: int
    max_eval_samples: int | None
    pseudo_fraction: float
    n_adaptation: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_job(cls, job: Job, splits: Splits) -> "JobSize":
        counts = [len(table) if table is not None else 0 for table in (splits.test, splits.unlabelled)]
        n_extra = len(splits.extra.tweets) if splits.extra is not None else 0
        settings = job.settings
        limits = settings.n_folds, settings.max_eval_samples, settings.pseudo_fraction
        texts = zip(splits.adaptation_hashes().values(), splits.adaptation.values(), strict=True)
        n_adaptation = {content: len(table) for content, table in texts}
        return cls(job.task, splits.gold, n_extra, *counts, *limits, n_adaptation)

    def with_folds(self, n_folds: int) -> "JobSize":
        return replace(self, n_folds=n_folds)

    def adaptation_texts(self, member: Member) -> int:
        """Return how many texts a member's encoder is adapted to."""
        adaptation = member.adaptation
        own = len(self.labels) * adaptation.labelled + self.n_test * adaptation.test
        return own + self.n_adaptation.get(adaptation.unlabelled, 0)

    def held_out(self, *, is_refit: bool) -> int:
        """Return how many tweets a run holds out."""
        return 0 if is_refit else round(len(self.labels) / self.n_folds)

    def training_tweets(self, member: Member, *, is_refit: bool) -> int:
        """Return how many tweets a run learns from."""
        pool = self.n_unlabelled or self.n_test
        n_pseudo = round(self.pseudo_fraction * pool) if member.args.pseudo_labels else 0
        n_extra = self.n_extra if member.args.extra_train else 0
        return len(self.labels) - self.held_out(is_refit=is_refit) + n_extra + n_pseudo

    def shown_tweets(self, member: Member, *, is_refit: bool) -> int:
        """Return how many tweets an epoch of a run shows, after sampling by class."""
        n_all, args = self.training_tweets(member, is_refit=is_refit), member.args
        if args.negatives_per_positive is None and args.positive_copies == 1:
            return n_all
        from smm4h.training.sampler import sampling_of  # imports Trainer, which takes seconds

        sampling = sampling_of(member, self.task, self.labels)
        return max(1, round(len(sampling) * n_all / len(self.labels)))

    def predicted_tweets(self, member: Member, *, is_refit: bool, is_teacher: bool) -> int:
        """Return how many tweets a run predicts when it is trained: held-out, test and, of a teacher, unlabelled."""
        n_pool = self.n_unlabelled if is_teacher else 0
        return self.held_out(is_refit=is_refit) + self.n_test + n_pool

    def evaluated_tweets(self, *, is_refit: bool) -> int:
        """Return how many tweets an evaluation during training predicts."""
        n_tweets = self.held_out(is_refit=is_refit)
        return n_tweets if self.max_eval_samples is None else min(n_tweets, self.max_eval_samples)


def planned_steps(member: Member, n_shown: int) -> tuple[int, float]:
    """Return the optimizer steps of a run, and the evaluations during its training.

    Args:
        n_shown: tweets of an epoch.
    """
    args = member.args
    n_batches = max(1, math.ceil(n_shown / args.per_device_train_batch_size))
    per_epoch = max(1, math.ceil(n_batches / args.gradient_accumulation_steps))
    epochs = max(args.num_train_epochs, math.ceil(args.min_steps / per_epoch))
    steps = args.max_steps if args.max_steps > 0 else math.ceil(epochs * per_epoch)
    by_strategy = {"no": 0.0, "epoch": math.ceil(steps / per_epoch), "steps": _evaluations(args.eval_steps, steps)}
    return steps, by_strategy.get(str(args.eval_strategy), 0.0)


def _evaluations(every: float | None, steps: int) -> float:
    """Return the evaluations of a run that is scored every so many steps, or after a share of them."""
    if not every:
        return 0.0
    return steps / (every if every >= 1 else every * steps)
