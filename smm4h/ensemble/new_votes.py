"""A vote after training: over a finished job's predictions by its own rule or another, or over label files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.plans.plan import Plan, read_plan
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.folds import read_fold_labels
from smm4h.data.outputs.label_files import read_labels, write_labels
from smm4h.data.outputs.labels import in_order_of
from smm4h.data.outputs.submissions import parts_of, read_sources, submission_files, write_submission_file
from smm4h.data.readers.tables import Finding
from smm4h.ensemble.decisions.operating_points import aim_of, promise_of
from smm4h.ensemble.fitted_ensemble import FittedEnsemble, asked_config, fit_ensemble
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.member_predictions import (
    MemberPredictions,
    check_done,
    out_of_fold_predictions,
    predictions_from_files,
)
from smm4h.models.voting import METHODS
from smm4h.utils.errors import InputError, nearest

POOLED = "one decision for all groups: cuts by group are for tuned, an F-beta and costs"
OTHER_MEAN = (
    "a number by hand applies to the mean of the models' probabilities; the job's rule so far, and the thresholds in "
    "its report, are of the mean of their log odds, where the same number flags other tweets"
)


def rule_notices(plan: Plan, config: VotingConfig) -> list[str]:
    """Return what to know of a rule that is asked for beside a job's own."""
    notices = [POOLED] if config.pools_groups else []
    by_probability = config.decision.by_hand and not METHODS[config.method].is_fitted
    has_rule = plan.ensemble_file.exists() and plan.derived.damage_of(plan.ensemble_file) is None
    if by_probability and has_rule and FittedEnsemble.read(plan.ensemble_file).rule.mean == "log_odds":
        notices.append(OTHER_MEAN)
    return notices


@dataclass(frozen=True)
class Vote:
    """The result of a vote."""

    predictions: MemberPredictions
    predicted: np.ndarray  # (n_tweets,) class indices
    description: str
    task: Task | None  # files need none
    ensemble: FittedEnsemble | None  # files have none
    runs: Sequence[Run] = ()  # of the members; files have none
    config: VotingConfig | None = None  # how they vote; files have none
    gold: np.ndarray | None = None  # (n_labelled,) class indices of the labelled tweets; files have none
    sources: Sequence[tuple[str, int]] = ()  # of the tweets, and how many in a row are from each
    notices: Sequence[str] = ()  # what to know of the rule beside its name

    def read_gold(self, path: Path, encoding: str | None = None) -> tuple[np.ndarray, Sequence[Finding]]:
        """Return the gold class indices (n_tweets,) of a label file of the same tweets, joined by id, and findings."""
        gold = in_order_of(read_labels(path, self.task, encoding), self.predictions.ids, "the vote")
        return gold.classes_in(self.task.space), gold.findings

    @property
    def promise(self) -> dict[str, Any] | None:
        """What the decision promises, where it is a target."""
        if self.ensemble is None:
            return None
        return promise_of(self.config.decision, self.ensemble.out_of_fold["confusion"], self.config.objective.positive)

    @property
    def aim(self) -> dict[str, Any] | None:
        """What the decision reaches, where it is by hand, for costs or for another measure than the metric."""
        return None if self.ensemble is None else aim_of(self.config.decision, self.ensemble.out_of_fold, self.task)

    def member_votes(self) -> dict[str, np.ndarray]:
        """Return each member's class indices (n_tweets,): of files their labels, of a job's members by its decision."""
        if self.config is None:
            return dict(zip(self.predictions.members, self.predictions.votes, strict=True))
        votes = {}
        for name in self.predictions.members:
            runs = [run for run in self.runs if run.member.name == name]
            fitted, _ = fit_ensemble(out_of_fold_predictions(runs), self.gold, self.config.for_one, self.task)
            ensemble, predictions = fitted.for_new_tweets(runs)
            votes[name] = ensemble.predict(predictions)
        return votes

    def write(self, output: Path) -> None:
        """Write a label file in the format of its name, or the submission where it has the name of one, or of a zip."""
        names = self.predictions.names(self.predicted)
        try:
            if texts := self._submitted(output.name, names):
                write_submission_file(output, texts)
            else:
                write_labels(output, self.predictions.ids, names)
        except OSError as error:
            raise InputError(f"--output {output} can't be written ({error.strerror})") from None

    def _submitted(self, output: str, names: Sequence[str]) -> dict[str, str]:
        """Return the submission's files as a zip is to hold them, or the only one of this name; else none."""
        if self.task is None:
            return {}
        submission = replace(self.task.submission, packing="none", validation=False)
        sources = self.sources or self._source_of(output)
        parts = parts_of(self.predictions.ids.to_pylist(), self.task.space.listed(names), sources)
        if Path(output).suffix.lower() == ".zip":
            return {
                name: text for texts in submission_files(submission, parts).values() for name, text in texts.items()
            }
        asked = [part for part in parts if submission.file_of(part.source) == output]
        return next(iter(submission_files(submission, asked).values()), {})

    def _source_of(self, output: str) -> list[tuple[str, int]]:
        """Return the source that label files are from, where the output has the name of its submission."""
        known = [*self.task.submission.files, *(file.source for file in self.task.files.get("test", []))]
        for source in filter(None, known):
            if Path(self.task.submission.file_of(source)).stem == Path(output).stem:
                return [(source, len(self.predictions.ids))]
        return []


