"""Votes over members' probabilities: methods, ties, decisions, and the rule as it is stored and published."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

SMALLEST = 1e-6  # probabilities are clipped from below before a logarithm
TIES = ("probability", "lowest")


@dataclass(frozen=True)
class VotingMethod:
    """A way to combine members' predictions; the texts appear in a flag's help and in the report."""

    summary: str
    description: str
    is_fitted: bool = False  # on out-of-fold predictions, by a function in `ensemble.fitting.FITTERS`


METHODS: dict[str, VotingMethod] = {
    "hard": VotingMethod("most votes", "each member names a label, the label that most of them name wins"),
    "soft": VotingMethod("mean probability", "the mean over the members"),
    "weighted": VotingMethod(
        "by score", "the mean over the calibrated members, weighted by their scores", is_fitted=True
    ),
    "greedy": VotingMethod(
        "bagged selection",
        "the mean over calibrated members, weighted by a bagged greedy selection",
        is_fitted=True,
    ),
    "stacked": VotingMethod(
        "logistic regression", "a regularised logistic regression over the calibrated members", is_fitted=True
    ),
}


def decide(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the class (n_tweets,) of the highest probability (n_tweets, n_classes) times class weight.

    Args:
        weights: (n_classes,), or (n_tweets, n_classes) for tweets whose groups have cuts of their own.
    """
    return (probabilities * weights).argmax(axis=1)


