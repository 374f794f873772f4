"""Leak check before publishing: find tweet text, ids, user names and tokens in files.

A job's folder contains no tweets to compare with, only their fingerprints.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import get_token

from smm4h.reporting.leak_check.disguises import DEEPEST, texts_in
from smm4h.reporting.leak_check.fingerprints import (
    FORMS,
    MENTION,
    MIN_ID,
    MIN_NAME,
    PARTED_MENTION,
    TRIVIAL,
    TweetFingerprints,
    matching_indices,
    without,
    word_hashes,
)
from smm4h.utils.errors import InputError

ALONE = re.compile(r"(?<![\w.])\w+")  # candidates for ids and names, without decimals of numbers
DIGITS = re.compile(r"(?<!\d)(?<!\d\.)\d{6,}(?!\d)")  # candidates for ids with letters stuck on
TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|sk-[\w-]{20,}"
    r"|[rs]k_(?:live|test)_\w{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|xox[abeprs]-[\w-]{10,}|xapp-[\w-]{10,}|npm_[A-Za-z0-9]{30,}"
    r"|pypi-[\w-]{30,}|AIza[\w-]{30,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"
    r"|A{18,}[\w%]{30,}|SG\.[\w-]{16,}\.[\w-]{16,}|api_org_[A-Za-z0-9]{20,}|do[opr]_v1_[a-f0-9]{40,}|dapi[a-f0-9]{32}"
    r"|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|\d{8,10}:AA[\w-]{33}|hooks\.slack\.com/services/[\w/]{20,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|(?i:\bbearer[ =:]+(?=[^\s\"']*\d)[\w.~+/-]{20,})"
    # what names itself a key or password, and has a digit: of services with tokens of no form of their own
    r"|(?i:(?:api|secret|access|account|auth|private|client)[ _-]?(?:key|token|secret|password)"
    r"[\"']?\s{0,3}[=:][\s\"']{0,4}(?=[^\s\"']*\d)[\w.~+/-]{20,})"
    r"|\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"']{1,100}:[^\s/@\"']{3,200}@"
)
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SECRET_NAME = re.compile(r"(?i)(?:token|key|secret|password|passwd|credentials)$")  # of another environment variable
MIN_SECRET = 8  # characters
MIN_OTHER_SECRET = 16  # of a variable that is known by its name only
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes")  # words of pretrained encoders
REMEDIES = {
    "README.md": "the card repeats the task file, the labels' meanings and the command: take it out there",
    "tokenizer": "put the files of the pretrained encoder's tokenizer in its place; if they hold it themselves, bring "
    "the encoder back to where the job found it ({}), so that they can be compared",
    "": "take it out of the file that this one was copied from",
}

OwnFiles = Callable[[Path], tuple[str, Path | None]]  # of a published file's folder: the encoder, and its own files


class LeakCheck:
    """Search of files for tweets, ids, names and tokens.

    Args:
        fingerprints: of the tweets that must not be published.
        own: texts of this project, and the task's own; their words and phrases are no leaks.
    """

    def __init__(self, fingerprints: TweetFingerprints, own: Iterable[str]) -> None:
        self.form, own = FORMS[fingerprints.form], list(own)
        hashes = [word_hashes(self.form.word.findall(self.form.normal(text))) for text in own]
        lengths = range(1, self.form.longest + 1)
        known = np.sort(np.concatenate([self.form.phrases(h, length) for h in hashes for length in lengths]))
        words = [word_hashes(ALONE.findall(self.form.normal(text))) for text in own]
        self.phrases = without(fingerprints.phrases, known)
        self.parted = [
            (without(fingerprints.parted_ids, known), "a tweet's id"),
            (without(fingerprints.parted_names, known), "a user's name"),
        ]
        self.ids = fingerprints.ids
        self.names = self.identifying_names = without(fingerprints.names, np.sort(np.concatenate(words)))
        self.secrets = secrets_of(os.environ)

    def check(self, folder: Path, files: Iterable[Path], own_files: OwnFiles = lambda folder: ("", None)) -> None:
        """Search files of a folder, and raise `InputError` with file and line of the first leak.

        Names that are also words of a tokenizer's vocabulary among the files are only leaks behind an @. What a
        tokenizer's file shares with its encoder's own was public before the training, and is no leak.

        Args:
            own_files: called with the folder of a tokenizer's file in which something was found.
        """
        files = list(files)
        words = [word for file in files if file.name in VOCABULARIES for word in _vocabulary(file)]
        self.identifying_names = without(self.names, np.sort(word_hashes(words)))
        seen: set[tuple[str, bytes]] = set()  # members have equal tokenizers, each of which takes seconds
        self._check_names(folder, files)
        for file in files:
            key = file.name, hashlib.sha256(_searched(file)).digest()
            if key in seen or (leak := next(self.find_leaks(file), None)) is None:
                seen.add(key)
                continue
            encoder, remedy = "", REMEDIES.get(file.name, REMEDIES[""])
            if file.name in VOCABULARIES or file.name.startswith(("tokenizer", "special_tokens", "added_tokens")):
                encoder, own = own_files(file.parent)
                if own is not None and self._is_public(file, own / file.name):
                    continue
                remedy = REMEDIES["tokenizer"].format(encoder) if encoder else remedy
            line, kind = leak
            raise InputError(
                f"{file.relative_to(folder)}, line {line} holds {kind}, which must not leave this machine; "
                f"nothing was published; {remedy}"
            )

    def _check_names(self, folder: Path, files: Iterable[Path]) -> None:
        """Raise `InputError` for a file whose name, or a folder's that it is in, holds a leak."""
        for name in sorted({file.relative_to(folder).as_posix() for file in files}):
            if leak := next(self._leaks(name.encode("utf-8", "replace"), "", is_vocabulary=False), None):
                raise InputError(
                    f"the name of a file in {Path(name).parts[0]} holds {leak[1]}, which must not leave this machine; "
                    "nothing was published; rename the member in the recipe"
                )

    def _is_public(self, file: Path, own: Path) -> bool:
        """Return whether a file holds no leak but in what it shares with the encoder's own: all, or keys of JSON."""
        if not own.is_file():
            return False
        if (content := file.read_bytes()) == own.read_bytes():
            return True
        try:
            ours, theirs = json.loads(content), json.loads(own.read_bytes())
            added = {key: value for key, value in ours.items() if key not in theirs or theirs[key] != value}
        except (ValueError, AttributeError, TypeError):
            return False
        text = json.dumps(added, ensure_ascii=False, indent=1).encode()
        return next(self._leaks(text, file.suffix, is_vocabulary=file.name in VOCABULARIES), None) is None

    def find_leaks(self, file: Path) -> Iterator[tuple[int, str]]:
        """Yield line and kind of each leak in a file; of safetensors only the header is searched."""
        return self._leaks(_searched(file), file.suffix, is_vocabulary=file.name in VOCABULARIES)

    def _leaks(self, content: bytes, suffix: str, *, is_vocabulary: bool) -> Iterator[tuple[int, str]]:
        # Vocabularies have signs of all encodings in them, and megabytes would be read in each combination.
        for first_line, text in texts_in(content, suffix, 1 if is_vocabulary else DEEPEST):
            normal = self.form.normal(text)
            for searched, found in ((text, self._secrets(text)), (normal, self._in_text(normal, is_vocabulary))):
                for start, kind in found:
                    yield first_line + searched.count("\n", 0, start) + 1, kind

    def _secrets(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield offset and kind of each secret in a text."""
        if match := TOKENS.search(text):
            yield match.start(), "a secret token"
        for secret in self.secrets:
            if (start := text.find(secret)) >= 0:
                yield start, "a secret of this machine's environment"

    def _in_text(self, text: str, is_vocabulary: bool) -> Iterator[tuple[int, str]]:
        """Yield offset and kind of each id, name and phrase of tweets in a text."""
        mentions = [(match.start(1), match[1]) for p in (MENTION, PARTED_MENTION) for match in p.finditer(text)]
        words = [(match.start(), match[0]) for match in ALONE.finditer(text)]
        numbers = [(match.start(), match[0]) for match in DIGITS.finditer(text)]
        kinds = [
            (mentions, self.names, 1, "a user's name"),
            ([*words, *numbers], self.ids, MIN_ID, "a tweet's id"),
        ]
        if not is_vocabulary:
            kinds.append((words, self.identifying_names, MIN_NAME, "a user's name"))
        for candidates, fingerprints, min_length, kind in kinds:
            for index in matching_indices(fingerprints, word_hashes([word for _, word in candidates])):
                if len(candidates[index][1]) >= min_length:
                    yield candidates[index][0], kind
        yield from self._phrases_in(text)

    def _phrases_in(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield offset and kind of each phrase of a tweet, and of each id or name of several words."""
        every = [(match.start(), match[0]) for match in self.form.word.finditer(text)]
        hashes = word_hashes([word for _, word in every])
        for length in range(1, self.form.longest + 1):
            phrases = self.form.phrases(hashes, length)
            for index in matching_indices(self.phrases, phrases):
                if not _is_trivial([word for _, word in every[index : index + length]]):
                    yield every[index][0], "words of a tweet"
            for fingerprints, kind in self.parted:
                for index in matching_indices(fingerprints, phrases):
                    yield every[index][0], kind


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Return the values of an environment that give access, and this machine's token of the Hub.

    Paths, as `SSH_KEY=~/.ssh/id_rsa`, are none.
    """
    known = [environment.get(name) for name in SECRETS] + [get_token()]
    others = [value for name, value in environment.items() if SECRET_NAME.search(name)]
    found = [value for value in known if value and len(value) >= MIN_SECRET]
    long = [value for value in others if len(value) >= MIN_OTHER_SECRET and value[0] not in "/~."]
    return found + [value for value in long if any(character.isdigit() for character in value)]


def _is_trivial(words: Sequence[str]) -> bool:
    """Return whether words, which older fingerprints may hold, identify no tweet."""
    return all(TRIVIAL.fullmatch(word.lower()) for word in words)


def _vocabulary(file: Path) -> Iterator[str]:
    """Yield the whole words in a tokenizer's vocabulary, in lower case.

    Names equal to vocabulary words identify nobody, since vocabularies are public.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        entries = text.splitlines()
    else:
        content = content if isinstance(content, dict) else {}
        vocabulary = content.get("model", {}).get("vocab", {}) if "model" in content else content
        entries = [item if isinstance(item, str) else str(item[0]) for item in vocabulary]
    yield from (entry.lstrip("Ġ▁").lower() for entry in entries)


def _searched(file: Path) -> bytes:
    """Return a file's content; of safetensors the header, which holds names and metadata."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        return stream.read(size)