def hold_vote(
    inputs: Sequence[Path],
    *,
    method: str | None = None,
    decision: str | None = None,
    ties: str | None = None,
    predict_with: str | None = None,
    members: Sequence[str] = (),
    task_file: Path | None = None,
    encoding: str | None = None,
) -> Vote:
    """Return the vote of a job's members, where the one input is a folder, or of label files.

    What is None is as the job was told, or for files a hard vote. The task file of a job's vote says in what shape it
    is submitted.

    Raises `InputError` for a job without test tweets.
    """
    task = read_task(task_file) if task_file else None
    if not inputs[0].is_dir():
        return vote_of_files(inputs, method, ties, task, encoding)
    asked = {"method": method, "decision": decision, "ties": ties, "predict_with": predict_with}
    vote = vote_of_job(inputs[0], asked, members)
    if task is None:
        return vote
    if task.labels != vote.task.labels:
        raise InputError(f"--task {task_file} has other labels than {inputs[0]}; name the task of the job")
    return replace(vote, task=replace(vote.task, submission=task.submission))


def vote_of_job(folder: Path, asked: dict[str, str | None], members: Sequence[str]) -> Vote:
    """Return the vote by the job's own rule, or by one that is fitted as asked."""
    plan, task = read_plan(folder)
    if plan.identity["data"].get("test") is None:
        raise InputError(
            f"{folder} is a job without test tweets, so there is nothing to vote on; label new tweets with predict.py"
        )
    for name in members:
        if name not in plan.members:
            raise InputError(f"--members: {folder} has no member {name}{nearest(name, plan.members)}")
    runs, config = plan.runs_of(members or plan.members), asked_config(plan, task, asked, members)
    check_done(runs)
    plan.derived.check(plan.folds_file)
    gold = task.indices(read_fold_labels(plan.folds_file))
    if plan.ensemble_file.exists() and not members and not any(asked.values()):
        plan.derived.check(plan.ensemble_file)
        ensemble = FittedEnsemble.read(plan.ensemble_file)
        predictions = ensemble.mean_predictions(runs)
    else:
        out_of_fold = out_of_fold_predictions(runs)
        fitted, _ = fit_ensemble(out_of_fold, gold, config, task)
        ensemble, predictions = fitted.for_new_tweets(runs)
    rule = ensemble.rule
    description = f"{rule.method} vote" + (f", ties to the {rule.ties}" if rule.method == "hard" else "")
    predicted, sources = ensemble.predict(predictions), read_sources(plan)
    notices = rule_notices(plan, config)
    return Vote(predictions, predicted, description, task, ensemble, runs, config, gold, sources, notices)


def vote_of_files(
    paths: Sequence[Path], method: str | None, ties: str | None, task: Task | None, encoding: str | None = None
) -> Vote:
    """Return the vote by counting labels, or by the mean of the probabilities that the files have."""
    predictions = predictions_from_files(paths, task, encoding)
    ties = ties or ("lowest" if predictions.probabilities is None else "probability")
    description = f"{method} vote" if method == "soft" else f"hard vote, ties to the {ties}"
    return Vote(predictions, predictions.vote(method or "hard", ties), description, task, None)
