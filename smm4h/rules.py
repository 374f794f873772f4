"""How some members' probabilities become a label: a rule as it is stored, published and used. `combining` fits it."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from smm4h.voting import MEANS, decide, hard_vote, log_odds, softmax


@dataclass(frozen=True)
class Rule:
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

    def without_idle(self) -> "Rule":
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

    def choose(self, probabilities: np.ndarray) -> np.ndarray:
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
    def from_dict(cls, content: dict[str, Any]) -> "Rule":
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
