"""Several members' probabilities -> one label a tweet, by a rule that is fitted on out-of-fold probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from smm4h.ensemble.thresholds import N_SAMPLES, class_shares, match_class_shares, tune_class_weights
from smm4h.metrics import Objective, average_precision
from smm4h.models import voting
from smm4h.models.voting import FITTED, VotingRule, calibrate, decide, stack_features

BAGS, BAG_SHARE, GREEDY_STEPS = 20, 0.5, 20  # Caruana et al. 2004, section 2.3
RIDGE = 1.0  # inverse strength of the stack's penalty, scikit-learn's C


def fit(
    probabilities: np.ndarray,
    gold: np.ndarray,
    members: Sequence[str],
    objective: Objective,
    *,
    method: str,
    decision: str,
    ties: str = "probability",
    n_samples: int = N_SAMPLES,
) -> VotingRule:
    """The rule of this method for `gold` (n_tweets,), of out-of-fold probabilities (n_members, n_tweets, n_classes).

    A decision is the median over `n_samples` bootstrap samples, a greedy selection has as many bags, up to `BAGS`.
    """
    n_members, _, n_classes = probabilities.shape
    mean = "probability" if decision == "argmax" and method not in FITTED else "log_odds"
    rule = VotingRule(method, list(members), ties, mean, np.ones((n_members if method == "hard" else 1, n_classes)))
    if method in FITTED:
        rule = replace(rule, calibration=fit_calibration(probabilities, gold))
        calibrated = calibrate(probabilities, rule.calibration)
        if method == "weighted":
            rule = replace(rule, weights=_score_weights(calibrated, gold, objective))
        elif method == "greedy":
            rule = replace(
                rule, weights=greedy_weights(calibrated, gold, objective.positive, n_bags=min(n_samples, BAGS))
            )
        else:
            rule = replace(rule, stack=_fit_stack(calibrated, gold))
    if decision == "argmax":
        return rule
    parts = probabilities if method == "hard" else [rule.combine(probabilities)]
    tuned = [
        tune_class_weights(part, gold, objective.measure, objective.positive, n_samples=n_samples) for part in parts
    ]
    return replace(rule, decision=np.stack(tuned))


def adjust_for_averaging(rule: VotingRule, folds: np.ndarray, means: np.ndarray) -> VotingRule:
    """The rule for members that are means over their runs, of one that was fitted on single folds' probabilities.

    What is held out is predicted by one fold's model, new tweets by the mean of all models, and a mean of models that
    disagree says "rare" less often, or more, than each does. So its class weights are moved until it gives each class
    the share of tweets that the ensembles of single folds give it, on average, on the same tweets; no labels are asked.

    Args:
        folds: (n_folds, n_members, n_tweets, n_classes) probabilities of unlabelled tweets.
        means: (n_members, n_tweets, n_classes), of the same tweets.
    """
    n_classes = folds.shape[3]
    if rule.method == "hard":
        singles, wholes = folds.swapaxes(0, 1), means
    else:
        singles, wholes = np.stack([rule.combine(fold) for fold in folds])[None], rule.combine(means)[None]
    decision = []
    for weights, each, whole in zip(rule.decision, singles, wholes, strict=True):
        shares = np.mean([class_shares(decide(one, weights), n_classes) for one in each], axis=0)
        decision.append(match_class_shares(whole, weights, shares))
    return replace(rule, decision=np.stack(decision))


def cross_fitted_predictions(
    probabilities: np.ndarray,
    gold: np.ndarray,
    fitted: Callable[[np.ndarray, np.ndarray], VotingRule],
    *,
    n_folds: int = 5,
    seed: int = 7,
) -> np.ndarray:
    """The class (n_tweets,) of each tweet by a rule that was fitted without it.

    `fitted` makes a rule of probabilities and gold labels. A score of these choices does not profit from the fitting.
    """
    choices = np.empty(len(gold), dtype=np.int64)
    n_folds = max(2, min(n_folds, np.bincount(gold)[np.unique(gold)].min()))  # a rare class in each of them
    for rest, held_out in StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(gold, gold):
        choices[held_out] = fitted(probabilities[:, rest], gold[rest]).predict(probabilities[:, held_out])
    return choices


def _logistic(features: np.ndarray, gold: np.ndarray, n_classes: int, ridge: float) -> np.ndarray:
    """Coefficients and, last, intercepts (n_classes, n_features + 1) of a multinomial logistic regression."""
    model = LogisticRegression(C=ridge, max_iter=1000).fit(features, gold)
    found = np.zeros((n_classes, features.shape[1] + 1))
    found[:, -1] = np.log(voting.SMALLEST)
    rows = np.column_stack([model.coef_, model.intercept_])
    if len(model.classes_) == 2:  # scikit-learn gives the difference of the two
        rows = np.stack([-rows[0] / 2, rows[0] / 2])
    found[model.classes_] = rows
    return found


def fit_calibration(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Of each member (n_members, n_tweets, n_classes) a logistic regression from its log probabilities to `gold`.

    Platt's scaling (1999) for any number of classes: matrix scaling in Guo et al. 2017, with a penalty.
    """
    n_classes = probabilities.shape[2]
    return np.stack([_logistic(voting.log_odds(part), gold, n_classes, RIDGE) for part in probabilities])


