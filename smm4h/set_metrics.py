"""Metrics of label sets: micro and macro averages over labels, their intervals and comparisons.

Label sets are indicator matrices (n_tweets, n_labels) of 0 and 1, and what is counted are pairs of a tweet and a label.
Intervals come from samples of tweets, not of pairs: a tweet's labels are drawn together, or they would be too narrow.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smm4h.metrics import MEASURES, Measure, f1, find_measure, precision, recall

POOLED, OF_LABELS = "f1", ("macro_f1", "macro_f1_positive")  # micro F1, and the mean of the labels' F1
GIVEN_CLASS = (1,)  # of a pair: the label is given
AT_ONCE = 200  # bootstrap samples whose counts are held in memory together


def measure_of_pairs(name: str, of_labels: bool | None = None) -> tuple[Measure, bool] | None:
    """Return a measure of confusion matrices of pairs, and whether it is a mean over labels; None for no such one.

    Args:
        of_labels: the latter, whatever the name says.
    """
    is_mean = name in OF_LABELS if of_labels is None else of_labels
    if name in (POOLED, *OF_LABELS):
        return f1, is_mean
    measure = find_measure(name)
    return None if measure is None or name in MEASURES else (measure, is_mean)


def pair_counts(gold: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the confusion matrix (n_tweets, n_labels, 2, 2) of each pair alone."""
    return np.eye(4)[2 * gold + predicted].reshape(*gold.shape, 2, 2)


def resampled(
    sets: np.ndarray, count: Callable[[np.ndarray], np.ndarray], n_samples: int = 2000, seed: int = 42
) -> np.ndarray:
    """Return what bootstrap samples of tweets add up to, (n_samples, ...).

    Equal tweets are drawn together, from a multinomial distribution.

    Args:
        sets: (n_tweets, n_kinds, n_labels), such as gold and predicted labels.
        count: distinct tweets of these (n_distinct, n_kinds, n_labels) -> what each adds (n_distinct, ...).
    """
    distinct, n_each = np.unique(sets.astype(np.uint8), axis=0, return_counts=True)  # small, as rows are sorted
    counts, n_tweets, rng = count(distinct), int(n_each.sum()), np.random.default_rng(seed)
    flat, sums = counts.reshape(len(distinct), -1), []
    for start in range(0, n_samples, AT_ONCE):
        drawn = rng.multinomial(n_tweets, n_each / n_tweets, size=min(AT_ONCE, n_samples - start))
        sums.append(drawn.astype(float) @ flat)
    return np.concatenate(sums).reshape(n_samples, *counts.shape[1:])


def measured(confusion: np.ndarray, measure: Measure, of_labels: bool) -> np.ndarray:
    """Return a measure (...,) of confusion matrices (..., n_labels, 2, 2): of all pairs, or its mean over labels."""
    if of_labels:
        return measure(confusion, GIVEN_CLASS).mean(axis=-1)
    return measure(confusion.sum(axis=-3), GIVEN_CLASS)


def score_label_sets(
    labels: Sequence[str], gold: np.ndarray, predicted: np.ndarray, measure: str, further: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the scores of predicted label sets (n_tweets, n_labels), in the form of `Task.score` with groups.

    The groups are the labels, `pooled` is the micro average over pairs, `mean_over_groups` the macro average over
    labels; both equal scikit-learn's on indicator matrices with zero_division=0. `tweets` counts a label's gold ones.
    """
    total = pair_counts(gold, predicted).sum(axis=0)
    samples = np.zeros((1, *total.shape))
    if len(gold):
        samples = resampled(np.stack([gold, predicted], axis=1), lambda sets: pair_counts(*sets.swapaxes(0, 1)))

    def score(chosen: slice, of_labels: bool | None) -> dict[str, Any]:
        kind, pooled = measure_of_pairs(measure, of_labels), total[chosen].sum(axis=0)
        others = {name: measure_of_pairs(name, of_labels) for name in further}
        return {
            measure: float(measured(total[chosen], *kind)),
            "interval": _ends(measured(samples[:, chosen], *kind)),
            "precision": float(precision(pooled, GIVEN_CLASS)),
            "recall": float(recall(pooled, GIVEN_CLASS)),
            **{name: float(measured(total[chosen], *other)) for name, other in others.items()},
            "confusion": pooled.astype(int).tolist(),
        }

    n_gold = total[:, 1].sum(axis=1).astype(int).tolist()
    by_label = {
        label: {**score(slice(i, i + 1), False), "tweets": n_gold[i], "scored": True} for i, label in enumerate(labels)
    }
    whole, everything = {"pooled": False, "mean_over_groups": True}, slice(None)
    parts = {key: score(everything, of_labels) for key, of_labels in whole.items()}
    return {**score(everything, None), **parts, "groups": by_label}


def _ends(scores: np.ndarray) -> list[float]:
    """Return the ends of the 95 % percentile interval."""
    return [float(end) for end in np.quantile(scores, [0.025, 0.975])]


def compare_label_sets(
    gold: np.ndarray, left: np.ndarray, right: np.ndarray, measure: str
) -> dict[str, float | list[float]]:
    """Return by how much `left` scores higher than `right`, with interval and p, as `metrics.paired_bootstrap` does.

    Args:
        gold, left, right: (n_tweets, n_labels).
    """
    kind = measure_of_pairs(measure)

    def count(sets: np.ndarray) -> np.ndarray:
        """Return both sides' confusion matrices (n_tweets, 2, n_labels, 2, 2)."""
        return np.stack([pair_counts(sets[:, 0], sets[:, side]) for side in (1, 2)], axis=1)

    sets = np.stack([gold, left, right], axis=1)
    of_sides, samples = measured(count(sets).sum(axis=0), *kind), measured(resampled(sets, count), *kind)
    differences = samples[:, 0] - samples[:, 1]
    n_wrong = min((differences <= 0).sum(), (differences >= 0).sum())
    return {
        "difference": float(of_sides[0] - of_sides[1]),
        "interval": _ends(differences),
        "p": float(min(1.0, 2 * (n_wrong + 1) / (len(differences) + 1))),
    }
