"""The votes of a job, in the order in which its stages make them: pseudo labels, final vote, submission, scores."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from smm4h.config.job import Job
from smm4h.config.plans.plan import Plan, teacher_runs
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.dataset import PART, column
from smm4h.data.duplicates import across_folds
from smm4h.data.folds import folds_of
from smm4h.data.outputs.label_files import read_labels, write_labels
from smm4h.data.outputs.submissions import (
    VALIDATION,
    Part,
    parts_of,
    read_sources,
    submission_files,
    write_submission_files,
)
from smm4h.data.splits import Splits
from smm4h.ensemble.fitted_ensemble import (
    FittedEnsemble,
    fit_ensemble,
    is_outdated,
    keep_saved_rule,
    voting_config,
    write_ensemble,
)
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.label_issues import has_vote, write_errors, write_label_issues
from smm4h.ensemble.member_predictions import (
    MemberPredictions,
    out_of_fold_predictions,
    read_out_of_fold,
    write_out_of_fold,
)
from smm4h.ensemble.pseudo_labeling import PseudoLabeler, counts_of
from smm4h.ensemble.scoring import FINAL, LEAKY, Leaderboard
from smm4h.utils.console import console
from smm4h.utils.durable import hash_file
from smm4h.utils.files import write_json
from smm4h.utils.leases import wait_for_lease

ERRORS_FILE = "errors.tsv"
FIT_LEASE = ".fit.claim"  # of the process that fits the ensemble, and makes what follows from it


def write_pseudo_labels(stage: int, plan: Plan, job: Job, splits: Splits) -> dict[int, dict[str, Any]]:
    """Write the pseudo-labelled tweets of a stage, once all its teachers are done.

    Returns by fold seed, for the parts that this process has written, what became of each fold's tweets.
    """
    runs, teachers = [run for run in plan.runs if run.stage == stage], teacher_runs(plan, job, stage)
    if not runs or not all(run.is_done() for run in teachers):
        return {}
    config, derived = VotingConfig.from_settings(job.settings, job.task), plan.derived
    inputs = inputs_hash(teachers, "held_out.parquet", "test.parquet", "unlabelled.parquet")

    def vote(part: str) -> tuple[MemberPredictions, np.ndarray]:
        """Return the teachers' predictions on the test tweets, or on the `unlabelled` ones, and their vote."""
        fitted, _ = fit_ensemble(out_of_fold_predictions(teachers), splits.gold, config, job.task)
        ensemble, predictions = fitted.for_new_tweets(teachers, part)
        return predictions, ensemble.predict(predictions)

    if splits.test is not None:
        path = plan.output_dir / "votes" / f"stage{stage - 1}.tsv"
        derived.make(path, lambda: write_vote(path, *vote("test")), inputs)
    labeler = PseudoLabeler(job.settings, job.task, splits.labelled, splits.pool, teachers, vote)
    folder = plan.output_dir / "pseudo_labels"
    for_refit = {run.member.args.fold_seed: False for run in sorted(runs, key=lambda run: run.member.args.fold_seed)}
    for_refit |= {run.member.args.fold_seed: True for run in runs if run.is_refit}
    return {
        seed: counts_of(folder, stage, seed)
        for seed, with_refit in for_refit.items()
        if labeler.write(folder, stage, seed, derived, inputs, for_refit=with_refit)
    }


def inputs_hash(runs: Sequence[Run], *names: str) -> str:
    """Return a hash of some files of runs, by the hashes that the runs' DONE files have of them."""
    hashes = [[run.fingerprint, *(run.listed_files().get(name, {}).get("sha256") for name in names)] for run in runs]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def write_vote(path: Path, predictions: MemberPredictions, predicted: np.ndarray) -> None:
    """Write predicted class indices (n_tweets,) as a label file."""
    write_labels(path, predictions.ids, predictions.names(predicted))


