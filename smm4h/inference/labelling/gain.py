"""Expected gain of a tweet's label, from what the members of a finished job predict for the tweet."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from smm4h.models.label_spaces import ONE_LABEL, LabelSpace
from smm4h.models.predictors import EnsembleOutput


@dataclass(frozen=True)
class Signals:
    """What the gain is computed of, each (n_tweets,) from 0 to 1."""

    disagreement: np.ndarray  # of the members, see `disagreement`
    margin: np.ndarray  # to the decision: 0 on it, 1 as far from it as can be
    rare: np.ndarray  # probability of the rare labels together

    @classmethod
    def of_predictions(
        cls, members: np.ndarray, output: EnsembleOutput, positive: Sequence[int], space: LabelSpace = ONE_LABEL
    ) -> "Signals":
        """Return the signals of some tweets; of label sets, those of the label that tells most.

        Args:
            members: the members' probabilities (n_members, n_tweets, n_classes).
            output: the ensemble's, with the margin at its own decision.
            positive: indices of the rare labels.
            space: of the tweets' labels.
        """
        rare = output.probabilities[:, list(positive)]
        together = rare.sum(axis=1) if space.problem_type is None else rare.max(axis=1)
        by_decision = disagreement(space.to_decide(members)).reshape(len(rare), -1)
        return cls(by_decision.max(axis=1), np.clip(output.margin, 0.0, 1.0), together)

    @classmethod
    def joined(cls, parts: Sequence["Signals"]) -> "Signals":
        """Return the signals of several parts' tweets in 32 bits, so that a million tweets take 12 MB."""
        names = ("disagreement", "margin", "rare")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]).astype(np.float32) for name in names))


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy (...,) of probabilities (..., n_classes), in nats."""
    logs = np.log(np.clip(probabilities, np.finfo(np.float64).tiny, None))
    return -(probabilities * logs).sum(axis=-1)


def disagreement(members: np.ndarray) -> np.ndarray:
    """Return how far members (n_members, n_tweets, n_classes) disagree on each tweet, (n_tweets,) from 0 to 1.

    The Jensen-Shannon divergence of their probabilities, as a share of the largest that there can be. It is the mutual
    information between label and member, which Houlsby et al. 2011 ("Bayesian Active Learning for Classification",
    equation 2) label by; a single member disagrees with nobody.
    """
    members = np.asarray(members, dtype=np.float64)
    largest = np.log(min(members.shape[0], members.shape[2]))
    if largest == 0:
        return np.zeros(members.shape[1])
    divergence = entropy(members.mean(axis=0)) - entropy(members).mean(axis=0)
    return np.clip(divergence / largest, 0.0, 1.0)


def expected_gain(signals: Signals) -> np.ndarray:
    """Return the expected gain (n_tweets,) of each tweet's label, from 0 to 1.

    The mean of three ranks among all tweets: of the members' disagreement, of the closeness to the decision, and of the
    probability of the rare labels. Ranks, because the signals have no common scale. docs/rare-classes.md has what it
    finds.
    """
    ranks = [_shares(values) for values in (signals.disagreement, -signals.margin, signals.rare)]
    return np.mean(ranks, axis=0)


def _shares(values: np.ndarray) -> np.ndarray:
    """Return the share (n_tweets,) of the tweets that each one's value is at least as high as; ties count half."""
    return (rankdata(values, method="average") - 0.5) / max(1, len(values))
