"""Curves of probabilities against gold labels: pure functions, arrays in, arrays out."""

import numpy as np


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
