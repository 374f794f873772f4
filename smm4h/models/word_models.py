"""Classifiers over words, as they are saved and used.

Members of an ensemble are of the two classes over buckets, which can be published: terms are counted in few hash
buckets, so that no list of terms is kept, and weights depend on no term that fewer than `SAFE` authors have. Classes
with a list of hashed terms are baselines, and members that an older version trained; whoever reads their weights can
spell out training tweets.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from smm4h.models.batching import probabilities_of
from smm4h.models.cleaning import URL
from smm4h.models.label_spaces import PROBLEM
from smm4h.models.voting import softmax

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")  # emoji and punctuation are words too
NGRAM_LENGTHS = range(2, 6)  # characters
SPACES = re.compile(r"\s\s+")


def words_of(text: str) -> list[str]:
    """Return a text's words, lowercased."""
    return WORD.findall(text.lower())


def words_and_bigrams(text: str) -> list[str]:
    """Return a text's words, and pairs of neighbouring words."""
    words = words_of(text)
    return words + [f"{left} {right}" for left, right in pairwise(words)]


def char_ngrams(text: str) -> list[str]:
    """Return n-grams of 2 to 5 characters within words, with a space at either end: scikit-learn's `char_wb`."""
    ngrams = []
    for word in SPACES.sub(" ", text.lower()).split():
        padded = f" {word} "
        for n in NGRAM_LENGTHS:
            ngrams += [padded[start : start + n] for start in range(max(1, len(padded) - n + 1))]
            if len(padded) <= n:  # the word is a single n-gram, which is counted once
                break
    return ngrams


TERMS: dict[str, Callable[[str], list[str]]] = {"words": words_and_bigrams, "pieces": char_ngrams}


@lru_cache(maxsize=200_000)
def hash_of(term: str) -> int:
    """Return 64 bits that stand for a term; two terms of a vocabulary collide with a probability below 1e-8."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little", signed=True)


class HashedTfidf:
    """TF-IDF of `TERMS` (sublinear, each kind of unit length) under a linear classifier.

    Args:
        about: `classifier`, `n_classes`, and `classes`, the class indices that it was fitted on.
        arrays: for each kind of `TERMS` the hashes of its terms `terms_KIND` and `idf_KIND`, (n_terms,) each; `coef`
            (n_rows, n_features), one kind after the next, and `intercept` (n_rows,). Two classes have a single row.
    """

    def __init__(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.about, self.arrays = about, arrays
        self.index = {
            kind: {term: column for column, term in enumerate(arrays[f"terms_{kind}"].tolist())} for kind in TERMS
        }

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes), float64; 0 for a class that was not fitted.

        The softmax of the distances from the boundaries: for a logistic regression its probabilities, for an SVM scores
        in the right order, which is enough for a tuned decision.
        """
        return _probabilities(np.stack([self._distances(text) for text in texts]), self.about)

    def _distances(self, text: str) -> np.ndarray:
        """Return a text's distances (n_rows,) from the class boundaries."""
        total, start = self.arrays["intercept"].astype(np.float64), 0
        for kind, extract_terms in TERMS.items():
            columns = self.index[kind]
            counts = Counter(
                column for term in extract_terms(text) if (column := columns.get(hash_of(term))) is not None
            )
            if counts:
                used = np.fromiter(counts.keys(), dtype=np.int64)
                weights = 1 + np.log(np.fromiter(counts.values(), dtype=np.float64))
                weights *= self.arrays[f"idf_{kind}"][used]
                total = total + self.arrays["coef"][:, start + used] @ (weights / np.linalg.norm(weights))
            start += len(columns)
        return total


def _probabilities(distances: np.ndarray, about: Mapping[str, Any]) -> np.ndarray:
    """Return probabilities (n_tweets, n_classes) of distances (n_tweets, n_rows) from the class boundaries.

    Of label sets each label has a row and a boundary of its own.
    """
    if about.get("problem_type") == PROBLEM:
        return 1 / (1 + np.exp(-distances))
    if distances.shape[1] == 1:
        distances = np.column_stack([-distances / 2, distances / 2])
    probs = np.zeros((len(distances), about["n_classes"]))
    probs[:, about["classes"]] = softmax(distances)
    return probs


