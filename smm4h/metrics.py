"""Metrics of classification, as pure functions of confusion matrices, and bootstrap intervals.

A confusion matrix counts tweets, gold label by row, predicted label by column. Every metric takes a stack of matrices
(..., n_classes, n_classes), so that a bootstrap is one call. A ratio with a zero denominator is 0.0, as with
scikit-learn's `zero_division=0`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import numpy as np


def confusion_matrix(
    gold: np.ndarray, predicted: np.ndarray, n_classes: int, *, n_rows: int | None = None
) -> np.ndarray:
    """Return counts (n_rows, n_classes) of two arrays of class indices (n_tweets,).

    Args:
        gold: the tweets' rows; class indices, but for matrices of several groups, one below the other, see `Cells`.
        n_rows: by default n_classes.

    Raises:
        ValueError: where the arrays differ in length.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold labels, but {len(predicted)} predicted ones")
    n_rows = n_classes if n_rows is None else n_rows
    cells = np.asarray(gold, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=n_rows * n_classes).reshape(n_rows, n_classes)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide elementwise; 0.0 where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def precision(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Return the precision (...,), micro-averaged over the positive classes: share of predicted ones that is right."""
    return _ratio(confusion[..., positive, positive].sum(-1), confusion[..., :, positive].sum((-2, -1)))


def recall(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Return the recall (...,), micro-averaged over the positive classes: share of gold ones that is predicted."""
    return _ratio(confusion[..., positive, positive].sum(-1), confusion[..., positive, :].sum((-2, -1)))


def f1(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Return micro-averaged F1 (...,) over the positive classes, the official metric of SMM4H 2020 tasks 1, 2 and 5.

    Equals `sklearn.metrics.f1_score(labels=positive, average="micro", zero_division=0)`.
    """
    doubled_hits = 2 * confusion[..., positive, positive].sum(-1)
    return _ratio(doubled_hits, confusion[..., :, positive].sum((-2, -1)) + confusion[..., positive, :].sum((-2, -1)))


def f_beta(confusion: np.ndarray, positive: Sequence[int], *, beta: float) -> np.ndarray:
    """Return micro-averaged F-beta (...,) over the positive classes: recall counts beta times as much as precision.

    (1 + beta^2) P R / (beta^2 P + R), van Rijsbergen 1979.
    """
    hits = confusion[..., positive, positive].sum(-1)
    predicted, gold = confusion[..., :, positive].sum((-2, -1)), confusion[..., positive, :].sum((-2, -1))
    return _ratio((1 + beta**2) * hits, predicted + beta**2 * gold)


def saved_cost(confusion: np.ndarray, positive: Sequence[int], *, missed: float, false: float) -> np.ndarray:
    """Return minus the mean cost (...,) of a tweet, micro over the positive classes, so that higher is better.

    Args:
        missed: cost of a gold positive label that is not predicted.
        false: cost of a predicted positive label that is not the gold one.
    """
    hits = confusion[..., positive, positive].sum(-1)
    n_missed = confusion[..., positive, :].sum((-2, -1)) - hits
    n_false = confusion[..., :, positive].sum((-2, -1)) - hits
    return -_ratio(missed * n_missed + false * n_false, confusion.sum((-2, -1)))


def flagged(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Return the share (...,) of tweets that are predicted as one of the positive classes."""
    return _ratio(confusion[..., :, positive].sum((-2, -1)), confusion.sum((-2, -1)))


def macro_f1(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Return the mean (...,) of every class's F1; `positive` is ignored."""
    return macro_f1_positive(confusion, range(confusion.shape[-1]))


def macro_f1_positive(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Return the mean (...,) of the positive classes' F1.

    Equals `sklearn.metrics.f1_score(labels=positive, average="macro", zero_division=0)`.
    """
    return np.mean([f1(confusion, [label]) for label in positive], axis=0)


def accuracy(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
    """Return the share (...,) of tweets whose predicted label is the gold label; `positive` is ignored."""
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


Measure = Callable[[np.ndarray, Sequence[int]], np.ndarray]
MEASURES: dict[str, Measure] = {
    "f1": f1,
    "macro_f1": macro_f1,
    "macro_f1_positive": macro_f1_positive,
    "accuracy": accuracy,
}
OF_ALL_LABELS = ("macro_f1", "accuracy")  # measures that ignore which labels are positive


F_BETA = re.compile(r"f(\d+|\d*\.\d+)")  # f2, f0.5


def find_measure(name: str) -> Measure | None:
    """Return the metric of a name: a key of `MEASURES`, or F-beta by its beta, such as `f2`; None if there is none."""
    if name in MEASURES:
        return MEASURES[name]
    match = F_BETA.fullmatch(name)
    return partial(f_beta, beta=float(match[1])) if match and float(match[1]) > 0 else None  # a partial pickles


def mean_over_groups(measure: Measure) -> Measure:
    """Return a metric's mean over groups, a metric of matrices (..., n_groups * n_classes, n_classes); see `Cells`."""

    def mean(confusion: np.ndarray, positive: Sequence[int]) -> np.ndarray:
        n_classes = confusion.shape[-1]
        by_group = confusion.reshape(*confusion.shape[:-2], -1, n_classes, n_classes)
        return measure(by_group, positive).mean(axis=-1)

    return mean


def average_precision(scores: np.ndarray, is_right: np.ndarray) -> float:
    """Return the area under the precision-recall curve; 0.0 without a positive tweet.

    scikit-learn's `average_precision_score`, but for ties: equal scores count in the order given, not at one threshold.

    Args:
        scores: (n_tweets,) probabilities of one label.
        is_right: (n_tweets,) bool, whether the tweet has the label.
    """
    hits = is_right[np.argsort(-scores, kind="stable")]
    n_right = hits.sum()
    if n_right == 0:
        return 0.0
    ranks = np.flatnonzero(hits) + 1
    return float((np.arange(1, n_right + 1) / ranks).sum() / n_right)


def rare_average_precision(probabilities: np.ndarray, gold: np.ndarray, positive: Sequence[int]) -> float:
    """Return the average precision of the positive classes, pooled over tweets and classes; no threshold is involved.

    Args:
        probabilities: (n_tweets, n_classes).
        gold: (n_tweets,) class indices.
        positive: class indices.
    """
    classes = list(positive)
    return average_precision(probabilities[:, classes].ravel(), (gold[:, None] == np.array(classes)).ravel())


@dataclass(frozen=True)
class Cells:
    """Which tweets are scored, and in which row of a confusion matrix each of them is counted.

    The matrix has a row for each gold class; where a metric is averaged over groups, these rows for each group in turn.
    """

    kept: np.ndarray  # (n_tweets,) bool
    rows: np.ndarray  # (n_kept,)
    n_rows: int
    measure: Measure  # of matrices (..., n_rows, n_classes)


@dataclass(frozen=True)
class Objective:
    """What choices are optimised for, and what is scored: a metric over some positive classes.

    Args:
        averages_groups: whether the metric is the mean over groups, not of all tweets pooled.
        unscored: patterns of the names of groups whose tweets are not scored.
    """

    measure: Measure
    positive: tuple[int, ...]
    averages_groups: bool = False
    unscored: tuple[str, ...] = ()

    def is_scored(self, group: str) -> bool:
        """Return whether a group's tweets are scored; a tweet of no group is not, where groups are averaged."""
        return not any(fnmatchcase(group, pattern) for pattern in self.unscored) and not (
            self.averages_groups and not group
        )

    def cells(self, gold: np.ndarray, groups: np.ndarray | None, n_classes: int) -> Cells:
        """Return which tweets are scored, and the row in which each is counted.

        Args:
            gold: class indices (n_tweets,).
            groups: (n_tweets,) of strings; None: there are none.

        Raises:
            ValueError: where the metric is one of groups, and there are none.
        """
        if groups is None or not (self.averages_groups or self.unscored):
            if self.averages_groups:
                raise ValueError("the metric is a mean over groups, and the groups are not known")
            return Cells(np.ones(len(gold), dtype=bool), np.asarray(gold), n_classes, self.measure)
        names, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        scored = np.array([self.is_scored(name) for name in names], dtype=bool)
        kept = scored[numbers]
        if not self.averages_groups:
            return Cells(kept, gold[kept], n_classes, self.measure)
        rows = (np.cumsum(scored) - 1)[numbers[kept]] * n_classes + gold[kept]
        return Cells(kept, rows, max(1, int(scored.sum())) * n_classes, mean_over_groups(self.measure))

    def score(self, gold: np.ndarray, choices: np.ndarray, n_classes: int, groups: np.ndarray | None = None) -> float:
        """Return the metric of class indices (n_tweets,) against gold ones (n_tweets,)."""
        cells = self.cells(gold, groups, n_classes)
        confusion = confusion_matrix(cells.rows, choices[cells.kept], n_classes, n_rows=cells.n_rows)
        return float(cells.measure(confusion, self.positive))

    def compare(
        self, gold: np.ndarray, left: np.ndarray, right: np.ndarray, n_classes: int, groups: np.ndarray | None = None
    ) -> dict[str, float | list[float]]:
        """Return by how much `left` scores higher than `right`, class indices (n_tweets,); see `paired_bootstrap`."""
        cells = self.cells(gold, groups, n_classes)
        sample = cells.rows, left[cells.kept], right[cells.kept]
        return paired_bootstrap(*sample, n_classes, cells.measure, self.positive, n_rows=cells.n_rows)


def bootstrap_interval(
    confusion: np.ndarray,
    measure: Measure,
    positive: Sequence[int],
    *,
    level: float = 0.95,
    n_samples: int = 2000,
    seed: int = 42,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of a metric (Efron 1979), resampled over tweets.

    Drawing n tweets with replacement changes only how many fall into each cell of the confusion matrix, so the cells
    are drawn at once from their multinomial distribution. Without any tweet the interval is (0.0, 0.0).

    Args:
        confusion: (n_classes, n_classes), or as the metric takes it.
        level: coverage of the interval.
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
    left: np.ndarray,
    right: np.ndarray,
    n_classes: int,
    measure: Measure,
    positive: Sequence[int],
    *,
    n_rows: int | None = None,
    level: float = 0.95,
    n_samples: int = 2000,
    seed: int = 42,
) -> dict[str, float | list[float]]:
    """Return by how much `left` scores higher than `right` on the same tweets, with its interval and a two-sided p.

    Both are scored on the same bootstrap samples of tweets, so that what is easy or hard for both cancels out
    (Berg-Kirkpatrick et al. 2012). p is twice the share of samples on the wrong side of zero.

    Args:
        gold, left, right: (n_tweets,) class indices; of gold the rows of a matrix with `n_rows`, see `Cells`.
        level: coverage of the interval.

    Returns:
        `difference`, `interval` (low, high) and `p`.
    """
    shape = (n_classes if n_rows is None else n_rows, n_classes, n_classes)
    cells = np.bincount(np.ravel_multi_index((gold, left, right), shape), minlength=np.prod(shape))
    n_tweets = len(gold)
    drawn = np.random.default_rng(seed).multinomial(n_tweets, cells / n_tweets, size=n_samples).reshape(-1, *shape)

    def difference(counts: np.ndarray) -> np.ndarray:
        return measure(counts.sum(axis=-1), positive) - measure(counts.sum(axis=-2), positive)

    differences = difference(drawn)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    n_wrong = min((differences <= 0).sum(), (differences >= 0).sum())
    return {
        "difference": float(difference(cells.reshape(shape))),
        "interval": [float(low), float(high)],
        "p": float(min(1.0, 2 * (n_wrong + 1) / (n_samples + 1))),
    }


def sample_interval(hits: int, of: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) of the share of hits in another sample of the same size.

    Clopper & Pearson's interval (1934) holds the share among endlessly many tweets; this one holds what is found on as
    many new ones, and is wider by the chance of these: its ends are quantiles of the beta-binomial distributions whose
    beta parts have Clopper & Pearson's limits as quantiles. Without any tweet it is (0.0, 1.0).
    """
    from scipy.stats import betabinom  # here, because the import takes a second

    if of == 0:
        return 0.0, 1.0
    low = betabinom.ppf((1 - level) / 2, of, hits, of - hits + 1) if hits else 0
    high = betabinom.ppf((1 + level) / 2, of, hits + 1, of - hits) if hits < of else of
    return float(low / of), float(high / of)


def least_shown(of: int, *, level: float = 0.95) -> float:
    """Return the lower end of Clopper & Pearson's interval where all tweets are hits: the most that they can show."""
    return ((1 - level) / 2) ** (1 / of)


def precision_recall(scores: np.ndarray, is_right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return descending thresholds, and precision and recall of predicting the label from each threshold on.

    scikit-learn's `precision_recall_curve` without its last point, which has no threshold, and with recall 0.0 where no
    tweet has the label.

    Args:
        scores: (n_tweets,) probabilities of one label.
        is_right: (n_tweets,) bool, whether the tweet has the label.

    Returns:
        Three arrays (n_distinct_scores,).
    """
    from sklearn.metrics import precision_recall_curve  # here, because the import takes a second

    if not is_right.any():  # scikit-learn would warn and call the recall 1.0
        thresholds = np.unique(scores)[::-1]
        return thresholds, np.zeros(len(thresholds)), np.zeros(len(thresholds))
    precision, recall, thresholds = precision_recall_curve(is_right, scores)
    return thresholds[::-1], precision[-2::-1], recall[-2::-1]


def f1_of(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return the harmonic means (n,) of precision (n,) and recall (n,); 0 where both are 0."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def calibration(
    scores: np.ndarray, is_right: np.ndarray, n_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean probability, share of tweets with the label, and number of tweets by bin, (n_filled_bins,) each.

    Bins hold equally many tweets. Equal scores share a bin, so that there may be fewer than `n_bins`.

    Args:
        scores: (n_tweets,) probabilities of one label.
        is_right: (n_tweets,) bool, whether the tweet has the label.
    """
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, n_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, scores, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    means = np.bincount(bins, weights=scores, minlength=len(counts))
    hits = np.bincount(bins, weights=is_right.astype(float), minlength=len(counts))
    is_filled = counts > 0
    return means[is_filled] / counts[is_filled], hits[is_filled] / counts[is_filled], counts[is_filled]


def calibration_error(scores: np.ndarray, is_right: np.ndarray, n_bins: int = 10) -> float:
    """Return the expected calibration error (Naeini et al. 2015); bins hold equally many tweets."""
    means, hit_rates, counts = calibration(scores, is_right, n_bins)
    return float((np.abs(means - hit_rates) * counts).sum() / counts.sum())


def format_interval(interval: Sequence[float]) -> str:
    """Return an interval (low, high) as text, three decimals."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}"
