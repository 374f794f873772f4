"""Fingerprints of tweets: hashes of all phrases, ids and names, which files are searched for before publishing.

Fingerprints must not be published themselves, because guesses can be looked up among them.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset

from smm4h.data.dataset import MOST_GROUPS, contexts_of
from smm4h.models.word_models import UNSPACED, hash_of
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically

BATCH_SIZE = 10_000  # tweets
PHRASE = 5  # consecutive words that identify a tweet
PHRASE_UNSPACED = 10  # consecutive characters of a script without spaces that do
SHORT = 20  # characters from which a tweet of one or two words counts as a phrase
SHORT_UNSPACED = 6  # likewise, of a script without spaces
MIN_ID, MIN_NAME, MIN_PARTED = 6, 5, 6  # characters; shorter ids, names and names of several words match ordinary text
WORD = re.compile(r"\w+")
MENTION = re.compile(r"(?<![\w@])@(\w+)")
PARTED_MENTION = re.compile(r"(?<![\w@])@(\w+(?:[.-]\w+)+)")
NORMAL_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
TRIVIAL = re.compile(r"[a-z]|\d{1,2}")  # words of which no number identifies a tweet: a b c d e
STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, from the bits of the golden ratio
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # of SplitMix64 (Steele et al. 2014)

Phrases = Callable[[np.ndarray, int], np.ndarray]


def normal_form(text: str) -> str:
    """Return the text without differences of case and of Unicode form (NFKC), such as decomposed accents."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def word_hashes(words: Sequence[str]) -> np.ndarray:
    """Return the hashes (n_words,) of words in lower case."""
    words = [word.lower() for word in words]
    hashes = {word: hash_of(word) for word in set(words)}  # most words of a text come again
    return np.array([hashes[word] for word in words], dtype=np.int64).view(np.uint64)


def phrases_of_form_1(hashes: np.ndarray, length: int) -> np.ndarray:
    """Return the hashes (n_words - length + 1,) of all phrases of `length` words, as older versions made them.

    Args:
        hashes: (n_words,) of the single words.
    """
    n_phrases = max(0, len(hashes) - length + 1)
    phrases = np.full(n_phrases, length, dtype=np.uint64)
    for offset in range(length):
        phrases = phrases * STEP + hashes[offset : offset + n_phrases]
    return phrases


def mixed_phrases(hashes: np.ndarray, length: int) -> np.ndarray:
    """Return the hashes (n_words - length + 1,) of all phrases of `length` words.

    Mixed after each word: from sums or polynomials of hashes, words could be solved for with a dictionary.
    """
    n_phrases = max(0, len(hashes) - length + 1)
    phrases = np.full(n_phrases, length, dtype=np.uint64)
    for offset in range(length):
        phrases = (phrases ^ hashes[offset : offset + n_phrases]) + STEP
        for shift, factor in MIX:
            phrases = (phrases ^ (phrases >> np.uint64(shift))) * np.uint64(factor)
        phrases ^= phrases >> np.uint64(31)
    return phrases


@dataclass(frozen=True)
class Form:
    """How a version of the fingerprints divides and hashes texts."""

    number: int
    normal: Callable[[str], str]
    word: re.Pattern[str]
    phrases: Phrases
    longest: int  # words of a phrase


FORMS = {
    1: Form(1, str, WORD, phrases_of_form_1, PHRASE),
    2: Form(2, normal_form, NORMAL_WORD, mixed_phrases, PHRASE_UNSPACED),
}
FORM = FORMS[2]


