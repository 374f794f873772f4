"""One small model that learns from a finished job's whole ensemble, and what it scores and saves beside it.

python distill.py runs/task5 --model_name_or_path distilbert-base-cased
python distill.py runs/task5 --model_name_or_path ENCODER --unlabelled_file more.tsv --output_dir runs/task5-student

Its tweets are those of the job's own command; name them again where files have moved. The student is an ordinary
checkpoint: no code of this project is needed to load it, and its highest probability is its decision. Killed, the
same command goes on.
"""

import argparse
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from smm4h.config.arguments import RunArguments
from smm4h.config.job import Job
from smm4h.config.plan import LIBRARIES
from smm4h.config.recipe import read_command_line
from smm4h.data.dataset import column, read_tweets
from smm4h.data.folds import folds_of
from smm4h.data.prediction_files import write_labels
from smm4h.data.pseudo_labels import held_out_keys_by_fold, is_held_out
from smm4h.data.splits import Splits, load_splits, read_gold
from smm4h.ensemble.fitted_ensemble import fit_ensemble
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.member_predictions import mean_predictions, out_of_fold_predictions
from smm4h.ensemble.thresholds import class_shares
from smm4h.inference.distillation import STUDENT_FILE, DistillationSet, Student
from smm4h.inference.finished_job import FinishedJob
from smm4h.inference.predictor import EnsemblePredictor
from smm4h.metrics import format_interval, paired_bootstrap
from smm4h.parallel.environment import (
    LaunchEnvironment,
    clear_launcher_variables,
    devices,
    set_threads,
    threads_each,
)
from smm4h.reporting.privacy import TweetFingerprints
from smm4h.reporting.terminal import score_table
from smm4h.utils.console import silence_libraries
from smm4h.utils.errors import InputError, run_main
from smm4h.utils.files import read_json, write_json

TWEET_FLAGS = ("data_dir", "train_file", "validation_file", "test_file", "gold_file", "dataset_name", "encoding")
SPEED_TWEETS, REPEATS = 512, 3
console = Console(highlight=False, width=None if Console().is_terminal else 140)


@dataclass(frozen=True)
class Unlabelled:
    """Tweets that no member had labels of, and what the whole ensemble says of them."""

    lesson: DistillationSet
    tables: list  # Datasets, in the lesson's order
    choices: np.ndarray  # (n_tweets,) class indices


def main() -> None:
    launch = LaunchEnvironment.detect()
    arguments = read_arguments()
    if not launch.is_main_process:
        return  # of several processes one teaches: a small model needs no more
    take_device(launch, arguments)
    silence_libraries()
    stop = listen()
    outcome = read_outcome(arguments)
    job = job_of(outcome, arguments)
    tweets = read_own_tweets(outcome, job)
    gold = read_gold(job, tweets.test)
    labelled = DistillationSet(column(tweets.labelled, "text").to_pylist(), outcome.combined)
    unlabelled = ask_ensemble(outcome, tweets, arguments)
    rivals = held_out_rivals(outcome) if arguments.checks else {}
    checks = range(arguments.checks)
    found = [check(fold, rivals, outcome, tweets, labelled, unlabelled, arguments, stop) for fold in checks]
    student = teach("student", labelled, unlabelled, unlabelled, outcome, arguments, stop)
    if gold is not None:
        found.append(on_test(student, outcome, tweets, gold))
    speeds = measure_speed(student, outcome, labelled.texts)
    keep(student, found, speeds, tweets, outcome, arguments)
    tell(found, speeds, outcome, arguments)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, help="the output folder of a finished job")
    add("--model_name_or_path", required=True, help="the student's encoder: a name on the Hub or a folder")
    add("--output_dir", type=Path, help="the student's folder (default: `student` in the job's)")
    add("--unlabelled_file", action="append", default=[], help="more tweets for the ensemble to label; may be repeated")
    for name in TWEET_FLAGS:
        add(f"--{name}", help="instead of the job's own" if name == TWEET_FLAGS[0] else argparse.SUPPRESS)
    add("--learning_rate", type=float, default=1e-4)
    add("--num_train_epochs", type=float, default=4.0)
    add("--per_device_train_batch_size", type=int, default=32)
    add("--max_seq_length", type=int, default=110, help="longest input in word pieces")
    add("--seed", type=int, default=42)
    add("--checks", type=int, default=1, help="folds for each of which a student is trained without it, to be scored")
    add("--use_cpu", action="store_true", help="no GPU")
    arguments = parser.parse_args()
    arguments.output_dir = arguments.output_dir or arguments.folder / "student"
    if arguments.num_train_epochs <= 0 or arguments.per_device_train_batch_size < 1 or arguments.checks < 0:
        raise InputError("--num_train_epochs, --per_device_train_batch_size and --checks can't be so small")
    return arguments


