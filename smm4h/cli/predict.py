"""New tweets -> labels, by a finished job's whole ensemble: its own cleaning, members, decision and ties.

python predict.py runs/task5 new.tsv --output labels.parquet
python predict.py me/task5-ensemble new.tsv --output labels.tsv
python predict.py runs/task5 tweets/ --output labels.csv.gz --columns author,created,label,probabilities
python predict.py runs/task5 new.csv --output labels.csv --keep_columns --explain 20
cat new.tsv | python predict.py runs/task5 - --output - > labels.tsv
accelerate launch --num_processes 8 predict.py runs/task5 new.parquet --output labels.parquet

Any number of tweets, in their order, in the memory of one block. Killed, the same command resumes; with other tweets,
columns or weights it begins anew.

Columns that are predicted, beside the id:
  label          by the ensemble's own decision; it need not be the most probable one
  probability    of the label, before the decision weighs it
  probabilities  of every label: a column p_LABEL for each
  margin         how far the label is ahead of the next one, after the decision weighs them; about 0: a close call,
                 negative: a hard vote's label that the members together find less probable
  votes          how many members would give this label alone
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smm4h.cli.flags import CommandParser, check_new_tweets
from smm4h.config.job import with_columns
from smm4h.config.output_paths import SUBTASKS_FILE, check_not_of_job
from smm4h.parallel.environment import (
    LaunchEnvironment,
    clear_launcher_variables,
    devices,
    set_threads,
    threads_each,
)
from smm4h.utils.console import make_console, silence_libraries
from smm4h.utils.errors import InputError, stop_on_signals
from smm4h.utils.files import PIPE, check_new, check_output, expand_home
from smm4h.utils.temporaries import private_folder
from smm4h.utils.wording import counted

console = make_console(stderr=True)


def main(words: Sequence[str] | None = None) -> None:
    launch = LaunchEnvironment.detect()
    arguments = read_arguments(words)
    before = state_of(arguments.output)

    from smm4h.config.plans.subtask_jobs import SubtaskJobs
    from smm4h.data import streaming

    streaming.check_output(arguments.output)
    check_not_an_input(arguments)
    check_not_of_job(arguments.output)
    if launch.is_main_process and arguments.output != PIPE:
        check_new(arguments.output, arguments.overwrite)
        check_explanations(arguments)
    stop_on_signals()
    jobs = SubtaskJobs.read(Path(arguments.ensemble))
    if jobs is not None:
        check_for_subtasks(arguments)
    device = take_device(launch, arguments)
    silence_libraries()
    with only_writer(arguments.output, launch):
        if jobs is None:
            predict_file(arguments, launch, device, before)
        else:
            from smm4h.cli.subtasks.predict import predict_subtasks  # few tasks have subtasks

            def is_wanted() -> bool:
                return launch.is_main_process or state_of(arguments.output) == before

            def predict_one(own: argparse.Namespace) -> None:
                if is_wanted():
                    predict_file(own, launch, device, state_of(own.output))

            if is_wanted():
                predict_subtasks(jobs, arguments, predict_one, is_main=launch.is_main_process)
    if launch.is_main_process and arguments.output != PIPE:
        console.print(f"written to {arguments.output}", markup=False, soft_wrap=True)


def predict_file(
    arguments: argparse.Namespace, launch: LaunchEnvironment, device: str, before: tuple[int, int] | None
) -> None:
    """Predict the tweets by one ensemble, and write the predictions in the main process.

    Args:
        before: the state of the output when the process began.
    """
    place = tempfile.gettempdir() if arguments.output == PIPE else Path(arguments.output).parent
    with private_folder(Path(place)) as private:
        predict(arguments, launch, device, private, is_late=lambda: state_of(arguments.output) != before)


def predict(
    arguments: argparse.Namespace, launch: LaunchEnvironment, device: str, private: Path, is_late: Callable[[], bool]
) -> None:
    """Predict the tweets, and write the predictions in the main process.

    Args:
        private: folder for what must not stay behind.
        is_late: whether the main process has written the output since this one began.
    """
    from smm4h.inference.new_tweets.reference import reference_of
    from smm4h.inference.new_tweets.tweet_input import TweetInput
    from smm4h.inference.partial_predictions import PartialPredictions, parts_folder
    from smm4h.inference.predictor import left_out_notices, load_predictor

    is_main, members = launch.is_main_process, arguments.members
    predictor, task, hashes = load_predictor(arguments.ensemble, device, launch.local_world_size, members)
    print_notices(left_out_notices(arguments.ensemble) if is_main and not members else [])
    options = {name: getattr(arguments, name) for name in ("keep_columns", "names", "block", "encoding")}
    task = with_columns(task, arguments)
    tweets = TweetInput.find(arguments.input, private, task, arguments.output, asked=arguments.columns, **options)
    if not is_main and is_late():
        return
    folder = private / "parts" if arguments.output == PIPE else parts_folder(arguments.output)
    sources = (tweets.files, hashes, tweets.reading(members), reference_of(predictor))
    parts, begun_anew = PartialPredictions.open(folder, *sources, is_main_process=is_main)
    print_notices([*tweets.notices, *begun_anew] if is_main else [])
    try:
        n_blocks = predict_all(tweets.blocks, parts, predictor, launch, tweets.files)
    except InputError:
        if is_main:
            parts.remove_if_empty()
        raise
    if is_main:
        finish(arguments, tweets, parts, n_blocks, predictor)


def finish(arguments: argparse.Namespace, tweets, parts, n_blocks: int, predictor) -> None:
    """Write the output, print what was found, and explain tweets where that is asked for."""
    from smm4h.inference.new_tweets.explanation import COPIES, rare_indices
    from smm4h.inference.new_tweets.reference import summary
    from smm4h.models.label_spaces import space_of
    from smm4h.reporting.terminal import print_findings

    if n_blocks == 0:
        parts.remove()
        raise InputError(f"{arguments.input} holds no tweet")
    parts.check_unchanged()
    profile, columns, task = parts.profile(n_blocks), tweets.columns, tweets.task
    n_explained = arguments.explain or 0
    rare = rare_indices(task, [profile.labels.get(label, 0) for label in task.labels])
    certain = parts.most_certain(n_blocks, space_of(predictor.rule, task.labels), rare, COPIES * n_explained)
    cut = parts.join(arguments.output, n_blocks, columns.names, columns.foreign, private=tweets.holds_tweets)
    print_findings(tweets.findings.summed(), console)
    print_notices(cut)
    console.print(summary(profile, parts.reference, task), markup=False, soft_wrap=True)
    print_notices(parts.reference.notices(profile) if parts.reference else [])
    if n_explained:
        explain_tweets(arguments, predictor, task, certain, tweets.blocks(with_columns=False))


def explain_tweets(arguments: argparse.Namespace, predictor, task, rows: Sequence[int], blocks: Iterable) -> None:
    """Write which words carried the labels of some tweets, as a page and a table beside the output."""
    from smm4h.inference.new_tweets.explanation import count_variants, explain, pick_tweets
    from smm4h.reporting.explanation_page import write_explanations

    tweets = pick_tweets(blocks, rows, arguments.explain)
    if not tweets:
        console.print(
            "--explain: no tweet with a word in it got a rare label, so there is nothing to explain", markup=False
        )
        return
    n_texts = count_variants(tweets)
    console.print(
        f"explaining {counted(len(tweets), 'tweet')}: with each word left out {counted(n_texts, 'text')}, predicted by "
        "every model",
        markup=False,
        soft_wrap=True,
    )
    names = arguments.names or task.output_names
    explanations = explain(predictor, tweets, task.positive_indices)
    for path in write_explanations(Path(arguments.output), explanations, task, names):
        console.print(f"written to {path}", markup=False, soft_wrap=True)


def state_of(path: str) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None without a file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


@contextmanager
def only_writer(output: str, launch: LaunchEnvironment) -> Iterator[None]:
    """Hold the lease of an output; raise `InputError` where another command holds it.

    The processes of one launch share the lease of the main process.
    """
    if output == PIPE or not launch.is_main_process:
        yield
        return
    from smm4h.utils.leases import sole_writer

    with sole_writer(Path(output)):
        yield


def print_notices(notices: Iterable[str]) -> None:
    for notice in notices:
        console.print(f"note: {notice}", markup=False, soft_wrap=True)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("ensemble", help="a finished job's folder with models, a published ensemble, a student or another classifier")
    add("--output", required=True, help="labels (.tsv, .csv, .jsonl, .parquet, .gz but for the last), or - (a .tsv)")
    add(
        "--columns",
        nargs="+",
        default=["label", "probability"],
        help="of the output, beside the id: predictions (see above; default: label,probability), and columns of the "
        "input by their names",
    )
    add("--keep_columns", action="store_true", help="pass all columns of the input on, before the predictions")
    add("--names", nargs=2, metavar=("ID", "LABEL"), help="of the columns of ids and labels (default: the task's)")
    add("--members", nargs="+", default=[], help="a vote of only these members and baselines of the job")
    add(
        "--explain",
        type=int,
        metavar="N",
        help="of the N most certain rare tweets, show which words carried the label, in OUTPUT.explained.html and a "
        "table beside it; each word is left out in turn, so it costs as much as words x models predictions",
    )
    parser.add_new_tweets("tweets")
    parser.add_overwrite()
    arguments = parser.parse(words)
    for name in ("ensemble", "output"):
        setattr(arguments, name, expand_home(getattr(arguments, name)))
    for flag in ("columns", "members"):
        setattr(arguments, flag, [name for words in getattr(arguments, flag) for name in words.split(",") if name])
    if arguments.names and len(set(arguments.names)) == 1:
        raise InputError(f"--names {' '.join(arguments.names)}: ids and labels need columns of different names")
    if arguments.explain is not None and arguments.explain < 1:
        raise InputError(f"--explain {arguments.explain}: at least one tweet is explained")
    if arguments.explain and arguments.output == PIPE:
        raise InputError("--explain writes files beside the output; name a file as --output, not -")
    check_new_tweets(arguments)
    return arguments


def check_for_subtasks(arguments: argparse.Namespace) -> None:
    """Raise `InputError` for what one file with the labels of several subtasks does not have."""
    from smm4h.inference.new_tweets.output_columns import PREDICTED, PROBABILITIES

    wrong = [f"--{flag}" for flag in ("keep_columns", "names", "members", "explain") if getattr(arguments, flag)]
    wrong += [f"--columns {name}" for name in arguments.columns if name not in PREDICTED or name == PROBABILITIES]
    if wrong:
        raise InputError(
            f"{wrong[0]} is for one subtask at a time; name its folder in {arguments.ensemble} instead of all of them"
        )


def check_explanations(arguments: argparse.Namespace) -> None:
    """Raise `InputError` for files of explained tweets that are there already, or can't be written."""
    from smm4h.reporting.explanation_page import names_beside

    for path in names_beside(Path(arguments.output)) if arguments.explain else ():
        check_output(path, [arguments.input if Path(arguments.input).is_file() else None], "--explain")
        check_new(path, arguments.overwrite, "--explain")


