"""New tweets -> labels, by a finished job's whole ensemble: its own cleaning, members, decision and ties.

python predict.py runs/task5 new.tsv --output labels.parquet
python predict.py me/task5-ensemble new.tsv --output labels.parquet
python predict.py runs/task5 tweets/ --output labels.csv.gz --columns label,probability,margin,votes
cat new.tsv | python predict.py runs/task5 - --output - > labels.tsv
accelerate launch --num_processes 8 predict.py runs/task5 new.parquet --output labels.parquet

Any number of tweets, in their order, at the memory of one block. Killed, the same command goes on.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smm4h.config.job import with_columns
from smm4h.config.plan import read_plan
from smm4h.config.task import Task
from smm4h.data.streaming import PIPE, WRITABLE, Block, Writer, count_lines, inputs_of, kind_of, read_blocks
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.inference.predictor import EnsemblePredictor, load_published, task_of
from smm4h.models.tweet_ensemble import TweetEnsemble
from smm4h.parallel.environment import (
    LaunchEnvironment,
    clear_launcher_variables,
    devices,
    set_threads,
    threads_each,
)
from smm4h.utils.console import silence_libraries
from smm4h.utils.errors import InputError, nearest, run_main
from smm4h.utils.files import read_json, write_atomically, write_json
from smm4h.utils.leases import LeaseHolder

COLUMNS = ("label", "probability", "margin", "votes")
console = Console(stderr=True, highlight=False)


def main() -> None:
    launch = LaunchEnvironment.detect()
    arguments = read_arguments()
    device = take_device(launch, arguments.use_cpu)
    silence_libraries()
    service, task, made_of = load(arguments, device, launch)
    task = with_columns(task, arguments)
    inputs = inputs_of(arguments.input)
    parts = begin(arguments, inputs, made_of)

    def blocks() -> Iterable[Block]:
        return read_blocks(inputs, task, arguments.block, arguments.encoding)

    n_expected = about_how_many(inputs) if launch.is_main_process else None
    n_blocks = answer_blocks(blocks, n_expected, parts, service, launch)
    if launch.is_main_process:
        write_answers(arguments, parts, n_blocks, task.submission.columns)
        finish(arguments, parts, inputs)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("ensemble", help="the output folder of a finished job that has kept its models, or a published ensemble's name")
    add("input", help="tweets (.tsv, .csv, .jsonl, .parquet, each also .gz), a folder of such files, or - (a .tsv)")
    add("--output", required=True, help="labels (.tsv, .csv, .jsonl, .parquet, .gz but for the last), or - (a .tsv)")
    add("--columns", nargs="+", default=["label", "probability"], help=f"beside the id: {', '.join(COLUMNS)}")
    add("--id_column_name", help="column of the tweet id, instead of the task's")
    add("--text_column_name", help="column of the text, instead of the task's")
    add("--encoding", help="encoding of the input (default: UTF-8 where valid, else cp1252)")
    add("--block", type=int, default=10_000, help="tweets that are read, answered and saved at once (default: 10000)")
    add("--use_cpu", action="store_true", help="no GPU")
    arguments = parser.parse_args()
    arguments.columns = [name for words in arguments.columns for name in words.split(",") if name]
    for name in arguments.columns:
        if name not in COLUMNS:
            raise InputError(f"--columns {name}{nearest(name, COLUMNS)}: there are {', '.join(COLUMNS)}")
    output = Path(arguments.output)
    if arguments.output != PIPE and (kind_of(output) not in WRITABLE or output.suffixes[-2:] == [".parquet", ".gz"]):
        raise InputError(f"--output {output}: choose a name that ends in {', '.join(WRITABLE)}, or -")
    if arguments.block < 1:
        raise InputError(f"--block {arguments.block}: at least one tweet is answered at once")
    return arguments


def take_device(launch: LaunchEnvironment, use_cpu: bool) -> str:
    """This process's device: of several processes that were launched, each gets its own GPU."""
    if launch.world_size > 1 and PIPE in sys.argv[2:3]:
        raise InputError("several processes can't read one pipe; write it to a file first")
    names = devices(launch, use_cpu or launch.use_cpu)
    set_threads(threads_each(launch, 1, 0))
    clear_launcher_variables()
    if names[0] is None:
        return "cpu"
    torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
    return f"cuda:{torch.cuda.current_device()}"


def load(
    arguments: argparse.Namespace, device: str, launch: LaunchEnvironment
) -> tuple[EnsemblePredictor | TweetEnsemble, Task, str]:
    """What answers, how it calls columns and labels, and a hash of how it decides."""
    folder = Path(arguments.ensemble)
    if (folder / "plan.json").is_file():
        plan, task = read_plan(folder)
        ensemble = FittedEnsemble.read(plan.ensemble_file)
        service = EnsemblePredictor(plan, ensemble.rule, ensemble.labels, device, launch.local_world_size)
        return service, task, hashlib.sha256(plan.ensemble_file.read_bytes()).hexdigest()
    published = load_published(arguments.ensemble, device)
    about = published.config.to_json_string(use_diff=False)
    return published, task_of(published.config), hashlib.sha256(about.encode()).hexdigest()


