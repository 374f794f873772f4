"""A job's members, votes and baselines, scored out of fold without flattery, and on the test tweets by gold labels.

Makes the ensemble's rule, and what there is to say of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.appraisal import Fitting, by_number, leave_one_out
from smm4h.ballots import Ballots, folds_and_means, held_out_ballots, predicted_ballots
from smm4h.combining import for_means
from smm4h.decision import threshold
from smm4h.errors import InputError
from smm4h.files import read_json, write_json
from smm4h.metrics import paired_bootstrap
from smm4h.out_of_fold import read_out_of_fold
from smm4h.plan import Plan, Run
from smm4h.rules import Rule
from smm4h.tasks import Task

FINAL = "final vote"  # of all members
FLATTERED = " *"  # behind a name: its teachers saw the held-out tweets
Scores = dict[str, dict[str, Any]]  # by name: `out_of_fold` and `test`, each as `Task.score` has it, or None


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


class Standings:
    """Who scores what. Out of fold, every tweet is judged by decisions and rules that were fitted without it.

    Args:
        fitting: how the job's members vote.
        gold: class indices (n_tweets,) of the labelled tweets.
        test_gold: of the test tweets, where they are known.
    """

    def __init__(
        self, plan: Plan, fitting: Fitting, task: Task, gold: np.ndarray, test_gold: np.ndarray | None
    ) -> None:
        self.plan, self.fitting, self.task, self.gold, self.test_gold = plan, fitting, task, gold, test_gold
        self.choices: dict[str, np.ndarray] = {}  # out of fold, (n_tweets,) of each name
        self.scores: Scores = {}

    def add_vote(self, name: str, runs: Sequence[Run], fitting: Fitting) -> None:
        """Scores the vote of some members, or of one."""
        held_out = held_out_ballots(runs)
        ensemble, self.choices[name] = fit_ensemble(held_out, self.gold, fitting, self.task)
        self.scores[name] = {"out_of_fold": ensemble.out_of_fold, "test": None}
        if self.test_gold is not None:
            used, ballots = ensemble.on_new(runs)
            self.scores[name]["test"] = self.task.score(self.test_gold, used.choose(ballots))

    def add_members(self, names: Sequence[str]) -> None:
        """Scores each member alone."""
        for name in names:
            self.add_vote(name, self.plan.runs_of([name]), self.fitting.for_one)

    def add_baselines(self) -> list[str]:
        """Scores the baselines that are done, each with a tuned decision: their best is to be beaten."""
        names = list(dict.fromkeys(run.member.name for run in self.plan.baselines))
        for name in names:
            runs = [run for run in self.plan.baselines if run.member.name == name]
            if all(run.is_done() for run in runs):
                self.add_vote(baseline_row(name), runs, Fitting(self.fitting.aim, "soft", "tuned"))
        return [baseline_row(name) for name in names if baseline_row(name) in self.scores]

    def compare(self, one: str, other: str) -> dict[str, Any]:
        """How much higher one scores out of fold than another, on the same tweets."""
        aim = self.fitting.aim
        chosen = self.choices[one], self.choices[other]
        found = paired_bootstrap(self.gold, *chosen, self.task.n_classes, aim.measure, aim.positive)
        return {"name": other, "score": self.scores[other]["out_of_fold"][self.task.measure], **found}

    def appraise(self, vote: str, baselines: Sequence[str], across: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What there is to say of the vote of all members.

        Args:
            across: by what they share, which tweets (n_tweets,) share it with one of another fold.
        """
        ballots, _ = read_out_of_fold(self.plan.out_of_fold_file)
        members, gold, task, chosen = ballots.voters, self.gold, self.task, self.choices[vote]
        found: dict[str, Any] = {"score": self.scores[vote]["out_of_fold"]}
        if len(members) > 1:
            best = max(members, key=lambda name: self.scores[name]["out_of_fold"][task.measure])
            found["best_member"] = self.compare(vote, best)
            found["without"] = leave_one_out(self.fitting, members, ballots.probabilities, gold)
            found["by_number"] = by_number(self.fitting, members, ballots.probabilities, gold)
        found["baselines"] = [self.compare(vote, name) for name in baselines]
        found["unshared"] = {
            what: {"tweets": int((~mask).sum()), **task.score(gold[~mask], chosen[~mask])}
            for what, mask in across.items()
            if mask.any() and np.isin(gold[~mask], task.positive_indices).any()
        }
        found["collapsed"] = {run.name: fell for run in self.plan.runs if (fell := run.measures().get("collapsed"))}
        return found


def baseline_row(name: str) -> str:
    """What a baseline is called where its score stands beside members', which may have its name."""
    return f"baseline {name}"
