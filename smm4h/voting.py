"""Votes and ties: class indices or probabilities in, class indices out."""

from collections.abc import Sequence

import numpy as np

SMALLEST = 1e-6  # no probability counts as less, before a logarithm
TIES = ("probability", "lowest")


def decide(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The class (n_tweets,) of the highest weighted probability (n_tweets, n_classes); weights of 1 are argmax."""
    return (probabilities * weights).argmax(axis=1)


def mean_probabilities(probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over voters (n_voters, n_tweets, n_classes), summed in float64 so that the order can't show."""
    return np.average(np.asarray(probabilities, dtype=np.float64), axis=0, weights=weights)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities (..., n_classes), with mean 0 over the classes."""
    logs = np.log(np.clip(probabilities, SMALLEST, None).astype(np.float64))
    return logs - logs.mean(axis=-1, keepdims=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (..., n_classes) of logits."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def mean_log_odds(probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Probabilities (n_tweets, n_classes) whose log odds are the mean over voters (n_voters, n_tweets, n_classes).

    The mean of several models says "unlikely" about as often as each of them does; the mean of their probabilities is
    drawn towards the middle, where a cut that was tuned on single models no longer fits.
    """
    return softmax(np.average(log_odds(probabilities), axis=0, weights=weights))


MEANS = {"probability": mean_probabilities, "log_odds": mean_log_odds}


def mean_of_models(mean: str, probabilities: Sequence[np.ndarray], refitted: Sequence[bool]) -> np.ndarray:
    """A member's probabilities (n_tweets, n_classes), the mean over its models', (n_tweets, n_classes) each.

    A model that was `refitted` counts as much as all folds' together; where all are of one kind, all count the same.
    """
    is_refit = np.asarray(refitted, dtype=bool)
    weights = None
    if is_refit.any() and not is_refit.all():
        weights = np.where(is_refit, 0.5 / is_refit.sum(), 0.5 / (~is_refit).sum())
    return MEANS[mean](np.stack(probabilities), weights)


def count_ballots(ballots: np.ndarray, n_classes: int) -> np.ndarray:
    """How many of the ballots (n_voters, n_tweets), each a class index, name each class: (n_tweets, n_classes)."""
    n_tweets = ballots.shape[1]
    cells = ballots + np.arange(n_tweets) * n_classes
    return np.bincount(cells.ravel(), minlength=n_tweets * n_classes).reshape(n_tweets, n_classes)


def tied(counts: np.ndarray) -> np.ndarray:
    """Which classes (n_tweets, n_classes) share a tweet's highest count; a tie where more than one does."""
    return counts == counts.max(axis=1, keepdims=True)


def hard_vote(ballots: np.ndarray, n_classes: int, probabilities: np.ndarray | None = None) -> np.ndarray:
    """The class (n_tweets,) that most ballots (n_voters, n_tweets) name.

    A tie goes to the tied class of the highest mean probability (n_tweets, n_classes), or to the lowest class index
    where no probabilities are given (the rule of Bai & Zhou's published code).
    """
    leading = tied(count_ballots(ballots, n_classes))
    if probabilities is None:
        return leading.argmax(axis=1)
    return np.where(leading, probabilities, -1.0).argmax(axis=1)


def soft_vote(probabilities: np.ndarray) -> np.ndarray:
    """The class (n_tweets,) of the highest mean probability over voters (n_voters, n_tweets, n_classes)."""
    return mean_probabilities(probabilities).argmax(axis=1)