def take_device(launch: LaunchEnvironment, arguments: argparse.Namespace) -> None:
    """One GPU, or all cores; the launcher is forgotten, or else Trainer would wait for its other processes."""
    arguments.use_cpu = arguments.use_cpu or launch.use_cpu
    (name, *_) = devices(launch, arguments.use_cpu)
    if name is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = name
    clear_launcher_variables()
    set_threads(threads_each(launch, 1, 0) * launch.local_world_size)


def listen() -> Callable[[], bool]:
    """Whether the process has been told to stop."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    return lambda: bool(asked)


def read_outcome(arguments: argparse.Namespace) -> FinishedJob:
    """What the student is to learn from; raises `InputError` for a job that is not finished or has too few folds."""
    outcome = FinishedJob.read(arguments.folder)
    if arguments.checks > (n_folds := outcome.plan.shared("n_folds")):
        raise InputError(f"--checks {arguments.checks}: the job has {n_folds} folds")
    return outcome


def job_of(outcome: FinishedJob, arguments: argparse.Namespace) -> Job:
    """The job as it was commanded, with its tweets elsewhere where the flags say so."""
    if not outcome.command:
        raise InputError(f"{outcome.plan.plan_file} does not say how the job was commanded; it is an older one's")
    given = {name: getattr(arguments, name) for name in TWEET_FLAGS if getattr(arguments, name) is not None}
    more = [word for name, value in given.items() for word in (f"--{name}", value)]
    return read_command_line([*outcome.command, *more])


def read_own_tweets(outcome: FinishedJob, job: Job) -> Splits:
    """The job's tweets; raises `InputError` where the files hold others by now."""
    tweets = load_splits(job)
    for part, content in tweets.content_hashes().items():
        if content != outcome.plan.identity["data"].get(part):
            raise InputError(
                f"the {part} tweets are not those that {outcome.plan.output_dir} was made with; name the files by "
                "--data_dir, or --train_file, --validation_file and --test_file"
            )
    return tweets


def ask_ensemble(outcome: FinishedJob, tweets: Splits, arguments: argparse.Namespace) -> Unlabelled:
    """The test tweets as the job predicted them, and other unlabelled ones as the ensemble does now."""
    n_classes = outcome.task.n_classes
    lesson, choices = DistillationSet([], np.zeros((0, n_classes))), np.zeros(0, dtype=np.int64)
    tables = []
    if tweets.test is not None:
        ballots = mean_predictions(outcome.plan.runs, mean=outcome.rule.mean)
        tables.append(tweets.test)
        lesson += DistillationSet(column(tweets.test, "text").to_pylist(), outcome.rule.combine(ballots.probabilities))
        choices = outcome.ensemble.predict(ballots)
    if arguments.unlabelled_file:
        table, _ = read_tweets(arguments.unlabelled_file, outcome.task, labelled=False)
        texts = column(table, "text").to_pylist()
        answers = service_of(outcome, arguments.use_cpu).predict(texts)
        tables.append(table)
        lesson += DistillationSet(texts, answers.probabilities)
        choices = np.concatenate([choices, answers.predicted])
    return Unlabelled(lesson, tables, choices)


def service_of(outcome: FinishedJob, use_cpu: bool) -> EnsemblePredictor:
    device = "cuda:0" if torch.cuda.is_available() and not use_cpu else "cpu"
    return EnsemblePredictor(outcome.plan, outcome.rule, outcome.task.labels, device)


