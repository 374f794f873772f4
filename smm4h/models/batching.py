"""Batches of token ids, padded to the longest tweet, and prediction over them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

BATCH_SIZE = 128  # tweets, for prediction


@dataclass(frozen=True)
class PaddingCollator:
    """Data collator: rows with input_ids and perhaps labels -> a batch padded on the right to its longest tweet.

    Gives the result of transformers' `DataCollatorWithPadding`, in a tenth of its time.
    """

    pad_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = np.array([len(row["input_ids"]) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id)
        ids[mask] = np.concatenate([row["input_ids"] for row in rows])
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        if "labels" in rows[0]:
            # class indices (n_tweets,) or soft labels (n_tweets, n_classes)
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch


@torch.no_grad()
def predict_proba(
    token_ids: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device,
    compute_logits: Callable[[dict[str, torch.Tensor]], torch.Tensor],
) -> np.ndarray:
    """Return the softmax of a model's logits (n_tweets, n_classes), float64, in the order of `token_ids`.

    Batches hold tweets of like lengths, so that little padding is computed.

    Args:
        token_ids: of each tweet.
        compute_logits: a batch on the device -> logits (n_in_batch, n_classes).
    """
    order = np.argsort([-len(ids) for ids in token_ids], kind="stable")
    collate, probs = PaddingCollator(pad_id), []
    for start in range(0, len(order), BATCH_SIZE):
        batch = collate([{"input_ids": token_ids[index]} for index in order[start : start + BATCH_SIZE]])
        logits = compute_logits({name: tensor.to(device) for name, tensor in batch.items()})
        probs.append(logits.double().softmax(dim=1).cpu().numpy())
    ordered = np.concatenate(probs)
    restored = np.empty_like(ordered)
    restored[order] = ordered
    return restored
