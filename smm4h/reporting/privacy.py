"""Leak check before publishing: find tweet text, ids, user names and tokens in files.

A job's folder keeps no tweets to compare with, but fingerprints: hashes of all phrases, ids and names. They stay on
this machine like the folder itself, because a guessed id can be looked up among the hashes.
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

AT_ONCE = 10_000  # tweets
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, of the golden ratio's bits
PHRASE = 5  # words in a row that are nobody's but the tweet's
SHORT = 20  # characters from which a tweet of fewer words is a phrase as a whole
LEAST_ID, LEAST_NAME = 6, 5  # characters; shorter ones are everywhere
WORD = re.compile(r"\w+")
ALONE = re.compile(r"(?<![\w.])\w+")  # what may be an id or a name: not the digits behind a point
MENTION = re.compile(r"(?<![\w@])@(\w+)")
TOKENS = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}"
    r"|xox[abprs]-[\w-]{10,})\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes")  # an encoder's own words


def _word_hashes(words: Sequence[str]) -> np.ndarray:
    """(n_words,) of words in lower case."""
    return np.array([hash_of(word.lower()) for word in words], dtype=np.int64).view(np.uint64)


def _phrases(hashes: np.ndarray, length: int) -> np.ndarray:
    """Hashes (n_words - length + 1,) of all phrases of so many words, of the words' own: a polynomial modulo 2^64."""
    n_phrases = max(0, len(hashes) - length + 1)
    found = np.full(n_phrases, length, dtype=np.uint64)
    for place in range(length):
        found = found * MULTIPLIER + hashes[place : place + n_phrases]
    return found


