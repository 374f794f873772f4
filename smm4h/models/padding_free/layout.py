"""Where the tweets of a padded batch stand in one long row of tokens."""

from dataclasses import dataclass

import numpy as np
import torch

# A matrix product of a new shape costs up to a millisecond of preparation, so sizes are rounded up and shapes recur.
TILE = 8  # tokens; sizes are rounded up to multiples
N_GROUPS, SMALLEST_GROUP = 4, 4  # groups of tweets of like lengths, padded to the group's longest for attention


@dataclass(frozen=True)
class Group:
    """Neighbouring tweets of the row, tokens `start:end`, that are padded to one length for attention."""

    start: int
    end: int
    first_tweet: int  # number of the group's first tweet in the row
    n_tweets: int
    longest: int  # tokens of the padded tweets
    row_indices: torch.Tensor  # (n_tweets * longest,) of each padded position, its token in the row or the last filler
    padded_indices: torch.Tensor  # (end - start,) padded position of each token
    bias: torch.Tensor  # (n_tweets, longest): 0 for a token, -inf for padding

    @property
    def tweets(self) -> slice:
        """The group's tweets, as a slice of the row's tweets."""
        return slice(self.first_tweet, self.first_tweet + self.n_tweets)

    def pad(self, row: torch.Tensor) -> torch.Tensor:
        """Return the group's part (n_tweets * longest, width) of a row (n_tokens, width)."""
        return row.index_select(0, self.row_indices)

    def unpad(self, padded: torch.Tensor, row: torch.Tensor) -> None:
        """Write states (n_tweets * longest, width) to their tokens in the row."""
        torch.index_select(padded, 0, self.padded_indices, out=row[self.start : self.end])


@dataclass(frozen=True)
class Layout:
    """Where the tweets of a padded batch stand in the row: the longest first, then at least one filler token.

    Attention's padding reads the last filler and is masked. No gradient reaches fillers: theirs is 0, like padding's.
    """

    n_tokens: int  # without fillers
    longest: int  # tokens of the longest tweet
    tokens: torch.Tensor  # (row_length,) index of each token in the flattened batch
    positions: torch.Tensor  # (row_length,) position of each token in its tweet
    starts: torch.Tensor  # (n_tweets,) first token of each tweet of the row
    ends: torch.Tensor  # (n_tweets + 1,) 0, then the end of each tweet of the row
    order_of_batch: torch.Tensor  # (n_tweets,) number in the row of each tweet of the batch
    groups: list[Group]

    @classmethod
    def from_mask(cls, attention_mask: torch.Tensor, device: torch.device, dtype: torch.dtype) -> "Layout":
        """Return the layout, on a device, of a mask (n_tweets, n_positions) that pads on the right.

        A mask on the CPU is laid out without waiting for a GPU. Attention scores have the dtype.
        """
        lengths = attention_mask.sum(dim=1).cpu().numpy()
        order = np.argsort(-lengths, kind="stable")
        ordered_lengths = lengths[order]
        ends = np.concatenate([[0], np.cumsum(ordered_lengths)])
        tweets = np.repeat(np.arange(len(ordered_lengths)), ordered_lengths)
        positions = np.arange(ends[-1]) - ends[tweets]
        row_length = _round_up(int(ends[-1]) + 1)
        size = max(SMALLEST_GROUP, -(-len(ordered_lengths) // N_GROUPS))
        sizes, indices = [], []
        for first in range(0, len(ordered_lengths), size):
            last = min(first + size, len(ordered_lengths))
            start, end, longest = int(ends[first]), int(ends[last]), _round_up(int(ordered_lengths[first]))
            padded_indices = (tweets[start:end] - first) * longest + positions[start:end]
            row_indices = np.full((last - first) * longest, row_length - 1)
            row_indices[padded_indices] = np.arange(start, end)
            sizes.append((start, end, first, last - first, longest))
            indices += [row_indices, padded_indices]
        fillers = np.zeros(row_length - int(ends[-1]), dtype=np.int64)
        tokens = np.concatenate([order[tweets] * attention_mask.shape[1] + positions, fillers])
        positions = np.concatenate([positions, fillers])
        parts = _on_device([tokens, positions, ends, np.argsort(order), *indices], device)
        tokens, positions, ends, order_of_batch, *indices = parts
        groups = []
        for (*place, n_tweets, longest), *pair in zip(sizes, indices[::2], indices[1::2], strict=True):
            is_padding = (pair[0] == row_length - 1).view(n_tweets, longest)
            bias = torch.zeros(n_tweets, longest, dtype=dtype, device=device).masked_fill_(is_padding, float("-inf"))
            groups.append(Group(*place, n_tweets, longest, *pair, bias))
        return cls(
            n_tokens=int(ordered_lengths.sum()),
            longest=int(ordered_lengths[0]),
            tokens=tokens,
            positions=positions,
            starts=ends[:-1],
            ends=ends,
            order_of_batch=order_of_batch,
            groups=groups,
        )

    def padded(self, row: torch.Tensor, n_positions: int) -> torch.Tensor:
        """Return a row's states (n_tokens, width) as the batch's, (n_tweets, n_positions, width); padding is 0."""
        shape = len(self.starts), n_positions, row.shape[1]
        batch = row.new_zeros(shape[0] * shape[1], shape[2])
        return batch.index_copy(0, self.tokens[: self.n_tokens], row[: self.n_tokens]).view(shape)


def _on_device(arrays: list[np.ndarray], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return integer arrays as tensors on a device, by one copy that a GPU is not waited for."""
    joined = torch.from_numpy(np.concatenate(arrays).astype(np.int64, copy=False))
    if device.type == "cuda":
        joined = joined.pin_memory()
    return joined.to(device, non_blocking=True).split([len(array) for array in arrays])


def _round_up(n_tokens: int) -> int:
    return -(-n_tokens // TILE) * TILE
