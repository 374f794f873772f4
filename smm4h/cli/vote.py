"""Votes: predictions of a finished job, or anyone's label files, -> one label a tweet, with scores where gold is given.

python ensemble.py runs/task5 --output vote.tsv --gold gold.tsv
python ensemble.py runs/task5 --method greedy --decision tuned --output vote.tsv
python ensemble.py a.tsv b.tsv c.tsv --output vote.tsv

A job's folder knows how its members are to vote (ensemble.json). Another way is fitted here, on the out-of-fold
predictions, and its printed score is of tweets that each fit has not seen.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from smm4h.cli.flags import CommandParser, one_of
from smm4h.config.decision import parse_decision
from smm4h.config.task_file import find_task
from smm4h.models.voting import METHODS, TIES
from smm4h.utils.errors import InputError
from smm4h.utils.files import check_new, check_output


def main(words: Sequence[str] | None = None) -> None:
    arguments = read_arguments(words)

    from smm4h.config.output_paths import check_not_of_job
    from smm4h.config.plan import read_plan
    from smm4h.data.prediction_files import check_label_output
    from smm4h.ensemble.new_votes import hold_vote
    from smm4h.reporting.terminal import print_findings, print_vote, print_vote_scores

    check_label_output(arguments.output)
    if arguments.inputs[0].is_dir():
        read_plan(arguments.inputs[0])  # that a folder is no job is said before anything about the output
    check_not_of_job(arguments.output)
    check_new(arguments.output, arguments.overwrite)
    vote = hold_vote(
        arguments.inputs,
        method=arguments.method,
        decision=arguments.decision,
        ties=arguments.ties,
        members=arguments.members,
        task_file=arguments.task,
        encoding=arguments.encoding,
    )
    gold, findings = vote.read_gold(arguments.gold, arguments.encoding) if arguments.gold else (None, ())
    print_findings([*vote.predictions.findings, *findings])
    vote.write(arguments.output)
    print_vote(vote, arguments.output)
    if gold is not None:
        print_vote_scores(vote, gold, arguments.gold)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    files = "label files (tweet_id and Class; .tsv, .csv, .jsonl, .parquet, .gz, .zip) of the same tweets"
    add("inputs", nargs="+", type=Path, help=f"the output folder of a job, or {files}")
    methods = "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
    add("--method", type=one_of(tuple(METHODS)), help=f"how to vote ({methods}; default: the job's; of files, hard)")
    choices = 'argmax, tuned, f2, "recall>=0.9", "precision>=0.8", "flagged<=0.05", costs, 0.3, "LABEL: 4, LABEL: 2"'
    add("--decision", type=a_decision, help=f"which label probabilities give (default: as in the job): {choices}")
    add("--ties", type=one_of(TIES), help="who wins a tie (default: highest mean probability, or lowest class)")
    add("--members", nargs="+", default=[], help="only these members of the job vote (default: all)")
    formats = ".tsv, .csv, .jsonl, .parquet, or .zip for the task's official submission"
    add("--output", type=Path, required=True, help=f"the vote: {formats}")
    add("--gold", type=Path, help="label file with the right labels, for scores")
    add(
        "--task",
        type=Path,
        help="task file or name; files need it for scores and submissions, a job's folder knows it",
    )
    add("--encoding", help="encoding of label files that are not UTF-8 (default: cp1252)")
    parser.add_overwrite()
    arguments = parser.parse(words)
    arguments.task = arguments.task and find_task(arguments.task)
    folders = [path for path in arguments.inputs if path.is_dir()]
    if folders and len(arguments.inputs) > 1:
        raise InputError(f"{folders[0]} is a folder; give one job's folder, or files")
    if not folders:
        check_file_vote(arguments)
    check_output(arguments.output, [*([] if folders else arguments.inputs), arguments.gold, arguments.task])
    return arguments


def a_decision(text: str) -> str:
    """Return the text of a decision; raise ArgumentTypeError for any other."""
    try:
        return str(parse_decision(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_file_vote(arguments: argparse.Namespace) -> None:
    """Raise `InputError` for what a vote of files cannot do."""
    if arguments.members:
        raise InputError("--members chooses among a job's members; of files, just name those that vote")
    if (arguments.method and METHODS[arguments.method].is_fitted) or arguments.decision not in (None, "argmax"):
        raise InputError("files do not say what to fit a vote on; use --method hard or soft, or name a job's folder")
    if arguments.task is None and (arguments.gold or arguments.output.suffix.lower() == ".zip"):
        raise InputError("scores and submissions need the task: --task tasks/task5.yaml")