SAFE = 5  # authors who must have a term before weights may depend on it
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # scripts without spaces
LETTER = rf"(?![{UNSPACED}])\w"
PERSONAL = (  # what points to one person or tweet, and the sign that is put in its place
    (URL, " http "),
    (re.compile(r"[^\s@＠]*[@＠]\s?\w[\w.@-]*"), " @ "),  # names of users, e-mail addresses
    (re.compile(rf"(?:{LETTER})*\d(?:{LETTER})*"), " 0 "),  # numbers, and words with digits
)


def impersonal(text: str) -> str:
    """Return a text in lower case, with signs in place of URLs, users' names, e-mail addresses and digits."""
    for pattern, sign in PERSONAL:
        text = pattern.sub(sign, text)
    return text.lower()


SAFE_TERMS: dict[str, Callable[[str], list[str]]] = {"words": words_of, "pieces": char_ngrams}  # of impersonal texts


def hashes_of(terms: Sequence[str]) -> np.ndarray:
    """Return the hashes (n_terms,), uint64, of some terms."""
    return np.fromiter(map(hash_of, terms), dtype=np.int64, count=len(terms)).view(np.uint64)


def bucket_counts(hashes: np.ndarray, counts: np.ndarray, n_buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return buckets (n_used,) and values (n_used,) of unit length of a text's terms, each with a sign by its hash.

    Signed hashing (Weinberger et al. 2009, "Feature hashing for large scale multitask learning").

    Args:
        hashes: (n_terms,) uint64, of different terms.
        counts: (n_terms,) how often the text has each.
    """
    signs = np.where(hashes >> np.uint64(63), -1.0, 1.0)
    buckets, place = np.unique((hashes % np.uint64(n_buckets)).astype(np.int64), return_inverse=True)
    values = np.bincount(place, weights=signs * (1 + np.log(counts)), minlength=len(buckets))
    length = np.linalg.norm(values)
    return buckets, values / length if length else values


class BucketLinear:
    """Counts of `SAFE_TERMS` in signed hash buckets (sublinear, each kind of unit length) under a linear classifier.

    Args:
        about: `classifier`, `n_classes`, `classes`, the class indices that it was fitted on, and `n_buckets` by kind.
        arrays: `coef` (n_rows, n_buckets of all kinds), one kind after the next, and `intercept` (n_rows,). Two
            classes have a single row.
    """

    def __init__(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.about, self.arrays = about, arrays

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes), float64; as `HashedTfidf.predict_proba` does."""
        return _probabilities(np.stack([self._distances(impersonal(text)) for text in texts]), self.about)

    def _distances(self, text: str) -> np.ndarray:
        """Return an impersonal text's distances (n_rows,) from the class boundaries."""
        total, start = self.arrays["intercept"].astype(np.float64), 0
        for kind, extract_terms in SAFE_TERMS.items():
            n_buckets = self.about["n_buckets"][kind]
            counts = Counter(extract_terms(text))
            numbers = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
            buckets, values = bucket_counts(hashes_of(list(counts)), numbers, n_buckets)
            total = total + self.arrays["coef"][:, start + buckets] @ values
            start += n_buckets
        return total


PAD, UNKNOWN = 0, 1
LONGEST = 110  # words; longer tweets are truncated
WIDTH, N_FILTERS, WINDOWS = 100, 100, (3, 4, 5)  # Kim 2014, section 3.1, but for embeddings of width 100


class TextCNN(nn.Module):
    """Convolutions over word embeddings, max-pooled over the tweet (Kim 2014)."""

    def __init__(self, n_words: int, n_classes: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(n_words, WIDTH, padding_idx=PAD)
        self.filters = nn.ModuleList(nn.Conv1d(WIDTH, N_FILTERS, window, padding=window - 1) for window in WINDOWS)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(N_FILTERS * len(WINDOWS), n_classes))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return logits (n_tweets, n_classes) of word ids (n_tweets, n_words)."""
        vectors = self.embeddings(words).transpose(1, 2)
        return self.classifier(torch.cat([f(vectors).relu().amax(dim=2) for f in self.filters], dim=1))


class WordBiGRU(nn.Module):
    """Bidirectional GRU over word embeddings, its states max-pooled over the tweet."""

    def __init__(self, n_words: int, n_classes: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(n_words, WIDTH, padding_idx=PAD)
        self.gru = nn.GRU(WIDTH, N_FILTERS, batch_first=True, bidirectional=True)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(2 * N_FILTERS, n_classes))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return logits (n_tweets, n_classes) of word ids (n_tweets, n_words)."""
        lengths = (words != PAD).sum(dim=1).clamp_min(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embeddings(words), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, padding_value=-1.0)
        return self.classifier(states.amax(dim=1))


NETS = {"textcnn": TextCNN, "word-bigru": WordBiGRU}


class WordEmbeddingClassifier(nn.Module):
    """A network of `NETS` with its vocabulary, as hashes.

    Args:
        name: a key of `NETS`.
        n_words: size of the vocabulary, without padding and unknown words.
        problem_type: of label sets, see `batching.probabilities_of`.
    """

    def __init__(self, name: str, n_words: int, n_classes: int, problem_type: str | None = None) -> None:
        super().__init__()
        self.problem_type = problem_type
        self.net = NETS[name](n_words + 2, n_classes)
        self.register_buffer("words", torch.zeros(n_words, dtype=torch.int64))
        self.index: dict[int, int] = {}

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return logits (n_tweets, n_classes) of word ids (n_tweets, n_words)."""
        return self.net(words)

    def ids_of(self, text: str) -> torch.Tensor:
        """Return the ids (n_words,) of a text's words; at least one."""
        if not self.index:
            self.index = {word: word_id for word_id, word in enumerate(self.words.tolist(), start=UNKNOWN + 1)}
        ids = [self.index.get(hash_of(word), UNKNOWN) for word in words_of(text)[:LONGEST]]
        return torch.tensor(ids or [UNKNOWN])

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes), float32."""
        return _predict_with(self.net, self.ids_of, texts, self.problem_type)


class BucketEmbeddingClassifier(nn.Module):
    """A network of `NETS` over the hash buckets of an impersonal text's words; it has no vocabulary.

    Args:
        name: a key of `NETS`.
        n_buckets: number of embeddings, without the padding's.
        problem_type: of label sets, see `batching.probabilities_of`.
    """

    def __init__(self, name: str, n_buckets: int, n_classes: int, problem_type: str | None = None) -> None:
        super().__init__()
        self.n_buckets, self.problem_type = n_buckets, problem_type
        self.net = NETS[name](n_buckets + 1, n_classes)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return logits (n_tweets, n_classes) of bucket ids (n_tweets, n_words)."""
        return self.net(words)

    def ids_of(self, text: str) -> torch.Tensor:
        """Return the bucket ids (n_words,) of a text's words, from 1; at least one."""
        hashes = hashes_of(words_of(impersonal(text))[:LONGEST] or [""])
        return torch.from_numpy((hashes % np.uint64(self.n_buckets)).astype(np.int64)) + 1

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes), float32."""
        return _predict_with(self.net, self.ids_of, texts, self.problem_type)


@torch.no_grad()
def _predict_with(
    net: nn.Module, ids_of: Callable[[str], torch.Tensor], texts: Sequence[str], problem_type: str | None
) -> np.ndarray:
    """Return a network's probabilities (n_tweets, n_classes), float32, in batches of 256 texts."""
    device = net.embeddings.weight.device
    starts = range(0, len(texts), 256)
    batches = (padded([ids_of(text) for text in texts[start : start + 256]]).to(device) for start in starts)
    return torch.cat([probabilities_of(net(batch), problem_type) for batch in batches]).cpu().numpy()


def padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return word ids (n_tweets, n_words), padded on the right, of ids (n_words,) for each tweet."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PAD)