def teach(
    name: str,
    labelled: DistillationSet,
    taught: Unlabelled,
    unlabelled: Unlabelled,
    outcome: FinishedJob,
    arguments: argparse.Namespace,
    stop: Callable[[], bool],
) -> Student:
    """A student of these labelled tweets and of what was `taught` of the unlabelled ones; it decides as often rare.

    Its decision is moved until it gives each class the ensemble's share: of all unlabelled tweets where there are
    some, or else of the labelled ones.
    """
    lesson = labelled + taught.lesson
    settings = RunArguments(
        output_dir=str(arguments.output_dir / f".{name}"),
        learning_rate=arguments.learning_rate,
        num_train_epochs=arguments.num_train_epochs,
        per_device_train_batch_size=arguments.per_device_train_batch_size,
        seed=arguments.seed,
        warmup_steps=0.1,
        adam_beta2=0.98,
        eval_strategy="no",
        use_cpu=arguments.use_cpu,
    )
    student = Student.of_encoder(arguments.model_name_or_path, outcome.task, arguments.max_seq_length, arguments.seed)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        line = progress.add_task(name)

        def report(step: int, steps: int) -> None:
            progress.update(line, completed=step, total=steps)

        made_of = lesson.fingerprint(arguments.model_name_or_path, arguments.max_seq_length, settings)
        student.learn(lesson, settings, made_of, report, stop, save_minutes=5.0)
    if len(unlabelled.choices):
        texts, choices = unlabelled.lesson.texts, unlabelled.choices
    else:
        texts = labelled.texts
        choices = (labelled.targets * outcome.fitted_decision.mean(axis=0)).argmax(axis=1)
    student.match_class_shares(student.predict_proba(texts), class_shares(choices, outcome.task.n_classes))
    return student


def held_out_rivals(outcome: FinishedJob) -> dict[str, np.ndarray]:
    """Each labelled tweet's class (n_tweets,) by ensemble and best member, as rules say that were fitted without it."""
    ballots, fitting, best = out_of_fold_predictions(outcome.plan.runs), fitting_of(outcome), outcome.best_member
    alone = ballots.probabilities[[ballots.members.index(best)]]
    return {
        "ensemble": fitting.choices(ballots.members, ballots.probabilities, outcome.gold),
        best: fitting.for_one.choices([best], alone, outcome.gold),
    }


