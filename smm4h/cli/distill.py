"""One small model that learns from a finished job's whole ensemble, and what it scores and saves beside it.

python distill.py runs/task5 --model_name_or_path distilbert-base-cased
python distill.py runs/task5 --model_name_or_path ENCODER --unlabelled_file more.tsv --output_dir runs/task5-student

Its tweets are those of the job's own command; name them again where files have moved. The student is an ordinary
checkpoint: no code of this project is needed to load it, and its highest probability is its decision. Killed, the
same command resumes.
"""

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smm4h.cli.flags import CommandParser, moved_files
from smm4h.config.output_paths import check_not_of_job
from smm4h.metrics import format_interval
from smm4h.parallel.environment import (
    LaunchEnvironment,
    clear_launcher_variables,
    devices,
    set_threads,
    threads_each,
)
from smm4h.utils.console import console, silence_libraries
from smm4h.utils.errors import InputError
from smm4h.utils.files import check_output_folder
from smm4h.utils.leases import sole_writer


def main(words: Sequence[str] | None = None) -> None:
    launch = LaunchEnvironment.detect()
    arguments = read_arguments(words)
    if not launch.is_main_process:
        return  # a small model needs no more than one of several processes
    take_device(launch, arguments)
    with sole_writer(arguments.output_dir):
        check_student_folder(arguments.output_dir, arguments.overwrite)  # another command may have ended just now
        distill(arguments)


def distill(arguments: argparse.Namespace) -> None:
    """Train a student, compare it with the ensemble, and write it."""
    from smm4h.data.splits import read_gold
    from smm4h.inference.commanded_job import command_of_job, load_job_splits
    from smm4h.inference.distilling.distillation import Distillation
    from smm4h.inference.distilling.student import StudentSettings, one_decision_note
    from smm4h.inference.finished_job import FinishedJob
    from smm4h.reporting.terminal import print_findings

    silence_libraries()
    job = FinishedJob.read(arguments.folder)
    if job.task.context:
        raise InputError(
            f"{arguments.folder} was trained with a second text ({job.task.context}), which students do not read; "
            "publish or use the ensemble itself"
        )
    if arguments.checks > (n_folds := job.plan.settings.n_folds):
        raise InputError(f"--checks {arguments.checks}: the job has {n_folds} folds")
    command = command_of_job(job, moved_files(arguments, "encoding"))
    splits = load_job_splits(job, command)
    if job.rule.cuts:
        console.print(f"note: {one_decision_note(job.task.by, job.rule.cuts)}", markup=False, soft_wrap=True)
    gold = read_gold(command, splits)
    settings = StudentSettings(**{name: getattr(arguments, name) for name in StudentSettings.__dataclass_fields__})
    with StepDisplay() as display:
        distillation = Distillation(job, splits, settings, stop_on_sigterm(), display.show)
        distillation.check_encoder()
        labelled, unlabelled = distillation.labelled(), distillation.unlabelled(arguments.unlabelled_file)
        print_findings(unlabelled.findings)
        rivals = distillation.rivals() if arguments.checks else {}
        scores = [distillation.check(fold, rivals, labelled, unlabelled) for fold in range(arguments.checks)]
        student = distillation.train("student", labelled, unlabelled.examples, unlabelled)
    if gold is not None:
        scores.append(distillation.score_on_test(student, gold))
    speeds = measure_speed(distillation, student, labelled.texts)
    tables = all_tables(splits, job.task, arguments.unlabelled_file)
    write_fingerprints(tables, arguments.output_dir / "marks.npz")
    distillation.save(student, scores, speeds, sum(len(table) for table in tables[1:]))
    print_results(scores, speeds, job.task.measure, arguments.output_dir)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="the output folder of a finished job")
    add("--model_name_or_path", required=True, help="the student's encoder: a name on the Hub or a folder")
    add("--output_dir", type=Path, help="the student's folder (default: `student` in the job's)")
    add("--unlabelled_file", action="append", default=[], help="more tweets for the ensemble to label; may be repeated")
    parser.add_moved_files()
    add("--encoding", help="encoding of the job's files, where it is another one now")
    add("--learning_rate", type=float, default=1e-4)
    add("--num_train_epochs", type=float, default=4.0)
    add("--per_device_train_batch_size", type=int, default=32)
    add("--max_seq_length", type=int, default=110, help="longest input in word pieces")
    add("--seed", type=int, default=42)
    add("--checks", type=int, default=1, help="folds for each of which a student is trained without it, to be scored")
    parser.add_use_cpu()
    parser.add_overwrite()
    arguments = parser.parse(words)
    arguments.output_dir = arguments.output_dir or arguments.folder / "student"
    if arguments.num_train_epochs <= 0 or arguments.per_device_train_batch_size < 1 or arguments.checks < 0:
        raise InputError("--num_train_epochs, --per_device_train_batch_size and --checks can't be so small")
    check_student_folder(arguments.output_dir, arguments.overwrite)
    return arguments


