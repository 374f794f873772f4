"""Fit voting rules, which combine members' probabilities into labels, on out-of-fold probabilities."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from smm4h.config.arguments import JobSettings
from smm4h.config.decision import Decision, LeastCost, Pulled, Target, Tuned, parse_decision
from smm4h.config.task import Task
from smm4h.data.folds import label_set_folds
from smm4h.ensemble.decisions.fit import (
    fit_decision,
    objective_of,
    parts_of,
    reason,
    target_weights,
    tune_cuts,
    tune_decision,
)
from smm4h.ensemble.decisions.thresholds import N_SAMPLES
from smm4h.metrics import Objective, average_precision
from smm4h.models import voting
from smm4h.models.label_spaces import ONE_LABEL, LabelSpace
from smm4h.models.voting import METHODS, VotingRule, calibrate, decide, stack_features

BAGS, BAG_SHARE, GREEDY_STEPS = 20, 0.5, 20  # Caruana et al. 2004, section 2.3
FEWEST_FOR_CUT = 5  # tweets that a label of label sets needs for a cut of its own
RIDGE = 1.0  # inverse strength of calibration's L2 penalty, scikit-learn's C


def fit_rule(
    probabilities: np.ndarray,
    gold: np.ndarray,
    members: Sequence[str],
    objective: Objective,
    *,
    method: str,
    decision: Decision | str,
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
        decision: how probabilities become a label, or its text.
        ties: how a hard vote breaks ties, see `voting.hard_vote`.
        n_samples: bootstrap samples for each tuned decision, and bags of a greedy selection up to `BAGS`.
        groups: (n_tweets,) of strings; needed where the metric is one of groups.
        cut_groups: groups that get a tuned decision of their own.
    """
    decision = parse_decision(decision) if isinstance(decision, str) else decision
    combined = fit_combination(probabilities, gold, members, objective, method, decision, ties, n_samples, groups)
    rule = fit_decision(combined, probabilities, gold, objective, decision, n_samples, groups)
    if not cut_groups:
        return rule
    tuned_for, are_pulled = objective_of(decision, objective), isinstance(decision, Pulled)
    cuts = [
        tune_cuts(part, gold, tuned_for, n_samples, groups, cut_groups, weights, are_pulled=are_pulled)
        for part, weights in zip(parts_of(rule, probabilities), rule.decision, strict=True)
    ]
    return replace(rule, cuts={name: np.stack([of_part[name] for of_part in cuts]) for name in cut_groups})


def fit_combination(
    probabilities: np.ndarray,
    gold: np.ndarray,
    members: Sequence[str],
    objective: Objective,
    method: str,
    decision: Decision,
    ties: str,
    n_samples: int = N_SAMPLES,
    groups: np.ndarray | None = None,
) -> VotingRule:
    """Return a rule whose members' calibrations, weights or stack are fitted, and whose class weights are 1.

    Args: see `fit_rule`; of the decision it matters only whether it is fitted.
    """
    n_members, _, n_classes = probabilities.shape
    mean = "log_odds" if decision.is_fitted or METHODS[method].is_fitted else "probability"
    rule = VotingRule(method, list(members), ties, mean, np.ones((n_members if method == "hard" else 1, n_classes)))
    if not METHODS[method].is_fitted:
        return rule
    rule = replace(rule, calibration=fit_calibration(probabilities, gold))
    calibrated = calibrate(probabilities, rule.calibration)
    return replace(rule, **FITTERS[method](calibrated, gold, objective, n_samples, groups))


def cross_fitted_predictions(
    probabilities: np.ndarray,
    gold: np.ndarray,
    fit: Callable[..., VotingRule],
    *,
    groups: np.ndarray | None = None,
    n_folds: int = 5,
    seed: int = 7,
    space: LabelSpace = ONE_LABEL,
) -> np.ndarray:
    """Return the class (n_tweets,) of each tweet by a rule that was fitted without the tweet.

    A score of these predictions is not optimistically biased by the fit.

    Args:
        probabilities: (n_members, n_tweets, n_classes), out of fold.
        gold: class indices (n_tweets,).
        fit: fits a rule to probabilities and gold labels, and where there are any the groups, of some of the tweets.
        groups: (n_tweets,) of strings.
        n_folds: at most this many, at most one per tweet of the rarest class, and at least 2.
        space: of the tweets' labels.
    """
    options = {"groups": groups, "n_folds": n_folds, "seed": seed, "space": space}
    (predicted,) = cross_fitted(probabilities, gold, lambda *sample: [fit(*sample)], **options)
    return predicted


def cross_fitted(
    probabilities: np.ndarray,
    gold: np.ndarray,
    fit: Callable[..., Sequence[VotingRule]],
    *,
    groups: np.ndarray | None = None,
    n_folds: int = 5,
    seed: int = 7,
    space: LabelSpace = ONE_LABEL,
) -> np.ndarray:
    """Return the classes (n_rules, n_tweets) by rules that were fitted together; see `cross_fitted_predictions`."""
    parts = []
    for rest, held_out in _parts_to_fit(gold, n_folds, seed, space):
        sample = (probabilities[:, rest], gold[rest]) + (() if groups is None else (groups[rest],))
        own = () if groups is None else (groups[held_out],)
        parts.append((held_out, [rule.predict(probabilities[:, held_out], *own) for rule in fit(*sample)]))
    predicted = np.empty((len(parts[0][1]), len(gold)), dtype=np.int64)
    for held_out, by_rule in parts:
        predicted[:, held_out] = by_rule
    return predicted


