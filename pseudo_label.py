"""A vote on unlabelled tweets -> pseudo-labelled tweets, another random part a fold (Bai & Zhou 2020, section 3.3).

python pseudo_label.py vote.tsv --tweets test.tsv --task tasks/task5.yaml --data_dir DIR \\
    --fraction 0.1 --parts 5 --seed 42 --output_dir pseudo_labels

A tweet that is one of the fold's held-out ones under another name (the same id, or the same text but for case, URLs and
@names) is left out of that fold's part: it would carry the held-out label into training. For that the labelled tweets
must be named. A vote does not say who voted: that no voter has seen a fold's held-out tweets, only the job can see to
(`--pseudo_from unseen`).
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import Dataset

from smm4h.config.task import Task, read_task
from smm4h.data.dataset import column, read_tweets
from smm4h.data.duplicates import leak_groups
from smm4h.data.folds import add_folds
from smm4h.data.prediction_files import check_same_tweets, read_labels
from smm4h.data.pseudo_labels import (
    HeldOutKeys,
    PseudoLabels,
    counts_by_label,
    cut_disjoint_parts,
    held_out_keys_by_fold,
    is_held_out,
    write_part,
)
from smm4h.utils.console import console
from smm4h.utils.errors import run_main


def main() -> None:
    arguments = read_arguments()
    task = read_task(arguments.task)
    tweets, voted = read_vote(arguments, task)
    held_out = held_out_tweets(arguments, task)
    drawn = cut_disjoint_parts(len(tweets), arguments.fraction, arguments.parts, arguments.seed)
    for fold, rows in enumerate(drawn):
        leaks = is_held_out(tweets.select(rows), held_out[fold]) if held_out else np.zeros(len(rows), dtype=bool)
        part = PseudoLabels(rows, voted[rows]).select(~leaks)
        write_part(arguments.output_dir / f"fold-{fold}.tsv", tweets, part, task)
        tell_part(fold, part, int(leaks.sum()), task)
    tell_place(arguments)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("vote", type=Path, help="label file of the vote")
    add("--tweets", type=Path, required=True, help="the tweets that were voted on, same rows")
    add("--task", type=Path, required=True, help="task file")
    add("--fraction", type=float, default=0.1, help="share of the tweets in each part (default: 0.1)")
    add("--parts", type=int, default=5, help="number of parts, one for each fold (default: 5)")
    add("--seed", type=int, default=42, help="seed of the random parts (default: 42)")
    add("--output_dir", type=Path, required=True, help="where fold-0.tsv and so on are written")
    add("--data_dir", type=Path, help="folder of the labelled tweets under their official names, for the twin check")
    add("--train_file", type=Path, help="labelled tweets, instead of --data_dir")
    add("--validation_file", type=Path, help="more labelled tweets, after those of --train_file")
    add("--fold_seed", type=int, default=42, help="seed of the labelled tweets' folds (default: 42)")
    add("--fold_by", choices=("stratified", "stratified_group"), default="stratified", help="how the folds are cut")
    add("--group_users", action="store_true", help="stratified_group keeps the tweets of a user in one fold, too")
    add("--encoding", help="encoding of the tweets (default: UTF-8 where valid, else cp1252)")
    return parser.parse_args()


def read_vote(arguments: argparse.Namespace, task: Task) -> tuple[Dataset, np.ndarray]:
    """The tweets and the voted class indices (n_tweets,)."""
    tweets, _ = read_tweets([arguments.tweets], task, labelled=False, encoding=arguments.encoding)
    vote = read_labels(arguments.vote)
    check_same_tweets(vote, column(tweets, "id"), str(arguments.tweets))
    return tweets, vote.indices(task.labels)


def held_out_tweets(arguments: argparse.Namespace, task: Task) -> list[HeldOutKeys] | None:
    """What each fold's held-out tweets are known by; None where no labelled tweets were named."""
    paths = [path for path in (arguments.train_file, arguments.validation_file) if path]
    if arguments.data_dir:
        paths = [arguments.data_dir / task.files[part] for part in ("training", "validation") if part in task.files]
    if not paths:
        return None
    labelled, _ = read_tweets(paths, task, labelled=True, encoding=arguments.encoding)
    groups = None
    if arguments.fold_by == "stratified_group":
        groups = leak_groups(labelled, task, by_user=arguments.group_users)
    labelled = add_folds(labelled, arguments.parts, [arguments.fold_seed], groups)
    return held_out_keys_by_fold(labelled, task, arguments.fold_seed, arguments.parts)


def tell_part(fold: int, part: PseudoLabels, left_out: int, task: Task) -> None:
    shares = ", ".join(f"{label}: {count}" for label, count in counts_by_label(part.classes, task.labels).items())
    console.print(f"fold {fold}: {len(part.rows)} tweets ({shares}), {left_out} left out as twins of held-out tweets")


def tell_place(arguments: argparse.Namespace) -> None:
    if not (arguments.data_dir or arguments.train_file):
        console.print("no labelled tweets were named, so twins of held-out tweets could not be left out (--data_dir)")
    console.print(f"written to {arguments.output_dir}")


if __name__ == "__main__":
    run_main(main)
