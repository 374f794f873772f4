"""Trains the runs of a recipe (members x folds) on a task, votes, and writes the submission: one command for all of it.

accelerate launch run_classification.py recipes/smm4h2020.yaml --task tasks/task5.yaml \\
    --data_dir DIR --output_dir runs/task5

The same command again does only what is missing.
"""

import sys

from smm4h.config.recipe import read_command_line
from smm4h.data.duplicates import across_folds
from smm4h.parallel import fork_server

if __name__ == "__main__":
    fork_server.begin(sys.argv)  # first, so that the workers' imports and this process's own are made at the same time

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from smm4h.config.job import Job, teachers_of
from smm4h.config.plan import Plan, Run, lock_output_dir, make_plan, read_plan, wanted_of
from smm4h.data.folds import write_folds
from smm4h.data.prediction_files import read_labels, write_labels, write_submission
from smm4h.data.splits import Splits, load_splits, read_gold
from smm4h.data.tokenization import fetch_encoders, tokenise
from smm4h.ensemble.fitted_ensemble import FittedEnsemble, fit_ensemble, write_ensemble
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.label_issues import write_label_issues
from smm4h.ensemble.member_predictions import (
    MemberPredictions,
    mean_predictions,
    out_of_fold_predictions,
    write_out_of_fold,
)
from smm4h.ensemble.pseudo_labeling import PseudoLabeler, counts_of
from smm4h.ensemble.scoring import FINAL, LEAKY, Leaderboard
from smm4h.inference.finished_job import FinishedJob
from smm4h.parallel import pool
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.parallel.progress import JobProgress, state_summary, state_table
from smm4h.parallel.run_state import has_failed_for_good
from smm4h.reporting.privacy import TweetFingerprints
from smm4h.reporting.terminal import counts_table, print_evaluation, score_table
from smm4h.training.run_data import RunData, keep_best_model
from smm4h.training.tracking import check_trackers
from smm4h.utils.console import console, silence_libraries
from smm4h.utils.errors import InputError, run_main
from smm4h.utils.files import write_json
from smm4h.utils.leases import make_once


def main() -> None:
    launch = LaunchEnvironment.detect()
    silence_libraries()
    job = read_command_line([*sys.argv[1:], *launch.flags])
    pool.become_coordinator_or_peer(launch, job)
    check_trackers(job.members)
    if job.settings.list:
        return tell_states(job, launch)
    if job.settings.fetch:
        return fetch(job, launch)
    tweets = load_splits(job)
    plan = make_plan(job, tweets.content_hashes())
    claim(plan, job, tweets, launch)
    data = run_data(plan, job, tweets)
    gold = read_gold(job, tweets.test)
    costs = pool.estimate_costs(plan.wanted, data)
    runs = pool.longest_first(plan.wanted, costs)
    with pool.make_pool(launch, job, runs, data) as workers, job_progress(runs, costs, job, launch) as progress:
        for stage in job.stages:
            train_stage(stage, plan, job, data, workers, progress)
            teach(stage + 1, plan, job, tweets, launch)
        elect(plan, job, tweets)
    push(plan, job, launch)
    tell_results(plan, job, tweets, gold, launch)
    pool.raise_for_failures(plan.wanted)


def tell(launch: LaunchEnvironment, text: str) -> None:
    if launch.is_main_process:
        console.print(text, markup=False)


def tell_states(job: Job, launch: LaunchEnvironment) -> None:
    """Shows what is done, running, failed and missing, without a look at the tweets."""
    if launch.is_main_process:
        folder = job.output_dir
        plan = read_plan(folder)[0] if (folder / "plan.json").exists() else make_plan(job, {})
        wanted = wanted_of(plan.runs, job.settings)
        console.print(state_table(wanted))
        console.print(f"{len(wanted)} runs in {folder}: {state_summary(wanted)}", markup=False, soft_wrap=True)


def fetch(job: Job, launch: LaunchEnvironment) -> None:
    """Brings encoders and data set to this machine's cache, so that HF_HUB_OFFLINE=1 can be set afterwards."""
    if not launch.is_main_process:
        return
    for name in fetch_encoders(job.members):
        console.print(f"{name} is here", markup=False)
    tweets = load_splits(job)
    console.print(f"{len(tweets.labelled)} labelled tweets and {len(tweets.test or [])} test tweets can be read")


def claim(plan: Plan, job: Job, tweets: Splits, launch: LaunchEnvironment) -> None:
    """Makes the folder this job's, and writes down the folds and what was odd about the tweets."""
    labelled, findings = tweets.labelled, tweets.findings
    for notice in [*job.notices, *lock_output_dir(plan, job, len(tweets.unlabelled or []))]:
        tell(launch, f"note: {notice}")
    report_file = plan.output_dir / "data_report.json"
    make_once(plan.folds_file, lambda: write_folds(labelled, plan.folds_file))
    report = [finding._asdict() for finding in findings]
    make_once(report_file, lambda: write_json(report_file, report))
    tables = [table for table in (labelled, tweets.test, tweets.unlabelled) if table is not None]
    make_once(plan.fingerprints_file, lambda: TweetFingerprints.from_tables(tables).write(plan.fingerprints_file))
    names, counts = job.task.labels, np.bincount(tweets.gold, minlength=job.task.n_classes)
    shares = ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True))
    tell(launch, f"{job.task.name}: {len(labelled)} labelled tweets ({shares})")
    for finding in findings:
        tell(launch, f"  {finding.where}: {finding.count or ''} {finding.what}".replace("  ", " ", 1))


