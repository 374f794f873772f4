"""Fit voting rules, which combine members' probabilities into labels, on out-of-fold probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from smm4h.config.arguments import JobSettings
from smm4h.config.task import Task
from smm4h.ensemble.thresholds import (
    N_SAMPLES,
    class_shares,
    match_class_shares,
    tune_class_weights,
    tune_group_cuts,
)
from smm4h.metrics import Objective, average_precision
from smm4h.models import voting
from smm4h.models.voting import METHODS, VotingRule, calibrate, decide, stack_features

BAGS, BAG_SHARE, GREEDY_STEPS = 20, 0.5, 20  # Caruana et al. 2004, section 2.3
FEWEST_ADJUSTED = 20  # tweets of a group on which its cut is adjusted
RIDGE = 1.0  # inverse strength of calibration's L2 penalty, scikit-learn's C


def fit_rule(
    probabilities: np.ndarray,
    gold: np.ndarray,
    members: Sequence[str],
    objective: Objective,
    *,
    method: str,
    decision: str,
    ties: str = "probability",
    n_samples: int = N_SAMPLES,
    groups: np.ndarray | None = None,
    cut_groups: Sequence[str] = (),
) -> VotingRule:
    """Fit a voting rule to gold class indices (n_tweets,).

    Args:
        probabilities: (n_members, n_tweets, n_classes), out of fold.
        members: their names.
        objective: what decisions and greedy selections maximise.
        method: a key of `voting.METHODS`.
        decision: `argmax`, or `tuned` class weights.
        ties: how a hard vote breaks ties, see `voting.hard_vote`.
        n_samples: bootstrap samples for each tuned decision, and bags of a greedy selection up to `BAGS`.
        groups: (n_tweets,) of strings; needed where the metric is one of groups.
        cut_groups: groups that get a tuned decision of their own.
    """
    n_members, _, n_classes = probabilities.shape
    mean = "probability" if decision == "argmax" and not METHODS[method].is_fitted else "log_odds"
    rule = VotingRule(method, list(members), ties, mean, np.ones((n_members if method == "hard" else 1, n_classes)))
    if METHODS[method].is_fitted:
        rule = replace(rule, calibration=fit_calibration(probabilities, gold))
        calibrated = calibrate(probabilities, rule.calibration)
        rule = replace(rule, **FITTERS[method](calibrated, gold, objective, n_samples, groups))
    if decision == "argmax":
        return rule
    parts = probabilities if method == "hard" else [rule.combine(probabilities)]
    tuned = [tune_decision(part, gold, objective, n_samples, groups) for part in parts]
    rule = replace(rule, decision=np.stack(tuned))
    if not cut_groups:
        return rule
    cuts = [
        tune_cuts(part, gold, objective, n_samples, groups, cut_groups, weights)
        for part, weights in zip(parts, tuned, strict=True)
    ]
    return replace(rule, cuts={name: np.stack([of_part[name] for of_part in cuts]) for name in cut_groups})


def tune_decision(
    probabilities: np.ndarray, gold: np.ndarray, objective: Objective, n_samples: int, groups: np.ndarray | None
) -> np.ndarray:
    """Return one decision's class weights (n_classes,), tuned on the tweets that are scored; see `fit_rule`."""
    cells = objective.cells(gold, groups, probabilities.shape[1])
    sample = probabilities[cells.kept], gold[cells.kept]
    return tune_class_weights(*sample, cells.measure, objective.positive, n_samples=n_samples, rows=cells.rows)


