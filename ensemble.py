"""Votes: predictions of a finished job, or anyone's label files, -> one label a tweet, with scores where gold is given.

python ensemble.py runs/task5 --method soft --output vote.tsv --gold gold.tsv
python ensemble.py a.tsv b.tsv c.tsv --output vote.tsv
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.ballots import Ballots, file_ballots, test_ballots
from smm4h.errors import InputError, nearest, run_main
from smm4h.labels import check_same_tweets, read_labels, write_labels, write_submission
from smm4h.plan import read_plan
from smm4h.progress import console, score_table
from smm4h.tasks import Task, read_task
from smm4h.voting import METHODS, TIES


def main() -> None:
    arguments = read_arguments()
    ballots, task = read_ballots(arguments)
    ties = arguments.ties or ("lowest" if ballots.probabilities is None else "probability")
    elected = ballots.vote(arguments.method, ties)
    write_vote(arguments.output, ballots, elected, task)
    tell_vote(arguments, ballots, elected, ties)
    if arguments.gold:
        tell_scores(arguments, ballots, elected, task)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        type=Path,
        help="the output folder of a job, or label files (tweet_id and Class) of the same tweets",
    )
    add("--method", choices=METHODS, default="hard", help="count ballots, or average probabilities (default: hard)")
    add("--ties", choices=TIES, help="who wins a tie (default: highest mean probability, or lowest class without any)")
    add("--members", nargs="+", default=[], help="only these members of the job vote (default: all)")
    add("--output", type=Path, required=True, help="the vote: .tsv, or .zip for the task's official submission")
    add("--gold", type=Path, help="label file with the right labels, for scores")
    add("--task", type=Path, help="task file; label files need it for scores and submissions, a job's folder knows it")
    return parser.parse_args()


def read_ballots(arguments: argparse.Namespace) -> tuple[Ballots, Task | None]:
    """The ballots of a job's members, or of files; and the task where it is known."""
    task = read_task(arguments.task) if arguments.task else None
    folders = [path for path in arguments.inputs if path.is_dir()]
    if folders:
        if len(arguments.inputs) > 1:
            raise InputError(f"{folders[0]} is a folder; give one job's folder, or files")
        plan, plan_task = read_plan(folders[0])
        for name in arguments.members:
            if name not in plan.members:
                raise InputError(f"--members: {folders[0]} has no member {name}{nearest(name, plan.members)}")
        return test_ballots(plan.runs_of(arguments.members or plan.members)), plan_task
    if arguments.members:
        raise InputError("--members chooses among a job's members; of files, just name those that vote")
    if task is None and (arguments.gold or arguments.output.suffix == ".zip"):
        raise InputError("scores and submissions need the task: --task tasks/task5.yaml")
    return file_ballots(arguments.inputs, task.labels if task else None), task


def write_vote(output: Path, ballots: Ballots, elected: np.ndarray, task: Task | None) -> None:
    """Writes the elected labels (n_tweets,) as a label file, or as the official zip where the name ends so."""
    names = ballots.names(elected)
    try:
        if output.suffix == ".zip":
            write_submission(output, task.submission, ballots.ids, names)
        else:
            write_labels(output, ballots.ids, names)
    except OSError as error:
        raise InputError(f"--output {output} can't be written ({error.strerror})") from None


def score_votes(
    ballots: Ballots, elected: np.ndarray, gold: np.ndarray, task: Task
) -> list[tuple[str, dict[str, Any]]]:
    """Scores of each voter and, last, of the vote, against gold class indices (n_tweets,)."""
    scores = [(voter, task.score(gold, choice)) for voter, choice in zip(ballots.voters, ballots.choices, strict=True)]
    return [*scores, ("vote", task.score(gold, elected))]


def tell_vote(arguments: argparse.Namespace, ballots: Ballots, elected: np.ndarray, ties: str) -> None:
    counts = np.bincount(elected, minlength=len(ballots.labels))
    shares = ", ".join(f"{label}: {count}" for label, count in zip(ballots.labels, counts, strict=True))
    rule = f"{arguments.method} vote" if arguments.method == "soft" else f"hard vote, ties to the {ties}"
    console.print(f"{rule} of {len(ballots.voters)} on {len(elected)} tweets ({shares}); {ballots.count_ties()} ties")
    console.print(f"written to {arguments.output}")


def tell_scores(arguments: argparse.Namespace, ballots: Ballots, elected: np.ndarray, task: Task) -> None:
    gold = read_labels(arguments.gold)
    check_same_tweets(gold, ballots.ids, "the vote")
    scores = score_votes(ballots, elected, gold.indices(task.labels), task)
    console.print(
        score_table(f"{task.name}, {arguments.gold}", task.measure, [""], [(name, [s]) for name, s in scores])
    )


if __name__ == "__main__":
    run_main(main)