def _parts_to_fit(
    gold: np.ndarray, n_folds: int, seed: int, space: LabelSpace
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to fit on and those to predict, for each fold; a tweet's labels are kept together."""
    if space.problem_type is not None:
        folds = label_set_folds(space.targets(gold), n_folds, seed)
        return [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
    # Not more folds than tweets of the rarest class, or some folds would lack it.
    n_folds = max(2, min(n_folds, np.bincount(gold)[np.unique(gold)].min()))
    return StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(gold, gold)


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
        decision: how probabilities become a label.
        ties: how a hard vote breaks ties, see `voting.hard_vote`.
        group_cuts: how many tweets with a positive label a group needs for a cut of its own; 0: no cuts by group.
        predict_with: which models predict new tweets, `all` or `refits`, see `VotingRule.refits_alone`.
        space: of the tweets' labels; of label sets, the groups are the labels.
    """

    objective: Objective
    method: str
    decision: Decision
    ties: str = "probability"
    group_cuts: int = 0
    space: LabelSpace = ONE_LABEL
    predict_with: str = "all"

    @classmethod
    def for_task(
        cls,
        task: Task,
        method: str,
        decision: str | Decision,
        ties: str,
        group_cuts: int = 0,
        predict_with: str = "all",
    ) -> "VotingConfig":
        """Return voting settings; raise `InputError` for a decision that the task can't have."""
        decision = parse_decision(decision) if isinstance(decision, str) else decision
        checked = task.checked_decision(decision)
        group_cuts = group_cuts or (FEWEST_FOR_CUT if task.multi_label else 0)
        return cls(task.objective, method, checked, ties, group_cuts, task.space, predict_with)

    @classmethod
    def from_settings(cls, settings: JobSettings, task: Task) -> "VotingConfig":
        """Return the voting settings of a job's recipe."""
        asked = settings.vote, settings.decision, settings.ties
        return cls.for_task(task, *asked, settings.group_cuts, settings.predict_with)

    @property
    def learns(self) -> bool:
        """Whether fitting a rule uses gold labels."""
        return self.decision.is_fitted or METHODS[self.method].is_fitted

    @property
    def refits_alone(self) -> bool:
        return self.predict_with == "refits"

    @property
    def pools_groups(self) -> bool:
        """Whether cuts by group are asked for, and the decision is of a kind that is one for all groups."""
        return bool(self.group_cuts) and not self.tunes_cuts and self.space.problem_type is None

    @property
    def tunes_cuts(self) -> bool:
        """Whether the decision is of a kind that groups can have for themselves."""
        return isinstance(self.decision, Tuned | LeastCost)

    def cut_groups(self, gold: np.ndarray, groups: np.ndarray | None) -> list[str]:
        """Return the groups that get a cut of their own: those that are scored and have enough rare tweets.

        Args:
            gold: class indices (n_tweets,).
            groups: (n_tweets,) of strings, or None.
        """
        if not self.group_cuts or groups is None or not self.tunes_cuts:
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
        space = self.space
        groups = space.decided_groups(len(gold), groups)
        probabilities, gold = space.to_decide(probabilities), space.decided_classes(gold)
        settings |= {"groups": groups, "cut_groups": self.cut_groups(gold, groups)}
        rule = fit_rule(probabilities, gold, members, self.objective, **(settings | options))
        return space.rule(replace(rule, refits_alone=self.refits_alone))

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
        decided = self.space.decided_classes(gold), self.space.decided_groups(len(gold), groups)
        options = {"cut_groups": self.cut_groups(*decided), **options}
        fit = partial(self.fit_rule, members, **options)
        return cross_fitted_predictions(probabilities, gold, fit, groups=groups, space=self.space)

    def score(self, gold: np.ndarray, predicted: np.ndarray, n_decided: int, groups: np.ndarray | None = None) -> float:
        """Return the objective's metric of classes (n_tweets,), of which `n_decided` are decided among."""
        space = self.space
        decided = space.decided_classes(gold), space.decided_classes(predicted)
        return self.objective.score(*decided, n_decided, space.decided_groups(len(gold), groups))

    def fit_targets(
        self,
        members: Sequence[str],
        probabilities: np.ndarray,
        gold: np.ndarray,
        groups: np.ndarray | None = None,
        *,
        targets: Sequence[Target],
    ) -> list[VotingRule]:
        """Return a rule for each target; what the rules share is fitted once."""
        options = {"method": self.method, "decision": targets[0], "ties": self.ties, "groups": groups}
        rule = fit_combination(probabilities, gold, members, self.objective, **options)
        rule = replace(rule, refits_alone=self.refits_alone)
        weights = target_weights(rule, probabilities, gold, self.objective, targets, groups)
        return [replace(rule, decision=w, chosen=reason(t)) for w, t in zip(weights, targets, strict=True)]

    def predict_targets_out_of_fold(
        self,
        members: Sequence[str],
        probabilities: np.ndarray,
        gold: np.ndarray,
        groups: np.ndarray | None = None,
        *,
        targets: Sequence[Target],
    ) -> np.ndarray:
        """Return the classes (n_targets, n_tweets) by rules that were fitted without each tweet."""
        fit = partial(self.fit_targets, members, targets=targets)
        return cross_fitted(probabilities, gold, fit, groups=groups)

    def with_decision(self, decision: Decision) -> "VotingConfig":
        """Return the settings with another decision."""
        return replace(self, decision=decision)

    @property
    def for_one(self) -> "VotingConfig":
        """The settings for a single member: a soft vote, of which only the decision is fitted."""
        return replace(self, method="soft")

    @property
    def for_baseline(self) -> "VotingConfig":
        """The settings for a baseline, which has no refit: its decision is fitted, for a target the vote's own."""
        one = replace(self.for_one, predict_with="all")
        return one if self.decision.is_fitted else one.with_decision(Tuned())
