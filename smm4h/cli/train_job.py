"""A training job from its files to its submission: the verbs of the command `train`."""

from pathlib import Path

import numpy as np

from smm4h.config.job import Job
from smm4h.config.plan import Plan, lock_output_dir, make_plan, read_plan, wanted_of
from smm4h.data.folds import write_folds
from smm4h.data.splits import Splits, load_splits, read_gold
from smm4h.data.tokenization import fetch_encoders
from smm4h.ensemble.stages import fit_and_vote, score_job, write_pseudo_labels
from smm4h.inference.finished_job import FinishedJob
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.parallel.pool import make_pool, raise_for_failures
from smm4h.parallel.progress import state_summary, state_table
from smm4h.reporting.privacy import TweetFingerprints
from smm4h.reporting.terminal import counts_table, print_evaluation, print_scores
from smm4h.training.run_data import RunData, prepare_run_data
from smm4h.training.tracking import check_trackers
from smm4h.utils.console import console, silence_libraries
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_json
from smm4h.utils.leases import make_once


def train_job(job: Job, launch: LaunchEnvironment) -> None:
    """Train what is missing of a job, vote, and report; raise `JobFailed` where runs failed for good."""
    silence_libraries()
    check_trackers(job.members)
    splits = load_splits(job)  # labelled tweets with their folds, test and unlabelled tweets
    plan = make_plan(job, splits.content_hashes())  # members x folds -> runs
    data = prepare_output_dir(plan, job, splits, launch)
    test_gold = read_gold(job, splits.test)
    with make_pool(launch, job, plan, data) as pool:
        for stage in job.stages:
            pool.train(stage)
            print_pseudo_labels(write_pseudo_labels(stage + 1, plan, job, splits), launch)
        fit_and_vote(plan, job, splits)
    if launch.is_main_process:
        push_run(plan, job)
        print_summary(plan, job, splits, test_gold)
    raise_for_failures(plan.wanted)


def print_run_table(job: Job, launch: LaunchEnvironment) -> None:
    """Show what is done, running, failed and missing, without a look at the tweets.

    The runs are those of the output folder; of the recipe, where nothing has been made yet.
    """
    if not launch.is_main_process:
        return
    if (job.output_dir / "plan.json").exists():
        plan = read_plan(job.output_dir)[0]
    elif job.members and job.task:
        plan = make_plan(job, {})
    else:
        raise InputError(f"{job.output_dir} holds no job; name its recipe and task to list the runs to come")
    runs = wanted_of(plan.runs, job.settings)
    console.print(state_table(runs))
    console.print(f"{len(runs)} runs in {job.output_dir}: {state_summary(runs)}", markup=False, soft_wrap=True)


def download(job: Job, launch: LaunchEnvironment) -> None:
    """Bring encoders and data set to this machine's cache, so that HF_HUB_OFFLINE=1 can be set afterwards."""
    if not launch.is_main_process:
        return
    silence_libraries()
    for name in fetch_encoders(job.members):
        console.print(f"{name} is here", markup=False)
    splits = load_splits(job)
    console.print(f"{len(splits.labelled)} labelled tweets and {len(splits.test or [])} test tweets can be read")


def prepare_output_dir(plan: Plan, job: Job, splits: Splits, launch: LaunchEnvironment) -> RunData:
    """Lock the output folder for this job, and write folds, findings, fingerprints and token tables."""
    labelled, findings = splits.labelled, splits.findings
    notices = [*job.notices, *lock_output_dir(plan, job, len(splits.unlabelled or []))]
    report_file = plan.output_dir / "data_report.json"
    make_once(plan.folds_file, lambda: write_folds(labelled, plan.folds_file))
    make_once(report_file, lambda: write_json(report_file, [finding._asdict() for finding in findings]))
    tables = [table for table in (labelled, splits.test, splits.unlabelled) if table is not None]
    make_once(plan.fingerprints_file, lambda: TweetFingerprints.from_tables(tables).write(plan.fingerprints_file))
    if launch.is_main_process:
        counts = np.bincount(splits.gold, minlength=job.task.n_classes)
        shares = ", ".join(f"{name}: {count}" for name, count in zip(job.task.labels, counts, strict=True))
        for notice in notices:
            console.print(f"note: {notice}", markup=False)
        console.print(f"{job.task.name}: {len(labelled)} labelled tweets ({shares})", markup=False)
        for finding in findings:
            text = f"  {finding.where}: {finding.count or ''} {finding.what}".replace("  ", " ", 1)
            console.print(text, markup=False)
    return prepare_run_data(plan, job, splits)


def print_pseudo_labels(counts: dict[int, dict], launch: LaunchEnvironment) -> None:
    if launch.is_main_process:
        for seed, of_seed in counts.items():
            console.print(counts_table(f"pseudo labels, folds of seed {seed}", of_seed))


def push_run(plan: Plan, job: Job) -> None:
    """With --push_to_hub, upload the one run that was asked for; private unless --hub_private_repo false."""
    run, args = plan.wanted[0], job.members[0].args
    if not args.push_to_hub or not run.is_done():
        return
    from smm4h.reporting.export import push_run as upload_run  # few ask for it

    public = args.hub_private_repo is False
    address = upload_run(plan, job.task, run, args.hub_model_id, token=args.hub_token, public=public)
    console.print(f"{run.name} pushed to {address}", markup=False)


def print_summary(plan: Plan, job: Job, splits: Splits, test_gold: np.ndarray | None) -> None:
    """Write scores, evaluation and report, and show them with the files of the output folder."""
    missing = [run for run in plan.runs if not run.is_done()]
    if missing:
        console.print(f"{len(missing)} of {len(plan.runs)} runs are missing, so there is no final vote yet")
    scored = score_job(plan, job, splits, test_gold)
    if scored is None:
        return
    leaderboard, leaky, evaluation = scored
    print_scores(leaderboard.scores, leaky, job.task)
    if evaluation is not None:
        print_evaluation(evaluation, job.task.measure)
        from smm4h.reporting.html_report import write_report  # matplotlib would hold up the first step

        write_report(FinishedJob.read(plan.output_dir))
    console.print()
    for path, meaning in output_files(plan):
        console.print(f"{plan.output_dir / path}  {meaning}", markup=False, soft_wrap=True)


def output_files(plan: Plan) -> list[tuple[str, str]]:
    """Return the files of the output folder, as far as there are any, and what they hold."""
    known = [
        ("report.html", "all of this on one page, with pictures; it holds tweets"),
        ("scores.json", "this table"),
        ("data_report.json", "what was odd about the tweets"),
        ("folds.parquet", "which fold holds which tweet out"),
        (f"{plan.members[0]}/fold-0/", "one run: model, held-out and test probabilities, metrics"),
        ("baselines/", "what the vote is to beat, on the same folds"),
        ("out_of_fold.parquet", "each member's probabilities of each labelled tweet, held out"),
        ("ensemble.json", "how the members' probabilities become a label"),
        ("appraisal.json", "what the vote gains, member by member, and over baselines"),
        ("label_problems.tsv", "labelled tweets whose label the members contradict"),
        ("votes/stage1.tsv", "vote of the teachers"),
        ("pseudo_labels/", "tweets with voted labels, a part for each fold"),
        ("votes/final.tsv", "vote of all members"),
    ]
    zips = sorted((plan.output_dir / "submission").glob("*.zip"))
    known += [(str(Path("submission", path.name)), "what to submit") for path in zips]
    return [(path, meaning) for path, meaning in known if (plan.output_dir / path).exists()]