def check(
    fold: int,
    rivals: dict[str, np.ndarray],
    outcome: FinishedJob,
    tweets: Splits,
    labelled: DistillationSet,
    unlabelled: Unlabelled,
    arguments: argparse.Namespace,
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """What a student scores on a fold that it was not taught, nor any twin of whose tweets, beside the ensemble."""
    task, plan, gold = outcome.task, outcome.plan, outcome.gold
    seed, n_folds = plan.runs[0].member.get("fold_seed"), plan.shared("n_folds")
    held_out = folds_of(tweets.labelled, seed) == fold
    known_by = held_out_keys_by_fold(tweets.labelled, task, seed, n_folds)[fold]
    shown = ~is_held_out(tweets.labelled, known_by) & ~held_out
    free = [~is_held_out(table, known_by) for table in unlabelled.tables]
    kept = np.concatenate([*free, np.zeros(0, dtype=bool)])
    taught = Unlabelled(unlabelled.lesson.select(kept), [], unlabelled.choices[kept])
    student = teach(f"check-{fold}", labelled.select(shown), taught, unlabelled, outcome, arguments, stop)
    contenders = {
        "student": student.predict_proba(labelled.select(held_out).texts).argmax(axis=1),
        **{name: choices[held_out] for name, choices in rivals.items()},
    }
    return compared(f"held-out fold {fold}", contenders, gold[held_out], outcome)


def fitting_of(outcome: FinishedJob) -> VotingConfig:
    asked = outcome.plan.shared
    return VotingConfig(outcome.task.objective, asked("vote"), asked("decision"), asked("ties"))


def on_test(student: Student, outcome: FinishedJob, tweets: Splits, gold: np.ndarray) -> dict[str, Any]:
    """What the student scores on the test tweets, whose gold labels nobody was shown, beside the ensemble."""
    best = outcome.best_member
    runs = outcome.plan.runs_of([best])
    fitted, _ = fit_ensemble(out_of_fold_predictions(runs), outcome.gold, fitting_of(outcome).for_one, outcome.task)
    alone, ballots = fitted.for_new_tweets(runs)
    contenders = {
        "student": student.predict_proba(column(tweets.test, "text").to_pylist()).argmax(axis=1),
        "ensemble": outcome.ensemble.predict(mean_predictions(outcome.plan.runs, mean=outcome.rule.mean)),
        best: alone.predict(ballots),
    }
    return compared("test", contenders, gold, outcome)


def compared(where: str, contenders: dict[str, np.ndarray], gold: np.ndarray, outcome: FinishedJob) -> dict[str, Any]:
    """Scores by name, and the student's paired differences from the others."""
    task, objective = outcome.task, outcome.task.objective
    student = contenders["student"]
    return {
        "where": where,
        "tweets": len(gold),
        "scores": {name: task.score(gold, choices) for name, choices in contenders.items()},
        "student_against": {
            name: paired_bootstrap(gold, student, choices, task.n_classes, objective.measure, objective.positive)
            for name, choices in contenders.items()
            if name != "student"
        },
        "agrees_with_ensemble": float((student == contenders["ensemble"]).mean()),
    }


def measure_speed(student: Student, outcome: FinishedJob, texts: Sequence[str]) -> dict[str, float]:
    """Tweets a second of student, best member and ensemble on the same texts, in turn; medians of `REPEATS`."""
    texts = list(texts[:SPEED_TWEETS])
    best = outcome.best_member
    contenders: dict[str, Callable[[], Any]] = {"student": lambda: student.predict_proba(texts)}
    try:
        service = service_of(outcome, student.model.device.type == "cpu")
        contenders[best] = lambda: service.predict_member(best, texts, {})
        contenders["ensemble"] = lambda: service.predict(texts)
    except InputError as error:
        console.print(f"no speed of the ensemble: {error}", markup=False)
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(REPEATS + 1):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if repeat:  # the first one loads models
                taken[name].append(time.perf_counter() - started)
    return {name: len(texts) / float(np.median(seconds)) for name, seconds in taken.items()}


def keep(
    student: Student,
    found: list[dict[str, Any]],
    speeds: dict[str, float],
    tweets: Splits,
    outcome: FinishedJob,
    arguments: argparse.Namespace,
) -> None:
    """Writes model, scores, the test tweets' labels and the marks of what must not be published."""
    folder, task = arguments.output_dir, outcome.task
    student.save(folder / "model")
    tables = [t for t in (tweets.labelled, tweets.test, tweets.unlabelled) if t is not None]
    tables += [read_tweets([file], task, labelled=False)[0] for file in arguments.unlabelled_file]
    TweetFingerprints.from_tables(tables).write(folder / "marks.npz")
    if tweets.test is not None:
        choices = student.predict_proba(column(tweets.test, "text").to_pylist()).argmax(axis=1)
        write_labels(folder / "test.tsv", column(tweets.test, "id"), [task.labels[choice] for choice in choices])
    versions = read_json(outcome.plan.plan_file)["versions"]
    told = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "max_seq_length", "seed")
    content = {
        "task": task.name,
        "job": os.path.relpath(outcome.plan.output_dir, folder),
        "encoder": arguments.model_name_or_path,
        "settings": {name: getattr(arguments, name) for name in told},
        "unlabelled_tweets": sum(len(table) for table in tables[1:]),
        "parameters": sum(parameter.numel() for parameter in student.model.parameters()),
        "versions": {name: versions[name] for name in ("python", *LIBRARIES)},
        "scores": found,
        "tweets_per_second": speeds,
    }
    write_json(folder / STUDENT_FILE, content)
    for left in folder.glob(".*"):
        left.rmdir() if left.is_dir() and not any(left.iterdir()) else None


def tell(
    found: list[dict[str, Any]], speeds: dict[str, float], outcome: FinishedJob, arguments: argparse.Namespace
) -> None:
    """A table for each comparison, and the speeds."""
    measure = outcome.task.measure
    for part in found:
        title = f"\n{part['where']}, {part['tweets']} tweets"
        console.print(score_table(title, measure, [""], [(name, [score]) for name, score in part["scores"].items()]))
        for name, against in part["student_against"].items():
            told = f"{against['difference']:+.3f} ({format_interval(against['interval'])}), p {against['p']:.3f}"
            console.print(f"student against {name}: {told}", markup=False)
        console.print(f"the student agrees with the ensemble on {part['agrees_with_ensemble']:.1%} of the tweets")
    console.print("\ntweets a second: " + ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items()))
    if "ensemble" in speeds:
        console.print(f"the student is {speeds['student'] / speeds['ensemble']:.1f} times as fast as the ensemble")
    console.print(f"{arguments.output_dir / 'model'}  an ordinary checkpoint", markup=False)


if __name__ == "__main__":
    run_main(main)
