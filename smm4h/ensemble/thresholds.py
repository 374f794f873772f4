"""From probabilities to a label: class weights on them, tuned for a measure. For two classes they are a threshold."""

from collections.abc import Sequence

import numpy as np

from smm4h.metrics import Measure

N_SAMPLES = 50  # bootstrap samples that a tuned decision is the median over
SWEEPS = 3  # of coordinate ascent over the classes
LIMIT = 1e6  # no class counts more or less than that


def tune_class_weights(
    probabilities: np.ndarray,
    gold: np.ndarray,
    measure: Measure,
    positive: Sequence[int],
    *,
    n_samples: int = N_SAMPLES,
    seed: int = 42,
) -> np.ndarray:
    """Class weights (n_classes,), geometric mean 1, under which the decisions on `gold` (n_tweets,) score highest.

    The best cut of few rare tweets hangs on one or two of them, so that it is tuned on bootstrap samples and the median
    is taken, in the logarithm. Coordinate ascent: for one class after the other, all cuts are scored at once.
    """
    n_tweets, n_classes = probabilities.shape
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_samples):
        counts = np.bincount(rng.integers(0, n_tweets, n_tweets), minlength=n_tweets)
        drawn = np.flatnonzero(counts)
        found.append(_climb(probabilities[drawn], gold[drawn], counts[drawn], measure, positive, n_classes))
    logs = np.median(found, axis=0)
    return np.exp(logs - logs.mean())


def class_shares(choices: np.ndarray, n_classes: int) -> np.ndarray:
    """The share (n_classes,) of the tweets that each class was chosen for."""
    return np.bincount(choices, minlength=n_classes) / len(choices)


def match_class_shares(probabilities: np.ndarray, weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Class weights, from `weights` (n_classes,) on, under which decisions have these shares (n_classes,).

    One class after the other gets the weight that gives it its share; the most frequent one keeps its own.
    """
    logs, frequent = np.log(weights), int(np.argmax(shares))
    for _ in range(SWEEPS if len(weights) > 2 else 1):
        for label in (c for c in range(len(weights)) if c != frequent):
            turns = np.sort(_turns(probabilities, np.exp(logs), label)[0])
            place = round(shares[label] * len(turns))  # so many tweets are to turn to the class
            edges = np.concatenate([[-np.log(LIMIT)], turns, [np.log(LIMIT)]])
            logs[label] = (edges[place] + edges[place + 1]) / 2
    return np.exp(logs - logs.mean())


def _turns(probabilities: np.ndarray, weights: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """From which log weight on each tweet (n_tweets,) is given the class, and the class it would have else."""
    others = probabilities * weights
    others[:, label] = -1.0
    with np.errstate(divide="ignore"):
        turns = np.log(others.max(axis=1)) - np.log(probabilities[:, label])
    return np.clip(turns, -np.log(LIMIT), np.log(LIMIT)), others.argmax(axis=1)


def _climb(probabilities, gold, counts, measure: Measure, positive: Sequence[int], n_classes: int) -> np.ndarray:
    """Log class weights (n_classes,) for tweets that count so often each; the most frequent class keeps weight 1."""
    logs = np.zeros(n_classes)
    frequent = np.bincount(gold, weights=counts, minlength=n_classes).argmax()
    moved = [c for c in range(n_classes) if c != frequent]
    for _ in range(SWEEPS if len(moved) > 1 else 1):
        before = logs.copy()
        for label in moved:
            logs[label] = _best_cut(probabilities, gold, counts, np.exp(logs), label, measure, positive)
        if np.array_equal(before, logs):
            break
    return logs


def _best_cut(probabilities, gold, counts, weights, label: int, measure: Measure, positive: Sequence[int]) -> float:
    """The log weight of one class, the others' given, that scores highest; of equals, the middle of their range."""
    n_classes = probabilities.shape[1]
    turns, rival = _turns(probabilities, weights, label)
    order = np.argsort(turns, kind="stable")
    turns, gold, rival, counts = turns[order], gold[order], rival[order], counts[order]
    start = np.zeros((n_classes, n_classes))
    np.add.at(start, (gold, rival), counts)
    step = np.zeros((len(turns) + 1, n_classes, n_classes))
    rows = np.arange(1, len(turns) + 1)
    step[rows, gold, rival] -= counts
    step[rows, gold, label] += counts
    scores = measure(start + step.cumsum(axis=0), positive)
    is_cut = np.concatenate([[True], turns[1:] > turns[:-1], [True]])  # no cut between equal turns
    cuts, scores = np.flatnonzero(is_cut), scores[is_cut]
    best = cuts[scores == scores.max()]
    edges = np.concatenate([[-np.log(LIMIT)], turns, [np.log(LIMIT)]])  # cut i lies between edges i and i + 1
    middle = best[len(best) // 2]
    return float((edges[middle] + edges[middle + 1]) / 2)
