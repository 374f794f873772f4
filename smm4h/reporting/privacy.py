"""Leak check before publishing: find tweet text, ids, user names and tokens in files.

A job's folder contains no tweets to compare with, only fingerprints: hashes of all phrases, ids and names. Fingerprints
must not be published either, because a guessed id can be looked up among the hashes.
"""

import html
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from huggingface_hub import get_token

from smm4h.models.word_models import hash_of
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically

BATCH_SIZE = 10_000  # tweets
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, from the bits of the golden ratio
PHRASE = 5  # consecutive words that identify a tweet
SHORT = 20  # characters from which a tweet of one or two words counts as a phrase
MIN_ID, MIN_NAME = 6, 5  # characters; shorter ids and names would match ordinary text
WORD = re.compile(r"\w+")
ALONE = re.compile(r"(?<![\w.])\w+")  # candidates for ids and names, without decimals of numbers
MENTION = re.compile(r"(?<![\w@])@(\w+)")
TOKENS = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}"
    r"|xox[abprs]-[\w-]{10,})\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes")  # words of pretrained encoders


def _word_hashes(words: Sequence[str]) -> np.ndarray:
    """Return the hashes (n_words,) of words in lower case."""
    return np.array([hash_of(word.lower()) for word in words], dtype=np.int64).view(np.uint64)


def _phrases(hashes: np.ndarray, length: int) -> np.ndarray:
    """Return the hashes (n_words - length + 1,) of all phrases of `length` words: polynomials modulo 2^64.

    Args:
        hashes: (n_words,) of the single words.
    """
    n_phrases = max(0, len(hashes) - length + 1)
    phrases = np.full(n_phrases, length, dtype=np.uint64)
    for offset in range(length):
        phrases = phrases * MULTIPLIER + hashes[offset : offset + n_phrases]
    return phrases


