"""A vote on unlabelled tweets -> pseudo-labelled tweets, another random part a fold (Bai & Zhou 2020, section 3.3).

python pseudo_label.py vote.tsv --tweets test.tsv --task tasks/task5.yaml --data_dir DIR \\
    --fraction 0.1 --parts 5 --seed 42 --output_dir pseudo_labels

A tweet that duplicates one of the fold's held-out tweets (the same id, or the same text but for case, URLs and @names)
is left out of that fold's part: it would carry the held-out label into training. The labelled tweets must be named for
that. A vote does not say who voted: only the job can make sure that no voter has seen a fold's held-out tweets
(`--pseudo_from unseen`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from smm4h.cli.flags import CommandParser, one_of
from smm4h.config.output_paths import check_not_of_job
from smm4h.config.task_file import find_task
from smm4h.utils.errors import InputError
from smm4h.utils.files import check_is_file, check_is_input, check_new, check_output, check_output_folder, is_same_file


def main(words: Sequence[str] | None = None) -> None:
    arguments = read_arguments(words)

    import numpy as np

    from smm4h.config.job import with_columns
    from smm4h.config.task_file import read_task
    from smm4h.data.dataset import column, read_tweets
    from smm4h.data.outputs.label_files import read_labels
    from smm4h.data.outputs.labels import in_order_of
    from smm4h.data.pseudo_labels import PseudoLabels, counts_by_label, cut_disjoint_parts, is_held_out, write_part
    from smm4h.reporting.terminal import print_findings
    from smm4h.utils.console import console

    task = with_columns(read_task(arguments.task), arguments)
    tweets, findings = read_tweets([arguments.tweets], task, labelled=False, encoding=arguments.encoding)
    vote = read_labels(arguments.vote, task, arguments.encoding)
    print_findings([*findings, *vote.findings])
    vote = in_order_of(vote, column(tweets, "id"), str(arguments.tweets))
    predicted, held_out = vote.classes_in(task.space), held_out_keys(arguments, task)
    parts = cut_disjoint_parts(len(tweets), arguments.fraction, arguments.parts, arguments.seed)
    for fold, rows in enumerate(parts):
        leaks = is_held_out(tweets.select(rows), held_out[fold]) if held_out else np.zeros(len(rows), dtype=bool)
        part = PseudoLabels(rows, predicted[rows]).select(~leaks)
        write_part(part_file(arguments, fold), tweets, part, task)
        counts = ", ".join(
            f"{label}: {n}" for label, n in counts_by_label(part.classes_in(task.space), task.space).items()
        )
        left_out = f"{int(leaks.sum())} left out as duplicates of held-out tweets"
        console.print(f"fold {fold}: {len(part.rows)} tweets ({counts}), {left_out}", markup=False)
    if held_out is None:
        console.print("without labelled tweets (--data_dir), duplicates of held-out tweets could not be left out")
    console.print(f"written to {arguments.output_dir}", markup=False)


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("vote", type=Path, help="label file of the vote, or what predict.py has written")
    add("--tweets", type=Path, required=True, help="the tweets that were voted on, same rows")
    add("--task", type=Path, required=True, help="task file or its name")
    add("--fraction", type=float, default=0.1, help="share of the tweets in each part (default: 0.1)")
    add("--parts", type=int, default=5, help="number of parts, one for each fold (default: 5)")
    add("--seed", type=int, default=42, help="seed of the random parts (default: 42)")
    add("--output_dir", type=Path, required=True, help="where fold-0.tsv and so on are written")
    add(
        "--data_dir",
        type=Path,
        help="folder of the official labelled tweets, whose duplicates are left out",
    )
    add("--train_file", type=Path, help="labelled tweets, instead of --data_dir")
    add("--validation_file", type=Path, help="more labelled tweets, after those of --train_file")
    for name in ("id", "text", "label"):
        add(f"--{name}_column_name", help=f"column of the {name}, instead of the task's")
    add("--fold_seed", type=int, default=42, help="seed of the labelled tweets' folds (default: 42)")
    fold_by = ("stratified", "stratified_group")
    add("--fold_by", type=one_of(fold_by), default="stratified", help=f"how the folds are cut: {' or '.join(fold_by)}")
    add("--group_users", action="store_true", help="stratified_group keeps the tweets of a user in one fold, too")
    add("--encoding", help="encoding of all files (default: UTF-8 where valid, else cp1252)")
    parser.add_overwrite()
    arguments = parser.parse(words)
    arguments.task = find_task(arguments.task)
    files = [arguments.vote, arguments.tweets, arguments.train_file, arguments.validation_file, arguments.task]
    for path in filter(None, files):
        (check_is_file if path in (arguments.vote, arguments.task) else check_is_input)(path)
    check_parts(arguments, files)
    return arguments


def check_parts(arguments: argparse.Namespace, inputs: Sequence[Path | None]) -> None:
    """Raise `InputError` for parts that would replace an input or a job's file, or be read as tweets the next time."""
    folder = arguments.output_dir
    check_output_folder(folder, [])
    for given in filter(None, inputs):
        if given.is_dir() and is_same_file(folder, given):
            raise InputError(
                f"--output_dir {folder} is {given}, whose files this command reads; name another folder, in it or not"
            )
    for fold in range(arguments.parts):
        check_output(part_file(arguments, fold), [path for path in inputs if path and path.is_file()], "--output_dir")
        check_not_of_job(part_file(arguments, fold), "--output_dir")
        check_new(part_file(arguments, fold), arguments.overwrite, "--output_dir")


def part_file(arguments: argparse.Namespace, fold: int) -> Path:
    return arguments.output_dir / f"fold-{fold}.tsv"


def held_out_keys(arguments: argparse.Namespace, task) -> list | None:
    """Return by fold the ids and normalised texts of its held-out tweets; None where no labelled tweets were named."""
    from smm4h.config.job import official_files, with_label_files
    from smm4h.data.dataset import read_tweets
    from smm4h.data.duplicates import leak_groups
    from smm4h.data.folds import add_folds
    from smm4h.data.pseudo_labels import held_out_keys_by_fold
    from smm4h.reporting.terminal import print_findings

    paths = [path for path in (arguments.train_file, arguments.validation_file) if path]
    if arguments.data_dir:
        official = official_files(task, str(arguments.task), arguments.data_dir)
        paths = [file for part in ("training", "validation") for file in with_label_files(official, part)]
    if not paths:
        return None
    labelled, findings = read_tweets(paths, task, labelled=True, encoding=arguments.encoding)
    print_findings(findings)
    groups = None
    if arguments.fold_by == "stratified_group":
        groups = leak_groups(labelled, task, by_user=arguments.group_users)
    labelled = add_folds(labelled, arguments.parts, [arguments.fold_seed], groups, flag="--parts", space=task.space)
    return held_out_keys_by_fold(labelled, task, arguments.fold_seed, arguments.parts)
