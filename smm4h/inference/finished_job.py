"""A finished job as report and model card tell of it: everything read once from the output folder."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.plan import Plan, Run, fold_runs, read_plan
from smm4h.config.task import Task
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.ensemble.member_predictions import read_out_of_fold
from smm4h.ensemble.scoring import FINAL, LEAKY
from smm4h.models.voting import VotingRule, log_odds
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json

Scores = dict[str, Any]  # as `Task.score` has them


@dataclass(frozen=True)
class FinishedJob:
    """What came of a job.

    Args:
        scores: by name, of members, votes and baselines: `out_of_fold` and `test` scores, or None.
        gold: class indices (n_tweets,) of the labelled tweets.
        members: out-of-fold probabilities (n_members, n_tweets, n_classes).
        combined: the ensemble's of them (n_tweets, n_classes).
        fitted_decision: class weights (n_rows, n_classes), as tuned on single folds' models.
    """

    plan: Plan
    task: Task
    ensemble: FittedEnsemble
    scores: dict[str, dict[str, Scores | None]]
    appraisal: dict[str, Any]
    gold: np.ndarray
    members: np.ndarray
    combined: np.ndarray
    fitted_decision: np.ndarray
    leaky: frozenset[str]  # names of scores whose teachers saw the held-out tweets
    versions: dict[str, str]
    command: list[str]  # words that the job was first given

    @classmethod
    def read(cls, folder: Path) -> "FinishedJob":
        """Raises `InputError` for a job that is not finished."""
        plan, task = read_plan(folder)
        missing = [run.name for run in plan.runs if not run.is_done()]
        if missing:
            raise InputError(f"{folder}: {len(missing)} runs are missing ({missing[0]}, ...); give the job's command")
        ensemble = FittedEnsemble.read(plan.ensemble_file)
        ballots, gold = read_out_of_fold(plan.out_of_fold_file)
        scores = read_json(folder / "scores.json")
        made, fitted = read_json(plan.plan_file), read_json(plan.ensemble_file)["fitted_decision"]
        return cls(
            plan=plan,
            task=task,
            ensemble=ensemble,
            scores={name.removesuffix(LEAKY): of for name, of in scores.items()},
            leaky=frozenset(name.removesuffix(LEAKY) for name in scores if name.endswith(LEAKY)),
            appraisal=read_json(folder / "appraisal.json"),
            gold=gold,
            members=ballots.probabilities,
            combined=ensemble.rule.combine(ballots.probabilities),
            fitted_decision=np.array([[row[label] for label in task.labels] for row in fitted]),
            versions=made["versions"],
            command=made.get("command", []),
        )

    @property
    def final(self) -> dict[str, Scores | None]:
        """The scores of the vote of all members."""
        return self.scores[FINAL]

    @property
    def rule(self) -> VotingRule:
        return self.ensemble.rule

    @property
    def best_member(self) -> str:
        """The one with the highest out-of-fold score."""
        found = self.appraisal.get("best_member")
        return found["name"] if found else self.names[0]

    @cached_property
    def measures(self) -> dict[str, dict[str, Any]]:
        """What each run found out, by its name."""
        return {run.name: run.measures() for run in self.plan.runs}

    @property
    def encoder_names(self) -> list[str]:
        """The members' encoders, as the recipe or the command named them."""
        return sorted({run.member.get("model_name_or_path") for run in self.plan.runs if run.member.has_encoder})

    @property
    def counts(self) -> dict[str, int]:
        """Labelled tweets by label."""
        counted = np.bincount(self.gold, minlength=self.task.n_classes)
        return dict(zip(self.task.labels, counted.tolist(), strict=True))

    def agreement(self) -> np.ndarray:
        """Correlation (n_members, n_members) of the members' log odds of the rare labels, out of fold."""
        rare = log_odds(self.members)[:, :, self.task.positive_indices]
        flat = rare.reshape(len(rare), -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.corrcoef(flat) if len(flat) > 1 else np.ones((1, 1))
        return np.nan_to_num(np.atleast_2d(found))

    def fold_scores(self) -> dict[str, list[float]]:
        """Each member's measure on each fold that it held out, as its runs found it (by the highest probability)."""
        return {
            name: [self.measures[run.name]["held_out"][self.task.measure] for run in runs]
            for name, runs in self._fold_runs().items()
        }

    def learning_curves(self) -> dict[str, list[list[dict[str, float]]]]:
        """Each member's evaluations while its runs were trained, a list a run; only of those with two or more."""
        runs = self._fold_runs()
        found = {name: [self.measures[run.name].get("evaluations", []) for run in own] for name, own in runs.items()}
        return {name: curves for name, curves in found.items() if all(len(curve) > 1 for curve in curves)}

    def _fold_runs(self) -> dict[str, list[Run]]:
        """Each member's runs that hold tweets out."""
        return {name: fold_runs(self.plan.runs_of([name])) for name in self.names}

    @property
    def names(self) -> list[str]:
        return self.plan.members

    def costs(self) -> list[dict[str, Any]]:
        """For each member what its runs took: seconds, steps, tweets shown, device."""
        rows = []
        for name in self.names:
            runs = self.plan.runs_of([name])
            done = [read_json(run.done_file) for run in runs]
            steps = sum(self.measures[run.name].get("steps", 0) for run in runs)
            rows.append(
                {
                    "name": name,
                    "runs": len(runs),
                    "seconds": sum(one["seconds"] for one in done),
                    "training_seconds": sum(one["training_seconds"] for one in done),
                    "steps": steps,
                    "device": Counter(one["device"] for one in done).most_common(1)[0][0],
                }
            )
        return rows

    def confusion(self, part: str) -> np.ndarray:
        """Counts (n_classes, n_classes) of the final vote, `out_of_fold` by rules fitted without each tweet."""
        return np.array(self.final[part]["confusion"])