@dataclass(frozen=True)
class LabelledPart:
    """What votes and scores need of the labelled tweets: gold labels, folds, and the tweets where they are at hand."""

    gold: np.ndarray  # (n_tweets,) class indices
    folds: dict[int, np.ndarray]  # by fold seed, the fold (n_tweets,) that holds each tweet out
    tweets: Dataset | None

    @classmethod
    def of_splits(cls, splits: Splits) -> "LabelledPart":
        """Return the labelled part of a job's splits."""
        seeds = [int(name.rpartition("_")[2]) for name in splits.labelled.column_names if name.startswith("fold_")]
        return cls(splits.gold, {seed: folds_of(splits.labelled, seed) for seed in seeds}, splits.labelled)

    @classmethod
    def of_folder(cls, plan: Plan, task: Task) -> "LabelledPart":
        """Return what a job's folder alone knows, without the tweets."""
        table = pd.read_parquet(plan.folds_file)
        folds = {
            int(name.rpartition("_")[2]): table[name].to_numpy() for name in table.columns if name.startswith("fold_")
        }
        return cls(task.indices(table["label"]), folds, None)


def ensemble_inputs(plan: Plan, task: Task) -> str:
    """Return what tells the files that ensemble.json is made from."""
    return f"{inputs_hash(plan.runs, 'held_out.parquet', 'test.parquet')} {task.costs}"


def fit_and_vote(plan: Plan, task: Task, labelled: LabelledPart) -> None:
    """Write out-of-fold table, ensemble, label issues, errors, final vote and submission, once all runs are done.

    What is whole already, and made from the runs and files that there are now, is kept. An ensemble that was fitted for
    other costs than the task now has is made anew.

    One process at a time: the ensemble's own columns join the out-of-fold table, and another process that looked at it
    meanwhile would take it for damaged and make it again without them.
    """
    if not all(run.is_done() for run in plan.runs):
        return
    is_done = False
    while not is_done:
        with wait_for_lease(plan.output_dir / FIT_LEASE, plan.ensemble_file) as lease:
            try:
                _fit_and_vote(plan, task, labelled)
                is_done = True
            except Exception:
                if lease.is_held():
                    raise


def _fit_and_vote(plan: Plan, task: Task, labelled: LabelledPart) -> None:
    """Make what is missing of the files that `fit_and_vote` names."""
    table, derived, held_out = plan.out_of_fold_file, plan.derived, inputs_hash(plan.runs, "held_out.parquet")
    config = voting_config(plan, task)
    keep_saved_rule(plan, task, config)
    is_refitted = derived.reason_to_make(table, held_out) or derived.damage_of(plan.ensemble_file)
    if plan.ensemble_file.exists() and is_refitted:  # the table has the ensemble's own columns
        console.print(f"note: {plan.ensemble_file} is made again", markup=False, soft_wrap=True)
        plan.ensemble_file.unlink()
    derived.make(table, lambda: write_out_of_fold(table, out_of_fold_predictions(plan.runs), labelled.gold), held_out)
    has_test, inputs = plan.identity["data"].get("test") is not None, ensemble_inputs(plan, task)
    if derived.reason_to_make(plan.ensemble_file, inputs) is None and is_outdated(plan, config):
        remove_votes(plan)
        plan.ensemble_file.unlink()
    derived.make(plan.ensemble_file, lambda: write_ensemble(plan, config, task, has_test=has_test), inputs)
    if labelled.tweets is not None:
        issues, errors = plan.output_dir / "label_problems.tsv", plan.output_dir / ERRORS_FILE
        derived.make(issues, lambda: write_label_issues(issues, table, labelled.tweets), held_out)
        if has_vote(table):
            rule = f"{held_out} {hash_file(plan.ensemble_file)}"
            derived.make(errors, lambda: write_errors(errors, table, labelled.tweets, task), rule)
        if task.submission.validation and (part := validation_part(plan, task, config, labelled.tweets)):
            write_submissions(plan, task, [part])
    if has_test:
        write_final_vote(plan, task)


def write_final_vote(plan: Plan, task: Task) -> None:
    """Write the final vote on the test tweets, and the submission."""
    votes = plan.output_dir / "votes" / "final.tsv"

    def vote() -> None:
        ensemble = FittedEnsemble.read(plan.ensemble_file)
        predictions = ensemble.mean_predictions(plan.runs)
        write_vote(votes, predictions, ensemble.predict(predictions))

    plan.derived.make(votes, vote, f"{ensemble_inputs(plan, task)} {hash_file(plan.ensemble_file)}")
    final = read_labels(votes, task if task.multi_label else None)
    write_submissions(
        plan, task, parts_of(final.ids.to_pylist(), task.space.listed(final.labels.to_pylist()), read_sources(plan))
    )


