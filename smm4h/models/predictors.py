"""What this machine has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from heads import TweetClassifier
from smm4h.models.batching import predict_proba
from smm4h.models.cleaning import clean
from smm4h.models.padding_free import PaddingFreeEncoder, supports_padding_free
from smm4h.models.voting import VotingRule


def has_bf16(device: str) -> bool:
    """Whether this machine's devices of a kind (`cuda`, `cpu`, ...) have bf16 matrix products in hardware."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported()


TokenCache = dict[str, list]  # by text variant, what was made of the texts: for members that read the same


@dataclass(frozen=True)
class EnsembleOutput:
    """What an ensemble predicts for some tweets, (n_tweets,) each but the last."""

    predicted: np.ndarray  # class indices
    probability: np.ndarray  # of the label
    margin: np.ndarray  # by how much its weighted probability is ahead of the next one's
    votes: np.ndarray  # how many members choose it, each by its own highest weighted probability
    probabilities: np.ndarray  # (n_tweets, n_classes), before the decision's weights

    @classmethod
    def from_rule(cls, rule: VotingRule, probabilities: np.ndarray) -> "EnsembleOutput":
        """Apply a rule to its members' probabilities (n_members, n_tweets, n_classes)."""
        predicted, combined = rule.predict(probabilities), rule.combine(probabilities)
        decision = rule.decision
        weighted = combined * (decision[0] if len(decision) == 1 else decision.mean(axis=0))
        weighted /= weighted.sum(axis=1, keepdims=True)
        rows = np.arange(len(predicted))
        others = weighted.copy()
        others[rows, predicted] = -np.inf
        votes = (probabilities * decision[:, None, :]).argmax(axis=2)
        margin = weighted[rows, predicted] - others.max(axis=1)
        return cls(predicted, combined[rows, predicted], margin, (votes == predicted).sum(axis=0), combined)


class TextModel(Protocol):
    """A model that takes texts as they are."""

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray: ...


def dtype_for(precision: str | None, device: str) -> torch.dtype:
    """What matrix products are computed in on a kind of device, as a run of this precision trained and predicted.

    A run in float16 was one on a GPU; elsewhere it is answered in float32.
    """
    if precision is None:
        precision = "bfloat16" if has_bf16(device) else "float32"
    return torch.float32 if precision == "float16" and device != "cuda" else getattr(torch, precision)


class EncoderPredictor:
    """A model with an encoder, ready to predict on the device where it is.

    Args:
        cleaning: steps that a text goes through before the tokenizer.
        variant: the same for members whose tokenizers make the same of a text.
        precision: `float32`, `bfloat16` or `float16`, of matrix products; None: bf16 where the device has it.
        packed: whether a CPU may compute it by `smm4h.models.padding_free`.
    """

    def __init__(
        self,
        model: TweetClassifier,
        tokenizer: PreTrainedTokenizerBase,
        cleaning: Sequence[str],
        variant: str,
        precision: str | None,
        *,
        packed: bool,
    ) -> None:
        self.model, self.tokenizer, self.cleaning = model, tokenizer, cleaning
        self.key = f"{variant} {' '.join(cleaning)}"
        self.dtype = dtype_for(precision, model.device.type)
        if packed and model.device.type == "cpu" and supports_padding_free(model.encoder):
            model.encoder_override = PaddingFreeEncoder(model.encoder, self.dtype)

    def predict_proba(self, texts: Sequence[str], made: TokenCache) -> np.ndarray:
        """(n_tweets, n_classes)."""
        if self.key not in made:
            cleaned = [clean(text, self.cleaning) for text in texts]
            longest = self.tokenizer.model_max_length
            made[self.key] = self.tokenizer(cleaned, truncation=True, max_length=longest)["input_ids"]
        pieces, device = made[self.key], self.model.device
        with torch.autocast(device.type, self.dtype, enabled=self.dtype is not torch.float32):
            found = predict_proba(pieces, self.tokenizer.pad_token_id, device, lambda batch: self.model(**batch).logits)
        return found.astype(np.float32)


class TextPredictor:
    """A model without an encoder."""

    def __init__(self, model: TextModel, cleaning: Sequence[str]) -> None:
        self.model, self.cleaning = model, cleaning
        self.key = f"text {' '.join(cleaning)}"

    def predict_proba(self, texts: Sequence[str], made: TokenCache) -> np.ndarray:
        """(n_tweets, n_classes)."""
        if self.key not in made:
            made[self.key] = [clean(text, self.cleaning) for text in texts]
        return self.model.predict_proba(made[self.key]).astype(np.float32)