def run_data(plan: Plan, job: Job, tweets: Splits) -> RunData:
    """Writes the tweets' tokens, from which the runs learn, and says where all that they need lies."""
    folder = plan.output_dir / "tokens"
    members = list({run.member.name: run.member for run in plan.wanted}.values())
    for part in ("labelled", "test", "unlabelled"):
        if (table := getattr(tweets, part)) is not None:
            tokenise(folder, part, table, members)
    taught = [stage for stage in job.stages if stage > 1]
    return RunData(
        task=job.task,
        folds_file=plan.folds_file,
        token_folder=folder,
        pseudo_folder=plan.output_dir / "pseudo_labels",
        has_test=tweets.test is not None,
        pool="test" if tweets.unlabelled is None else "unlabelled",
        teachers=frozenset(m.name for stage in taught for m in teachers_of(job.settings, job.members, stage)),
        max_eval_samples=job.settings.max_eval_samples,
        keep_models=job.settings.keep_models,
        keep_models_in=job.settings.keep_models_in,
        save_minutes=job.settings.save_minutes,
    )


def job_progress(runs: Sequence[Run], costs: Mapping[str, float], job: Job, launch: LaunchEnvironment) -> JobProgress:
    return JobProgress(runs, costs, job.task.measure, quiet=not launch.is_main_process)


def train_stage(
    stage: int,
    plan: Plan,
    job: Job,
    data: RunData,
    workers: pool.WorkerPool | pool.JointTraining,
    progress: JobProgress,
) -> None:
    """Has the stage's runs trained that are wanted and missing, by whichever workers share the folder."""
    runs = [run for run in plan.wanted if run.stage == stage]
    if unready := [run for run in runs if not data.is_ready(run) and not run.is_done()]:
        missing = [run for run in teacher_runs(stage, plan, job) if not run.is_done()]
        if any(has_failed_for_good(run) for run in missing):
            return
        raise InputError(
            f"{unready[0].member.name} needs pseudo labels, and {len(missing)} runs of their teachers are missing "
            f"({missing[0].name}, ...); run the command without --members and --folds"
        )
    workers.finish(runs, progress.look)
    for member in {run.member.name for run in runs if job.settings.keep_models == "best"}:
        keep_best_model(plan.runs_of([member]))


def teacher_runs(stage: int, plan: Plan, job: Job) -> list[Run]:
    """The runs whose word labels the pseudo tweets of a stage; of the second one, the paper's result-A."""
    return plan.runs_of(member.name for member in teachers_of(job.settings, job.members, stage))


def fitting_of(job: Job) -> VotingConfig:
    return VotingConfig(job.task.objective, job.settings.vote, job.settings.decision, job.settings.ties)


def teach(stage: int, plan: Plan, job: Job, tweets: Splits, launch: LaunchEnvironment) -> None:
    """Labels the tweets that a stage's runs learn from besides the labelled ones, once all its teachers are done."""
    runs, teachers = [run for run in plan.runs if run.stage == stage], teacher_runs(stage, plan, job)
    if not runs or not all(run.is_done() for run in teachers):
        return
    fitting = fitting_of(job)

    def vote(part: str) -> tuple[MemberPredictions, np.ndarray]:
        """The teachers' ballots on the test tweets, or on the `unlabelled` ones, and the elected classes."""
        fitted, _ = fit_ensemble(out_of_fold_predictions(teachers), tweets.gold, fitting, job.task)
        ensemble, ballots = fitted.for_new_tweets(teachers, part)
        return ballots, ensemble.predict(ballots)

    if tweets.test is not None:
        votes = plan.output_dir / "votes" / f"stage{stage - 1}.tsv"
        make_once(votes, lambda: write_vote(votes, *vote("test")))
    teaching = PseudoLabeler(job.settings, job.task, tweets.labelled, tweets.pool, teachers, vote)
    for seed in sorted({run.member.get("fold_seed") for run in runs}):
        folder = plan.output_dir / "pseudo_labels"
        if teaching.write(folder, stage, seed) and launch.is_main_process:
            console.print(counts_table(f"pseudo labels, folds of seed {seed}", counts_of(folder, stage, seed)))


def write_vote(path: Path, ballots: MemberPredictions, elected: np.ndarray) -> None:
    write_labels(path, ballots.ids, ballots.names(elected))