def write_submissions(plan: Plan, task: Task, parts: Sequence[Part]) -> None:
    """Write the files to hand in; those that another shape of the task's submission has left are replaced."""
    write_submission_files(plan.derived, submission_files(task.submission, parts))


def validation_part(plan: Plan, task: Task, config: VotingConfig, tweets: Dataset) -> Part | None:
    """Return the validation tweets with the labels of rules and runs that have not seen them; None without any."""
    if PART not in tweets.column_names:
        return None
    is_asked = np.array(column(tweets, PART).to_pylist()) == VALIDATION
    predictions, gold = read_out_of_fold(plan.out_of_fold_file)
    predicted = config.predict_out_of_fold(predictions.members, predictions.probabilities, gold, predictions.groups)
    ids = predictions.ids.filter(pa.array(is_asked)).to_pylist()
    return Part(VALIDATION, ids, task.space.listed(task.space.names(predicted[is_asked])))


def remove_votes(plan: Plan) -> None:
    """Remove what follows from the ensemble's rule: a kill halfway leaves nothing that belongs to another rule."""
    names = ("report.html", "scores.json", "appraisal.json", ERRORS_FILE, "votes/final.tsv")
    submitted = [path for path in (plan.output_dir / "submission").rglob("*") if path.is_file()]
    plan.derived.remove([*(plan.output_dir / name for name in names), *submitted])


def score_job(
    plan: Plan, job: Job, labelled: LabelledPart, test_gold: np.ndarray | None
) -> tuple[Leaderboard, dict[str, str], dict[str, Any] | None] | None:
    """Write scores.json and, once all runs are done, appraisal.json.

    Args:
        test_gold: class indices (n_tweets,) of the test tweets, where they are known.

    Returns the leaderboard, the marked names of optimistically biased rows, and the evaluation of the final vote, if
    there is one; None as long as no member is done.
    """
    members = [name for name in plan.members if all(run.is_done() for run in plan.runs_of([name]))]
    if not members:
        return None
    leaderboard = Leaderboard(plan, voting_config(plan, job.task), job.task, labelled.gold, test_gold)
    leaderboard.add_members(members)
    votes = {f"stage-{stage - 1} vote": teacher_runs(plan, job, stage) for stage in job.stages if stage > 1}
    votes[FINAL] = plan.runs
    for name, runs in votes.items():
        if all(run.is_done() for run in runs):
            leaderboard.add_vote(name, runs, leaderboard.config)
    baselines = leaderboard.add_baselines()
    leaky = leaky_rows(plan, job, votes)
    write_scores(plan, "scores.json", {leaky.get(k, k): v for k, v in leaderboard.scores.items()})
    if not all(run.is_done() for run in plan.runs):
        return leaderboard, leaky, None
    seeds = sorted({member.args.fold_seed for member in job.members})
    across = {} if labelled.tweets is None else across_folds(labelled.tweets, seeds)
    evaluation = leaderboard.evaluate(FINAL, baselines, across, labelled.folds)
    if expected := leaderboard.expected(unbiased_vote(plan, job, votes, leaky)):
        evaluation["expected"] = expected
    write_scores(plan, "appraisal.json", evaluation)
    return leaderboard, leaky, evaluation


def unbiased_vote(plan: Plan, job: Job, votes: Mapping[str, Sequence[Run]], leaky: Mapping[str, str]) -> str:
    """Return the last of a job's votes whose out-of-fold predictions are like those on new tweets.

    They are not where teachers saw the held-out tweets, nor where members learnt pseudo labels of the test tweets.
    """
    learns_test = not job.settings.unlabelled_file
    return [
        name
        for name, runs in votes.items()
        if name not in leaky and not (learns_test and any(run.stage > 1 for run in runs))
    ][-1]


def write_scores(plan: Plan, name: str, content: dict[str, Any]) -> None:
    """Write a file of scores, which each command computes anew, and record its hash."""
    write_json(plan.output_dir / name, content)
    plan.derived.record(plan.output_dir / name)


def leaky_rows(plan: Plan, job: Job, votes: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Return the marked names of members and votes whose teachers saw the held-out tweets."""
    if job.settings.pseudo_from == "unseen":
        return {}
    members = {run.member.name for run in plan.runs if run.stage > 1}
    biased = {name for name, runs in votes.items() if members & {run.member.name for run in runs}}
    return {name: f"{name}{LEAKY}" for name in members | biased}
