"""Predictors, from texts to probabilities, for each kind of member; and an ensemble's output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from heads import TweetClassifier
from smm4h.models.batching import predict_proba
from smm4h.models.cleaning import clean
from smm4h.models.encoding import CutTweets, TextEncoder, joined_texts
from smm4h.models.label_spaces import LabelSetRule, LabelSetSpace, space_of
from smm4h.models.padding_free.choice import padding_free_encoder
from smm4h.models.voting import VotingRule


def has_bf16(device: str) -> bool:
    """Return whether a kind of device (`cuda`, `cpu`, ...) of this machine has bf16 matrix products in hardware."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported()


def best_precision(device: str) -> str:
    """Return the number format of fast matrix products on a kind of device of this machine.

    That is `bfloat16` where the hardware has it, `float16` on GPUs with tensor cores for nothing else (V100, T4, RTX
    20), and `float32` on all others.
    """
    if has_bf16(device):
        return "bfloat16"
    has_tensor_cores = device == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability() >= (7, 0)
    return "float16" if has_tensor_cores else "float32"


# Token ids or cleaned texts by preprocessing variant, shared by predictors with the same tokenizer and cleaning.
TokenCache = dict[str, list]


@dataclass(frozen=True)
class EnsembleOutput:
    """An ensemble's predictions for some tweets, arrays (n_tweets,) but for `probabilities`.

    Of label sets, `probability`, `margin` and `votes` are those of the least certain label, its presence or absence.
    """

    predicted: np.ndarray  # classes, see `LabelSpace`
    probability: np.ndarray  # of the predicted class, before decision weights
    margin: np.ndarray  # weighted probability of the predicted class minus the highest among the rest
    votes: np.ndarray  # number of members whose own highest weighted probability is the predicted class's
    probabilities: np.ndarray  # (n_tweets, n_classes), before decision weights

    @classmethod
    def from_rule(
        cls, rule: VotingRule, probabilities: np.ndarray, groups: Sequence[str] | None = None
    ) -> "EnsembleOutput":
        """Apply a rule to its members' probabilities (n_members, n_tweets, n_classes).

        Args:
            groups: (n_tweets,) of the tweets, for a rule with cuts by group.
        """
        space = space_of(rule, ())
        if space.problem_type is not None:
            return cls._of_label_sets(rule, space, probabilities)
        predicted, combined = rule.predict(probabilities, groups), rule.combine(probabilities)
        decision = rule.weights_of(groups)
        weighted = combined * (decision[0] if len(decision) == 1 else decision.mean(axis=0))
        weighted /= weighted.sum(axis=1, keepdims=True)
        rows = np.arange(len(predicted))
        rest = weighted.copy()
        rest[rows, predicted] = -np.inf
        votes = (probabilities * decision).argmax(axis=2)
        margin = weighted[rows, predicted] - rest.max(axis=1)
        return cls(predicted, combined[rows, predicted], margin, (votes == predicted).sum(axis=0), combined)

    @classmethod
    def _of_label_sets(cls, rule: LabelSetRule, space: LabelSetSpace, probabilities: np.ndarray) -> "EnsembleOutput":
        _, n_tweets, n_labels = probabilities.shape
        pairs = cls.from_rule(rule.over_pairs, space.to_decide(probabilities), space.decided_groups(n_tweets, None))
        least = (
            getattr(pairs, name).reshape(n_tweets, n_labels).min(axis=1) for name in ("probability", "margin", "votes")
        )
        return cls(
            space.of_decided(pairs.predicted, n_tweets), *least, pairs.probabilities[:, 1].reshape(n_tweets, n_labels)
        )


class TextModel(Protocol):
    """A model that predicts from texts, without a tokenizer of its own."""

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes)."""
        ...


def dtype_for(precision: str | None, device: str) -> torch.dtype:
    """Return the dtype of matrix products on a kind of device, the one that a run of this precision was trained with.

    A run in float16 was trained on a GPU; on any other device it predicts in float32.

    Args:
        precision: `float32`, `bfloat16`, `float16`, or None: `best_precision` of the device.
    """
    precision = precision or best_precision(device)
    return torch.float32 if precision == "float16" and device != "cuda" else getattr(torch, precision)


class EncoderPredictor:
    """Predictor over a fine-tuned encoder, on the device where the model is.

    Args:
        cleaning: cleaning steps for texts before the tokenizer.
        variant: name of the preprocessing, equal for members whose tokenizers give equal token ids.
        precision: `float32`, `bfloat16` or `float16`, of matrix products; None: `best_precision`.
        packed: whether `smm4h.models.padding_free` may compute the encoder.
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
        self.model, self.cleaning = model, cleaning
        reading = model.config.truncation, model.config.max_windows
        self.encoder = TextEncoder(tokenizer, tokenizer.model_max_length, *reading)
        self.key = f"{variant} {reading} {' '.join(cleaning)}"
        self.cut: CutTweets | None = None  # of the texts that were predicted last; None: another predictor's token ids
        self.dtype = dtype_for(precision, model.device.type)
        if packed:
            model.encoder_override = padding_free_encoder(model, self.dtype)

    def predict_proba(
        self, texts: Sequence[str], cache: TokenCache, contexts: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes), float32; token ids are read from the cache or added to it.

        Args:
            contexts: the texts' second texts, where the model was trained with such.
        """
        self.cut = None
        if self.key not in cache:
            cache[self.key], self.cut = self.encoder.encode(*cleaned_pair(texts, contexts, self.cleaning))
        rows, device = cache[self.key], self.model.device
        with torch.autocast(device.type, self.dtype, enabled=self.dtype is not torch.float32):
            probs = predict_proba(
                rows,
                self.encoder.tokenizer.pad_token_id,
                device,
                lambda batch: self.model(**batch).logits,
                self.model.config.problem_type,
            )
        return probs.astype(np.float32)


def cleaned_pair(
    texts: Sequence[str], contexts: Sequence[str] | None, steps: Sequence[str]
) -> tuple[list[str], list[str] | None]:
    """Return texts and second texts, if there are any, after cleaning."""
    return [clean(text, steps) for text in texts], contexts and [clean(context, steps) for context in contexts]


class TextPredictor:
    """Predictor over a model without an encoder, which takes cleaned texts."""

    def __init__(self, model: TextModel, cleaning: Sequence[str]) -> None:
        self.model, self.cleaning = model, cleaning
        self.key = f"text {' '.join(cleaning)}"

    def predict_proba(
        self, texts: Sequence[str], cache: TokenCache, contexts: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes), float32; cleaned texts are read from the cache or added to it."""
        if self.key not in cache:
            cache[self.key] = joined_texts(*cleaned_pair(texts, contexts, self.cleaning))
        return self.model.predict_proba(cache[self.key]).astype(np.float32)
