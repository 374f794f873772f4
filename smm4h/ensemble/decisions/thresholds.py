"""Class weights on probabilities: tuned for a metric, cut for a target, or matched to class shares.

With two classes, class weights are a decision threshold.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from smm4h.metrics import Measure, confusion_matrix
from smm4h.models.voting import decide

N_SAMPLES = 50  # bootstrap samples; a tuned decision is the median over them
SWEEPS = 3  # of coordinate ascent over the classes
GROUP_SWEEPS = 2  # over the groups whose cuts are tuned for a pooled metric
LIMIT = 1e6  # class weights are clipped to 1 / LIMIT and LIMIT
BESIDE = 0.1  # from the outermost tweet to a cut beyond it, in log weights
FARTHEST = 30.0  # log scale of the positive classes' weights beyond which every tweet is flagged, or none


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


def pulled_to_gold(
    probabilities: np.ndarray, weights: np.ndarray, gold: np.ndarray, positive: Sequence[int]
) -> np.ndarray:
    """Return class weights (n_classes,) between tuned ones and those that predict as many positive tweets as there are.

    The share of each positive class becomes the geometric mean of the share that `weights` predict and of the gold one.
    A tuned cut follows the accidents of few rare tweets, while the best one of a measure that weighs precision and
    recall alike predicts about as many as there are; docs/rare-classes.md has the figures. Where no cut comes nearer to
    that, as no cut parts tweets of equal probabilities, `weights` stay.

    Args:
        probabilities: (n_tweets, n_classes).
        gold: class indices (n_tweets,).
        positive: indices of the positive classes.
    """
    n_classes = probabilities.shape[1]
    given, shares = (class_shares(labels, n_classes) for labels in (decide(probabilities, weights), gold))
    positive = [label for label in positive if given[label] and shares[label]]
    others = np.setdiff1d(np.arange(n_classes), positive)
    if not positive or not given[others].sum():
        return weights
    pulled = given.copy()
    pulled[positive] = np.sqrt(given[positive] * shares[positive])
    pulled[others] *= (1 - pulled[positive].sum()) / given[others].sum()
    moved = match_class_shares(probabilities, weights, pulled)

    def distance(reached: np.ndarray) -> float:
        with np.errstate(divide="ignore"):
            return float(np.abs(np.log(reached[positive] / pulled[positive])).max())

    is_nearer = distance(class_shares(decide(probabilities, moved), n_classes)) < distance(given)
    return moved if is_nearer else weights


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
            logs[label] = _cut_after(switches, n_given, logs[label])
    return np.exp(logs - logs.mean())


def _cut_after(switches: np.ndarray, n_given: int, current: float) -> float:
    """Return the log weight above the first `n_given` of the sorted switch points (n_tweets,), and below the rest.

    Where that is none or all of them, it is the one nearest to the current weight: one far away would let this class
    outweigh all others wherever weighted probabilities are averaged.
    """
    if n_given == 0:
        return min(current, switches[0] - BESIDE)
    if n_given == len(switches):
        return max(current, switches[-1] + BESIDE)
    return (switches[n_given - 1] + switches[n_given]) / 2


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


@dataclass(frozen=True)
class FlagPath:
    """What becomes of tweets as the positive classes' weights are scaled up together, cut by cut.

    A tweet is flagged where one of the positive classes is predicted; it is a hit where that class is the gold one.
    Cut i flags more tweets than cut i - 1.
    """

    scales: np.ndarray  # (n_cuts,) logarithms, ascending
    hits: np.ndarray  # (n_cuts,)
    flagged: np.ndarray  # (n_cuts,)
    n_gold: int  # tweets whose gold label is positive
    n_tweets: int


def flag_path(probabilities: np.ndarray, weights: np.ndarray, gold: np.ndarray, positive: Sequence[int]) -> FlagPath:
    """Return all cuts of probabilities (n_tweets, n_classes) under class weights (n_classes,).

    Args:
        gold: class indices (n_tweets,).
        positive: indices of the positive classes, not of all.
    """
    positive = list(positive)
    weighted = probabilities * weights
    ours, theirs = weighted[:, positive], np.delete(weighted, positive, axis=1)
    with np.errstate(divide="ignore"):
        switches = np.log(theirs.max(axis=1)) - np.log(ours.max(axis=1))
    switches = np.clip(switches, -FARTHEST, FARTHEST)
    is_hit = np.array(positive)[ours.argmax(axis=1)] == gold
    order = np.argsort(switches, kind="stable")
    edges = np.concatenate([[-FARTHEST], switches[order], [FARTHEST]])
    is_cut = np.concatenate([[True], np.diff(switches[order]) > 0, [True]])  # no cut between equal switch points
    hits = np.concatenate([[0], is_hit[order].cumsum()])
    cuts = np.flatnonzero(is_cut)
    scales = (edges[cuts] + edges[cuts + 1]) / 2
    return FlagPath(scales, hits[cuts], cuts, int(np.isin(gold, positive).sum()), len(gold))


N_STEPS = 100  # cuts of a vote whose switch points have no closed form


def stepped_path(
    predict: Callable[[float], np.ndarray], scales: np.ndarray, gold: np.ndarray, positive: Sequence[int]
) -> FlagPath:
    """Return the cuts at some scales, by predicting at each of them.

    Args:
        predict: returns class indices (n_tweets,) given a log scale of the positive classes' weights.
        scales: (n_scales,) log scales at which some tweet's label may change; at most `N_STEPS` of them are tried.
    """
    shares = np.linspace(0, 1, N_STEPS) ** 2  # closer to each other where few tweets are flagged
    steps = np.unique(np.quantile(scales, shares, method="nearest"))
    scales = np.concatenate([[-FARTHEST], (steps[:-1] + steps[1:]) / 2, [FARTHEST]])
    predicted = np.stack([predict(scale) for scale in scales])
    is_flagged = np.isin(predicted, positive)
    hits = (is_flagged & (predicted == gold)).sum(axis=1)
    return FlagPath(scales, hits, is_flagged.sum(axis=1), int(np.isin(gold, positive).sum()), len(gold))


def cut_for_recall(path: FlagPath, bound: float) -> int:
    """Return the cut of highest precision whose recall on new tweets is the bound or more on average.

    With k of n positive tweets above a cut, the next one lies above it with probability k / (n + 1), as in split
    conformal prediction (Vovk et al. 2005); so k is the least with k / (n + 1) >= bound. Where n is too small for
    that, or a tweet's positive label is wrong at every cut, the cut with most hits is taken.
    """
    needed = min(math.ceil(bound * (path.n_gold + 1) - 1e-9), path.hits.max())
    precision = np.where(path.hits >= needed, path.hits / np.maximum(1, path.flagged), -1.0)
    return int(precision.argmax())


def cut_for_precision(path: FlagPath, bound: float) -> int:
    """Return the cut of highest recall whose precision is the bound or more, with one false tweet added.

    Without the added one, the luckiest of many cuts would be taken; see knockoff+ in Barber and Candes 2015. Where no
    cut has that precision, the most precise one is taken.
    """
    n_right = path.hits - 1
    precision = n_right / np.maximum(1, path.flagged)
    is_fit = precision >= bound
    if not is_fit.any():
        return int(precision.argmax())
    return int(np.where(is_fit, path.hits - path.flagged / (path.n_tweets + 1), -1.0).argmax())


def cut_for_flagged(path: FlagPath, bound: float) -> int:
    """Return the cut that flags most tweets, up to a share of them."""
    return int(np.flatnonzero(path.flagged <= bound * path.n_tweets).max())


CUTS: dict[str, Callable[[FlagPath, float], int]] = {
    "recall": cut_for_recall,
    "precision": cut_for_precision,
    "flagged": cut_for_flagged,
}


def scaled(weights: np.ndarray, positive: Sequence[int], scale: float) -> np.ndarray:
    """Return class weights (..., n_classes), geometric mean 1, with the positive ones times exp(scale)."""
    logs = np.log(weights)
    logs[..., list(positive)] += scale
    return np.exp(logs - logs.mean(axis=-1, keepdims=True))