def elect(plan: Plan, job: Job, tweets: Splits) -> None:
    """Once all runs are done: the out-of-fold table, the ensemble's rule, doubtful labels, vote and submission."""
    if not all(run.is_done() for run in plan.runs):
        return
    table, fitting = plan.out_of_fold_file, fitting_of(job)
    make_once(table, lambda: write_out_of_fold(table, out_of_fold_predictions(plan.runs), tweets.gold))
    make_once(plan.ensemble_file, lambda: write_ensemble(plan, fitting, job.task, has_test=tweets.test is not None))
    problems = plan.output_dir / "label_problems.tsv"
    make_once(problems, lambda: write_label_issues(problems, table, tweets.labelled))
    if tweets.test is None:
        return
    votes = plan.output_dir / "votes" / "final.tsv"

    def vote() -> None:
        ensemble = FittedEnsemble.read(plan.ensemble_file)
        ballots = mean_predictions(plan.runs, mean=ensemble.rule.mean)
        write_vote(votes, ballots, ensemble.predict(ballots))

    make_once(votes, vote)
    elected = read_labels(votes)
    path = plan.output_dir / "submission" / f"{Path(job.task.submission.file).stem}.zip"
    make_once(path, lambda: write_submission(path, job.task.submission, elected.ids, elected.labels.to_pylist()))


def push(plan: Plan, job: Job, launch: LaunchEnvironment) -> None:
    """With --push_to_hub, uploads the one run that was asked for; private unless told otherwise."""
    run, first = plan.wanted[0], job.members[0]
    if not first.get("push_to_hub") or not launch.is_main_process or not run.is_done():
        return
    from smm4h.reporting.export import push_run  # here, since few ask for it

    public = first.get("hub_private_repo") is False
    place = push_run(plan, job.task, run, first.get("hub_model_id"), token=first.get("hub_token"), public=public)
    tell(launch, f"{run.name} pushed to {place}")


def tell_results(plan: Plan, job: Job, tweets: Splits, gold: np.ndarray | None, launch: LaunchEnvironment) -> None:
    """Writes scores.json and appraisal.json and shows them, with where everything lies."""
    if not launch.is_main_process:
        return
    missing = [run for run in plan.runs if not run.is_done()]
    if missing:
        tell(launch, f"{len(missing)} of {len(plan.runs)} runs are missing, so there is no final vote yet")
    members = [name for name in plan.members if all(run.is_done() for run in plan.runs_of([name]))]
    if not members:
        return
    standings = Leaderboard(plan, fitting_of(job), job.task, tweets.gold, gold)
    standings.add_members(members)
    electorates = {f"stage-{stage - 1} vote": teacher_runs(stage, plan, job) for stage in job.stages if stage > 1}
    electorates[FINAL] = plan.runs
    for name, runs in electorates.items():
        if all(run.is_done() for run in runs):
            standings.add_vote(name, runs, fitting_of(job))
    baselines = standings.add_baselines()
    leaky = flattered_rows(plan, job, electorates)
    write_json(plan.output_dir / "scores.json", {leaky.get(k, k): v for k, v in standings.scores.items()})
    show_scores(standings, leaky, job)
    if not missing:
        seeds = sorted({member.get("fold_seed") for member in job.members})
        appraisal = standings.evaluate(FINAL, baselines, across_folds(tweets.labelled, seeds))
        write_json(plan.output_dir / "appraisal.json", appraisal)
        print_evaluation(appraisal, job.task.measure)
        from smm4h.reporting.html_report import write_report  # here, since matplotlib would hold up the first step

        write_report(FinishedJob.read(plan.output_dir))
    console.print()
    for path, what in places(plan):
        console.print(f"{plan.output_dir / path}  {what}", markup=False, soft_wrap=True)


def flattered_rows(plan: Plan, job: Job, electorates: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """The names, marked, of members and votes whose teachers saw the held-out tweets."""
    if job.settings.pseudo_from == "unseen":
        return {}
    members = {run.member.name for run in plan.runs if run.stage > 1}
    votes = {name for name, runs in electorates.items() if members & {run.member.name for run in runs}}
    return {name: f"{name}{LEAKY}" for name in members | votes}


def show_scores(standings: Leaderboard, leaky: Mapping[str, str], job: Job) -> None:
    task, scores = job.task, standings.scores
    rows = [(leaky.get(name, name), [score["out_of_fold"], score["test"]]) for name, score in scores.items()]
    title = f"\n{task.name}: {task.measure} of {', '.join(task.positive)}, 95 % bootstrap intervals"
    console.print(score_table(title, task.measure, ["out of fold", "test"], rows))
    if leaky:
        console.print("* trained on pseudo labels by teachers that saw the held-out tweets: out of fold, it flatters")
    idle = [name for name, score in scores.items() if score["out_of_fold"]["recall"] == 0]
    if idle:
        console.print(
            f"found no {' or '.join(task.positive)} at all: {', '.join(idle)}; more labelled tweets, more epochs, a "
            "higher learning rate or --decision tuned may help",
            markup=False,
        )


def places(plan: Plan) -> list[tuple[str, str]]:
    """What lies where in the output folder, of what there is."""
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
    known += [(f"submission/{path.name}", "what to submit") for path in (plan.output_dir / "submission").glob("*.zip")]
    return [(path, what) for path, what in known if (plan.output_dir / path).exists()]


if __name__ == "__main__":
    run_main(main)
