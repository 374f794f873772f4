"""The votes of a job, in the order in which its stages make them: pseudo labels, final vote, submission, scores."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from smm4h.config.job import Job
from smm4h.config.plan import Plan, Run, teacher_runs
from smm4h.data.dataset import PART, column
from smm4h.data.duplicates import across_folds
from smm4h.data.prediction_files import read_labels, write_labels
from smm4h.data.splits import Splits
from smm4h.data.submissions import (
    VALIDATION,
    Part,
    holds,
    parts_of,
    read_sources,
    submission_files,
    write_submission_file,
)
from smm4h.ensemble.fitted_ensemble import FittedEnsemble, fit_ensemble, write_ensemble
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.label_issues import write_label_issues
from smm4h.ensemble.member_predictions import (
    MemberPredictions,
    mean_predictions,
    out_of_fold_predictions,
    read_out_of_fold,
    write_out_of_fold,
)
from smm4h.ensemble.pseudo_labeling import PseudoLabeler, counts_of
from smm4h.ensemble.scoring import FINAL, LEAKY, Leaderboard
from smm4h.utils.files import write_json
from smm4h.utils.leases import make_once


def write_pseudo_labels(stage: int, plan: Plan, job: Job, splits: Splits) -> dict[int, dict[str, Any]]:
    """Write the pseudo-labelled tweets of a stage, once all its teachers are done.

    Returns by fold seed, for the parts that this process has written, what became of each fold's tweets.
    """
    runs, teachers = [run for run in plan.runs if run.stage == stage], teacher_runs(plan, job, stage)
    if not runs or not all(run.is_done() for run in teachers):
        return {}
    config = VotingConfig.from_settings(job.settings, job.task)

    def vote(part: str) -> tuple[MemberPredictions, np.ndarray]:
        """Return the teachers' predictions on the test tweets, or on the `unlabelled` ones, and their vote."""
        fitted, _ = fit_ensemble(out_of_fold_predictions(teachers), splits.gold, config, job.task)
        ensemble, predictions = fitted.for_new_tweets(teachers, part)
        return predictions, ensemble.predict(predictions)

    if splits.test is not None:
        path = plan.output_dir / "votes" / f"stage{stage - 1}.tsv"
        make_once(path, lambda: write_vote(path, *vote("test")))
    labeler = PseudoLabeler(job.settings, job.task, splits.labelled, splits.pool, teachers, vote)
    folder = plan.output_dir / "pseudo_labels"
    seeds = sorted({run.member.args.fold_seed for run in runs})
    return {seed: counts_of(folder, stage, seed) for seed in seeds if labeler.write(folder, stage, seed)}


def write_vote(path: Path, predictions: MemberPredictions, predicted: np.ndarray) -> None:
    """Write predicted class indices (n_tweets,) as a label file."""
    write_labels(path, predictions.ids, predictions.names(predicted))


def fit_and_vote(plan: Plan, job: Job, splits: Splits) -> None:
    """Write out-of-fold table, ensemble, label issues, final vote and submission, once all runs are done."""
    if not all(run.is_done() for run in plan.runs):
        return
    table, config = plan.out_of_fold_file, VotingConfig.from_settings(job.settings, job.task)
    make_once(table, lambda: write_out_of_fold(table, out_of_fold_predictions(plan.runs), splits.gold))
    has_test = splits.test is not None
    make_once(plan.ensemble_file, lambda: write_ensemble(plan, config, job.task, has_test=has_test))
    issues = plan.output_dir / "label_problems.tsv"
    make_once(issues, lambda: write_label_issues(issues, table, splits.labelled))
    if job.task.submission.validation and (part := validation_part(plan, job, splits)):
        write_submissions(plan, job, [part])
    if not has_test:
        return
    votes = plan.output_dir / "votes" / "final.tsv"

    def vote() -> None:
        ensemble = FittedEnsemble.read(plan.ensemble_file)
        predictions = mean_predictions(plan.runs, mean=ensemble.rule.mean)
        write_vote(votes, predictions, ensemble.predict(predictions))

    make_once(votes, vote)
    final = read_labels(votes)
    write_submissions(plan, job, parts_of(final.ids.to_pylist(), final.labels.to_pylist(), read_sources(plan)))


def write_submissions(plan: Plan, job: Job, parts: Sequence[Part]) -> None:
    """Write the files to hand in; those that another shape of the task's submission has left are replaced."""
    for name, texts in submission_files(job.task.submission, parts).items():
        path = plan.output_dir / "submission" / name
        if path.exists() and not holds(path, texts):
            path.unlink()
        make_once(path, partial(write_submission_file, path, texts))


def validation_part(plan: Plan, job: Job, splits: Splits) -> Part | None:
    """Return the validation tweets with the labels of rules and runs that have not seen them; None without any."""
    if PART not in splits.labelled.column_names:
        return None
    is_asked = np.array(column(splits.labelled, PART).to_pylist()) == VALIDATION
    predictions, gold = read_out_of_fold(plan.out_of_fold_file)
    config = VotingConfig.from_settings(job.settings, job.task)
    predicted = config.predict_out_of_fold(predictions.members, predictions.probabilities, gold, predictions.groups)
    ids = predictions.ids.filter(pa.array(is_asked)).to_pylist()
    return Part(VALIDATION, ids, [job.task.labels[i] for i in predicted[is_asked]])


def score_job(
    plan: Plan, job: Job, splits: Splits, test_gold: np.ndarray | None
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
    config = VotingConfig.from_settings(job.settings, job.task)
    leaderboard = Leaderboard(plan, config, job.task, splits.gold, test_gold)
    leaderboard.add_members(members)
    votes = {f"stage-{stage - 1} vote": teacher_runs(plan, job, stage) for stage in job.stages if stage > 1}
    votes[FINAL] = plan.runs
    for name, runs in votes.items():
        if all(run.is_done() for run in runs):
            leaderboard.add_vote(name, runs, config)
    baselines = leaderboard.add_baselines()
    leaky = leaky_rows(plan, job, votes)
    write_json(plan.output_dir / "scores.json", {leaky.get(k, k): v for k, v in leaderboard.scores.items()})
    if not all(run.is_done() for run in plan.runs):
        return leaderboard, leaky, None
    seeds = sorted({member.args.fold_seed for member in job.members})
    evaluation = leaderboard.evaluate(FINAL, baselines, across_folds(splits.labelled, seeds))
    write_json(plan.output_dir / "appraisal.json", evaluation)
    return leaderboard, leaky, evaluation


def leaky_rows(plan: Plan, job: Job, votes: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Return the marked names of members and votes whose teachers saw the held-out tweets."""
    if job.settings.pseudo_from == "unseen":
        return {}
    members = {run.member.name for run in plan.runs if run.stage > 1}
    biased = {name for name, runs in votes.items() if members & {run.member.name for run in runs}}
    return {name: f"{name}{LEAKY}" for name in members | biased}
