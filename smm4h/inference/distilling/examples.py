"""What a student learns from: texts, and what an ensemble says of them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from smm4h.data.readers.tables import Finding
from smm4h.training.resumable import RunArguments

SHAPING = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed", "optim")


@dataclass(frozen=True)
class DistillationSet:
    """Texts, and the ensemble's probabilities (n_tweets, n_classes) for them."""

    texts: list[str]
    targets: np.ndarray

    def select(self, kept: np.ndarray) -> "DistillationSet":
        """Return the tweets under a mask (n_tweets,)."""
        return DistillationSet([text for text, keep in zip(self.texts, kept, strict=True) if keep], self.targets[kept])

    def __add__(self, other: "DistillationSet") -> "DistillationSet":
        return DistillationSet(self.texts + other.texts, np.concatenate([self.targets, other.targets]))

    def fingerprint(self, encoder: str, max_length: int, arguments: RunArguments) -> str:
        """Return a hash of all that a student's weights depend on, so that only its own checkpoint is resumed."""
        settings = {name: getattr(arguments, name) for name in SHAPING}
        content = [encoder, max_length, settings, self.texts, np.round(self.targets, 6).tolist()]
        return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class UnlabelledTweets:
    """Tweets whose labels no member has seen, with the whole ensemble's predictions."""

    examples: DistillationSet
    tables: list[Dataset]  # in the order of the examples
    predicted: np.ndarray  # (n_tweets,) class indices
    findings: Sequence[Finding] = ()  # about files that are not the job's
