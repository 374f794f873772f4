"""Choice of the tweets to label next: by expected gain, without twins and near copies, beside a random share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from smm4h.inference.labelling.copies import CopyIndex, phrases_of

GAIN, RANDOM = "gain", "random"  # by what a tweet was chosen
AHEAD = 4  # tweets whose texts are read at once for each one that is wanted, since some will be near copies


@dataclass(frozen=True)
class Choice:
    """The chosen tweets, in the order in which they are to be labelled.

    Args:
        rows: (n_chosen,) their numbers in the pool.
        by: (n_chosen,) `GAIN` or `RANDOM`.
        n_near_copies: tweets of more expected gain that were left out as near copies.
    """

    rows: np.ndarray
    by: list[str]
    n_near_copies: int


def first_of_each(keys: np.ndarray, known: Iterable[int]) -> np.ndarray:
    """Return which tweets (n_tweets,) are the first with their key, of those whose key is not known.

    Args:
        keys: (n_tweets,) a number for each text, by which twins are equal; 0: no text.
    """
    is_new = np.zeros(len(keys), dtype=bool)
    is_new[np.unique(keys, return_index=True)[1]] = True
    return is_new & (keys != 0) & ~np.isin(keys, np.fromiter(known, dtype=np.int64))


def choose(
    gain: np.ndarray,
    is_new: np.ndarray,
    labelled: CopyIndex,
    texts_of: Callable[[np.ndarray], dict[int, str]],
    n_tweets: int,
    n_random: int,
    seed: int,
) -> Choice:
    """Return `n_tweets` tweets, or all new ones if there are fewer.

    The random ones are drawn first, evenly of all new tweets, near copies included: the share of a label among them
    estimates its share in the pool without bias. The others have the highest expected gain among those that are no near
    copies of labelled or chosen tweets.

    Args:
        gain: (n_tweets,) of the pool.
        is_new: (n_tweets,) which tweets are neither labelled nor a later twin.
        labelled: the labelled tweets, to which the chosen ones are added.
        texts_of: returns the texts of some rows by row; called with growing numbers of rows.
    """
    rng = np.random.default_rng(seed)
    new = np.flatnonzero(is_new)
    random = rng.permutation(new)[: min(n_random, n_tweets)]
    for text in texts_of(np.sort(random)).values():
        labelled.add(text)
    others = np.setdiff1d(new, random)
    ranked = others[np.argsort(-gain[others], kind="stable")]
    chosen, n_near_copies = _without_copies(ranked, labelled, texts_of, n_tweets - len(random))
    return _mixed(np.array(chosen, dtype=np.int64), random, n_near_copies, rng)


def _without_copies(
    ranked: np.ndarray, known: CopyIndex, texts_of: Callable[[np.ndarray], dict[int, str]], n_wanted: int
) -> tuple[list[int], int]:
    """Return the first rows of a ranking that are no near copies of known ones or each other, and how many were."""
    chosen: list[int] = []
    n_near_copies = 0
    for start in range(0, len(ranked), size := max(1, AHEAD * n_wanted)):
        if len(chosen) == n_wanted:
            break
        rows = ranked[start : start + size]
        texts = texts_of(np.sort(rows))
        for row in rows.tolist():
            if len(chosen) == n_wanted:
                break
            if not phrases_of(texts[row]) or known.has_near_copy(texts[row]):
                n_near_copies += 1
                continue
            known.add(texts[row])
            chosen.append(row)
    return chosen, n_near_copies


def _mixed(by_gain: np.ndarray, random: np.ndarray, n_near_copies: int, rng: np.random.Generator) -> Choice:
    """Return the highest gain first, with the random tweets at random places among them.

    Whoever stops early has then labelled about the same share of both.
    """
    n_all = len(by_gain) + len(random)
    places = np.zeros(n_all, dtype=bool)
    places[rng.permutation(n_all)[: len(random)]] = True
    rows = np.empty(n_all, dtype=np.int64)
    rows[places], rows[~places] = random, by_gain
    return Choice(rows, [RANDOM if is_random else GAIN for is_random in places.tolist()], n_near_copies)


def expected_rare(rare: np.ndarray, choice: Choice) -> tuple[float, float]:
    """Return how many of the tweets chosen by gain are expected to be rare, and of as many random ones.

    Args:
        rare: (n_tweets,) probability of the rare labels, of the pool.
    """
    rows = choice.rows[[by == GAIN for by in choice.by]]
    return float(rare[rows].sum()), float(rare.mean() * len(rows))
