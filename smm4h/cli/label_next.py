"""New tweets -> those whose labels help a finished job most, as a file for people to label.

python label_next.py runs/task5 pool.tsv --n 200 --output next.csv
python label_next.py runs/task5 tweets/ --n 500 --output next.tsv --suggest --blank_label

The tweets are chosen by expected gain: the members' disagreement, closeness to the decision, probability of the rare
labels. Twins and near copies of labelled tweets, and of each other, are left out. A tenth is drawn at random, and
marked: the share of a label among these estimates its share in the pool. The file can be imported by Label Studio and
Argilla; what comes back joins the old tweets in training: --train_file OLD NEW.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smm4h.cli.flags import CommandParser, check_new_tweets, moved_files
from smm4h.cli.predict import check_not_an_input, only_writer, take_device
from smm4h.config.job import with_columns
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.utils.console import console, silence_libraries
from smm4h.utils.errors import InputError, stop_on_signals
from smm4h.utils.files import PIPE, check_new, expand_home
from smm4h.utils.temporaries import private_folder


def main(words: Sequence[str] | None = None) -> None:
    launch = LaunchEnvironment.detect()
    arguments = read_arguments(words)

    from smm4h.config.output_paths import check_not_of_job
    from smm4h.data import streaming

    streaming.check_output(arguments.output)
    check_not_an_input(arguments)
    check_not_of_job(arguments.output)
    if not launch.is_main_process:
        return  # the choice is one for all tweets
    check_new(arguments.output, arguments.overwrite)
    stop_on_signals()
    device = take_device(launch, arguments)
    silence_libraries()
    with only_writer(arguments.output, launch), private_folder(Path(arguments.output).parent) as private:
        label_next(arguments, device, private)


def label_next(arguments: argparse.Namespace, device: str, private: Path) -> None:
    """Judge the pool, choose tweets, and write them.

    Args:
        private: folder for what must not stay behind.
    """
    from smm4h.data.readers.tables import Findings
    from smm4h.data.streaming import inputs_of, read_blocks
    from smm4h.inference.commanded_job import command_of_job, load_job_splits
    from smm4h.inference.finished_job import FinishedJob
    from smm4h.inference.labelling.boundary import rule_for_gain
    from smm4h.inference.labelling.choice import choose, first_of_each
    from smm4h.inference.labelling.copies import CopyIndex
    from smm4h.inference.labelling.gain import expected_gain
    from smm4h.inference.labelling.output import layout_of, write_chosen
    from smm4h.inference.labelling.pool import judge, labelled_texts, tweets_at
    from smm4h.inference.predictor import load_predictor
    from smm4h.reporting.terminal import print_findings

    job = FinishedJob.read(Path(arguments.folder))
    task = with_columns(job.task, arguments)
    layout = layout_of(task, suggest=arguments.suggest, blank_label=arguments.blank_label)
    splits = load_job_splits(job, command_of_job(job, moved_files(arguments)))
    predictor, _, _ = load_predictor(arguments.folder, device)
    rule, notice = rule_for_gain(predictor, job.task)
    inputs, findings = inputs_of(arguments.input, private), Findings()

    def read() -> Iterator:
        """Return an iterator over the blocks of the pool; tweets without ids are numbered."""
        options = {"number_missing_ids": True, "findings": findings}
        return read_blocks(inputs, task, arguments.block, arguments.encoding, **options)

    with reading_display(inputs) as show:
        pool = judge(read(), predictor, rule, task.positive_indices, show)
    print_findings(findings.summed())
    if not len(pool.keys):
        raise InputError(f"{arguments.input} holds no tweet")
    known, keys = labelled_texts([splits.labelled, *([splits.extra.tweets] if splits.extra else [])])
    is_new, gain = first_of_each(pool.keys, keys), expected_gain(pool.signals)
    if not is_new.any():
        raise InputError(f"{arguments.input} holds no new tweet: all are labelled already, or have no words")

    def texts_of(rows):
        return {row: tweet.all_text for row, tweet in tweets_at(read(), rows).items()}

    n_random = round(arguments.n * arguments.random)
    choice = choose(gain, is_new, CopyIndex(known), texts_of, arguments.n, n_random, arguments.seed)
    write_chosen(Path(arguments.output), choice, tweets_at(read(), choice.rows), pool, gain, layout, task)
    print_choice(choice, pool.signals.rare, int((~is_new).sum()), layout, notice, arguments)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("folder", help="the output folder of a finished job that has kept its models")
    add("--output", required=True, help="the chosen tweets (.csv, .tsv, .jsonl, .parquet)")
    add("--n", type=int, default=200, help="how many tweets to choose (default: 200)")
    add("--random", type=float, default=0.1, help="share of them that is drawn at random (default: 0.1)")
    add("--seed", type=int, default=42, help="of the random draw")
    add("--suggest", action="store_true", help="with the job's own label; people agree with what is suggested")
    add("--blank_label", action="store_true", help="with an empty column for the label, for spreadsheets")
    parser.add_new_tweets("unlabelled tweets")
    parser.add_moved_files()
    parser.add_overwrite()
    arguments = parser.parse(words)
    for name in ("folder", "output"):
        setattr(arguments, name, expand_home(getattr(arguments, name)))
    arguments.ensemble = arguments.folder
    if arguments.output == PIPE:
        raise InputError("--output -: name a file, which people can label")
    if arguments.n < 1:
        raise InputError(f"--n {arguments.n}: at least one tweet is expected")
    if not 0 <= arguments.random <= 1:
        raise InputError(f"--random {arguments.random}: a share from 0 to 1 is expected, such as 0.1")
    check_new_tweets(arguments)
    return arguments


@contextmanager
def reading_display(inputs: Sequence[Path]) -> Iterator[Callable]:
    """Show how many tweets of the pool are predicted; yield what is to be called with each block."""
    from smm4h.data.streaming import estimate_tweets

    columns = (BarColumn(bar_width=30), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        line = progress.add_task("reading", total=estimate_tweets(inputs))

        def show(block) -> None:
            progress.advance(line, len(block.ids))
            progress.update(line, description=f"{int(progress.tasks[line].completed):,} tweets")

        yield show


def print_choice(choice, rare, n_old: int, layout, notice: str | None, arguments: argparse.Namespace) -> None:
    """Print how many tweets were chosen and left out, and how many of them are expected to be rare.

    Args:
        choice: the chosen tweets.
        rare: (n_tweets,) probability of the rare labels, of the pool.
        n_old: tweets that are labelled already, later twins, or without words.
        layout: of the file.
        notice: on the decision that they are close to; None: it is the job's own.
    """
    from smm4h.inference.labelling.choice import GAIN, expected_rare
    from smm4h.inference.labelling.output import CHOSEN_BY, OWN_ID

    n_chosen, n_gain = len(choice.rows), choice.by.count(GAIN)
    lines = [
        f"{n_chosen} of {len(rare):,} tweets: {n_gain} by expected gain, {n_chosen - n_gain} at random ({CHOSEN_BY})",
        f"left out: {n_old} labelled already, twins, or without words; {choice.n_near_copies} near copies",
    ]
    if n_chosen < arguments.n:
        lines[0] += f"; there are no more than these, {arguments.n} were asked for"
    if n_gain:
        by_gain, by_chance = expected_rare(rare, choice)
        lines.append(
            f"by the job's probabilities about {by_gain:.0f} of those by gain are rare, of as many random ones "
            f"{by_chance:.0f}"
        )
    if notice:
        lines.append(f"note: {notice}")
    if layout.tweet["id"].lower() == OWN_ID:
        lines.append(
            f"note: Label Studio may number its tasks in a column {layout.tweet['id']}; compare ids after an export"
        )
    lines.append(f"written to {arguments.output}; labelled, it joins the old tweets: --train_file OLD NEW")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