def tune_cuts(
    probabilities: np.ndarray,
    gold: np.ndarray,
    objective: Objective,
    n_samples: int,
    groups: np.ndarray,
    cut_groups: Sequence[str],
    decision: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the class weights (n_classes,) of `cut_groups`, where all other tweets have those of `decision`."""

    def tune(part: np.ndarray, labels: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
        return tune_class_weights(part, labels, objective.measure, objective.positive, n_samples=n_samples, rest=rest)

    kept = objective.cells(gold, groups, probabilities.shape[1]).kept
    sample = probabilities[kept], gold[kept], groups[kept]
    return tune_group_cuts(*sample, cut_groups, decision, tune, pooled=not objective.averages_groups)


def adjust_for_averaging(
    rule: VotingRule, folds: np.ndarray, means: np.ndarray, groups: np.ndarray | None = None
) -> VotingRule:
    """Return a rule fitted on single folds' probabilities, adjusted for members that are means over their runs.

    Held-out tweets are predicted by one fold's model, new tweets by the mean of all models. A mean of models that
    disagree predicts rare classes less often, or more often, than each model does. The class weights are therefore
    moved until each class gets the share of tweets that ensembles of single folds give it on average, on the same
    tweets. No labels are needed.

    A group's cut is adjusted on that group's tweets. Where they are few, it is moved as the decision for all tweets is.

    Args:
        folds: (n_folds, n_members, n_tweets, n_classes) probabilities of unlabelled tweets.
        means: (n_members, n_tweets, n_classes), of the same tweets.
        groups: (n_tweets,) of the same tweets.
    """
    decision = _adjusted(rule, rule.decision, folds, means)
    cuts, shift = {}, decision / rule.decision
    for name, cut in (rule.cuts or {}).items():
        rows = np.flatnonzero(groups == name) if groups is not None else []
        is_enough = len(rows) >= FEWEST_ADJUSTED
        cuts[name] = _adjusted(rule, cut, folds[:, :, rows], means[:, rows]) if is_enough else cut * shift
    return replace(rule, decision=decision, cuts=cuts or None)


def _adjusted(rule: VotingRule, decisions: np.ndarray, folds: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return class weights (n_rows, n_classes) as `adjust_for_averaging` moves them, on tweets that they decide."""
    n_classes = folds.shape[3]
    if rule.method == "hard":
        singles, averages = folds.swapaxes(0, 1), means
    else:
        singles, averages = np.stack([rule.combine(fold) for fold in folds])[None], rule.combine(means)[None]
    decision = []
    for weights, per_fold, average in zip(decisions, singles, averages, strict=True):
        shares = np.mean([class_shares(decide(probs, weights), n_classes) for probs in per_fold], axis=0)
        decision.append(match_class_shares(average, weights, shares))
    return np.stack(decision)


def cross_fitted_predictions(
    probabilities: np.ndarray,
    gold: np.ndarray,
    fit: Callable[..., VotingRule],
    *,
    groups: np.ndarray | None = None,
    n_folds: int = 5,
    seed: int = 7,
) -> np.ndarray:
    """Return the class (n_tweets,) of each tweet by a rule that was fitted without the tweet.

    A score of these predictions is not optimistically biased by the fit.

    Args:
        probabilities: (n_members, n_tweets, n_classes), out of fold.
        gold: class indices (n_tweets,).
        fit: fits a rule to probabilities and gold labels, and where there are any the groups, of some of the tweets.
        groups: (n_tweets,) of strings.
        n_folds: at most this many, at most one per tweet of the rarest class, and at least 2.
    """
    predicted = np.empty(len(gold), dtype=np.int64)
    # Not more folds than tweets of the rarest class, or some folds would lack it.
    n_folds = max(2, min(n_folds, np.bincount(gold)[np.unique(gold)].min()))
    for rest, held_out in StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(gold, gold):
        sample = (probabilities[:, rest], gold[rest]) + (() if groups is None else (groups[rest],))
        own = () if groups is None else (groups[held_out],)
        predicted[held_out] = fit(*sample).predict(probabilities[:, held_out], *own)
    return predicted


def _logistic(features: np.ndarray, gold: np.ndarray, n_classes: int, ridge: float) -> np.ndarray:
    """Return coefficients and, last, intercepts (n_classes, n_features + 1) of a multinomial logistic regression.

    Classes without gold labels get coefficients of 0 and the intercept log `voting.SMALLEST`.
    """
    model = LogisticRegression(C=ridge, max_iter=1000).fit(features, gold)
    weights = np.zeros((n_classes, features.shape[1] + 1))
    weights[:, -1] = np.log(voting.SMALLEST)
    rows = np.column_stack([model.coef_, model.intercept_])
    if len(model.classes_) == 2:  # scikit-learn returns one row, the difference of both classes
        rows = np.stack([-rows[0] / 2, rows[0] / 2])
    weights[model.classes_] = rows
    return weights


def fit_calibration(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return calibrations (n_members, n_classes, n_classes + 1) for `voting.calibrate`, fitted to `gold` (n_tweets,).

    Each member's calibration is a logistic regression from its log probabilities to the gold labels: Platt scaling
    (1999) for any number of classes, or matrix scaling in Guo et al. 2017 with a penalty.

    Args:
        probabilities: (n_members, n_tweets, n_classes), out of fold.
    """
    n_classes = probabilities.shape[2]
    return np.stack([_logistic(voting.log_odds(probs), gold, n_classes, RIDGE) for probs in probabilities])


def _score_weights(
    probabilities: np.ndarray, gold: np.ndarray, objective: Objective, groups: np.ndarray | None
) -> np.ndarray:
    """Return weights (n_members,), summing to 1, proportional to each member's score with its own decision."""
    scores = []
    for probs in probabilities:
        weights = tune_decision(probs, gold, objective, 5, groups)
        scores.append(objective.score(gold, decide(probs, weights), probs.shape[1], groups))
    total = sum(scores)
    return np.array(scores) / total if total > 0 else np.full(len(scores), 1 / len(scores))


def greedy_weights(
    probabilities: np.ndarray, gold: np.ndarray, positive: Sequence[int], *, n_bags: int = BAGS, seed: int = 42
) -> np.ndarray:
    """Return weights (n_members,), summing to 1, by bagged greedy selection with replacement (Caruana et al. 2004).

    Each bag draws a random half of the members and a bootstrap sample of the tweets, repeatedly adds the member that
    gives the highest average precision of the pooled positive classes, and keeps the selection up to its best score.

    Args:
        probabilities: (n_members, n_tweets, n_classes), calibrated, out of fold.
        gold: class indices (n_tweets,).
        positive: indices of the classes that the metric is about.
    """
    n_members, n_tweets, _ = probabilities.shape
    rng = np.random.default_rng(seed)
    weights = np.zeros(n_members)
    positives = probabilities[:, :, list(positive)]
    is_right = gold[:, None] == np.array(list(positive))
    for _ in range(n_bags):
        chosen = rng.choice(n_members, max(min(2, n_members), round(n_members * BAG_SHARE)), replace=False)
        rows = rng.integers(0, n_tweets, n_tweets)
        is_hit, candidates = is_right[rows].ravel(), positives[np.sort(chosen)][:, rows].reshape(len(chosen), -1)
        picked, scores, total = [], [], np.zeros(candidates.shape[1])
        for _ in range(GREEDY_STEPS):
            precisions = [average_precision(total + candidate, is_hit) for candidate in candidates]
            picked.append(int(np.argmax(precisions)))
            scores.append(max(precisions))
            total += candidates[picked[-1]]
        best = int(np.argmax(scores)) + 1
        np.add.at(weights, np.sort(chosen)[picked[:best]], 1 / best)
    return weights / weights.sum()


def _fit_stack(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return the stacking coefficients (n_classes, n_members * n_classes + 1) of calibrated probabilities."""
    return _logistic(stack_features(probabilities), gold, probabilities.shape[2], ridge=0.1)


# By fitted method of `voting.METHODS`: a function that returns the rule's fields, given calibrated probabilities
# (n_members, n_tweets, n_classes), gold class indices (n_tweets,), the objective, the number of samples, and the groups
# (n_tweets,) or None.
FITTERS: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "weighted": lambda probs, gold, objective, n, groups: {"weights": _score_weights(probs, gold, objective, groups)},
    "greedy": lambda probs, gold, objective, n, groups: {
        "weights": greedy_weights(probs, gold, objective.positive, n_bags=min(n, BAGS))
    },
    "stacked": lambda probs, gold, objective, n, groups: {"stack": _fit_stack(probs, gold)},
}


@dataclass(frozen=True)
class VotingConfig:
    """Settings for fitting voting rules: what to maximise, and how members vote.

    Args:
        objective: metric and positive classes.
        method: a key of `voting.METHODS`.
        decision: `argmax`, or `tuned` class weights.
        ties: how a hard vote breaks ties, see `voting.hard_vote`.
        group_cuts: how many tweets with a positive label a group needs for a cut of its own; 0: no cuts by group.
    """

    objective: Objective
    method: str
    decision: str
    ties: str = "probability"
    group_cuts: int = 0

    @classmethod
    def from_settings(cls, settings: JobSettings, task: Task) -> "VotingConfig":
        """Return the voting settings of a job."""
        return cls(task.objective, settings.vote, settings.decision, settings.ties, settings.group_cuts)

    @property
    def learns(self) -> bool:
        """Whether fitting a rule uses gold labels."""
        return self.decision != "argmax" or METHODS[self.method].is_fitted

    def cut_groups(self, gold: np.ndarray, groups: np.ndarray | None) -> list[str]:
        """Return the groups that get a cut of their own: those that are scored and have enough rare tweets.

        Args:
            gold: class indices (n_tweets,).
            groups: (n_tweets,) of strings, or None.
        """
        if not self.group_cuts or groups is None or self.decision == "argmax":
            return []
        is_positive = np.isin(gold, self.objective.positive)
        return [
            name
            for name in np.unique(groups).tolist()
            if name and self.objective.is_scored(name) and is_positive[groups == name].sum() >= self.group_cuts
        ]

    def fit_rule(
        self,
        members: Sequence[str],
        probabilities: np.ndarray,
        gold: np.ndarray,
        groups: np.ndarray | None = None,
        **options: Any,
    ) -> VotingRule:
        """Return a rule fitted to these members' probabilities (n_members, n_tweets, n_classes)."""
        settings = {"method": self.method, "decision": self.decision, "ties": self.ties}
        settings |= {"groups": groups, "cut_groups": self.cut_groups(gold, groups)}
        return fit_rule(probabilities, gold, members, self.objective, **(settings | options))

    def predict_out_of_fold(
        self,
        members: Sequence[str],
        probabilities: np.ndarray,
        gold: np.ndarray,
        groups: np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Return the class (n_tweets,) of each tweet by rules that were fitted without the tweet.

        Which groups have enough tweets for a cut is said by all tweets, or the rules would be of another kind than the
        one that is fitted to all of them.
        """
        if not self.learns:
            return self.fit_rule(members, probabilities, gold, groups).predict(probabilities, groups)
        options = {"cut_groups": self.cut_groups(gold, groups), **options}
        return cross_fitted_predictions(
            probabilities, gold, lambda *sample: self.fit_rule(members, *sample, **options), groups=groups
        )

    @property
    def for_one(self) -> "VotingConfig":
        """The settings for a single member: a soft vote, of which only the decision is fitted."""
        return replace(self, method="soft")