def check_not_an_input(arguments: argparse.Namespace) -> None:
    """Raise `InputError` for an output that would replace the input file, or lie in a published ensemble's folder."""
    if arguments.output == PIPE:
        return
    if arguments.input == PIPE and is_standard_input(arguments.output):
        raise InputError(f"--output {arguments.output} is standard input, which this command reads; name another file")
    is_file = arguments.input != PIPE and not Path(arguments.input).is_dir()
    is_job = any((Path(arguments.ensemble) / name).is_file() for name in ("plan.json", SUBTASKS_FILE))
    inputs = [None if is_job else arguments.ensemble, arguments.input if is_file else None]
    check_output(arguments.output, inputs)


def is_standard_input(path: str) -> bool:
    """Return whether standard input is redirected from a file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdin.fileno()))
    except (OSError, ValueError):  # the file is not there, or there is no standard input
        return False


def take_device(launch: LaunchEnvironment, arguments: argparse.Namespace) -> str:
    """Return this process's device: of several processes that were launched, each gets its own GPU."""
    import torch

    from smm4h.utils.devices import prepare_gpu

    if launch.world_size > 1 and arguments.input == PIPE:
        raise InputError("several processes can't read one pipe; write it to a file first")
    names = devices(launch, arguments.use_cpu or launch.use_cpu)
    set_threads(threads_each(launch, 1, 0))
    clear_launcher_variables()
    if names[0] is None:
        return "cpu"
    prepare_gpu()
    torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
    return f"cuda:{torch.cuda.current_device()}"


def predict_all(read, parts, predictor, launch: LaunchEnvironment, inputs: Sequence[Path]) -> int:
    """Predict all blocks, shared with other processes; the main process stays until all are there.

    Returns the number of blocks. `read` returns an iterator over them.
    """
    from smm4h.data.streaming import estimate_tweets
    from smm4h.utils.leases import LeaseHolder

    leases = LeaseHolder()
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    n_expected = estimate_tweets(inputs) if launch.is_main_process else None
    with Progress(*columns, console=console, transient=True, disable=not launch.is_main_process) as progress:
        while True:
            line = progress.add_task("reading", total=n_expected)

            def show(block, line=line) -> None:
                progress.advance(line, len(block.ids))
                progress.update(line, description=f"{int(progress.tasks[line].completed):,} tweets")

            try:
                n_blocks, n_missing = parts.predict_missing(read(), predictor, leases, show)
            except FileNotFoundError:
                if launch.is_main_process or parts.folder.is_dir():
                    raise
                return 0  # the main process has joined all blocks and removed them
            if not n_missing or not launch.is_main_process:
                return n_blocks
            time.sleep(1)