def _matching_indices(fingerprints: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return where hashes are among the sorted fingerprints; `np.isin` would sort those many at each call."""
    if not len(fingerprints):
        return np.zeros(0, dtype=np.int64)
    found = np.searchsorted(fingerprints, hashes)
    return np.flatnonzero(fingerprints[np.minimum(found, len(fingerprints) - 1)] == hashes)


def _phrase_hashes(texts: Sequence[str]) -> np.ndarray:
    """The phrases of `PHRASE` words of some texts, and shorter texts as a whole; at once, because they are many."""
    found, flat, text_of = [], [], []
    for number, text in enumerate(texts):
        words = WORD.findall(text)
        if len(words) < PHRASE and (len(words) > 2 or len(text.strip()) >= SHORT):
            found.append(_phrases(_word_hashes(words), len(words)))
        flat += words
        text_of += [number] * len(words)
    phrases, numbers = _phrases(_word_hashes(flat), PHRASE), np.array(text_of, dtype=np.int64)
    within = numbers[: len(phrases)] == numbers[PHRASE - 1 :][: len(phrases)]
    return np.unique(np.concatenate([*found, phrases[within]]))


@dataclass(frozen=True)
class TweetFingerprints:
    """Sorted hashes (n,) of what tweets consist of."""

    phrases: np.ndarray
    ids: np.ndarray
    names: np.ndarray  # users' names or numbers, and whom tweets mention, in lower case

    @classmethod
    def from_tables(cls, tables: Iterable[Dataset]) -> "TweetFingerprints":
        """Of tables of tweets."""
        phrases, ids, names = [np.zeros(0, dtype=np.uint64)], set(), set()
        for table in tables:
            for batch in table.iter(batch_size=AT_ONCE):
                phrases.append(_phrase_hashes(batch["text"]))
                ids.update(one.lower() for one in batch["id"] if len(one) >= LEAST_ID)
                names.update(name.lower() for text in batch["text"] if "@" in text for name in MENTION.findall(text))
                names.update(user.lower().lstrip("@") for user in batch.get("user", []) if user)
        return cls(np.unique(np.concatenate(phrases)), *(np.sort(_word_hashes(sorted(kind))) for kind in (ids, names)))

    def write(self, path: Path) -> None:
        def save(partial: Path) -> None:
            with partial.open("wb") as stream:
                np.savez_compressed(stream, phrases=self.phrases, ids=self.ids, names=self.names)

        write_atomically(path, save)

    @classmethod
    def read(cls, path: Path) -> "TweetFingerprints":
        """Raises `InputError` where a job has not left them."""
        try:
            with np.load(path) as kept:
                return cls(kept["phrases"], kept["ids"], kept["names"])
        except (OSError, ValueError, KeyError):
            raise InputError(f"{path} can't be read; give the job's command again to have it made") from None


class LeakCheck:
    """Looks for tweets, ids, names and tokens in files.

    Args:
        own: texts of this project's, whose words and phrases come from no tweet.
    """

    def __init__(self, fingerprints: TweetFingerprints, own: Iterable[str]) -> None:
        words = [_word_hashes(WORD.findall(text)) for text in own]
        known = [_phrases(of_text, length) for of_text in words for length in range(1, PHRASE + 1)]
        self.phrases = np.setdiff1d(fingerprints.phrases, np.concatenate(known))
        self.ids = fingerprints.ids
        self.names = self.telling_names = np.setdiff1d(fingerprints.names, np.concatenate(words))
        secrets = [os.environ.get(name) for name in SECRETS] + [get_token()]
        self.secrets = [secret for secret in secrets if secret and len(secret) >= 8]

    def check(self, folder: Path, files: Iterable[Path]) -> None:
        """Raises `InputError` that names file and line of the first thing that must stay."""
        files = list(files)
        words = [word for file in files if file.name in VOCABULARIES for word in _vocabulary(file)]
        self.telling_names = np.setdiff1d(self.names, _word_hashes(words))
        for file in files:
            found = next(self.found_in(file), None)
            if found:
                line, what = found
                raise InputError(
                    f"{file.relative_to(folder)}, line {line} holds {what}, which must not leave this machine; "
                    "nothing was published"
                )

    def found_in(self, file: Path) -> Iterator[tuple[int, str]]:
        """Line and kind of whatever must stay in one file; of weights the header is read, not the numbers."""
        text = _header(file) if file.suffix == ".safetensors" else file.read_bytes().decode("utf-8", errors="replace")
        is_vocabulary = file.name in VOCABULARIES
        for variant in _spelt_out(text, file.suffix):
            for start, what in self._in_text(variant, is_vocabulary):
                yield variant.count("\n", 0, start) + 1, what

    def _in_text(self, text: str, is_vocabulary: bool) -> Iterator[tuple[int, str]]:
        if match := TOKENS.search(text):
            yield match.start(), "a secret token"
        for secret in self.secrets:
            if (start := text.find(secret)) >= 0:
                yield start, "a secret of this machine's environment"
        mentions, words = list(MENTION.finditer(text)), list(ALONE.finditer(text))
        kinds = [
            (mentions, [match[1] for match in mentions], self.names, 1, "a user's name"),
            (words, [match[0] for match in words], self.ids, LEAST_ID, "a tweet's id"),
        ]
        if not is_vocabulary:
            kinds.append((words, [match[0] for match in words], self.telling_names, LEAST_NAME, "a user's name"))
        for matches, found, fingerprints, least, what in kinds:
            for place in _matching_indices(fingerprints, _word_hashes(found)):
                if len(found[place]) >= least:
                    yield matches[place].start(), what
        every = list(WORD.finditer(text))
        hashes = _word_hashes([match[0] for match in every])
        for length in range(1, PHRASE + 1):
            for place in _matching_indices(self.phrases, _phrases(hashes, length)):
                yield every[place].start(), "words of a tweet"


def _vocabulary(file: Path) -> Iterator[str]:
    """The whole words that a tokenizer knows, in lower case: people are called like them, and they tell nobody."""
    text = file.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except ValueError:
        entries = text.splitlines()
    else:
        vocabulary = content.get("model", {}).get("vocab", {}) if "model" in content else content
        entries = [one if isinstance(one, str) else str(one[0]) for one in vocabulary]
    yield from (entry.lstrip("Ġ▁").lower() for entry in entries)


def _header(file: Path) -> str:
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        return stream.read(size).decode("utf-8", errors="replace")


def _spelt_out(text: str, suffix: str) -> Iterator[str]:
    """The text as it is, and without the escapes of HTML and JSON where it has some."""
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
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from _strings(value)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value)