def matching_indices(fingerprints: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return the indices of hashes that are among the sorted fingerprints.

    `np.isin` would sort all fingerprints at each call.
    """
    if not len(fingerprints):
        return np.zeros(0, dtype=np.int64)
    positions = np.searchsorted(fingerprints, hashes)
    return np.flatnonzero(fingerprints[np.minimum(positions, len(fingerprints) - 1)] == hashes)


def without(fingerprints: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return the fingerprints that are not among the sorted hashes.

    `np.setdiff1d` would make hash tables of both, which takes seconds for millions of phrases.
    """
    return np.delete(fingerprints, matching_indices(hashes, fingerprints))


def _windows(values: np.ndarray, length: int) -> np.ndarray:
    """Return the sums (n_words - length + 1,) of all windows of `length` values."""
    sums = np.concatenate([[0], np.cumsum(values)])
    return sums[length:] - sums[:-length] if len(values) >= length else np.zeros(0, dtype=np.int64)


def phrase_hashes(texts: Sequence[str]) -> np.ndarray:
    """Return the sorted hashes of all phrases that identify some tweets: of words, of characters, and of short tweets.

    Phrases of all texts are computed in one array, since a loop over millions of them would be slow.
    """
    all_words, text_of, short = [], [], []
    for index, text in enumerate(texts):
        words = NORMAL_WORD.findall(normal_form(text))
        n_unspaced = sum(map(_is_unspaced, words))
        is_long = len(words) - n_unspaced >= PHRASE or len(words) >= PHRASE_UNSPACED
        if not is_long and _identifies(words, n_unspaced, len(text.strip())):
            short.append(FORM.phrases(word_hashes(words), len(words)))
        all_words += words
        text_of += [index] * len(words)
    hashes, numbers = word_hashes(all_words), np.array(text_of, dtype=np.int64)
    unspaced = np.fromiter(map(_is_unspaced, all_words), dtype=np.int64, count=len(all_words))
    trivial = np.fromiter((bool(TRIVIAL.fullmatch(word)) for word in all_words), dtype=np.int64, count=len(all_words))
    found = [np.zeros(0, dtype=np.uint64), *short]
    for length in (PHRASE, PHRASE_UNSPACED):
        phrases = FORM.phrases(hashes, length)
        within = numbers[: len(phrases)] == numbers[length - 1 :][: len(phrases)]
        n_unspaced = _windows(unspaced, length)
        kept = n_unspaced <= PHRASE // 2 if length == PHRASE else n_unspaced > PHRASE // 2
        found.append(phrases[within & kept & (_windows(trivial, length) < length)])
    return np.unique(np.concatenate(found))


def _is_unspaced(word: str) -> bool:
    return len(word) == 1 and not word.isascii() and bool(re.match(rf"[{UNSPACED}]", word))


def _identifies(words: Sequence[str], n_unspaced: int, n_characters: int) -> bool:
    """Return whether a tweet of so few words is a phrase that is told from ordinary text."""
    if not words or all(TRIVIAL.fullmatch(word) for word in words):
        return False
    n_spaced = len(words) - n_unspaced
    return n_unspaced >= SHORT_UNSPACED or n_spaced > 2 or n_characters >= SHORT


def hash_of_parts(text: str) -> np.uint64 | None:
    """Return the hash of an id or a name of several words, such as `jane.doe`; None for one word or a short one."""
    words = NORMAL_WORD.findall(normal_form(text))
    if not 2 <= len(words) <= FORM.longest or sum(map(len, words)) < MIN_PARTED:
        return None
    return FORM.phrases(word_hashes(words), len(words))[0]


def _none() -> np.ndarray:
    return np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True)
class TweetFingerprints:
    """Sorted hashes (n,) of the phrases, ids and names in tweets."""

    phrases: np.ndarray
    ids: np.ndarray
    names: np.ndarray  # users' names or numbers, and mentioned users, in lower case
    parted_ids: np.ndarray = field(default_factory=_none)  # of several words, such as UUIDs
    parted_names: np.ndarray = field(default_factory=_none)
    form: int = FORM.number

    @classmethod
    def from_tables(cls, tables: Iterable[Dataset]) -> "TweetFingerprints":
        """Return the fingerprints of the tweets in some tables."""
        phrases, ids, names = [_none()], set(), set()
        for table in tables:
            if len(contexts := set(contexts_of(table) or [])) > MOST_GROUPS:  # fewer are names, such as claims
                phrases.append(phrase_hashes(sorted(contexts)))
            for batch in table.iter(batch_size=BATCH_SIZE):
                phrases.append(phrase_hashes(batch["text"]))
                ids.update(normal_form(tweet_id) for tweet_id in batch["id"] if len(tweet_id) >= MIN_ID)
                mentioning = [text for text in batch["text"] if "@" in text]
                for pattern in (MENTION, PARTED_MENTION):
                    names.update(normal_form(name) for text in mentioning for name in pattern.findall(text))
                names.update(normal_form(user).strip().lstrip("@") for user in batch.get("user", []) if user)
        whole = [np.unique(word_hashes(sorted(kind))) for kind in (ids, names)]
        parted = [[h for text in kind if (h := hash_of_parts(text)) is not None] for kind in (ids, names)]
        return cls(np.unique(np.concatenate(phrases)), *whole, *(np.unique(np.array(p, np.uint64)) for p in parted))

    def write(self, path: Path) -> None:
        """Write the fingerprints as compressed NumPy arrays, atomically."""

        def save(partial: Path) -> None:
            with partial.open("wb") as stream:
                np.savez_compressed(stream, **{**vars(self), "form": np.array(self.form)})

        write_atomically(path, save)

    @classmethod
    def read(cls, path: Path) -> "TweetFingerprints":
        """Read fingerprints; raise `InputError` for a missing or unreadable file."""
        try:
            with np.load(path) as arrays:
                old = {"form": 1} if "form" not in arrays else {}
                content = {name: arrays[name] for name in cls.__dataclass_fields__ if name in arrays and name != "form"}
                return cls(**content, form=int(old.get("form") or arrays["form"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path} can't be read; give the job's command again to have it made") from None
