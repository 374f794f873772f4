"""Masked-language modelling: repeatable masks, and a loss that is computed where a word piece is masked only."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset as TorchDataset
from transformers import DataCollatorForLanguageModeling, PreTrainedModel

from smm4h.training.adaptation.texts import TextRows
from smm4h.training.losses import IGNORED
from smm4h.training.resumable import ResumableTrainer


@dataclass
class RepeatableMasking(DataCollatorForLanguageModeling):
    """Transformers' data collator with masks that depend on `seed` and the batch's texts alone.

    A random state that goes on from batch to batch would differ after a resume: batches are collated ahead of the step
    at which a checkpoint is saved. In another epoch, a text stands in another batch and is masked anew.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = b"".join(np.asarray(row["input_ids"], dtype=np.int64).tobytes() for row in examples)
        digest = hashlib.blake2b(rows, digest_size=7, key=str(self.seed).encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        return dict(super().torch_call(examples))


class MaskedOnly:
    """Forward hook that has a model's output layer read masked positions only.

    They are a seventh of all. The layer has a row for each word piece of the vocabulary: for a small encoder, it would
    take as long as all others together. Logits are (n_masked, n_pieces).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.is_masked: torch.Tensor | None = None  # (n_texts, n_tokens)
        if (layer := model.get_output_embeddings()) is not None:
            layer.register_forward_pre_hook(self._select)

    def _select(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][self.is_masked], *inputs[1:])

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        """Return the logits (n_masked, n_pieces) of a model's output, also of one without such a layer."""
        return output[self.is_masked] if output.dim() == 3 else output


class MaskedTrainer(ResumableTrainer):
    """Trainer of a masked-language model; a step's loss is the mean over all of its masked word pieces."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, sampling=None, best=None, compute_loss_func=self.mean_over_step, **kwargs)
        self.masked_only = MaskedOnly(self.model)

    def training_rows(self) -> TorchDataset:
        return TextRows(self.train_dataset)

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.masked_only.is_masked = inputs["labels"] != IGNORED
        return super().compute_loss(model, inputs, *args, **kwargs)

    def mean_over_step(self, outputs, labels, num_items_in_batch=None):
        """Return the summed loss of a micro-batch, divided by the number of masked word pieces of the whole step.

        A step without any has the loss 0.
        """
        return summed_loss(outputs, labels, self.masked_only) / max(1, int(num_items_in_batch))


def summed_loss(outputs: Any, labels: torch.Tensor, masked_only: MaskedOnly) -> torch.Tensor:
    """Return the summed cross-entropy of the masked word pieces of a batch.

    Args:
        labels: (n_texts, n_tokens) the word piece where it is masked, `IGNORED` elsewhere.
    """
    logits = masked_only.logits(outputs["logits"]).float()
    return nn.functional.cross_entropy(logits, labels[labels != IGNORED], reduction="sum")


@torch.no_grad()
def masked_loss(
    model: PreTrainedModel, rows: Sequence[dict[str, Any]], collator: RepeatableMasking, size: int
) -> float:
    """Return a model's mean loss, in nats, over the masked word pieces of some texts.

    Args:
        size: texts in a batch.
    """
    model, masked_only = model.eval(), MaskedOnly(model)
    total, n_masked = 0.0, 0
    for start in range(0, len(rows), size):
        batch = collator(list(rows[start : start + size]))
        labels = batch.pop("labels").to(model.device)
        masked_only.is_masked = labels != IGNORED
        outputs = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        total += summed_loss(outputs, labels, masked_only).item()
        n_masked += int(masked_only.is_masked.sum())
    return total / max(1, n_masked)
