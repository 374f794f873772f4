"""Batches of a fixed number of tweets, laid end to end in a row of tokens, as one array of integers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from smm4h.data.dataset import column
from smm4h.models.padding_free.attention import MOST_TOKENS_OF_ONE_BLOCK
from smm4h.models.padding_free.layout import Group, Layout
from smm4h.training.losses import IGNORED, Loss

LONGEST = MOST_TOKENS_OF_ONE_BLOCK  # tokens of a tweet
WIDTH_STEP = 64  # tokens; rows are multiples, so that few widths are captured


@dataclass(frozen=True)
class Packing:
    """How a batch lies in its array: the parts by name, and how many integers each has.

    Args:
        width: tokens of the row.
        n_tweets: tweets of a full batch; one more holds the row's last tokens, which belong to no tweet.
        n_classes: targets of a tweet.
        has_types: whether tokens have segments, `token_type_ids`.
    """

    width: int
    n_tweets: int
    n_classes: int
    has_types: bool

    @property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """The parts, in the array's order, and how many integers each has."""
        places = self.n_tweets + 1
        types = (("types", self.width),) if self.has_types else ()
        rows = (("ids", self.width), ("positions", self.width), ("tweets", self.width), *types)
        return (*rows, ("ends", places + 1), ("targets", places * self.n_classes))

    def split(self, array):
        """Return the parts of a batch's array, or of a tensor of its size, by name."""
        parts, start = {}, 0
        for name, size in self.sizes:
            parts[name] = array[start : start + size]
            start += size
        return parts

    @property
    def n_values(self) -> int:
        return sum(size for _, size in self.sizes)


class TrainingTweets:
    """A run's training tweets in memory, from which batches are packed.

    Args:
        tweets: a token table with labels, of tweets of at most `LONGEST` tokens.
        loss: says what the targets of labels are.
        pad_id: id of the tokens that belong to no tweet.
    """

    def __init__(self, tweets: Dataset, loss: Loss, n_tweets: int, n_classes: int, pad_id: int) -> None:
        self.n_tweets, self.n_classes, self.pad_id = n_tweets, n_classes, pad_id
        self.loss_kind = type(loss)
        self.ids, self.starts, self.lengths = _joined(tweets, "input_ids")
        self.types = None
        if "second" in tweets.column_names:
            first_of_second, starts, _ = _joined(tweets, "second")
            self.types = np.arange(len(self.ids)) - np.repeat(self.starts, self.lengths) >= np.repeat(
                first_of_second[starts], self.lengths
            )
        labels = torch.from_numpy(np.array(column(tweets, "labels").to_pylist()))
        self.targets = loss.targets(labels, n_classes).float().numpy()
        unlabelled = torch.tensor([IGNORED]) if labels.dim() == 1 else torch.full((1, n_classes), float(IGNORED))
        self.no_target = loss.targets(unlabelled, n_classes).float().numpy()

    def packing(self, indices: Sequence[int]) -> Packing:
        """Return how a batch of these tweets is packed."""
        n_tokens = int(self.lengths[indices].sum()) + self.n_tweets - len(indices)
        return self._packing_of(n_tokens)

    def largest_packing(self) -> Packing:
        """Return a packing that no batch exceeds: of the longest tweet alone, of which a batch may hold copies."""
        return self._packing_of(self.n_tweets * int(self.lengths.max(initial=1)))

    def _packing_of(self, n_tokens: int) -> Packing:
        width = (n_tokens // WIDTH_STEP + 1) * WIDTH_STEP  # at least one token more
        return Packing(width, self.n_tweets, self.n_classes, self.types is not None)

    def pack(self, indices: Sequence[int], packing: Packing, into: np.ndarray) -> None:
        """Write a batch, perhaps an incomplete one, into an array of int32.

        A tweet that is missing has one token and no target, and so has the row's end.
        """
        indices, n_missing = np.asarray(indices), packing.n_tweets - len(indices)
        own = self.lengths[indices]
        n_own = int(own.sum())
        lengths = np.concatenate([own, np.ones(n_missing, own.dtype), [packing.width - n_own - n_missing]])
        ends = np.concatenate([[0], lengths.cumsum()])
        tweets = np.repeat(np.arange(len(lengths)), lengths)
        parts = packing.split(into)
        parts["tweets"][:], parts["ends"][:] = tweets, ends
        parts["positions"][:] = np.arange(packing.width) - ends[tweets]
        source = np.arange(n_own) + np.repeat(self.starts[indices] - ends[: len(indices)], own)
        parts["ids"][:n_own], parts["ids"][n_own:] = self.ids[source], self.pad_id
        if self.types is not None:
            parts["types"][:n_own], parts["types"][n_own:] = self.types[source], 0
        targets = np.concatenate([self.targets[indices], np.repeat(self.no_target, n_missing + 1, 0)])
        parts["targets"].view(np.float32)[:] = targets.ravel()


def _joined(tweets: Dataset, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a column of lists as one array, with the start and the length of each list."""
    lists = column(tweets, name).combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return lists.flatten().to_numpy(), lengths.cumsum() - lengths, lengths


@dataclass(frozen=True)
class Row:
    """A batch on its device, from which captured kernels read.

    Args:
        values: (n_values,) int32, the batch as `TrainingTweets.pack` writes it.
        in_groups: whether attention needs tweets that are padded to one length.
    """

    packing: Packing
    values: torch.Tensor
    in_groups: bool

    def parts(self) -> dict[str, torch.Tensor]:
        """Return the parts by name: integers as int64, targets (n_tweets + 1, n_classes) as float32."""
        targets = self.packing.split(self.values)["targets"].view(torch.float32)
        return {**self.packing.split(self.values.long()), "targets": targets.view(-1, self.packing.n_classes)}

    def mask(self, ends: torch.Tensor) -> torch.Tensor:
        """Return which of `LONGEST` positions of each tweet hold a token, (n_tweets + 1, LONGEST)."""
        return torch.arange(LONGEST, device=ends.device) < (ends[1:] - ends[:-1])[:, None]

    def layout(self, parts: dict[str, torch.Tensor], dtype: torch.dtype) -> Layout:
        """Return where the tweets stand in the row; all of it is computed on the device, and has fixed shapes.

        Args:
            dtype: of attention scores.
        """
        ends, width = parts["ends"], self.packing.width
        starts, n_tweets = ends[:-1], self.packing.n_tweets + 1
        padded = parts["tweets"] * LONGEST + parts["positions"]
        groups = []
        if self.in_groups:
            mask = self.mask(ends)
            places = starts[:, None] + torch.arange(LONGEST, device=ends.device)
            row_indices = places.where(mask, width - 1).view(-1)
            bias = torch.zeros(mask.shape, dtype=dtype, device=ends.device).masked_fill_(~mask, float("-inf"))
            groups.append(Group(0, width, 0, n_tweets, LONGEST, row_indices, padded, bias))
        order = torch.arange(n_tweets, device=ends.device)
        return Layout(width, LONGEST, padded, parts["positions"], starts, ends, order, groups)
