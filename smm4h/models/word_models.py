"""Classifiers that count words, as they are kept and used: numbers, and hashes in place of the terms."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from smm4h.models.voting import softmax

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")  # emoji and punctuation are words too
PIECES = range(2, 6)  # lengths, in characters
SPACES = re.compile(r"\s\s+")


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def words_and_pairs(text: str) -> list[str]:
    """A text's words, and neighbours as pairs."""
    words = words_of(text)
    return words + [f"{one} {other}" for one, other in pairwise(words)]


def pieces_of_words(text: str) -> list[str]:
    """Pieces of 2 to 5 characters within words, with a space at either end: scikit-learn's `char_wb`."""
    found = []
    for word in SPACES.sub(" ", text.lower()).split():
        padded = f" {word} "
        for n in PIECES:
            found += [padded[start : start + n] for start in range(max(1, len(padded) - n + 1))]
            if len(padded) <= n:  # the word is one piece, which is counted once
                break
    return found


TERMS: dict[str, Callable[[str], list[str]]] = {"words": words_and_pairs, "pieces": pieces_of_words}


@lru_cache(maxsize=200_000)
def hash_of(term: str) -> int:
    """64 bits that stand for a term; two terms of a vocabulary share them by a chance of less than 1e-8."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little", signed=True)


class HashedTfidf:
    """TF-IDF of `TERMS` (sublinear, each kind of unit length) under a linear classifier.

    Args:
        about: `classifier`, `n_classes`, and `classes`, the class indices that it was fitted on.
        arrays: for each kind of `TERMS` its terms' hashes `terms_KIND` (n_terms,) and `idf_KIND`; `coef` (n_rows,
            n_features), the kinds one after the other, and `intercept` (n_rows,). One row stands for two classes.
    """

    def __init__(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.about, self.arrays = about, arrays
        self.index = {
            kind: {term: place for place, term in enumerate(arrays[f"terms_{kind}"].tolist())} for kind in TERMS
        }

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """(n_tweets, n_classes); 0 for a class that was not fitted.

        The softmax of the distances from the boundaries: of a logistic regression its probabilities; of an SVM in the
        right order, and for a tuned decision good enough.
        """
        distances = np.stack([self._distances(text) for text in texts])
        if distances.shape[1] == 1:
            distances = np.column_stack([-distances / 2, distances / 2])
        found = np.zeros((len(texts), self.about["n_classes"]))
        found[:, self.about["classes"]] = softmax(distances)
        return found

    def _distances(self, text: str) -> np.ndarray:
        total, start = self.arrays["intercept"].astype(np.float64), 0
        for kind, terms_of in TERMS.items():
            index = self.index[kind]
            counts = Counter(place for term in terms_of(text) if (place := index.get(hash_of(term))) is not None)
            if counts:
                places = np.fromiter(counts.keys(), dtype=np.int64)
                weights = 1 + np.log(np.fromiter(counts.values(), dtype=np.float64))
                weights *= self.arrays[f"idf_{kind}"][places]
                total = total + self.arrays["coef"][:, start + places] @ (weights / np.linalg.norm(weights))
            start += len(index)
        return total


PAD, UNKNOWN = 0, 1
LONGEST = 110  # words; tweets are cut there
WIDTH, N_FILTERS, WINDOWS = 100, 100, (3, 4, 5)  # Kim 2014, section 3.1, but for vectors of 100


class TextCNN(nn.Module):
    """Convolutions over word embeddings, the maximum of each filter over the tweet (Kim 2014)."""

    def __init__(self, n_words: int, n_classes: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(n_words, WIDTH, padding_idx=PAD)
        self.filters = nn.ModuleList(nn.Conv1d(WIDTH, N_FILTERS, window, padding=window - 1) for window in WINDOWS)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(N_FILTERS * len(WINDOWS), n_classes))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Logits (n_tweets, n_classes) of word ids (n_tweets, n_words)."""
        vectors = self.embeddings(words).transpose(1, 2)
        return self.classifier(torch.cat([f(vectors).relu().amax(dim=2) for f in self.filters], dim=1))


class WordBiGRU(nn.Module):
    """A bidirectional GRU over word embeddings, the maximum of its states over the tweet."""

    def __init__(self, n_words: int, n_classes: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(n_words, WIDTH, padding_idx=PAD)
        self.gru = nn.GRU(WIDTH, N_FILTERS, batch_first=True, bidirectional=True)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(2 * N_FILTERS, n_classes))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Logits (n_tweets, n_classes) of word ids (n_tweets, n_words)."""
        lengths = (words != PAD).sum(dim=1).clamp_min(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embeddings(words), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, padding_value=-1.0)
        return self.classifier(states.amax(dim=1))


NETS = {"textcnn": TextCNN, "word-bigru": WordBiGRU}


class WordEmbeddingClassifier(nn.Module):
    """One of `NETS` and the words that it knows, as hashes."""

    def __init__(self, name: str, n_words: int, n_classes: int) -> None:
        super().__init__()
        self.net = NETS[name](n_words + 2, n_classes)
        self.register_buffer("words", torch.zeros(n_words, dtype=torch.int64))
        self.index: dict[int, int] = {}

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Logits (n_tweets, n_classes) of word ids (n_tweets, n_words)."""
        return self.net(words)

    def ids_of(self, text: str) -> torch.Tensor:
        """The numbers (n_words,) of a text's words."""
        if not self.index:
            self.index = {word: place for place, word in enumerate(self.words.tolist(), start=UNKNOWN + 1)}
        found = [self.index.get(hash_of(word), UNKNOWN) for word in words_of(text)[:LONGEST]]
        return torch.tensor(found or [UNKNOWN])

    @torch.no_grad()
    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """(n_tweets, n_classes)."""
        starts = range(0, len(texts), 256)
        device = self.words.device
        batches = (padded([self.ids_of(text) for text in texts[start : start + 256]]).to(device) for start in starts)
        return torch.cat([self.net(batch).softmax(dim=1) for batch in batches]).cpu().numpy()


def padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Word ids (n_tweets, n_words) of rows of them."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PAD)