def check_student_folder(folder: Path, overwrite: bool) -> None:
    """Raise `InputError` for a folder of other content, and for a finished student unless it may be overwritten."""
    check_output_folder(folder, [])
    check_not_of_job(folder, "--output_dir")
    for name in ("plan.json", "config.json"):
        if (folder / name).exists():
            raise InputError(
                f"--output_dir {folder} holds a job or a model ({name}); name a folder of the student's own"
            )
    if (folder / "student.json").exists() and not overwrite:
        raise InputError(
            f"--output_dir {folder} holds a student already; name another folder, or replace it with --overwrite"
        )


def take_device(launch: LaunchEnvironment, arguments: argparse.Namespace) -> None:
    """Take one GPU, or all cores, and drop the launcher's variables: Trainer would wait for the other processes."""
    arguments.use_cpu = arguments.use_cpu or launch.use_cpu
    (name, *_) = devices(launch, arguments.use_cpu)
    if name is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = name
    clear_launcher_variables()
    set_threads(threads_each(launch, 1, 0) * launch.local_world_size)


def stop_on_sigterm() -> Callable[[], bool]:
    """Return a function that says whether SIGTERM has come."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    return lambda: bool(received)


class StepDisplay:
    """A progress bar for each student."""

    def __init__(self) -> None:
        from rich.progress import Progress

        self.progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self.lines: dict[str, Any] = {}

    def __enter__(self) -> "StepDisplay":
        self.progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self.progress.stop()

    def show(self, name: str, step: int, steps: int) -> None:
        if name not in self.lines:
            self.lines[name] = self.progress.add_task(name)
        self.progress.update(self.lines[name], completed=step, total=steps)


def measure_speed(distillation, student, texts: Sequence[str]) -> dict[str, float]:
    """Return tweets a second by contender; the student's alone where the ensemble's models were not kept."""
    try:
        predictor = distillation.predictor()
    except InputError as error:
        console.print(f"no speed of the ensemble: {error}", markup=False)
        predictor = None
    return distillation.measure_speed(student, texts, predictor)


def all_tables(splits, task, unlabelled_files: Sequence[str]) -> list:
    """Return all tweets that the student has seen, the labelled ones first."""
    from smm4h.data.dataset import read_tweets

    tables = [table for table in (splits.labelled, splits.test, splits.unlabelled) if table is not None]
    return tables + [read_tweets([file], task, labelled=False, encoding_flag=None)[0] for file in unlabelled_files]


def write_fingerprints(tables: list, path: Path) -> None:
    """Write the fingerprints of what must not be published with the student."""
    from smm4h.reporting.leak_check.fingerprints import TweetFingerprints

    TweetFingerprints.from_tables(tables).write(path)


def print_results(scores: list[dict[str, Any]], speeds: dict[str, float], measure: str, output_dir: Path) -> None:
    """Print a table for each comparison, and the speeds."""
    from smm4h.reporting.terminal import print_score_table

    for part in scores:
        title = f"\n{part['where']}, {part['tweets']} tweets"
        print_score_table(title, measure, [""], [(name, [score]) for name, score in part["scores"].items()])
        for name, against in part["student_against"].items():
            difference = f"{against['difference']:+.3f} ({format_interval(against['interval'])})"
            console.print(f"student against {name}: {difference}, p {against['p']:.3f}", markup=False)
        console.print(f"the student agrees with the ensemble on {part['agrees_with_ensemble']:.1%} of the tweets")
    console.print("\ntweets a second: " + ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items()))
    if "ensemble" in speeds:
        console.print(f"the student is {speeds['student'] / speeds['ensemble']:.1f} times as fast as the ensemble")
    console.print(f"{output_dir / 'model'}  an ordinary checkpoint", markup=False)
