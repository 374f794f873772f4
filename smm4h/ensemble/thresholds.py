"""Tune class weights on probabilities for a metric; with two classes this is a decision threshold."""

from collections.abc import Callable, Sequence

import numpy as np

from smm4h.metrics import Measure, confusion_matrix
from smm4h.models.voting import decide

N_SAMPLES = 50  # bootstrap samples; a tuned decision is the median over them
SWEEPS = 3  # of coordinate ascent over the classes
GROUP_SWEEPS = 2  # over the groups whose cuts are tuned for a pooled metric
LIMIT = 1e6  # class weights are clipped to 1 / LIMIT and LIMIT


def tune_class_weights(
    probabilities: np.ndarray,
    gold: np.ndarray,
    measure: Measure,
    positive: Sequence[int],
    *,
    n_samples: int = N_SAMPLES,
    seed: int = 42,
    rows: np.ndarray | None = None,
    rest: np.ndarray | None = None,
) -> np.ndarray:
    """Return class weights (n_classes,), geometric mean 1, under which decisions on `gold` (n_tweets,) score highest.

    Weights are tuned on bootstrap samples and their median is taken in the logarithm, since with few rare tweets the
    best cut on the full data depends on one or two of them. Each sample is tuned by coordinate ascent over the classes,
    which scores all cuts of a class at once.

    Args:
        probabilities: (n_tweets, n_classes).
        gold: class indices (n_tweets,).
        measure: metric to maximise, with `positive` its class indices.
        rows: (n_tweets,) the row of the metric's matrix in which each tweet is counted, see `metrics.Cells`; None:
            `gold`.
        rest: (n_rows, n_classes) matrix of other tweets, which are decided already and scored together with these.
    """
    n_tweets, n_classes = probabilities.shape
    rows = gold if rows is None else rows
    rest = np.zeros((-(-(rows.max(initial=0) + 1) // n_classes) * n_classes, n_classes)) if rest is None else rest
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(n_samples):
        counts = np.bincount(rng.integers(0, n_tweets, n_tweets), minlength=n_tweets)
        drawn = np.flatnonzero(counts)
        sample = probabilities[drawn], gold[drawn], rows[drawn], counts[drawn]
        samples.append(_coordinate_ascent(*sample, measure, positive, rest))
    logs = np.median(samples, axis=0)
    return np.exp(logs - logs.mean())


def tune_group_cuts(
    probabilities: np.ndarray,
    gold: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    decision: np.ndarray,
    tune: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray],
    *,
    pooled: bool,
) -> dict[str, np.ndarray]:
    """Return class weights (n_classes,) by group, tuned on that group's tweets.

    A pooled metric is one of all groups together, and its best cut in one of them depends on the others': each group is
    tuned in turn with the other groups' decisions as they stand, `GROUP_SWEEPS` times.

    Args:
        probabilities: (n_tweets, n_classes).
        groups: (n_tweets,) of strings.
        names: of the groups to tune; tweets of others keep `decision`.
        decision: (n_classes,) the weights to start from.
        tune: probabilities and gold of some tweets, and the confusion matrix (n_classes, n_classes) of others or None
            -> class weights.
        pooled: whether the metric pools the groups; else each group is judged alone.
    """
    n_classes = probabilities.shape[1]
    rows_of = {name: np.flatnonzero(groups == name) for name in names}
    predicted, cuts = decide(probabilities, decision), dict.fromkeys(names, decision)
    for _ in range(GROUP_SWEEPS if pooled and len(np.unique(groups)) > 1 else 1):
        for name, rows in rows_of.items():
            others = groups != name
            rest = confusion_matrix(gold[others], predicted[others], n_classes) if pooled else None
            cuts[name] = tune(probabilities[rows], gold[rows], rest)
            predicted[rows] = decide(probabilities[rows], cuts[name])
    return cuts


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
    probabilities, gold, rows, counts, measure: Measure, positive: Sequence[int], rest: np.ndarray
) -> np.ndarray:
    """Return the log class weights (n_classes,) with the highest score; the most frequent class keeps weight 1.

    Args:
        probabilities: (n_tweets, n_classes).
        rows: (n_tweets,) in the metric's matrix.
        counts: (n_tweets,) how often the bootstrap sample contains each tweet.
        rest: (n_rows, n_classes) matrix of other tweets.
    """
    n_classes = probabilities.shape[1]
    logs = np.zeros(n_classes)
    frequent = np.bincount(gold, weights=counts, minlength=n_classes).argmax()
    moved = [c for c in range(n_classes) if c != frequent]
    for _ in range(SWEEPS if len(moved) > 1 else 1):
        before = logs.copy()
        for label in moved:
            logs[label] = _best_cut(probabilities, rows, counts, np.exp(logs), label, measure, positive, rest)
        if np.array_equal(before, logs):
            break
    return logs


def _best_cut(probabilities, rows, counts, weights, label: int, measure: Measure, positive, rest) -> float:
    """Return the log weight of one class, given the others', with the highest score; of ties the middle one."""
    switches, rival = _switch_points(probabilities, weights, label)
    order = np.argsort(switches, kind="stable")
    switches, rows, rival, counts = switches[order], rows[order], rival[order], counts[order]
    start = rest.astype(np.float64)
    np.add.at(start, (rows, rival), counts)
    step = np.zeros((len(switches) + 1, *rest.shape))
    moved = np.arange(1, len(switches) + 1)
    step[moved, rows, rival] -= counts
    step[moved, rows, label] += counts
    scores = measure(start + step.cumsum(axis=0), positive)
    is_cut = np.concatenate([[True], switches[1:] > switches[:-1], [True]])  # no cut between equal switch points
    cuts, scores = np.flatnonzero(is_cut), scores[is_cut]
    best = cuts[scores == scores.max()]
    edges = np.concatenate([[-np.log(LIMIT)], switches, [np.log(LIMIT)]])  # cut i lies between edges i and i + 1
    middle = best[len(best) // 2]
    return float((edges[middle] + edges[middle + 1]) / 2)