def mean_probabilities(probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the mean over members of (n_members, n_tweets, n_classes).

    Summed in float64, so that the order of members does not change the result.
    """
    return np.average(np.asarray(probabilities, dtype=np.float64), axis=0, weights=weights)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return the logarithms of probabilities (..., n_classes), centred to mean 0 over the classes."""
    logs = np.log(np.clip(probabilities, SMALLEST, None).astype(np.float64))
    return logs - logs.mean(axis=-1, keepdims=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (..., n_classes) of logits."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def mean_log_odds(probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return probabilities (n_tweets, n_classes) with the mean log odds over members (n_members, n_tweets, n_classes).

    The mean of log odds says "unlikely" about as often as each model does; the mean of probabilities is drawn towards
    the middle, where a threshold that was tuned on single models no longer fits.
    """
    return softmax(np.average(log_odds(probabilities), axis=0, weights=weights))


MEANS = {"probability": mean_probabilities, "log_odds": mean_log_odds}


def mean_of_models(mean: str, probabilities: Sequence[np.ndarray], refitted: Sequence[bool]) -> np.ndarray:
    """Return a member's probabilities (n_tweets, n_classes), the mean over its models' (n_tweets, n_classes).

    Args:
        mean: a key of `MEANS`.
        refitted: of each model, whether it was trained on all labelled tweets. Refitted models together count as much
            as all folds' models together; models of one kind only count equally.
    """
    is_refit = np.asarray(refitted, dtype=bool)
    weights = None
    if is_refit.any() and not is_refit.all():
        weights = np.where(is_refit, 0.5 / is_refit.sum(), 0.5 / (~is_refit).sum())
    return MEANS[mean](np.stack(probabilities), weights)


def count_votes(votes: np.ndarray, n_classes: int) -> np.ndarray:
    """Return how many of the votes (n_members, n_tweets), class indices, each class has: (n_tweets, n_classes)."""
    n_tweets = votes.shape[1]
    cells = votes + np.arange(n_tweets) * n_classes
    return np.bincount(cells.ravel(), minlength=n_tweets * n_classes).reshape(n_tweets, n_classes)


def tied(counts: np.ndarray) -> np.ndarray:
    """Return which classes (n_tweets, n_classes) share a tweet's highest count; several of them are a tie."""
    return counts == counts.max(axis=1, keepdims=True)


def hard_vote(votes: np.ndarray, n_classes: int, probabilities: np.ndarray | None = None) -> np.ndarray:
    """Return the class (n_tweets,) with the most votes (n_members, n_tweets).

    A tie goes to the tied class of the highest mean probability (n_tweets, n_classes), or to the lowest class index
    where no probabilities are given (the rule of Bai & Zhou's published code).
    """
    leading = tied(count_votes(votes, n_classes))
    if probabilities is None:
        return leading.argmax(axis=1)
    return np.where(leading, probabilities, -1.0).argmax(axis=1)


def soft_vote(probabilities: np.ndarray) -> np.ndarray:
    """Return the class (n_tweets,) of the highest mean probability over members (n_members, n_tweets, n_classes)."""
    return mean_probabilities(probabilities).argmax(axis=1)


def binary_threshold(weights: np.ndarray) -> float:
    """Return the probability from which the second of two classes is predicted, given class weights (2,)."""
    return float(weights[0] / weights.sum())


@dataclass(frozen=True)
class VotingRule:
    """How members' probabilities become a label.

    Args:
        method: `hard`: most votes; `soft`: mean; `weighted`, `greedy`: weighted mean of the calibrated members;
            `stacked`: logistic regression over them.
        members: their names, in the order in which probabilities are given.
        ties: what decides a hard vote's tie, one of `TIES`, see `hard_vote`.
        mean: what the mean over models is taken of, `probability` or `log_odds`, see `mean_log_odds`.
        decision: (1, n_classes) class weights, see `decide`; of a hard vote (n_members, n_classes).
        weights: (n_members,) for the weighted mean; 0 leaves a member out.
        calibration: (n_members, n_classes, n_classes + 1), see `calibrate`; None: none.
        stack: (n_classes, n_members * n_classes + 1) coefficients and, last, intercepts of the logistic regression.
        cuts: by group, class weights of the shape of `decision` for that group's tweets; a tweet of any other group, or
            of none, is decided by `decision`. None: one decision for all tweets.
        chosen: how the class weights were chosen, in words that complete "a probability of 0.3, ...".
        by_hand: whether the user set the class weights, which are then used as they stand.
        refits_alone: whether a member predicts new tweets by its model of all labelled tweets alone, not by the mean of
            that and of its folds' models.
    """

    method: str
    members: list[str]
    ties: str
    mean: str
    decision: np.ndarray
    weights: np.ndarray | None = None
    calibration: np.ndarray | None = None
    stack: np.ndarray | None = None
    cuts: dict[str, np.ndarray] | None = None
    chosen: str = "tuned out of fold for the measure"
    by_hand: bool = False
    refits_alone: bool = False

    @property
    def is_argmax(self) -> bool:
        """Whether all class weights are 1, so that the highest probability decides."""
        return bool((self.decision == 1).all()) and not self.cuts

    @property
    def moves_for_means(self) -> bool:
        """Whether the decision is moved where members are means over models, see `adjust_for_averaging`."""
        return not (self.is_argmax or self.by_hand or self.refits_alone)

    def weights_of(self, groups: Sequence[str] | None) -> np.ndarray:
        """Return the class weights (n_rows, n_tweets, n_classes) for tweets of these groups, n_rows as `decision` has.

        Where all tweets are decided alike, n_tweets is 1.

        Args:
            groups: (n_tweets,) or None: not known.
        """
        if not self.cuts or groups is None:
            return self.decision[:, None]
        number = {group: index for index, group in enumerate(self.cuts, start=1)}
        of_groups = np.stack([self.decision, *self.cuts.values()], axis=1)
        return of_groups[:, [number.get(group, 0) for group in groups]]

    def drop_zero_weight(self) -> "VotingRule":
        """Return the rule without the members whose weight is 0, so that their predictions need not be computed."""
        if self.weights is None or (self.weights > 0).all():
            return self
        kept = np.flatnonzero(self.weights > 0)
        return replace(
            self,
            members=[self.members[index] for index in kept],
            weights=self.weights[kept],
            calibration=self.calibration[kept],
        )

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes) from the members' (n_members, n_tweets, n_classes)."""
        if self.calibration is not None:
            probabilities = calibrate(probabilities, self.calibration)
        if self.method == "stacked":
            return softmax(stack_features(probabilities) @ self.stack[:, :-1].T + self.stack[:, -1])
        return MEANS[self.mean](probabilities, self.weights)

    def predict(self, probabilities: np.ndarray, groups: Sequence[str] | None = None) -> np.ndarray:
        """Return the class (n_tweets,) from the members' probabilities (n_members, n_tweets, n_classes).

        Args:
            groups: (n_tweets,) of the tweets, for a rule with `cuts`.
        """
        weights = self.weights_of(groups)
        if self.method != "hard":
            return decide(self.combine(probabilities), weights[0])
        weighted = probabilities * weights
        means = MEANS[self.mean](weighted / weighted.sum(axis=2, keepdims=True))
        votes, n_classes = weighted.argmax(axis=2), probabilities.shape[2]
        return hard_vote(votes, n_classes, means if self.ties == "probability" else None)

    def describe(self, labels: Sequence[str], *, has_refits: bool = False) -> str:
        """Return a text on how the members' probabilities become a label.

        Args:
            labels: the names of the classes.
            has_refits: whether some members have models that were refitted to all labelled tweets.
        """
        mean = "log odds" if self.mean == "log_odds" else "probabilities"
        alone = "Of each member that was trained, the model of all labelled tweets votes alone"
        models = alone if self.refits_alone else "A member's folds count as their mean"
        text = f"{METHODS[self.method].description}. {models}; means are of {mean}. "
        if has_refits and not self.refits_alone:
            text += "A model that was refitted to all labelled tweets counts as much as its member's folds together. "
        if self.is_argmax:
            text += "The highest probability decides. "
        elif len(labels) == 2:
            cutoffs = [binary_threshold(weights) for weights in self.decision]
            shown = f"{cutoffs[0]:.3g}" if len(cutoffs) == 1 else f"{min(cutoffs):.3g} to {max(cutoffs):.3g}, by member"
            text += f"{labels[1]} is given from a probability of {shown} on, {self.chosen}. "
        else:
            weights = np.exp(np.log(self.decision).mean(axis=0))
            listed = ", ".join(f"{label}: {weight:.3g}" for label, weight in zip(labels, weights, strict=True))
            text += f"The highest weighted probability decides, {self.chosen}; weights: {listed}. "
        if self.cuts:
            text += f"{self._describe_cuts(labels)} "
        if self.method == "hard":
            ties = "the higher mean probability" if self.ties == "probability" else "the first label"
            text += f"Ties go to {ties}."
        if self.weights is not None:
            shares = ", ".join(f"{n} {w:.2f}" for n, w in zip(self.members, self.weights, strict=True) if w > 0)
            text += f"Weights: {shares}."
        return text.strip()

    def _describe_cuts(self, labels: Sequence[str]) -> str:
        """Return a sentence on the groups' own decisions."""
        shown = []
        for group, decision in self.cuts.items():
            weights = np.exp(np.log(decision).mean(axis=0))
            of_labels = (f"{label}: {weight:.3g}" for label, weight in zip(labels, weights, strict=True))
            cut = f"{binary_threshold(weights):.3g}" if len(labels) == 2 else f"({', '.join(of_labels)})"
            shown.append(f"{group} {cut}")
        return f"Groups with a cut of their own: {', '.join(shown)}."

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as a dict for JSON; a rule without cuts by group, or for all models, has no key for them."""
        content = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}
        cuts = content.pop("cuts")
        if not self.refits_alone:
            del content["refits_alone"]
        return {**content, "cuts": {group: cut.tolist() for group, cut in cuts.items()}} if cuts else content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "VotingRule":
        """Return the rule of a dict from `to_dict`."""
        arrays = ("decision", "weights", "calibration", "stack")
        rule = cls(**{k: np.array(v) if k in arrays and v is not None else v for k, v in content.items()})
        return replace(rule, cuts={k: np.array(v) for k, v in rule.cuts.items()}) if rule.cuts else rule


def calibrate(probabilities: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Return the members' probabilities (n_members, n_tweets, n_classes) after a linear map of their log odds.

    Args:
        calibration: (n_members, n_classes, n_classes + 1), the maps' matrices and, in the last column, biases.
    """
    logits = np.einsum("mtk,mck->mtc", log_odds(probabilities), calibration[:, :, :-1])
    return softmax(logits + calibration[:, None, :, -1])


def stack_features(probabilities: np.ndarray) -> np.ndarray:
    """Return stacking's features (n_tweets, n_members * n_classes) from probabilities (n_members, n_tweets, n_classes).

    They are the mean log odds times 10, and the difference from the mean of each member but the first. The factor
    makes a penalty on coefficients pull towards the plain mean, not towards zero.
    """
    logits = log_odds(probabilities)
    mean = logits.mean(axis=0)
    differences = (logits - mean)[1:].transpose(1, 0, 2).reshape(len(mean), -1)
    return np.column_stack([10.0 * mean, differences])
