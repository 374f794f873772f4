"""Tune class weights on probabilities for a metric; with two classes this is a decision threshold."""

from collections.abc import Sequence

import numpy as np

from smm4h.metrics import Measure

N_SAMPLES = 50  # bootstrap samples; a tuned decision is the median over them
SWEEPS = 3  # of coordinate ascent over the classes
LIMIT = 1e6  # class weights are clipped to 1 / LIMIT and LIMIT


def tune_class_weights(
    probabilities: np.ndarray,
    gold: np.ndarray,
    measure: Measure,
    positive: Sequence[int],
    *,
    n_samples: int = N_SAMPLES,
    seed: int = 42,
) -> np.ndarray:
    """Return class weights (n_classes,), geometric mean 1, under which decisions on `gold` (n_tweets,) score highest.

    Weights are tuned on bootstrap samples and their median is taken in the logarithm, since with few rare tweets the
    best cut on the full data depends on one or two of them. Each sample is tuned by coordinate ascent over the classes,
    which scores all cuts of a class at once.

    Args:
        probabilities: (n_tweets, n_classes).
        gold: class indices (n_tweets,).
        measure: metric to maximise, with `positive` its class indices.
    """
    n_tweets, n_classes = probabilities.shape
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(n_samples):
        counts = np.bincount(rng.integers(0, n_tweets, n_tweets), minlength=n_tweets)
        drawn = np.flatnonzero(counts)
        samples.append(
            _coordinate_ascent(probabilities[drawn], gold[drawn], counts[drawn], measure, positive, n_classes)
        )
    logs = np.median(samples, axis=0)
    return np.exp(logs - logs.mean())


def class_shares(predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the share (n_classes,) of tweets that are predicted as each class, given class indices (n_tweets,)."""
    return np.bincount(predicted, minlength=n_classes) / len(predicted)


def match_class_shares(probabilities: np.ndarray, weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return class weights (n_classes,), geometric mean 1, under which decisions have the given class shares.

    Each class in turn gets the weight that gives it its share; the most frequent class keeps its own weight.

    Args:
        probabilities: (n_tweets, n_classes).
        weights: (n_classes,) to start from.
        shares: (n_classes,) of the tweets.
    """
    logs, frequent = np.log(weights), int(np.argmax(shares))
    for _ in range(SWEEPS if len(weights) > 2 else 1):
        for label in (c for c in range(len(weights)) if c != frequent):
            switches = np.sort(_switch_points(probabilities, np.exp(logs), label)[0])
            n_given = round(shares[label] * len(switches))  # tweets to be predicted as the class
            edges = np.concatenate([[-np.log(LIMIT)], switches, [np.log(LIMIT)]])
            logs[label] = (edges[n_given] + edges[n_given + 1]) / 2
    return np.exp(logs - logs.mean())


def _switch_points(probabilities: np.ndarray, weights: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the log weights (n_tweets,) from which tweets are predicted as the class, and the classes below them."""
    others = probabilities * weights
    others[:, label] = -1.0
    with np.errstate(divide="ignore"):
        switches = np.log(others.max(axis=1)) - np.log(probabilities[:, label])
    return np.clip(switches, -np.log(LIMIT), np.log(LIMIT)), others.argmax(axis=1)


def _coordinate_ascent(
    probabilities, gold, counts, measure: Measure, positive: Sequence[int], n_classes: int
) -> np.ndarray:
    """Return the log class weights (n_classes,) with the highest score; the most frequent class keeps weight 1.

    Args:
        probabilities: (n_tweets, n_classes).
        counts: (n_tweets,) how often the bootstrap sample contains each tweet.
    """
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
    """Return the log weight of one class, given the others', with the highest score; of ties the middle one."""
    n_classes = probabilities.shape[1]
    switches, rival = _switch_points(probabilities, weights, label)
    order = np.argsort(switches, kind="stable")
    switches, gold, rival, counts = switches[order], gold[order], rival[order], counts[order]
    start = np.zeros((n_classes, n_classes))
    np.add.at(start, (gold, rival), counts)
    step = np.zeros((len(switches) + 1, n_classes, n_classes))
    rows = np.arange(1, len(switches) + 1)
    step[rows, gold, rival] -= counts
    step[rows, gold, label] += counts
    scores = measure(start + step.cumsum(axis=0), positive)
    is_cut = np.concatenate([[True], switches[1:] > switches[:-1], [True]])  # no cut between equal switch points
    cuts, scores = np.flatnonzero(is_cut), scores[is_cut]
    best = cuts[scores == scores.max()]
    edges = np.concatenate([[-np.log(LIMIT)], switches, [np.log(LIMIT)]])  # cut i lies between edges i and i + 1
    middle = best[len(best) // 2]
    return float((edges[middle] + edges[middle + 1]) / 2)