def begin(arguments: argparse.Namespace, inputs: list[Path], made_of_ensemble: str) -> Path:
    """The folder of answers so far, beside the output; raises `InputError` where it belongs to other tweets."""
    if arguments.output == PIPE:
        return Path(tempfile.mkdtemp(prefix="answers"))
    output = Path(arguments.output)
    parts = output.with_name(f".{output.name}.parts")
    made_of = {
        "ensemble": made_of_ensemble,
        "inputs": [[path.name, path.stat().st_size, path.stat().st_mtime] for path in inputs],
        "block": arguments.block,
    }
    if arguments.input == PIPE:  # nobody can tell whether it is the same again
        shutil.rmtree(parts, ignore_errors=True)
    if (parts / "about.json").exists():
        if read_json(parts / "about.json") != made_of:
            raise InputError(f"{parts} was begun with other tweets, ensemble or --block; remove it to start over")
    else:
        write_json(parts / "about.json", made_of)
    return parts


def about_how_many(inputs: list[Path]) -> int | None:
    """For the progress bar; what is wrong with a file is for its reader to say."""
    try:
        return count_lines(inputs)
    except (OSError, EOFError, pa.ArrowInvalid):
        return None


def part_of(parts: Path, number: int) -> Path:
    return parts / f"{number:08}.parquet"


@dataclass
class Display:
    """How far the answers are."""

    progress: Progress
    line: int
    n_tweets: int = 0

    def add(self, n_tweets: int) -> None:
        self.n_tweets += n_tweets
        self.progress.update(self.line, completed=self.n_tweets, description=f"{self.n_tweets:,} tweets")


def answer_blocks(
    blocks, n_expected: int | None, parts: Path, service: EnsemblePredictor | TweetEnsemble, launch: LaunchEnvironment
) -> int:
    """Answers each block that nobody else has; the first process stays until all are there. Returns their number."""
    claims = LeaseHolder()
    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not launch.is_main_process) as progress:
        while True:
            display = Display(progress, progress.add_task("reading", total=n_expected))
            n_blocks = n_missing = 0
            for block in blocks():
                n_blocks += 1
                if not answer_block(block, part_of(parts, block.number), service, claims):
                    n_missing += 1
                display.add(len(block.ids))
            if not n_missing or not launch.is_main_process:
                return n_blocks
            time.sleep(1)


def answer_block(block: Block, part: Path, service: EnsemblePredictor | TweetEnsemble, claims: LeaseHolder) -> bool:
    """Whether the block's answers are there, made by this process or another."""
    if part.exists():
        return True
    claim = claims.try_acquire(part.with_suffix(".claim"))
    if claim is None:
        return False
    with claim:
        if not part.exists():
            answers = service.predict(block.texts)
            table = pa.table(
                {
                    "id": pa.array(block.ids, pa.string()),
                    "label": pa.array(np.asarray(service.labels, dtype=object)[answers.predicted], pa.string()),
                    "probability": pa.array(answers.probability, pa.float64()),
                    "margin": pa.array(answers.margin, pa.float64()),
                    "votes": pa.array(answers.votes, pa.int64()),
                }
            )
            write_atomically(part, lambda partial: pa.parquet.write_table(table, partial))
    return True


def write_answers(arguments: argparse.Namespace, parts: Path, n_blocks: int, names: list[str]) -> None:
    """Joins the parts, in order, with the columns asked for; id and label are called as in a submission."""
    if n_blocks == 0:
        raise InputError(f"{arguments.input} holds no tweet")
    shown = ["id", *arguments.columns]
    called = [{"id": names[0], "label": names[1]}.get(name, name) for name in shown]
    schema = pa.parquet.read_schema(part_of(parts, 0))
    schema = pa.schema([(new, schema.field(name).type) for new, name in zip(called, shown, strict=True)])

    def write(path: Path | None) -> None:
        with Writer(path, schema) as writer:
            for number in range(n_blocks):
                table = pa.parquet.read_table(part_of(parts, number), columns=shown)
                writer.write(table.rename_columns(called))

    if arguments.output == PIPE:
        write(None)
        return
    partial = parts / Path(arguments.output).name
    write(partial)
    partial.replace(arguments.output)


def finish(arguments: argparse.Namespace, parts: Path, inputs: list[Path]) -> None:
    """Removes what was only needed on the way."""
    shutil.rmtree(parts)
    if arguments.input == PIPE:
        inputs[0].unlink()
    if arguments.output != PIPE:
        console.print(f"written to {arguments.output}", markup=False)


if __name__ == "__main__":
    run_main(main)
