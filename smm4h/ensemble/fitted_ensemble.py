"""The fitted ensemble: the rule that makes one label of all members' probabilities, and ensemble.json."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.plan import Plan, Run
from smm4h.config.task import Task
from smm4h.ensemble.fitting import Fitting, for_means
from smm4h.ensemble.member_predictions import Ballots, folds_and_means, predicted_ballots, read_out_of_fold
from smm4h.models.voting import Rule, threshold
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json, write_json


@dataclass(frozen=True)
class Ensemble:
    """The content of ensemble.json: the rule that every script uses, and what it scores."""

    rule: Rule
    labels: list[str]
    out_of_fold: dict[str, Any]  # by rules that were fitted without each tweet

    @classmethod
    def read(cls, path: Path) -> "Ensemble":
        """Raises `InputError` for a file that is not there or of another kind."""
        content = read_json(path)
        try:
            return cls(Rule.from_dict(content["rule"]), content["labels"], content["out_of_fold"])
        except (KeyError, TypeError):
            raise InputError(f"{path} is no ensemble of this project; remove it and give the job's command") from None

    def on_new(self, runs: Sequence[Run], part: str = "test") -> tuple["Ensemble", Ballots]:
        """The ensemble as it judges tweets that nobody held out, see `combining.for_means`, and its members' ballots.

        Argmax stays argmax.
        """
        if self.rule.is_argmax:
            return self, predicted_ballots(runs, part, self.rule.mean)
        folds, ballots = folds_and_means(runs, part, self.rule.mean)
        return replace(self, rule=for_means(self.rule, folds, ballots.probabilities)), ballots

    def choose(self, ballots: Ballots) -> np.ndarray:
        """The class (n_tweets,) of each tweet, of the ballots of the rule's members."""
        if ballots.voters != self.rule.members or ballots.labels != self.labels:
            raise InputError(f"the ensemble's rule is one for {', '.join(self.rule.members)}; let just these vote")
        return self.rule.choose(ballots.probabilities)


def fit_ensemble(ballots: Ballots, gold: np.ndarray, fitting: Fitting, task: Task) -> tuple[Ensemble, np.ndarray]:
    """The ensemble of some held-out ballots, and each tweet's class (n_tweets,) by rules fitted without it."""
    honest = fitting.choices(ballots.voters, ballots.probabilities, gold)
    rule = fitting.rule(ballots.voters, ballots.probabilities, gold)
    return Ensemble(rule, ballots.labels, task.score(gold, honest)), honest


def _named(ensemble: Ensemble) -> list[dict[str, float]]:
    """Class weights by label; of a hard vote for each member."""
    return [dict(zip(ensemble.labels, weights.tolist(), strict=True)) for weights in ensemble.rule.decision]


def describe(ensemble: Ensemble, task: Task) -> dict[str, Any]:
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
        content["thresholds"] = [threshold(weights) for weights in rule.decision]
    if rule.weights is not None:
        content["weights"] = dict(zip(rule.members, rule.weights.tolist(), strict=True))
    return content | {"out_of_fold": ensemble.out_of_fold, "rule": rule.to_dict()}


def write_ensemble(plan: Plan, fitting: Fitting, task: Task, *, has_test: bool) -> None:
    """Fits the ensemble of all members on the out-of-fold table, and writes it as it judges new tweets."""
    ballots, gold = read_out_of_fold(plan.out_of_fold_file)
    fitted, _ = fit_ensemble(ballots, gold, fitting, task)
    used = fitted.on_new(plan.runs)[0] if has_test else fitted
    content = describe(used, task)
    content["fitted_decision"] = _named(fitted)  # on single folds, before `for_means`
    content["as_fitted"] = task.score(gold, fitted.rule.choose(ballots.probabilities))
    write_json(plan.ensemble_file, content)
