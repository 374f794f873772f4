"""Votes: predictions of a finished job, or anyone's label files, -> one label a tweet, with scores where gold is given.

python ensemble.py runs/task5 --output vote.tsv --gold gold.tsv
python ensemble.py runs/task5 --method greedy --decision tuned --output vote.tsv
python ensemble.py a.tsv b.tsv c.tsv --output vote.tsv

python ensemble.py runs/task5 --decision "recall>=0.9" --save
python ensemble.py runs/task5 runs/other --compare

A job's folder knows how its members are to vote (ensemble.json). Another way is fitted here, on the out-of-fold
predictions, and its printed score is of tweets that each fit has not seen. With --save it becomes the job's own:
prediction, publication and report follow it, and the final vote is made anew.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from smm4h.cli.flags import CommandParser, one_of
from smm4h.config.decision import ASKED, EXAMPLES, parse_decision
from smm4h.config.task_file import find_task
from smm4h.models.voting import METHODS, TIES
from smm4h.utils.errors import InputError
from smm4h.utils.files import check_new, check_output


def main(words: Sequence[str] | None = None) -> None:
    arguments = read_arguments(words)

    from smm4h.config.output_paths import check_not_of_job
    from smm4h.config.plans.plan import read_plan
    from smm4h.data.outputs.label_files import check_label_output
    from smm4h.ensemble.new_votes import hold_vote
    from smm4h.reporting.terminal import print_findings, print_vote, print_vote_scores

    if arguments.compare:
        return compare(arguments)
    if arguments.save:
        save(arguments)
        if arguments.output is None:
            return
    check_label_output(arguments.output)
    if arguments.inputs[0].is_dir():
        read_plan(arguments.inputs[0])  # that a folder is no job is said before anything about the output
    check_not_of_job(arguments.output)
    check_new(arguments.output, arguments.overwrite)
    asked = asked_of(arguments) if not arguments.save else dict.fromkeys(ASKED)
    vote = hold_vote(
        arguments.inputs,
        **asked,
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


def compare(arguments: argparse.Namespace) -> None:
    """Print two jobs side by side."""
    from smm4h.inference.comparison import compare_jobs, names_of
    from smm4h.reporting.comparison_report import print_comparisons
    from smm4h.utils.console import console, silence_libraries

    silence_libraries()
    comparisons, task, notices = compare_jobs(arguments.inputs, arguments.gold, arguments.encoding)
    print_comparisons(comparisons, names_of(arguments.inputs), task)
    for notice in notices:
        console.print(f"note: {notice}", markup=False, soft_wrap=True)


def asked_of(arguments: argparse.Namespace) -> dict[str, str | None]:
    """Return what is asked of the vote, None for the job's own."""
    return {name: getattr(arguments, name) for name in ASKED}


def save(arguments: argparse.Namespace) -> None:
    """Make the asked rule the job's own, and print what it promises."""
    from smm4h.config.plans.subtask_jobs import SubtaskJobs
    from smm4h.ensemble.fitted_ensemble import asked_config, unadjusted_note
    from smm4h.ensemble.new_votes import rule_notices
    from smm4h.ensemble.subtask_votes import score_subtasks, write_joint_submission
    from smm4h.inference.finished_job import FinishedJob
    from smm4h.inference.saved_rule import JobParts, save_rule
    from smm4h.reporting.html_report import write_report
    from smm4h.reporting.terminal import print_saved_rule
    from smm4h.utils.console import silence_libraries

    silence_libraries()
    (folder,) = arguments.inputs
    parts = JobParts.of_folder(folder)
    if arguments.gold:
        parts = parts.with_gold(arguments.gold, arguments.encoding)
    notes = rule_notices(parts.plan, asked_config(parts.plan, parts.job.task, asked_of(arguments)))
    save_rule(parts, asked_of(arguments))
    job = FinishedJob.read(folder)
    write_report(job)
    print_saved_rule(job, [*parts.notices, *filter(None, [*notes, unadjusted_note(job.plan, job.rule)])])
    if jobs := SubtaskJobs.around(folder):
        score_subtasks(jobs)
        for path in write_joint_submission(jobs):
            print(f"{path} has the new labels of {folder.name}")


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    files = "label files (tweet_id and Class; .tsv, .csv, .jsonl, .parquet, .gz, .zip) of the same tweets"
    add("inputs", nargs="+", type=Path, help=f"the output folder of a job, or {files}")
    methods = "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
    add("--method", type=one_of(tuple(METHODS)), help=f"how to vote ({methods}; default: the job's; of files, hard)")
    add("--decision", type=a_decision, help=f"which label probabilities give (default: as in the job): {EXAMPLES}")
    add("--ties", type=one_of(TIES), help="who wins a tie (default: highest mean probability, or lowest class)")
    models = "whose models label new tweets: all, or the refits alone (default: as in the job)"
    add("--predict_with", type=one_of(("all", "refits")), help=models)
    add("--members", nargs="+", default=[], help="only these members of the job vote (default: all)")
    formats = ".tsv, .csv, .jsonl, .parquet, or .zip for the task's official submission"
    add("--output", type=Path, help=f"the vote: {formats}")
    add("--save", action="store_true", help="make this rule the job's own; votes, submission, scores, report follow")
    add("--compare", action="store_true", help="print two jobs' folders side by side, on the tweets that they share")
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
    if arguments.compare:
        check_comparison(arguments)
        return arguments
    folders = [path for path in arguments.inputs if path.is_dir()]
    if folders and len(arguments.inputs) > 1:
        raise InputError(f"{folders[0]} is a folder; give one job's folder, or files, or two folders and --compare")
    if not folders:
        check_file_vote(arguments)
    if arguments.output is None and not arguments.save:
        raise InputError("name the file for the vote: --output vote.tsv")
    if arguments.save and arguments.members:
        raise InputError("--save keeps all members of the job; leave --members out, or give --output")
    if arguments.output is None:
        return arguments
    check_output(arguments.output, [*([] if folders else arguments.inputs), arguments.gold, arguments.task])
    return arguments


def check_comparison(arguments: argparse.Namespace) -> None:
    """Raise `InputError` unless two jobs' folders, and nothing for a vote, are given."""
    if len(arguments.inputs) != 2 or not all(path.is_dir() for path in arguments.inputs):
        raise InputError("--compare takes the output folders of two jobs")
    for name in (*ASKED, "members", "output", "save"):
        if getattr(arguments, name):
            raise InputError(f"--compare compares the jobs as they are; leave --{name} out")


def a_decision(text: str) -> str:
    """Return the text of a decision; raise ArgumentTypeError for any other."""
    try:
        return str(parse_decision(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_file_vote(arguments: argparse.Namespace) -> None:
    """Raise `InputError` for what a vote of files cannot do."""
    if arguments.save:
        raise InputError("--save changes the rule of a job; name its folder, not files")
    if arguments.members or arguments.predict_with:
        flag, what = ("members", "members") if arguments.members else ("predict_with", "models")
        raise InputError(f"--{flag} chooses among a job's {what}; of files, just name those that vote")
    if (arguments.method and METHODS[arguments.method].is_fitted) or arguments.decision not in (None, "argmax"):
        raise InputError("files do not say what to fit a vote on; use --method hard or soft, or name a job's folder")
    if arguments.task is None and (arguments.gold or (arguments.output and arguments.output.suffix.lower() == ".zip")):
        raise InputError("scores and submissions need the task: --task tasks/task5.yaml")
