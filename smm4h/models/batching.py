"""Batches of token ids, padded to the longest tweet, and prediction over them."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from smm4h.models.label_spaces import PROBLEM

BATCH_SIZE = 128  # tweets, for prediction


@dataclass(frozen=True)
class PaddingCollator:
    """Data collator: rows of `encoding.TextEncoder`, perhaps with labels -> a batch padded on the right to its longest.

    Gives the result of transformers' `DataCollatorWithPadding`, in a tenth of its time. Where rows have second texts,
    the batch has `token_type_ids`; of rows of windows it has a line for each window, and `window_counts` says how many
    lines each row has.
    """

    pad_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        token_ids = [row["input_ids"] for row in rows]
        if "windows" in rows[0]:
            # The first tensor of a batch tells Trainer how many tweets it has.
            batch["window_counts"] = torch.tensor([len(row["windows"]) for row in rows])
            token_ids = [window for row in rows for window in _windows(row)]
        lengths = np.array([len(ids) for ids in token_ids])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id)
        ids[mask] = np.concatenate(token_ids)
        batch |= {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        if "second" in rows[0]:
            starts = np.concatenate([row["second"] for row in rows])
            is_second = mask & (np.arange(mask.shape[1]) >= starts[:, None])
            batch["token_type_ids"] = torch.from_numpy(is_second.astype(np.int64))
        if "labels" in rows[0]:
            # class indices (n_tweets,) or soft labels (n_tweets, n_classes)
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch


def _windows(row: dict[str, Any]) -> list[list[int]]:
    """Return the token ids of each window of a row."""
    ends = np.cumsum(row["windows"]).tolist()
    return [row["input_ids"][start:end] for start, end in pairwise([0, *ends])]


def batches(rows: Sequence[dict[str, Any]]) -> Iterator[np.ndarray]:
    """Yield indices of rows of like lengths, the longest first, `BATCH_SIZE` tweets or windows together."""
    order = np.argsort([-len(row["input_ids"]) for row in rows], kind="stable")
    sizes = np.array([len(rows[index].get("windows", (0,))) for index in order], dtype=np.int64)
    numbers = (np.cumsum(sizes) - 1) // BATCH_SIZE
    yield from np.split(order, np.flatnonzero(np.diff(numbers)) + 1)


def probabilities_of(logits: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    """Return the probabilities (n_tweets, n_classes) of logits: each label's own of label sets, else summing to 1.

    Args:
        problem_type: of the model's config.
    """
    return logits.sigmoid() if problem_type == PROBLEM else logits.softmax(dim=1)


@torch.no_grad()
def predict_proba(
    rows: Sequence[dict[str, Any]],
    pad_id: int,
    device: torch.device,
    compute_logits: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    problem_type: str | None = None,
) -> np.ndarray:
    """Return a model's probabilities (n_tweets, n_classes), float64, in the order of the rows.

    Batches hold tweets of like lengths, so that little padding is computed.

    Args:
        rows: of each tweet, see `encoding.TextEncoder`.
        compute_logits: a batch on the device -> logits (n_in_batch, n_classes).
        problem_type: see `probabilities_of`.
    """
    collate, probs, order = PaddingCollator(pad_id), [], []
    for indices in batches(rows):
        batch = collate([rows[index] for index in indices])
        logits = compute_logits({name: tensor.to(device) for name, tensor in batch.items()})
        probs.append(probabilities_of(logits.double(), problem_type).cpu().numpy())
        order.append(indices)
    ordered = np.concatenate(probs)
    restored = np.empty_like(ordered)
    restored[np.concatenate(order)] = ordered
    return restored


def without_unknown_types(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a batch without `token_type_ids` where a model knows no second segment."""
    knows = "token_type_ids" in inspect.signature(model.forward).parameters
    if knows and getattr(model.config, "type_vocab_size", 2) > 1:
        return batch
    return {name: tensor for name, tensor in batch.items() if name != "token_type_ids"}
