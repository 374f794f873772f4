"""The measures: pure functions of confusion matrices.

A confusion matrix counts tweets, gold label by row, predicted label by column; every function takes a stack of them,
(..., n_classes, n_classes), so that a bootstrap is one call. Where nothing is predicted or nothing is there to be
found, a ratio is 0.0, as with scikit-learn's `zero_division=0`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


def confusion_matrix(gold: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (n_classes, n_classes) of two arrays of class indices (n_tweets,)."""
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold labels, but {len(predicted)} predicted ones")
    cells = np.asarray(gold, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def precision(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Micro-averaged over the positive classes: of the tweets predicted so, the share that are."""
    return _ratio(confusion[..., positive, positive].sum(-1), confusion[..., :, positive].sum((-2, -1)))


def recall(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Micro-averaged over the positive classes: of the tweets that are so, the share found."""
    return _ratio(confusion[..., positive, positive].sum(-1), confusion[..., positive, :].sum((-2, -1)))


def f1(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Micro-averaged F1 over the positive classes, the official measure of SMM4H 2020 tasks 1, 2 and 5.

    The same as `sklearn.metrics.f1_score(labels=positive, average="micro", zero_division=0)`.
    """
    found = 2 * confusion[..., positive, positive].sum(-1)
    return _ratio(found, confusion[..., :, positive].sum((-2, -1)) + confusion[..., positive, :].sum((-2, -1)))


def macro_f1(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Mean of every class's F1; `positive` plays no part."""
    each = [f1(confusion, [label]) for label in range(confusion.shape[-1])]
    return np.mean(each, axis=0)


def accuracy(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Share of tweets whose label is right; `positive` plays no part."""
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


Measure = Callable[[np.ndarray, Sequence[int]], np.ndarray]
MEASURES: dict[str, Measure] = {"f1": f1, "macro_f1": macro_f1, "accuracy": accuracy}


def average_precision(scores: np.ndarray, is_right: np.ndarray) -> float:
    """Area under the precision-recall curve, as scikit-learn's `average_precision_score`, but for the order of ties."""
    hits = is_right[np.argsort(-scores, kind="stable")]
    n_right = hits.sum()
    if n_right == 0:
        return 0.0
    places = np.flatnonzero(hits) + 1
    return float((np.arange(1, n_right + 1) / places).sum() / n_right)


def rare_average_precision(probabilities: np.ndarray, gold: np.ndarray, positive: Sequence[int]) -> float:
    """Average precision of the positive classes, pooled, of probabilities (n_tweets, n_classes): without any cut."""
    classes = list(positive)
    return average_precision(probabilities[:, classes].ravel(), (gold[:, None] == np.array(classes)).ravel())


@dataclass(frozen=True)
class Objective:
    """What choices are made for: a measure about some positive classes."""

    measure: Measure
    positive: tuple[int, ...]

    def score(self, gold: np.ndarray, choices: np.ndarray, n_classes: int) -> float:
        """The measure of class indices (n_tweets,)."""
        return float(self.measure(confusion_matrix(gold, choices, n_classes), self.positive))


def bootstrap_interval(
    confusion: np.ndarray,
    measure: Measure,
    positive: Sequence[int],
    *,
    level: float = 0.95,
    n_samples: int = 2000,
    seed: int = 42,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a measure (Efron 1979), drawn over tweets.

    Drawing n tweets with replacement changes only how many fall into each cell of the confusion matrix, so the cells
    are drawn at once from their multinomial distribution.
    """
    n_tweets = int(confusion.sum())
    if n_tweets == 0:
        return 0.0, 0.0
    drawn = np.random.default_rng(seed).multinomial(n_tweets, confusion.ravel() / n_tweets, size=n_samples)
    scores = measure(drawn.reshape(n_samples, *confusion.shape), positive)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap(
    gold: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    n_classes: int,
    measure: Measure,
    positive: Sequence[int],
    *,
    level: float = 0.95,
    n_samples: int = 2000,
    seed: int = 42,
) -> dict[str, float | list[float]]:
    """How much higher `one` (n_tweets,) scores than `other` on the same tweets, its interval, and a two-sided p.

    Both are scored on the same bootstrap samples of tweets, so that what is easy or hard for both cancels out
    (Berg-Kirkpatrick et al. 2012). p is twice the share of samples on the wrong side of zero.
    """
    shape = (n_classes, n_classes, n_classes)
    cells = np.bincount(np.ravel_multi_index((gold, one, other), shape), minlength=np.prod(shape))
    n_tweets = len(gold)
    drawn = np.random.default_rng(seed).multinomial(n_tweets, cells / n_tweets, size=n_samples).reshape(-1, *shape)

    def difference(counts: np.ndarray) -> np.ndarray:
        return measure(counts.sum(axis=-1), positive) - measure(counts.sum(axis=-2), positive)

    differences = difference(drawn)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    wrong = min((differences <= 0).sum(), (differences >= 0).sum())
    return {
        "difference": float(difference(cells.reshape(shape))),
        "interval": [float(low), float(high)],
        "p": float(min(1.0, 2 * (wrong + 1) / (n_samples + 1))),
    }


def precision_recall(scores: np.ndarray, is_right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts, descending, and precision and recall when all tweets from each cut on are called right.

    Args:
        scores: (n_tweets,) probabilities of one label.
        is_right: (n_tweets,) whether it is theirs.

    Returns three arrays (n_distinct_scores,).
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], is_right[order].cumsum()
    last = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True))  # no cut between equal scores
    found, n_right = hits[last], max(1, int(is_right.sum()))
    return sorted_scores[last], found / (last + 1), found / n_right


def f1_of(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Their harmonic means; 0 where both are."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def calibration(
    scores: np.ndarray, is_right: np.ndarray, n_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share that is right, and number of tweets of each bin; bins hold equally many tweets.

    Ties stay in one bin, so that there may be fewer than `n_bins`.
    """
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, n_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, scores, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    means = np.bincount(bins, weights=scores, minlength=len(counts))
    right = np.bincount(bins, weights=is_right.astype(float), minlength=len(counts))
    kept = counts > 0
    return means[kept] / counts[kept], right[kept] / counts[kept], counts[kept]


def calibration_error(scores: np.ndarray, is_right: np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015), over bins of equally many tweets."""
    means, right, counts = calibration(scores, is_right, n_bins)
    return float((np.abs(means - right) * counts).sum() / counts.sum())


def format_interval(interval: Sequence[float]) -> str:
    """An interval in words."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}"
