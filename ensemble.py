"""Votes: predictions of a finished job, or anyone's label files, -> one label a tweet, with scores where gold is given.

python ensemble.py runs/task5 --output vote.tsv --gold gold.tsv
python ensemble.py runs/task5 --method greedy --decision tuned --output vote.tsv
python ensemble.py a.tsv b.tsv c.tsv --output vote.tsv

A job's folder knows how its members are to vote (ensemble.json). Another way is fitted here, on the out-of-fold
predictions, and what it prints of itself is scored on tweets that each fit has not seen.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.plan import read_plan
from smm4h.config.task import Task, read_task
from smm4h.data.folds import read_fold_labels
from smm4h.data.prediction_files import check_same_tweets, read_labels, write_labels, write_submission
from smm4h.ensemble.fitted_ensemble import FittedEnsemble, fit_ensemble
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.member_predictions import (
    MemberPredictions,
    mean_predictions,
    out_of_fold_predictions,
    predictions_from_files,
)
from smm4h.metrics import format_interval
from smm4h.models.voting import DECISIONS, FITTED, METHODS, TIES
from smm4h.reporting.terminal import score_table
from smm4h.utils.console import console
from smm4h.utils.errors import InputError, nearest, run_main


@dataclass(frozen=True)
class Vote:
    """A vote that was held."""

    ballots: MemberPredictions
    elected: np.ndarray  # (n_tweets,) class indices
    how: str
    task: Task | None  # files need none
    ensemble: FittedEnsemble | None  # files have none


def main() -> None:
    arguments = read_arguments()
    vote = vote_of_job(arguments) if arguments.inputs[0].is_dir() else vote_of_files(arguments)
    write_vote(arguments.output, vote)
    tell_vote(arguments.output, vote)
    if arguments.gold:
        tell_scores(arguments.gold, vote)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        type=Path,
        help="the output folder of a job, or label files (tweet_id and Class) of the same tweets",
    )
    add("--method", choices=METHODS, help="how to vote (default: as the job did; of files, hard)")
    add("--decision", choices=DECISIONS, help="which label probabilities give (default: as in the job)")
    add("--ties", choices=TIES, help="who wins a tie (default: highest mean probability, or lowest class without any)")
    add("--members", nargs="+", default=[], help="only these members of the job vote (default: all)")
    add("--output", type=Path, required=True, help="the vote: .tsv, or .zip for the task's official submission")
    add("--gold", type=Path, help="label file with the right labels, for scores")
    add("--task", type=Path, help="task file; label files need it for scores and submissions, a job's folder knows it")
    arguments = parser.parse_args()
    folders = [path for path in arguments.inputs if path.is_dir()]
    if folders and len(arguments.inputs) > 1:
        raise InputError(f"{folders[0]} is a folder; give one job's folder, or files")
    return arguments


def vote_of_job(arguments: argparse.Namespace) -> Vote:
    """By the job's own rule, or by one that is fitted as asked."""
    folder = arguments.inputs[0]
    plan, task = read_plan(folder)
    for name in arguments.members:
        if name not in plan.members:
            raise InputError(f"--members: {folder} has no member {name}{nearest(name, plan.members)}")
    asked = {name: getattr(arguments, name) for name in ("method", "decision", "ties")}
    runs = plan.runs_of(arguments.members or plan.members)
    if plan.ensemble_file.exists() and not arguments.members and not any(asked.values()):
        ensemble = FittedEnsemble.read(plan.ensemble_file)
        ballots = mean_predictions(runs, mean=ensemble.rule.mean)
    else:
        own = {"method": plan.shared("vote"), "decision": plan.shared("decision"), "ties": plan.shared("ties")}
        fitting = VotingConfig(task.objective, **{name: value or own[name] for name, value in asked.items()})
        held_out = out_of_fold_predictions(runs)
        fitted, _ = fit_ensemble(held_out, task.indices(read_fold_labels(plan.folds_file)), fitting, task)
        ensemble, ballots = fitted.for_new_tweets(runs)
    rule = ensemble.rule
    how = f"{rule.method} vote" + (f", ties to the {rule.ties}" if rule.method == "hard" else "")
    return Vote(ballots, ensemble.predict(ballots), how, task, ensemble)


def vote_of_files(arguments: argparse.Namespace) -> Vote:
    """By counting, or by the mean of the probabilities that predictions files have."""
    task = read_task(arguments.task) if arguments.task else None
    if arguments.members:
        raise InputError("--members chooses among a job's members; of files, just name those that vote")
    if arguments.method in FITTED or arguments.decision == "tuned":
        raise InputError("files do not say what to fit a vote on; use --method hard or soft, or name a job's folder")
    if task is None and (arguments.gold or arguments.output.suffix == ".zip"):
        raise InputError("scores and submissions need the task: --task tasks/task5.yaml")
    ballots = predictions_from_files(arguments.inputs, task.labels if task else None)
    ties, method = arguments.ties or ("lowest" if ballots.probabilities is None else "probability"), arguments.method
    how = f"{method} vote" if method == "soft" else f"hard vote, ties to the {ties}"
    return Vote(ballots, ballots.vote(method or "hard", ties), how, task, None)


def write_vote(output: Path, vote: Vote) -> None:
    """Writes the elected labels as a label file, or as the official zip where the name ends so."""
    names = vote.ballots.names(vote.elected)
    try:
        if output.suffix == ".zip":
            write_submission(output, vote.task.submission, vote.ballots.ids, names)
        else:
            write_labels(output, vote.ballots.ids, names)
    except OSError as error:
        raise InputError(f"--output {output} can't be written ({error.strerror})") from None


def tell_vote(output: Path, vote: Vote) -> None:
    labels, elected = vote.ballots.labels, vote.elected
    counts = np.bincount(elected, minlength=len(labels))
    shares = ", ".join(f"{label}: {count}" for label, count in zip(labels, counts, strict=True))
    is_counted = vote.ensemble is None or vote.ensemble.rule.is_argmax  # else ballots are not argmax
    ties = f"; {vote.ballots.count_ties()} ties" if vote.how.startswith("hard") and is_counted else ""
    console.print(f"{vote.how} of {len(vote.ballots.members)} on {len(elected)} tweets ({shares}){ties}")
    if vote.ensemble is not None:
        score, measure = vote.ensemble.out_of_fold, vote.task.measure
        console.print(f"out of fold, {measure} {score[measure]:.3f} ({format_interval(score['interval'])})")
    console.print(f"written to {output}")


def tell_scores(path: Path, vote: Vote) -> None:
    """Shows each voter's scores, by its own highest probability, and the vote's."""
    gold, ballots, task = read_labels(path), vote.ballots, vote.task
    check_same_tweets(gold, ballots.ids, "the vote")
    truth = gold.indices(task.labels)
    choices = {**dict(zip(ballots.members, ballots.votes, strict=True)), "vote": vote.elected}
    rows: list[tuple[str, list[dict[str, Any]]]] = [(name, [task.score(truth, one)]) for name, one in choices.items()]
    console.print(score_table(f"{task.name}, {path}", task.measure, [""], rows))


if __name__ == "__main__":
    run_main(main)
