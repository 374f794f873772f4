"""An attack on published word models: spell training tweets out of their weights.

What a member of an ensemble can be asked is whether a term has left a trace. Pieces of words are tried letter by
letter, words grow from pieces, or are taken from a dictionary, pairs come from words, and sentences from pairs.
"""

import itertools
import math
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from smm4h.models.word_models import hash_of
from smm4h.utils.files import read_json

LETTERS = string.ascii_lowercase + string.digits + "_'"
MOST_WORDS = 2_000  # an attack that finds more words than this has found all there are, and learnt nothing
LONGEST_WORD = 16
N_INVENTED = 10_000  # pairs of invented words

Trace = Callable[[str, str], bool]  # of a kind and a term: whether the model shows that training tweets had it


def traces_of(published: Path, member: str) -> list[Trace]:
    """Return for each model of a published TF-IDF member the question that it answers."""
    (entry,) = read_json(published / "members" / member / "config.json")["members"]
    tensors = load_file(published / "members" / member / "model.safetensors")
    traces = []
    for number, fold in enumerate(entry["folds"]):
        own = {key.split(f".{number}.", 1)[1]: a for key, a in tensors.items() if f".of_{member}.{number}." in key}
        traces.append(_trace_of(fold, own))
    return traces


def trace_of_model(model) -> Trace:
    """Return the question that a model in memory answers."""
    arrays = {name: array.view(np.int64) if name == "coef" else array for name, array in model.arrays.items()}
    return _trace_of(model.about, arrays)


def _trace_of(about: dict, arrays: dict[str, np.ndarray]) -> Trace:
    if "n_buckets" not in about:
        hashes = {kind: set(arrays[f"terms_{kind}"].tolist()) for kind in ("words", "pieces")}
        return lambda kind, term: hash_of(term) in hashes[kind]
    coef = arrays["coef"].view(np.float64)
    sizes = about["n_buckets"]
    used, start = {}, 0
    for kind in ("words", "pieces"):
        used[kind] = np.abs(coef[:, start : start + sizes[kind]]).sum(axis=0) > 0
        start += sizes[kind]
    return lambda kind, term: kind in used and bool(used[kind][hash_of(term) % 2**64 % sizes[kind]])


@dataclass
class ReadBack:
    """What an attack found: words that it spelt or found in its dictionary, and sentences of at least five words."""

    words: set[str] = field(default_factory=set)
    is_flooded: bool = False  # more candidates fitted than there can be words, so that they say nothing
    sentences: set[str] = field(default_factory=set)


def read_back(trace: Trace, dictionary: Iterable[str]) -> ReadBack:
    """Attack one model."""
    found = ReadBack()
    spelt = spell_words(trace)
    found.is_flooded = spelt is None
    candidates = set(spelt or ()) | set(dictionary)
    found.words = {word for word in candidates if trace("words", word)}
    after: dict[str, list[str]] = {}
    for left, right in itertools.product(found.words, repeat=2):
        if trace("words", f"{left} {right}"):
            after.setdefault(left, []).append(right)
    if is_beyond_chance(sum(map(len, after.values())), len(found.words) ** 2, trace):  # else pairs tell no order
        found.sentences = set(_sentences(after))
    return found


def is_beyond_chance(n_fitting: int, n_pairs: int, trace: Trace) -> bool:
    """Return whether more pairs of words fit than of pairs that no tweet has, of which used buckets fit some, too."""
    invented = [trace("words", f"{number}qx {number}xq") for number in range(N_INVENTED)]
    share = sum(invented) / N_INVENTED
    deviation = math.sqrt(share * (1 - share) * (n_pairs + n_pairs**2 / N_INVENTED))
    return n_fitting > share * n_pairs + 5 * deviation


def spell_words(trace: Trace) -> set[str] | None:
    """Return words that grow from pieces of five characters; None where more fit than there can be words."""
    begun = [f" {letter}" for letter in LETTERS if trace("pieces", f" {letter}")]
    words: set[str] = set()
    for _ in range(LONGEST_WORD):
        longer = []
        for start in begun:
            for letter in (*LETTERS, " "):
                word = start + letter
                if not all(trace("pieces", word[-n:]) for n in range(2, min(5, len(word)) + 1)):
                    continue
                if letter == " ":
                    words.add(word.strip())
                else:
                    longer.append(word)
        if len(longer) > MOST_WORDS:
            return None
        begun = longer
    return words


def _sentences(after: dict[str, list[str]], length: int = 5) -> Iterable[str]:
    """Yield runs of `length` words whose neighbours are all pairs."""
    runs = [(word,) for word in after]
    for _ in range(length - 1):
        runs = [(*run, word) for run in runs for word in after.get(run[-1], ())][: 50 * MOST_WORDS]
    return (" ".join(run) for run in runs)
