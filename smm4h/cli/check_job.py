"""A job seen through before it is trained: the option `--check` of the command `train`."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from datasets import Dataset

from smm4h.cli.train_job import PreparedJob, check_optimizers, print_adaptation_notes, print_findings, print_forecast
from smm4h.config.job import Job, Member
from smm4h.config.plans.adaptation import adaptations_of
from smm4h.config.plans.plan import Plan
from smm4h.config.plans.run import Run
from smm4h.config.plans.stored import difference_from_stored
from smm4h.data.splits import Splits
from smm4h.data.tokenization import TokenLengths, check_encoders, sample_token_lengths
from smm4h.models.label_spaces import LabelSpace
from smm4h.parallel.encoder_record import check_same_encoders
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.parallel.forecast.forecast import missing_runs
from smm4h.utils.console import console, print_table
from smm4h.utils.errors import InputError
from smm4h.utils.wording import counted


def check_job(job: Job, launch: LaunchEnvironment) -> None:
    """Read all of a job's input, check its encoders, and print findings, counts, lengths and plan; train nothing.

    Raises:
        InputError: for whatever would stop the job before its first run.
    """
    if not launch.is_main_process:
        return
    check_input(job, launch)
    console.print("Nothing was trained. The same command without --check trains.")


def check_input(job: Job, launch: LaunchEnvironment) -> Splits:
    """Read and check all of a job's input, print what was found, and return its tweets."""
    check_optimizers(job.members, job.output_dir)
    prepared = PreparedJob.of(job, launch)
    job, splits, plan = prepared.job, prepared.splits, prepared.plan
    if difference := difference_from_stored(plan):
        raise InputError(difference)
    check_same_encoders(plan, [run.member for run in missing_runs(plan)])
    print_tweets(job, splits, prepared.test_gold)
    print_encoders(check_encoders(job.members, job.task, splits.labelled), job.members, splits)
    print_adaptation_notes(adaptations_of(plan.wanted))
    print_plan(plan)
    if job.budget is not None:
        for notice in job.notices:
            console.print(f"note: {notice}", markup=False, soft_wrap=True)
    print_forecast(prepared, launch)
    return splits


def print_tweets(job: Job, splits: Splits, gold: np.ndarray | None) -> None:
    """Print how many tweets of each label there are, and what is odd about them."""
    counts = {}
    for part, tweets, labels in (
        ("labelled", splits.labelled, splits.gold),
        ("extra", *((splits.extra.tweets, splits.extra.labels) if splits.extra else (None, None))),
        ("test", splits.test, gold),
        ("unlabelled", splits.unlabelled, None),
    ):
        if tweets is not None:
            counts[part] = [f"{len(tweets):,}", *_counts(labels, job.task.space)]
    names = ["all tweets", *map(job.task.named, job.task.labels)]
    rows = [list(row) for row in zip(names, *counts.values(), strict=True)]
    print_table(f"{job.task.name}: tweets of each label", [[""], *([part] for part in counts)], rows)
    print_findings(splits.findings)


def _counts(labels: np.ndarray | None, space: LabelSpace) -> list[str]:
    """Return each label's count and share as text; nothing where the labels are unknown."""
    if labels is None:
        return [""] * len(space.labels)
    return [f"{count:,} ({count / len(labels):.1%})" for count in space.counts(labels)]


def print_encoders(names: Iterable[str], members: Sequence[Member], splits: Splits) -> None:
    """Print for each encoder how long the tweets are in its tokens, and how many would be cut."""
    by_reading: dict[tuple, Member] = {}
    for member in members:
        if member.has_encoder:
            args = member.args
            by_reading.setdefault((args.model_name_or_path, args.max_seq_length, tuple(args.cleaning)), member)
    for name in names:
        console.print(f"{name}: tokenizer, weights and heads fit together", markup=False, soft_wrap=True)
        for member in (m for (encoder, *_), m in by_reading.items() if encoder == name):
            for part, tweets in (("labelled", splits.labelled), ("test", splits.test)):
                if tweets is not None:
                    print_lengths(part, tweets, member)


def print_lengths(part: str, tweets: Dataset, member: Member) -> None:
    lengths: TokenLengths = sample_token_lengths(tweets, member)
    cleaned = f", cleaned ({', '.join(member.args.cleaning)})" if member.args.cleaning else ""
    whose = f"{len(lengths.lengths):,} of the {part} tweets" if lengths.is_sample else f"the {part} tweets"
    middle, most, longest = np.quantile(lengths.lengths, [0.5, 0.95, 1.0])
    cut = int((lengths.lengths > member.args.max_seq_length).sum())
    console.print(
        f"  tokens of {whose}{cleaned}: median {middle:.0f}, 95 % up to {most:.0f}, longest {longest:.0f}; "
        f"{cut} longer than --max_seq_length {member.args.max_seq_length}; {lengths.unknown:.1%} of the pieces unknown",
        markup=False,
        soft_wrap=True,
    )


def print_plan(plan: Plan) -> None:
    """Print how many runs each stage has, and how many are done."""
    runs: list[Run] = [run for run in plan.wanted if not run.is_adaptation]
    for run in adaptations_of(runs):
        users = len({one.member.name for one in runs if one.adaptation == run})
        done = "; done already" if run.is_done() else ""
        console.print(f"{run.name}: adapted before the runs of {counted(users, 'member')}{done}", markup=False)
    n_done = sum(run.is_done() for run in runs)
    by_stage = Counter(run.member.stage for run in runs)
    stages = ", ".join(f"stage {stage}: {count}" for stage, count in sorted(by_stage.items()))
    members = len({run.member.name for run in runs})
    done = f"; {n_done} are done already" if n_done else ""
    console.print(f"{len(runs)} runs of {members} members ({stages}) in {plan.output_dir}{done}", markup=False)
