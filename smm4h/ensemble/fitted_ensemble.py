"""The fitted ensemble: the rule that makes one label of all members' probabilities, and ensemble.json."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.plan import Plan, Run
from smm4h.config.task import Task
from smm4h.ensemble.fitting import VotingConfig, adjust_for_averaging
from smm4h.ensemble.member_predictions import (
    MemberPredictions,
    fold_and_mean_predictions,
    mean_predictions,
    read_out_of_fold,
)
from smm4h.models.voting import VotingRule, binary_threshold
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json, write_json


@dataclass(frozen=True)
class FittedEnsemble:
    """The content of ensemble.json: the rule that every script uses, and what it scores."""

    rule: VotingRule
    labels: list[str]
    out_of_fold: dict[str, Any]  # by rules that were fitted without each tweet

    @classmethod
    def read(cls, path: Path) -> "FittedEnsemble":
        """Raises `InputError` for a file that is not there or of another kind."""
        content = read_json(path)
        try:
            return cls(VotingRule.from_dict(content["rule"]), content["labels"], content["out_of_fold"])
        except (KeyError, TypeError):
            raise InputError(f"{path} is no ensemble of this project; remove it and give the job's command") from None

    def for_new_tweets(self, runs: Sequence[Run], part: str = "test") -> tuple["FittedEnsemble", MemberPredictions]:
        """Return the ensemble adjusted for means over runs (see `adjust_for_averaging`) and its members' predictions.

        Argmax stays argmax.
        """
        if self.rule.is_argmax:
            return self, mean_predictions(runs, part, self.rule.mean)
        folds, ballots = fold_and_mean_predictions(runs, part, self.rule.mean)
        return replace(self, rule=adjust_for_averaging(self.rule, folds, ballots.probabilities)), ballots

    def predict(self, ballots: MemberPredictions) -> np.ndarray:
        """The class (n_tweets,) of each tweet, of the ballots of the rule's members."""
        if ballots.members != self.rule.members or ballots.labels != self.labels:
            raise InputError(f"the ensemble's rule is one for {', '.join(self.rule.members)}; let just these vote")
        return self.rule.predict(ballots.probabilities)


def fit_ensemble(
    ballots: MemberPredictions, gold: np.ndarray, fitting: VotingConfig, task: Task
) -> tuple[FittedEnsemble, np.ndarray]:
    """The ensemble of some held-out ballots, and each tweet's class (n_tweets,) by rules fitted without it."""
    honest = fitting.choices(ballots.members, ballots.probabilities, gold)
    rule = fitting.rule(ballots.members, ballots.probabilities, gold)
    return FittedEnsemble(rule, ballots.labels, task.score(gold, honest)), honest


def _named(ensemble: FittedEnsemble) -> list[dict[str, float]]:
    """Class weights by label; of a hard vote for each member."""
    return [dict(zip(ensemble.labels, weights.tolist(), strict=True)) for weights in ensemble.rule.decision]


def describe(ensemble: FittedEnsemble, task: Task) -> dict[str, Any]:
    """The content of ensemble.json: the rule twice, for people and for scripts."""
    rule = ensemble.rule
    content: dict[str, Any] = {
        "task": task.name,
        "labels": ensemble.labels,
        "tuned_for": f"{task.measure} of {', '.join(task.positive)}",
        "method": rule.method,
        "decision": _named(ensemble),
    }
    if task.n_classes == 2:
        content["thresholds"] = [binary_threshold(weights) for weights in rule.decision]
    if rule.weights is not None:
        content["weights"] = dict(zip(rule.members, rule.weights.tolist(), strict=True))
    return content | {"out_of_fold": ensemble.out_of_fold, "rule": rule.to_dict()}


def write_ensemble(plan: Plan, fitting: VotingConfig, task: Task, *, has_test: bool) -> None:
    """Fits the ensemble of all members on the out-of-fold table, and writes it as it judges new tweets."""
    ballots, gold = read_out_of_fold(plan.out_of_fold_file)
    fitted, _ = fit_ensemble(ballots, gold, fitting, task)
    used = fitted.for_new_tweets(plan.runs)[0] if has_test else fitted
    content = describe(used, task)
    content["fitted_decision"] = _named(fitted)  # on single folds, before `adjust_for_averaging`
    content["as_fitted"] = task.score(gold, fitted.rule.predict(ballots.probabilities))
    write_json(plan.ensemble_file, content)