def _score_weights(probabilities: np.ndarray, gold: np.ndarray, objective: Objective) -> np.ndarray:
    """Weights (n_members,), summing to 1, in proportion to what each member scores alone with its own decision."""
    scores = []
    for part in probabilities:
        weights = tune_class_weights(part, gold, objective.measure, objective.positive, n_samples=5)
        scores.append(objective.score(gold, decide(part, weights), part.shape[1]))
    total = sum(scores)
    return np.array(scores) / total if total > 0 else np.full(len(scores), 1 / len(scores))


def greedy_weights(
    probabilities: np.ndarray, gold: np.ndarray, positive: Sequence[int], *, n_bags: int = BAGS, seed: int = 42
) -> np.ndarray:
    """Weights (n_members,), summing to 1, by bagged greedy selection with replacement (Caruana et al. 2004).

    Each bag may draw on a random half of the members and is judged on a bootstrap sample of the tweets, by the average
    precision of the positive classes, pooled; every bag adds whichever member helps most, and ends at its best.
    """
    n_members, n_tweets, _ = probabilities.shape
    rng = np.random.default_rng(seed)
    votes = np.zeros(n_members)
    asked = probabilities[:, :, list(positive)]
    is_right = gold[:, None] == np.array(list(positive))
    for _ in range(n_bags):
        chosen = rng.choice(n_members, max(min(2, n_members), round(n_members * BAG_SHARE)), replace=False)
        rows = rng.integers(0, n_tweets, n_tweets)
        truth, parts = is_right[rows].ravel(), asked[np.sort(chosen)][:, rows].reshape(len(chosen), -1)
        picked, scores, total = [], [], np.zeros(parts.shape[1])
        for _ in range(GREEDY_STEPS):
            each = [average_precision(total + part, truth) for part in parts]
            picked.append(int(np.argmax(each)))
            scores.append(max(each))
            total += parts[picked[-1]]
        best = int(np.argmax(scores)) + 1
        np.add.at(votes, np.sort(chosen)[picked[:best]], 1 / best)
    return votes / votes.sum()


def _fit_stack(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    return _logistic(stack_features(probabilities), gold, probabilities.shape[2], ridge=0.1)


@dataclass(frozen=True)
class VotingConfig:
    """How rules are to be fitted: method, decision, ties; and what for."""

    objective: Objective
    method: str
    decision: str
    ties: str = "probability"

    @property
    def learns(self) -> bool:
        """Whether a fit looks at gold labels at all."""
        return self.decision != "argmax" or self.method in FITTED

    def rule(self, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray, **options: Any) -> VotingRule:
        """The rule of these members, of probabilities (n_members, n_tweets, n_classes)."""
        kinds = {"method": self.method, "decision": self.decision, "ties": self.ties}
        return fit(probabilities, gold, members, self.objective, **(kinds | options))

    def choices(
        self, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray, **options: Any
    ) -> np.ndarray:
        """The class (n_tweets,) of each tweet by rules that were fitted without it."""
        if not self.learns:
            return self.rule(members, probabilities, gold).predict(probabilities)
        return cross_fitted_predictions(
            probabilities, gold, lambda part, truth: self.rule(members, part, truth, **options)
        )

    @property
    def for_one(self) -> "VotingConfig":
        """How one member alone is to be fitted: nothing but its decision."""
        return replace(self, method="soft")
