"""A job's members, votes and baselines, scored out of fold without flattery, and on the test tweets by gold labels.

Makes the ensemble's rule, and what there is to say of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smm4h.config.plan import Plan, Run
from smm4h.config.task import Task
from smm4h.ensemble.fitted_ensemble import fit_ensemble
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.member_predictions import out_of_fold_predictions, read_out_of_fold
from smm4h.metrics import paired_bootstrap
from smm4h.models.voting import FITTED

FINAL = "final vote"  # of all members
LEAKY = " *"  # behind a name: its teachers saw the held-out tweets
Scores = dict[str, dict[str, Any]]  # by name: `out_of_fold` and `test`, each as `Task.score` has it, or None


class Leaderboard:
    """Who scores what. Out of fold, every tweet is judged by decisions and rules that were fitted without it.

    Args:
        fitting: how the job's members vote.
        gold: class indices (n_tweets,) of the labelled tweets.
        test_gold: of the test tweets, where they are known.
    """

    def __init__(
        self, plan: Plan, fitting: VotingConfig, task: Task, gold: np.ndarray, test_gold: np.ndarray | None
    ) -> None:
        self.plan, self.fitting, self.task, self.gold, self.test_gold = plan, fitting, task, gold, test_gold
        self.votes: dict[str, np.ndarray] = {}  # out of fold, (n_tweets,) of each name
        self.scores: Scores = {}

    def add_vote(self, name: str, runs: Sequence[Run], fitting: VotingConfig) -> None:
        """Scores the vote of some members, or of one."""
        held_out = out_of_fold_predictions(runs)
        ensemble, self.votes[name] = fit_ensemble(held_out, self.gold, fitting, self.task)
        self.scores[name] = {"out_of_fold": ensemble.out_of_fold, "test": None}
        if self.test_gold is not None:
            used, ballots = ensemble.for_new_tweets(runs)
            self.scores[name]["test"] = self.task.score(self.test_gold, used.predict(ballots))

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
                self.add_vote(baseline_row(name), runs, VotingConfig(self.fitting.objective, "soft", "tuned"))
        return [baseline_row(name) for name in names if baseline_row(name) in self.scores]

    def compare(self, one: str, other: str) -> dict[str, Any]:
        """How much higher one scores out of fold than another, on the same tweets."""
        objective = self.fitting.objective
        chosen = self.votes[one], self.votes[other]
        found = paired_bootstrap(self.gold, *chosen, self.task.n_classes, objective.measure, objective.positive)
        return {"name": other, "score": self.scores[other]["out_of_fold"][self.task.measure], **found}

    def evaluate(self, vote: str, baselines: Sequence[str], across: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What there is to say of the vote of all members.

        Args:
            across: by what they share, which tweets (n_tweets,) share it with one of another fold.
        """
        ballots, _ = read_out_of_fold(self.plan.out_of_fold_file)
        members, gold, task, chosen = ballots.members, self.gold, self.task, self.votes[vote]
        found: dict[str, Any] = {"score": self.scores[vote]["out_of_fold"]}
        if len(members) > 1:
            best = max(members, key=lambda name: self.scores[name]["out_of_fold"][task.measure])
            found["best_member"] = self.compare(vote, best)
            found["without"] = leave_one_out(self.fitting, members, ballots.probabilities, gold)
            found["by_number"] = by_ensemble_size(self.fitting, members, ballots.probabilities, gold)
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


SUBSETS = 20  # of the members, at most, for each size of an ensemble
FEWER_SAMPLES = 5  # of a decision's bootstrap, where many ensembles are compared


def leave_one_out(
    fitting: VotingConfig, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray
) -> dict[str, float]:
    """The out-of-fold score of the ensemble without each member, by the member's name."""
    found = {}
    for place, name in enumerate(members):
        rest = [other for other in range(len(members)) if other != place]
        found[name] = _score(fitting, [members[other] for other in rest], probabilities[rest], gold)
    return found


def by_ensemble_size(
    fitting: VotingConfig, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray, *, seed: int = 42
) -> list[dict[str, float]]:
    """For each number of members, how ensembles of so many score out of fold: mean, lowest, highest of random ones.

    They vote by a plain mean where the method is a fitted one, which would choose among them once more.
    """
    if fitting.method in FITTED:
        fitting = replace(fitting, method="soft")
    rng, found = np.random.default_rng(seed), []
    for size in range(1, len(members) + 1):
        subsets = {tuple(sorted(rng.permutation(len(members))[:size])) for _ in range(SUBSETS)}
        scores = [
            _score(fitting, [members[place] for place in subset], probabilities[list(subset)], gold)
            for subset in sorted(subsets)
        ]
        spread = {"mean": float(np.mean(scores)), "lowest": min(scores), "highest": max(scores)}
        found.append({"members": size, "ensembles": len(scores), **spread})
    return found


def _score(fitting: VotingConfig, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray) -> float:
    choices = fitting.choices(members, probabilities, gold, n_samples=FEWER_SAMPLES)
    return fitting.objective.score(gold, choices, probabilities.shape[2])
