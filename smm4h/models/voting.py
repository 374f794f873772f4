"""Votes over members' probabilities: methods, ties, decisions, and the rule as it is stored and published."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

SMALLEST = 1e-6  # no probability counts as less, before a logarithm
TIES = ("probability", "lowest")


def decide(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The class (n_tweets,) of the highest weighted probability (n_tweets, n_classes); weights of 1 are argmax."""
    return (probabilities * weights).argmax(axis=1)


def mean_probabilities(probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over members (n_voters, n_tweets, n_classes), summed in float64 so that the order can't show."""
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
    """Probabilities (n_tweets, n_classes) whose log odds are the mean over members (n_voters, n_tweets, n_classes).

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


def count_votes(ballots: np.ndarray, n_classes: int) -> np.ndarray:
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
    leading = tied(count_votes(ballots, n_classes))
    if probabilities is None:
        return leading.argmax(axis=1)
    return np.where(leading, probabilities, -1.0).argmax(axis=1)


def soft_vote(probabilities: np.ndarray) -> np.ndarray:
    """The class (n_tweets,) of the highest mean probability over members (n_voters, n_tweets, n_classes)."""
    return mean_probabilities(probabilities).argmax(axis=1)


FITTED = ("weighted", "greedy", "stacked")
METHODS = ("hard", "soft", *FITTED)
DECISIONS = ("argmax", "tuned")


def binary_threshold(weights: np.ndarray) -> float:
    """The probability of the second of two classes from which it is chosen."""
    return float(weights[0] / weights.sum())


@dataclass(frozen=True)
class VotingRule:
    """How some members' probabilities become a label.

    Args:
        method: `hard`: most ballots; `soft`: mean; `weighted`, `greedy`: weighted mean of the calibrated members;
            `stacked`: logistic regression over them.
        members: their names, in the order in which probabilities are given.
        ties: who wins a hard vote's tie, see `voting.hard_vote`.
        weights: (n_members,) for the weighted mean; one that is 0 leaves a member out.
        calibration: (n_members, n_classes, n_classes + 1) of each member, see `calibrate`; None: none.
        stack: (n_classes, n_members * n_classes + 1) coefficients and, last, intercepts of the logistic regression.
        mean: of what the mean over models is taken, `probability` or `log_odds`, see `voting.mean_log_odds`.
        decision: (1, n_classes) class weights, see `voting.decide`; of a hard vote (n_members, n_classes).
    """

    method: str
    members: list[str]
    ties: str
    mean: str
    decision: np.ndarray
    weights: np.ndarray | None = None
    calibration: np.ndarray | None = None
    stack: np.ndarray | None = None

    @property
    def is_argmax(self) -> bool:
        """Whether no class counts more than another."""
        return bool((self.decision == 1).all())

    @property
    def counted(self) -> list[int]:
        """Places of the members that are not left out by a weight of 0."""
        return [place for place in range(len(self.members)) if self.weights is None or self.weights[place] > 0]

    def drop_zero_weight(self) -> "VotingRule":
        """The same rule of the members that count, for whom nothing has to be computed."""
        if len(self.counted) == len(self.members):
            return self
        kept = {"members": [self.members[place] for place in self.counted], "weights": self.weights[self.counted]}
        return replace(self, **kept, calibration=self.calibration[self.counted])

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        """One probability a class (n_tweets, n_classes), of the members' (n_members, n_tweets, n_classes)."""
        if self.calibration is not None:
            probabilities = calibrate(probabilities, self.calibration)
        if self.method == "stacked":
            return softmax(stack_features(probabilities) @ self.stack[:, :-1].T + self.stack[:, -1])
        return MEANS[self.mean](probabilities, self.weights)

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        """The class (n_tweets,) of each tweet, of the members' probabilities (n_members, n_tweets, n_classes)."""
        if self.method != "hard":
            return decide(self.combine(probabilities), self.decision[0])
        weighted = probabilities * self.decision[:, None, :]
        means = MEANS[self.mean](weighted / weighted.sum(axis=2, keepdims=True))
        ballots, n_classes = weighted.argmax(axis=2), probabilities.shape[2]
        return hard_vote(ballots, n_classes, means if self.ties == "probability" else None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "VotingRule":
        arrays = ("decision", "weights", "calibration", "stack")
        return cls(**{k: np.array(v) if k in arrays and v is not None else v for k, v in content.items()})


def calibrate(probabilities: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """The members' probabilities (n_members, n_tweets, n_classes) as `fit_calibration` would have them."""
    logits = np.einsum("mtk,mck->mtc", log_odds(probabilities), calibration[:, :, :-1])
    return softmax(logits + calibration[:, None, :, -1])


def stack_features(probabilities: np.ndarray) -> np.ndarray:
    """Features (n_tweets, n_members * n_classes): the mean log probabilities, large, then each member's difference.

    A penalty on coefficients then pulls towards the plain mean, not towards nothing.
    """
    logits = log_odds(probabilities)
    mean = logits.mean(axis=0)
    differences = (logits - mean)[1:].transpose(1, 0, 2).reshape(len(mean), -1)
    return np.column_stack([10.0 * mean, differences])
