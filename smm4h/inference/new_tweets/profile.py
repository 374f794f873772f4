"""Profiles of tweets: counts of labels and histograms, without a word of any tweet, for a comparison of two sets."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from smm4h.models.word_models import hashes_of, impersonal, words_of

# Edges of the histogram of lengths, in characters: every length up to 20, then steps of 5 %.
LENGTH_EDGES = np.unique(np.concatenate([np.arange(21), np.geomspace(20, 100_000, 176).astype(int)]))
N_SHARES = 20  # bins of a share, one more for all
SHARED_PREFIXES = ("▁", "Ġ")  # before pieces that begin a word, of SentencePiece and byte-level BPE
COMMON = 0.05  # of a vocabulary's pieces that have a mark, for the mark to be the tokenizer's


@dataclass(frozen=True)
class TweetProfile:
    """What a set of tweets is like.

    Args:
        n_tweets: number of tweets.
        labels: number of tweets with each predicted label; empty where nothing was predicted.
        lengths: histogram (n_length_bins,) of characters.
        words: histogram (N_SHARES + 1,) of each tweet's share of words that no labelled tweet has; None: not counted.
        pieces: by member, histogram (N_SHARES + 1,) of each tweet's share of word pieces that are unknown or continue a
            word, by the member's tokenizer.
    """

    n_tweets: int
    labels: Mapping[str, int]
    lengths: np.ndarray
    words: np.ndarray | None = None
    pieces: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __add__(self, other: "TweetProfile") -> "TweetProfile":
        """Return the profile of both sets together, of what both have counted."""
        return TweetProfile(
            self.n_tweets + other.n_tweets,
            dict(Counter(self.labels) + Counter(other.labels)),
            self.lengths + other.lengths,
            None if self.words is None or other.words is None else self.words + other.words,
            {name: self.pieces[name] + other.pieces[name] for name in self.pieces if name in other.pieces},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as a dict for JSON."""
        return {
            "tweets": self.n_tweets,
            "labels": dict(self.labels),
            "lengths": self.lengths.tolist(),
            "words": None if self.words is None else self.words.tolist(),
            "pieces": {name: counts.tolist() for name, counts in self.pieces.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TweetProfile":
        """Return the profile of a dict from `to_dict`."""
        words = content["words"]
        return cls(
            content["tweets"],
            content["labels"],
            np.array(content["lengths"]),
            None if words is None else np.array(words),
            {name: np.array(counts) for name, counts in content["pieces"].items()},
        )


@dataclass(frozen=True)
class WordPieces:
    """A tokenizer, and which of its pieces are unknown or continue a word."""

    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def is_odd(self) -> np.ndarray:
        """Mask (n_pieces,) of the pieces that are unknown or continue a word.

        Of the marks in use: `##` before what continues a word (WordPiece), `▁` or `Ġ` before what begins one
        (SentencePiece, byte-level BPE), `@@` behind what does not end one (BERTweet).
        """
        numbers = self.tokenizer.get_vocab()
        pieces = [""] * (max(numbers.values()) + 1)  # a vocabulary may have holes
        for piece, number in numbers.items():
            pieces[number] = piece
        n_common = COMMON * len(pieces)
        if sum(piece.startswith("##") for piece in pieces) > n_common:
            mask = np.array([piece.startswith("##") for piece in pieces])
        elif sum(piece.startswith(SHARED_PREFIXES) for piece in pieces) > n_common:
            mask = np.array([not piece.startswith(SHARED_PREFIXES) for piece in pieces])
        else:
            mask = np.array([piece.endswith("@@") for piece in pieces])
        if self.tokenizer.unk_token_id is not None:
            mask[self.tokenizer.unk_token_id] = True
        return mask

    def shares(self, texts: Sequence[str]) -> np.ndarray:
        """Return each text's share of such pieces (n_texts,)."""
        rows = self.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return np.array([self.is_odd[row].mean() if row else 0.0 for row in rows])


def histogram_of_shares(shares: np.ndarray) -> np.ndarray:
    """Return the histogram (N_SHARES + 1,) of shares (n_tweets,) between 0 and 1."""
    return np.bincount(np.floor(np.asarray(shares) * N_SHARES + 1e-9).astype(int), minlength=N_SHARES + 1)


def histogram_of_lengths(texts: Iterable[str]) -> np.ndarray:
    """Return the histogram (n_length_bins,) of texts by their number of characters."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64)
    return np.bincount(np.searchsorted(LENGTH_EDGES, lengths, side="left"), minlength=len(LENGTH_EDGES) + 1)


def counted_words(text: str) -> list[str]:
    """Return a text's words without punctuation; URLs, users' names and numbers have a sign in their place."""
    return [word for word in words_of(impersonal(text)) if word[0].isalnum()]


@dataclass(frozen=True)
class Vocabulary:
    """The hashes of all words of the labelled tweets, and of those that a single one of them has."""

    hashes: np.ndarray  # (n_words,) uint64, sorted

    def unknown_shares(self, texts: Sequence[str]) -> np.ndarray:
        """Return each text's share of words (n_texts,) that no labelled tweet has; 0 for a text without words."""
        rows = [hashes_of(counted_words(text)) for text in texts]
        flat = np.concatenate([*rows, np.zeros(0, dtype=np.uint64)])
        is_unknown = ~np.isin(flat, self.hashes)
        return _means(is_unknown, [len(row) for row in rows])


def vocabulary_of(texts: Sequence[str]) -> tuple[Vocabulary, np.ndarray]:
    """Return the words of labelled tweets, and each one's share of words (n_texts,) that no other one has.

    A word that a single tweet has is as likely in it as an unknown one is in the next tweet (Good 1953, "The population
    frequencies of species and the estimation of population parameters"), so that these shares are those to expect of
    new tweets of the same kind.
    """
    rows = [hashes_of(counted_words(text)) for text in texts]
    distinct = np.concatenate([*(np.unique(row) for row in rows), np.zeros(0, dtype=np.uint64)])
    hashes, counts = np.unique(distinct, return_counts=True)
    flat = np.concatenate([*rows, np.zeros(0, dtype=np.uint64)])
    is_single = counts[np.searchsorted(hashes, flat)] == 1
    return Vocabulary(hashes), _means(is_single, [len(row) for row in rows])


def _means(values: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Return the mean over each row (n_rows,) of values that stand one row after the next; 0 for an empty row."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    sums = np.bincount(rows, weights=values, minlength=len(lengths))
    return sums / np.maximum(lengths, 1)


def profile_of(
    texts: Sequence[str],
    labels: Collection[str] = (),
    vocabulary: Vocabulary | None = None,
    tokenizers: Mapping[str, WordPieces] | None = None,
) -> TweetProfile:
    """Return the profile of new tweets.

    Args:
        labels: all labels that they are given.
        vocabulary: of the labelled tweets; None: not known.
        tokenizers: by member, whose pieces are counted.
    """
    pieces = {name: histogram_of_shares(known.shares(texts)) for name, known in (tokenizers or {}).items()}
    words = None if vocabulary is None else histogram_of_shares(vocabulary.unknown_shares(texts))
    return TweetProfile(len(texts), dict(Counter(labels)), histogram_of_lengths(texts), words, pieces)
