"""New tweets -> labels, by a finished job's whole ensemble: its own cleaning, members, decision and ties.

python predict.py runs/task5 new.tsv --output labels.parquet
python predict.py me/task5-ensemble new.tsv --output labels.parquet
python predict.py runs/task5 tweets/ --output labels.csv.gz --columns label,probability,margin,votes
cat new.tsv | python predict.py runs/task5 - --output - > labels.tsv
accelerate launch --num_processes 8 predict.py runs/task5 new.parquet --output labels.parquet

Any number of tweets, in their order, in the memory of one block. Killed, the same command resumes.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smm4h.cli.flags import CommandParser
from smm4h.config.job import with_columns
from smm4h.parallel.environment import (
    LaunchEnvironment,
    clear_launcher_variables,
    devices,
    set_threads,
    threads_each,
)
from smm4h.utils.console import make_console, silence_libraries
from smm4h.utils.errors import InputError, nearest
from smm4h.utils.files import check_output, expand_home

PIPE = "-"
COLUMNS = ("label", "probability", "margin", "votes")
console = make_console(stderr=True)


def main(words: Sequence[str] | None = None) -> None:
    launch = LaunchEnvironment.detect()
    arguments = read_arguments(words)

    from smm4h.config.output_paths import check_not_of_job
    from smm4h.data import streaming
    from smm4h.data.readers.tables import Findings
    from smm4h.data.streaming import inputs_of, leave_out_labels, read_blocks
    from smm4h.inference.predictor import PartialPredictions, left_out_notices, load_predictor
    from smm4h.reporting.terminal import print_findings

    streaming.check_output(arguments.output)
    check_not_an_input(arguments)
    check_not_of_job(arguments.output)
    device = take_device(launch, arguments)
    silence_libraries()
    predictor, task, ensemble_hash = load_predictor(arguments.ensemble, device, launch.local_world_size)
    print_notices(left_out_notices(arguments.ensemble), launch)
    task = with_columns(task, arguments)
    id_name, label_name = task.submission.columns
    names = {"id": id_name, **{name: label_name if name == "label" else name for name in COLUMNS}}
    inputs, is_pipe = inputs_of(arguments.input), arguments.input == PIPE
    if not is_pipe:
        inputs, notices = leave_out_labels(arguments.input, inputs, arguments.output, task, list(names.values()))
        print_notices(notices, launch)
    parts = PartialPredictions.open(arguments.output, [] if is_pipe else inputs, ensemble_hash, arguments.block)
    findings = Findings()

    def read():
        """Return an iterator over the blocks of the input; tweets without ids are numbered."""
        options = {"number_missing_ids": True, "findings": findings}
        return read_blocks(inputs, task, arguments.block, arguments.encoding, **options)

    n_blocks = predict_all(read, parts, predictor, launch, inputs)
    if not launch.is_main_process:
        return
    if n_blocks == 0:
        raise InputError(f"{arguments.input} holds no tweet")
    notices = parts.join(arguments.output, n_blocks, {name: names[name] for name in ("id", *arguments.columns)})
    if is_pipe:
        inputs[0].unlink()
    print_findings(findings.summed(), console)
    print_notices(notices, launch)
    if arguments.output != PIPE:
        console.print(f"written to {arguments.output}", markup=False)


def print_notices(notices: Sequence[str], launch: LaunchEnvironment) -> None:
    for notice in notices if launch.is_main_process else ():
        console.print(f"note: {notice}", markup=False, soft_wrap=True)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("ensemble", help="a finished job's folder with models, a published ensemble, a student or another classifier")
    add("input", help="tweets (.tsv, .csv, .jsonl, .parquet, each also .gz), a folder of such files, or - (a .tsv)")
    add("--output", required=True, help="labels (.tsv, .csv, .jsonl, .parquet, .gz but for the last), or - (a .tsv)")
    add("--columns", nargs="+", default=["label", "probability"], help=f"beside the id: {', '.join(COLUMNS)}")
    add("--id_column_name", help="column of the tweet id, instead of the task's")
    add("--text_column_name", help="column of the text, instead of the task's")
    add("--encoding", help="encoding of the input (default: UTF-8 where valid, else cp1252)")
    add("--block", type=int, default=10_000, help="tweets that are read, predicted and saved at once (default: 10000)")
    add("--use_cpu", action="store_true", help="no GPU")
    arguments = parser.parse(words)
    for name in ("ensemble", "input", "output"):
        setattr(arguments, name, expand_home(getattr(arguments, name)))
    arguments.columns = [name for words in arguments.columns for name in words.split(",") if name]
    for name in arguments.columns:
        if name not in COLUMNS:
            raise InputError(f"--columns {name}{nearest(name, COLUMNS)}: there are {', '.join(COLUMNS)}")
    if arguments.block < 1:
        raise InputError(f"--block {arguments.block}: at least one tweet is answered at once")
    if arguments.input != PIPE and not Path(arguments.input).exists():
        raise InputError(f"{arguments.input} is not there; name an existing file or folder, or - for a pipe")
    return arguments


def check_not_an_input(arguments: argparse.Namespace) -> None:
    """Raise `InputError` for an output that would replace the input file, or lie in a published ensemble's folder."""
    if arguments.output == PIPE:
        return
    if arguments.input == PIPE and is_standard_input(arguments.output):
        raise InputError(f"--output {arguments.output} is standard input, which this command reads; name another file")
    is_file = arguments.input != PIPE and not Path(arguments.input).is_dir()
    is_job = (Path(arguments.ensemble) / "plan.json").is_file()
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

    if launch.world_size > 1 and arguments.input == PIPE:
        raise InputError("several processes can't read one pipe; write it to a file first")
    names = devices(launch, arguments.use_cpu or launch.use_cpu)
    set_threads(threads_each(launch, 1, 0))
    clear_launcher_variables()
    if names[0] is None:
        return "cpu"
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

            n_blocks, n_missing = parts.predict_missing(read(), predictor, leases, show)
            if not n_missing or not launch.is_main_process:
                return n_blocks
            time.sleep(1)
