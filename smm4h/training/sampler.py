"""Batch sampler whose batches depend on seed and epoch alone, so that a resumed run can start at any batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from smm4h.config.job import Member
from smm4h.config.task import Task

FILLER = -1  # index of an unlabelled row, for a process that gets no tweet of a short last batch


def epoch_order(lengths: Sequence[int], step_size: int, strategy: str, seed: int, epoch: int) -> list[int]:
    """Return the order (n_tweets,) of the tweets in one training epoch, as row indices.

    Args:
        lengths: (n_tweets,) word pieces of each tweet.
        step_size: tweets between two optimizer updates.
        strategy: `sequential`, `random`, or `group_by_length`, which shuffles and then sorts by length within chunks of
            up to 50 steps (transformers' `get_length_grouped_indices`).
    """
    if strategy == "sequential":
        return list(range(len(lengths)))
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))
    if strategy == "group_by_length":
        return get_length_grouped_indices(lengths, step_size, generator=generator)
    return torch.randperm(len(lengths), generator=generator).tolist()


@dataclass(frozen=True)
class ClassSampling:
    """Undersampling of negatives and oversampling of rare tweets, drawn anew for each epoch.

    Args:
        is_rare: (n_tweets,) whether a tweet counts as rare.
        negatives_per_positive: negative tweets per drawn rare tweet, copies included; None: all negatives.
        positive_copies: how often an epoch contains each rare tweet.
    """

    is_rare: np.ndarray
    negatives_per_positive: float | None = None
    positive_copies: int = 1

    @property
    def n_negatives(self) -> int:
        """Number of negative tweets in an epoch."""
        n_rare, n_all = int(self.is_rare.sum()), len(self.is_rare)
        if self.negatives_per_positive is None or n_rare == 0:
            return n_all - n_rare
        return min(n_all - n_rare, round(n_rare * self.positive_copies * self.negatives_per_positive))

    def __len__(self) -> int:
        return int(self.is_rare.sum()) * self.positive_copies + self.n_negatives

    def shown(self) -> np.ndarray:
        """Return how often an epoch contains each tweet on average, (n_tweets,)."""
        share = self.n_negatives / max(1, int((~self.is_rare).sum()))
        return np.where(self.is_rare, float(self.positive_copies), share)

    def draw(self, seed: int, epoch: int) -> np.ndarray:
        """Return the row indices (n_drawn,) of an epoch's tweets, ascending, rare tweets repeated.

        Negatives are taken in turn from random permutations, so that none is repeated before all have been drawn.
        """
        rare, negative = np.flatnonzero(self.is_rare), np.flatnonzero(~self.is_rare)
        start = epoch * self.n_negatives
        positions = np.arange(start, start + self.n_negatives)
        drawn = np.empty(self.n_negatives, dtype=np.int64)
        for cycle in np.unique(positions // max(1, len(negative))):
            in_cycle = positions // len(negative) == cycle
            order = np.random.default_rng((seed, 1, int(cycle))).permutation(negative)
            drawn[in_cycle] = order[positions[in_cycle] % len(negative)]
        return np.sort(np.concatenate([np.repeat(rare, self.positive_copies), drawn]))


class ResumableBatchSampler(Sampler[list[int]]):
    """Batch sampler that yields one process's share of each batch; the shares of all processes form the full batch.

    A short last batch may leave a process without a tweet; the process then gets a `FILLER`, since collective
    operations would hang if processes made different numbers of steps.

    Args:
        lengths: (n_tweets,) word pieces of each tweet.
        batch_size: tweets in a batch, over all processes.
        accumulation: batches between two optimizer updates.
        strategy: see `epoch_order`.
        sampling: which tweets an epoch contains; None: each tweet once.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        accumulation: int = 1,
        strategy: str = "random",
        seed: int = 0,
        drop_last: bool = False,
        sampling: ClassSampling | None = None,
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.lengths, self.batch_size, self.accumulation = np.asarray(lengths), batch_size, accumulation
        self.sampling = sampling
        self.strategy, self.seed, self.drop_last = strategy, seed, drop_last
        self.rank, self.n_processes = rank, n_processes
        self.epoch = 0

    def __len__(self) -> int:
        n_tweets = len(self.lengths if self.sampling is None else self.sampling)
        full, rest = divmod(n_tweets, self.batch_size)
        return full + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        sampling, step_size = self.sampling, self.batch_size * self.accumulation
        drawn = np.arange(len(self.lengths)) if sampling is None else sampling.draw(self.seed, self.epoch)
        order = drawn[
            epoch_order(self.lengths[drawn].tolist(), step_size, self.strategy, self.seed, self.epoch)
        ].tolist()
        for index in range(len(self)):
            batch = order[index * self.batch_size : (index + 1) * self.batch_size]
            size = -(-len(batch) // self.n_processes)
            share = batch[self.rank :: self.n_processes]
            yield share + [FILLER] * (size - len(share))


def sampling_of(member: Member, task: Task, labels: np.ndarray) -> ClassSampling | None:
    """Return the member's class sampling; None if an epoch contains each tweet once.

    Args:
        labels: (n_tweets,) class indices, or (n_tweets, n_classes) probabilities.
    """
    per_positive, copies = member.args.negatives_per_positive, member.args.positive_copies
    if per_positive is None and copies == 1:
        return None
    return ClassSampling(task.has_rare(labels), per_positive, copies)