def _matching_indices(fingerprints: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return the indices of hashes that are among the sorted fingerprints.

    `np.isin` would sort all fingerprints at each call.
    """
    if not len(fingerprints):
        return np.zeros(0, dtype=np.int64)
    positions = np.searchsorted(fingerprints, hashes)
    return np.flatnonzero(fingerprints[np.minimum(positions, len(fingerprints) - 1)] == hashes)


def _phrase_hashes(texts: Sequence[str]) -> np.ndarray:
    """Return the sorted hashes of all phrases of `PHRASE` words in some texts, and of shorter texts as a whole.

    Phrases of all texts are computed in one array, since a loop over millions of them would be slow.
    """
    short, all_words, text_of = [], [], []
    for index, text in enumerate(texts):
        words = WORD.findall(text)
        if len(words) < PHRASE and (len(words) > 2 or len(text.strip()) >= SHORT):
            short.append(_phrases(_word_hashes(words), len(words)))
        all_words += words
        text_of += [index] * len(words)
    phrases, numbers = _phrases(_word_hashes(all_words), PHRASE), np.array(text_of, dtype=np.int64)
    within = numbers[: len(phrases)] == numbers[PHRASE - 1 :][: len(phrases)]
    return np.unique(np.concatenate([*short, phrases[within]]))


@dataclass(frozen=True)
class TweetFingerprints:
    """Sorted hashes (n,) of the phrases, ids and names in tweets."""

    phrases: np.ndarray
    ids: np.ndarray
    names: np.ndarray  # users' names or numbers, and mentioned users, in lower case

    @classmethod
    def from_tables(cls, tables: Iterable[Dataset]) -> "TweetFingerprints":
        """Return the fingerprints of the tweets in some tables."""
        phrases, ids, names = [np.zeros(0, dtype=np.uint64)], set(), set()
        for table in tables:
            for batch in table.iter(batch_size=BATCH_SIZE):
                phrases.append(_phrase_hashes(batch["text"]))
                ids.update(tweet_id.lower() for tweet_id in batch["id"] if len(tweet_id) >= MIN_ID)
                names.update(name.lower() for text in batch["text"] if "@" in text for name in MENTION.findall(text))
                names.update(user.lower().lstrip("@") for user in batch.get("user", []) if user)
        return cls(np.unique(np.concatenate(phrases)), *(np.sort(_word_hashes(sorted(kind))) for kind in (ids, names)))

    def write(self, path: Path) -> None:
        """Write the fingerprints as compressed NumPy arrays, atomically."""

        def save(partial: Path) -> None:
            with partial.open("wb") as stream:
                np.savez_compressed(stream, phrases=self.phrases, ids=self.ids, names=self.names)

        write_atomically(path, save)

    @classmethod
    def read(cls, path: Path) -> "TweetFingerprints":
        """Read fingerprints; raise `InputError` for a missing or unreadable file."""
        try:
            with np.load(path) as arrays:
                return cls(arrays["phrases"], arrays["ids"], arrays["names"])
        except (OSError, ValueError, KeyError):
            raise InputError(f"{path} can't be read; give the job's command again to have it made") from None


class LeakCheck:
    """Search of files for tweets, ids, names and tokens.

    Args:
        fingerprints: of the tweets that must not be published.
        own: texts of this project; their words and phrases are no leaks.
    """

    def __init__(self, fingerprints: TweetFingerprints, own: Iterable[str]) -> None:
        words = [_word_hashes(WORD.findall(text)) for text in own]
        known = [_phrases(hashes, length) for hashes in words for length in range(1, PHRASE + 1)]
        self.phrases = np.setdiff1d(fingerprints.phrases, np.concatenate(known))
        self.ids = fingerprints.ids
        self.names = self.identifying_names = np.setdiff1d(fingerprints.names, np.concatenate(words))
        secrets = [os.environ.get(name) for name in SECRETS] + [get_token()]
        self.secrets = [secret for secret in secrets if secret and len(secret) >= 8]

    def check(self, folder: Path, files: Iterable[Path]) -> None:
        """Search files of a folder, and raise `InputError` with file and line of the first leak.

        Names that are also words of a tokenizer's vocabulary among the files are only leaks behind an @.
        """
        files = list(files)
        words = [word for file in files if file.name in VOCABULARIES for word in _vocabulary(file)]
        self.identifying_names = np.setdiff1d(self.names, _word_hashes(words))
        for file in files:
            leak = next(self.find_leaks(file), None)
            if leak:
                line, kind = leak
                raise InputError(
                    f"{file.relative_to(folder)}, line {line} holds {kind}, which must not leave this machine; "
                    "nothing was published"
                )

    def find_leaks(self, file: Path) -> Iterator[tuple[int, str]]:
        """Yield line and kind of each leak in a file; of safetensors only the header is searched."""
        text = _header(file) if file.suffix == ".safetensors" else file.read_bytes().decode("utf-8", errors="replace")
        is_vocabulary = file.name in VOCABULARIES
        for variant in _unescaped(text, file.suffix):
            for start, kind in self._in_text(variant, is_vocabulary):
                yield variant.count("\n", 0, start) + 1, kind

    def _in_text(self, text: str, is_vocabulary: bool) -> Iterator[tuple[int, str]]:
        """Yield offset and kind of each leak in a text."""
        if match := TOKENS.search(text):
            yield match.start(), "a secret token"
        for secret in self.secrets:
            if (start := text.find(secret)) >= 0:
                yield start, "a secret of this machine's environment"
        mentions, words = list(MENTION.finditer(text)), list(ALONE.finditer(text))
        kinds = [
            (mentions, [match[1] for match in mentions], self.names, 1, "a user's name"),
            (words, [match[0] for match in words], self.ids, MIN_ID, "a tweet's id"),
        ]
        if not is_vocabulary:
            kinds.append((words, [match[0] for match in words], self.identifying_names, MIN_NAME, "a user's name"))
        for matches, candidates, fingerprints, min_length, kind in kinds:
            for index in _matching_indices(fingerprints, _word_hashes(candidates)):
                if len(candidates[index]) >= min_length:
                    yield matches[index].start(), kind
        every = list(WORD.finditer(text))
        hashes = _word_hashes([match[0] for match in every])
        for length in range(1, PHRASE + 1):
            for index in _matching_indices(self.phrases, _phrases(hashes, length)):
                yield every[index].start(), "words of a tweet"


def _vocabulary(file: Path) -> Iterator[str]:
    """Yield the whole words in a tokenizer's vocabulary, in lower case.

    Names equal to vocabulary words identify nobody, since vocabularies are public.
    """
    text = file.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except ValueError:
        entries = text.splitlines()
    else:
        vocabulary = content.get("model", {}).get("vocab", {}) if "model" in content else content
        entries = [item if isinstance(item, str) else str(item[0]) for item in vocabulary]
    yield from (entry.lstrip("Ġ▁").lower() for entry in entries)


def _header(file: Path) -> str:
    """Return the header of a safetensors file, which holds names and metadata."""
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        return stream.read(size).decode("utf-8", errors="replace")


def _unescaped(text: str, suffix: str) -> Iterator[str]:
    """Yield the text and, where they differ, the text without HTML entities and the strings of JSON."""
    yield text
    if "&" in text and (plain := html.unescape(text)) != text:
        yield plain
    if suffix == ".json" and "\\" in text:
        try:
            content = json.loads(text)
        except ValueError:
            return
        yield "\n".join(_strings(content))


def _strings(content: object) -> Iterator[str]:
    """Yield all keys and strings in JSON content."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from _strings(value)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value)
