"""Results of a finished job for report, model card and distillation, read once from the output folder."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from smm4h.config.decision import parse_decision
from smm4h.config.plans.plan import Plan, fold_runs, read_plan
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.ensemble.decisions.operating_points import aim_of
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.ensemble.member_predictions import read_out_of_fold
from smm4h.ensemble.scoring import FINAL, LEAKY
from smm4h.models.voting import VotingRule, log_odds
from smm4h.utils.durable import damages, read_checked_json
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json
from smm4h.utils.wording import are, counted

STUDENT_FILE = "student.json"  # in the folder of a student that was distilled from a job
SCORES = ("scores.json", "appraisal.json")
Scores = dict[str, Any]  # the result of `Task.score`


def read_student(folder: Path) -> dict[str, Any]:
    """Return the content of a student's student.json; raise `InputError` where it, or a file that it lists, is damaged.

    Students of earlier versions list no files.
    """
    content = read_checked_json(folder / STUDENT_FILE)
    wrong = [(STUDENT_FILE, "is damaged")] if content is None else damages(folder, content.get("files", {}))
    for name, what in wrong:
        raise InputError(f"{folder / name} {what}; distil the student again (distill.py ... --overwrite)")
    return content


@dataclass(frozen=True)
class FinishedJob:
    """The results of a job.

    Args:
        scores: by name, of members, votes and baselines: `out_of_fold` and `test` scores, or None.
        gold: class indices (n_tweets,) of the labelled tweets.
        members: the members' out-of-fold probabilities (n_members, n_tweets, n_classes).
        combined: the ensemble's out-of-fold probabilities (n_tweets, n_classes).
        fitted_decision: class weights (n_rows, n_classes), as tuned on single folds' models.
        asked: how the rule was asked for: `method`, `decision`, `ties`, `saved`; empty for an older job.
        promise: what the decision promises, where it is a target; see `operating_points.promise_of`.
        leaky: names of scores whose teachers saw the held-out tweets.
        begun, commit: the day on which the job was begun, and the code's commit; empty where unknown.
        command: words of the command line that the job was first given.
        extra: provenance of the extra training tweets, by file.
        adaptations: provenance of the adapted encoders.
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
    leaky: frozenset[str]
    versions: dict[str, str]
    command: list[str]
    extra: tuple[dict[str, Any], ...] = ()
    adaptations: tuple[dict[str, Any], ...] = ()
    asked: dict[str, Any] = field(default_factory=dict)
    promise: dict[str, Any] | None = None
    begun: str = ""
    commit: str = ""

    @classmethod
    def read(cls, folder: Path) -> "FinishedJob":
        """Read a job's folder; raise `InputError` for a job that is not finished."""
        plan, task = read_plan(folder)
        missing = [run.name for run in plan.runs if not run.is_done()]
        if missing:
            which = f"{counted(len(missing), 'run')} {are(len(missing))}"
            raise InputError(f"{folder}: {which} missing ({missing[0]}, ...); give the job's command")
        for path in (plan.ensemble_file, plan.out_of_fold_file, *(folder / name for name in SCORES)):
            plan.derived.check(path)
        ensemble = FittedEnsemble.read(plan.ensemble_file)
        predictions, gold = read_out_of_fold(plan.out_of_fold_file)
        scores = read_json(folder / "scores.json")
        content, stored = read_json(plan.plan_file), read_json(plan.ensemble_file)
        fitted = stored["fitted_decision"]
        return cls(
            plan=plan,
            task=task,
            ensemble=ensemble,
            scores={name.removesuffix(LEAKY): score for name, score in scores.items()},
            leaky=frozenset(name.removesuffix(LEAKY) for name in scores if name.endswith(LEAKY)),
            appraisal=read_json(folder / "appraisal.json"),
            gold=gold,
            members=predictions.probabilities,
            combined=ensemble.rule.combine(predictions.probabilities),
            fitted_decision=np.array([[row[label] for label in task.space.decided] for row in fitted]),
            versions=content["versions"],
            command=content.get("command", []),
            extra=tuple(content.get("extra", [])),
            adaptations=tuple(content.get("adaptations", {}).values()),
            asked=stored.get("asked", {}),
            promise=stored.get("promise"),
            begun=content.get("begun", ""),
            commit=content.get("commit") or "",
        )

    @property
    def final(self) -> dict[str, Scores | None]:
        """The scores of the vote of all members."""
        return self.scores[FINAL]

    @property
    def aim(self) -> dict[str, Any] | None:
        """What the decision reaches out of fold beside the metric; see `operating_points.aim_of`."""
        asked = self.asked.get("decision")
        return aim_of(parse_decision(asked), self.final["out_of_fold"], self.task) if asked else None

    @property
    def rule(self) -> VotingRule:
        """The ensemble's voting rule."""
        return self.ensemble.rule

    @cached_property
    def with_models(self) -> FittedEnsemble:
        """The ensemble of the members that have models, which predicts new tweets."""
        return FittedEnsemble.read(self.plan.ensemble_file, with_models=True)

    def without_models(self) -> list[str]:
        """Return the names of the members that are predictions from elsewhere."""
        return [name for name in self.names if name not in self.plan.members_with_models]

    @cached_property
    def published(self) -> dict[str, float]:
        """Scores of other systems by their names; none unless the test tweets are the official ones, by their number.

        A score on other tweets, such as invented ones or a part, must not stand beside them.
        """
        run = self.plan.runs[0]
        run.check_file(run.test_file)
        n_test = pq.read_metadata(run.test_file).num_rows if run.test_file.exists() else None
        return self.task.published if n_test and n_test == self.task.official_test_rows else {}

    @property
    def best_member(self) -> str:
        """Name of the member with the highest out-of-fold score."""
        best = self.appraisal.get("best_member")
        return best["name"] if best else self.names[0]

    @cached_property
    def measures(self) -> dict[str, dict[str, Any]]:
        """The content of each run's metrics file, by the run's name."""
        return {run.name: run.measures() for run in self.plan.runs}

    @property
    def encoder_names(self) -> list[str]:
        """The members' encoders, as the recipe or the command named them."""
        return sorted({run.member.args.model_name_or_path for run in self.plan.runs if run.member.has_encoder})

    @property
    def counts(self) -> dict[str, int]:
        """Number of labelled tweets by label."""
        counted = self.task.space.counts(self.gold)
        return dict(zip(self.task.labels, counted.tolist(), strict=True))

    def agreement(self) -> np.ndarray:
        """Return the correlation (n_members, n_members) of the members' out-of-fold log odds of the rare labels."""
        rare = log_odds(self.task.space.to_decide(self.members))[:, :, list(self.task.objective.positive)]
        flat = rare.reshape(len(rare), -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.corrcoef(flat) if len(flat) > 1 else np.ones((1, 1))
        return np.nan_to_num(np.atleast_2d(correlation))

    def fold_scores(self) -> dict[str, list[float]]:
        """Return each member's metric on each held-out fold, by the job's decision; of an older job by argmax."""
        return self.appraisal.get("by_fold") or {
            name: [self.measures[run.name]["held_out"][self.task.measure] for run in runs]
            for name, runs in self._fold_runs().items()
        }

    def learning_curves(self) -> dict[str, list[list[dict[str, float]]]]:
        """Return by member a list of evaluations per run, for members whose runs all had two or more of them."""
        runs = self._fold_runs()
        curves = {name: [self.measures[run.name].get("evaluations", []) for run in own] for name, own in runs.items()}
        return {name: by_run for name, by_run in curves.items() if all(len(curve) > 1 for curve in by_run)}

    def _fold_runs(self) -> dict[str, list[Run]]:
        """Return each member's runs that hold tweets out."""
        return {name: fold_runs(self.plan.runs_of([name])) for name in self.names}

    @property
    def names(self) -> list[str]:
        """Names of the members."""
        return self.plan.members

    def costs(self) -> list[dict[str, Any]]:
        """Return for each member the number of its runs and their seconds, steps and most frequent device."""
        rows = []
        for name in self.names:
            runs = self.plan.runs_of([name])
            records = [read_json(run.done_file) for run in runs]
            steps = sum(self.measures[run.name].get("steps", 0) for run in runs)
            rows.append(
                {
                    "name": name,
                    "runs": len(runs),
                    "seconds": sum(record["seconds"] for record in records),
                    "training_seconds": sum(record["training_seconds"] for record in records),
                    "steps": steps,
                    "device": Counter(record["device"] for record in records).most_common(1)[0][0],
                }
            )
        return rows

    def confusion(self, part: str) -> np.ndarray:
        """Return the final vote's confusion matrix on a part, `test` or `out_of_fold`: of what is decided, see `Task`.

        Out of fold, each tweet's label is predicted by a rule that was fitted without this tweet.
        """
        return np.array(self.final[part]["confusion"])
