"""The batches of an epoch: a pure function of seed and epoch, so that any process can take them up at any place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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


class Batches(Sampler[list[int]]):
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
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.lengths, self.batch_size, self.accumulation = lengths, batch_size, accumulation
        self.strategy, self.seed, self.drop_last = strategy, seed, drop_last
        self.rank, self.n_processes = rank, n_processes
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(self.lengths, self.batch_size * self.accumulation, self.strategy, self.seed, self.epoch)
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            size = -(-len(batch) // self.n_processes)
            part = batch[self.rank :: self.n_processes]
            yield part + [FILLER] * (size - len(part))


@dataclass(frozen=True)
class Padding:
    """Rows with input_ids, and labels where they have any -> a batch as long as its longest tweet.

    What transformers' DataCollatorWithPadding makes of them, in a tenth of its time.
    """

    pad_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = np.array([len(row["input_ids"]) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id)
        ids[mask] = np.concatenate([row["input_ids"] for row in rows])
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        if "labels" in rows[0]:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch
