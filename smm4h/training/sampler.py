"""The batches of an epoch: a pure function of seed and epoch, so that any process can take them up at any place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

FILLER = -1  # stands for a tweet without a label, where a process has no tweet of a short last batch


def epoch_order(lengths: Sequence[int], step_size: int, strategy: str, seed: int, epoch: int) -> list[int]:
    """The order (n_tweets,) in which an epoch's tweets are trained.

    `group_by_length` shuffles, and sorts by length within stretches of up to 50 steps (transformers'
    `get_length_grouped_indices`); `step_size` is the number of tweets between two updates.
    """
    if strategy == "sequential":
        return list(range(len(lengths)))
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))
    if strategy == "group_by_length":
        return get_length_grouped_indices(lengths, step_size, generator=generator)
    return torch.randperm(len(lengths), generator=generator).tolist()


@dataclass(frozen=True)
class ClassSampling:
    """Which tweets an epoch shows: of the negative ones a part that is drawn anew each time, rare ones repeatedly.

    Args:
        is_rare: (n_tweets,) whether a tweet counts as rare.
        negatives_per_positive: negative tweets shown for each showing of a rare one; None: all.
        positive_copies: how often each rare tweet is shown.
    """

    is_rare: np.ndarray
    negatives_per_positive: float | None = None
    positive_copies: int = 1

    @property
    def n_negatives(self) -> int:
        n_rare, n_all = int(self.is_rare.sum()), len(self.is_rare)
        if self.negatives_per_positive is None or n_rare == 0:
            return n_all - n_rare
        return min(n_all - n_rare, round(n_rare * self.positive_copies * self.negatives_per_positive))

    def __len__(self) -> int:
        return int(self.is_rare.sum()) * self.positive_copies + self.n_negatives

    def shown(self) -> np.ndarray:
        """How often, on average, an epoch shows each tweet (n_tweets,)."""
        share = self.n_negatives / max(1, int((~self.is_rare).sum()))
        return np.where(self.is_rare, float(self.positive_copies), share)

    def draw(self, seed: int, epoch: int) -> np.ndarray:
        """The tweets (n_shown,) of an epoch, ascending. Negatives come in turn: none twice before all were shown."""
        rare, negative = np.flatnonzero(self.is_rare), np.flatnonzero(~self.is_rare)
        start = epoch * self.n_negatives
        places = np.arange(start, start + self.n_negatives)
        drawn = np.empty(self.n_negatives, dtype=np.int64)
        for turn in np.unique(places // max(1, len(negative))):
            here = places // len(negative) == turn
            order = np.random.default_rng((seed, 1, int(turn))).permutation(negative)
            drawn[here] = order[places[here] % len(negative)]
        return np.sort(np.concatenate([np.repeat(rare, self.positive_copies), drawn]))


class ResumableBatchSampler(Sampler[list[int]]):
    """One process's part of each batch: with `n_processes` side by side, their parts together are the batch of one.

    A short last batch may leave a process without a tweet; it gets a `FILLER`, so that all make the same steps.
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
        shown = np.arange(len(self.lengths)) if sampling is None else sampling.draw(self.seed, self.epoch)
        order = shown[
            epoch_order(self.lengths[shown].tolist(), step_size, self.strategy, self.seed, self.epoch)
        ].tolist()
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            size = -(-len(batch) // self.n_processes)
            part = batch[self.rank :: self.n_processes]
            yield part + [FILLER] * (size - len(part))
