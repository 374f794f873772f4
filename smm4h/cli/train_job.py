"""A training job from its files to its submission: the verbs of the command `train`."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smm4h.cli.flags import command_name
from smm4h.config.claim import lock_output_dir
from smm4h.config.job import Job, Member
from smm4h.config.plans.adaptation import adaptations_of, without_removed
from smm4h.config.plans.plan import Plan, make_plan, read_plan, wanted_of
from smm4h.config.plans.run import Run
from smm4h.config.plans.stored import is_stored
from smm4h.data.folds import write_folds
from smm4h.data.outputs.submissions import write_shape
from smm4h.data.readers.tables import Finding
from smm4h.data.splits import Splits, load_splits, read_gold
from smm4h.data.tokenization import check_encoders, has_token_table, token_findings
from smm4h.ensemble.fitted_ensemble import saved_rule_note, unadjusted_note
from smm4h.ensemble.stages import LabelledPart, fit_and_vote, score_job, write_pseudo_labels
from smm4h.inference.finished_job import FinishedJob
from smm4h.inference.new_tweets.reference import write_profile
from smm4h.parallel.encoder_record import check_same_encoders
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.parallel.forecast.cpu_workers import with_runs_per_device
from smm4h.parallel.forecast.forecast import Forecast, Forecaster, missing_runs, shortages
from smm4h.parallel.forecast.gpu_memory import within_gpu_memory
from smm4h.parallel.forecast.limit import budget_notices, within_time_limit
from smm4h.parallel.forecast.probe import NoForecast
from smm4h.parallel.pool import make_pool, raise_for_failures
from smm4h.parallel.progress import state_summary, state_table
from smm4h.parallel.verification import all_damages
from smm4h.reporting.leak_check.fingerprints import TweetFingerprints
from smm4h.reporting.terminal import print_decision, print_evaluation, print_pseudo_label_counts, print_scores
from smm4h.training.run_data import RunData, prepare_run_data
from smm4h.training.tracking import check_trackers
from smm4h.utils.console import console, silence_libraries
from smm4h.utils.devices import check_gpus, unused_gpus_note
from smm4h.utils.errors import ASK_AGAIN, InputError, JobFailed, Stopped
from smm4h.utils.files import read_json, write_json
from smm4h.utils.leases import POLL_SECONDS, Waiting, free_abandoned, lease_file_of, wait_for_lease
from smm4h.utils.temporaries import remove_abandoned
from smm4h.utils.wording import are, counted

OPTIMIZERS_OF_TORCH = ("radam", "adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop", "adafactor")


@dataclass(frozen=True)
class PreparedJob:
    """A job whose input has been read and checked, with what a time limit leaves of it."""

    job: Job
    splits: Splits  # labelled tweets with their folds, test and unlabelled tweets
    plan: Plan  # members x folds -> runs
    test_gold: np.ndarray | None  # (n_test_tweets,) class indices
    forecaster: Forecaster | None = None  # what chose within a time limit, if anything had to

    @classmethod
    def of(cls, job: Job, launch: LaunchEnvironment) -> "PreparedJob":
        """Read all of a job's input; raise `InputError` for what is wrong with it."""
        silence_libraries()
        check_trackers(job.members)
        splits = load_splits(job)
        if splits.test is None and job.settings.gold_file:
            raise InputError("--gold_file has labels of test tweets, and there are none; name them with --test_file")
        plan = make_plan(job, *splits.hashes())
        if missing_runs(plan):  # a finished job asks nobody about its encoders
            job = with_runs_per_device(job, launch)
        limited, splits, forecaster = apply_time_limit(job, splits, launch)
        if limited is not job:
            plan = make_plan(limited, *splits.hashes())
        return cls(limited, splits, plan, read_gold(limited, splits), forecaster)


def train_job(job: Job, launch: LaunchEnvironment) -> None:
    """Train what is missing of a job, vote, and report; raise `JobFailed` where runs failed for good."""
    prepared = PreparedJob.of(job, launch)
    check_before_training(prepared.plan, prepared.job, prepared.splits, launch)
    train_prepared(prepared, launch)
    if launch.is_main_process and (prepared.plan.output_dir / "scores.json").exists():
        print_next_steps(prepared.plan)
    raise_for_failures(prepared.plan.wanted)


def train_prepared(prepared: PreparedJob, launch: LaunchEnvironment) -> None:
    """Train what is missing of a job whose input is checked, vote, and report."""
    job, splits, plan = prepared.job, prepared.splits, prepared.plan
    n_extra = splits.extra.counts if splits.extra is not None else []
    with lock_output_dir(plan, job, len(splits.unlabelled or []), n_extra, splits.adaptation_counts()) as notices:
        if launch.is_main_process:
            remove_abandoned(plan.output_dir)
            free_abandoned(plan.output_dir)
        data = prepare_output_dir(plan, job, splits, launch, notices)
        if launch.is_main_process:
            job = fitting_on_gpus(job, print_forecast(prepared, launch))
        with make_pool(launch, job, plan, data) as pool:
            pool.train(partial(make_pseudo_labels, plan=plan, job=job, splits=splits, launch=launch))
            data.check_claimed()
            fit_and_vote(plan, job.task, LabelledPart.of_splits(splits))
        if launch.is_main_process:
            write_profile(plan, splits.labelled)
            push_run(plan, job)
            print_summary(plan, job, splits, prepared.test_gold)


def apply_time_limit(job: Job, splits: Splits, launch: LaunchEnvironment) -> tuple[Job, Splits, Forecaster | None]:
    """Return what --time_limit leaves of the job, its splits by its own folds, and what chose it, if anything had to.

    What was left out is among the job's notices.
    """
    limited, forecaster = within_time_limit(job, splits, launch)
    if limited is job:
        return job, splits, None
    asked = [member.name for member in job.members]
    notices = [*job.notices, *budget_notices(limited, job.settings.n_folds, asked)]
    same_folds = limited.settings.n_folds == job.settings.n_folds and len(limited.members) == len(job.members)
    return replace(limited, notices=notices), splits if same_folds else load_splits(limited), forecaster


def print_forecast(prepared: PreparedJob, launch: LaunchEnvironment) -> Forecast | None:
    """Print how long the missing runs take, and what they take of disk and memory; or why nobody can tell.

    Returns what was printed; None where there is no forecast.
    """
    job, plan = prepared.job, prepared.plan
    if not missing_runs(plan):
        return None
    try:
        forecaster = prepared.forecaster or Forecaster.of_job(plan, job, prepared.splits, launch)
    except NoForecast as error:
        console.print(f"no forecast: {error}", markup=False, soft_wrap=True)
        return None
    forecast = forecaster.forecast(plan, job)
    for line in (str(forecast), *(f"note: {line}" for line in shortages(forecast, plan.output_dir))):
        console.print(line, markup=False, soft_wrap=True)
    return forecast


def fitting_on_gpus(job: Job, forecast: Forecast | None) -> Job:
    """Return the job with as many runs at a time as a GPU holds by its forecast, at most those that are asked for."""
    if forecast is None:
        return job
    return replace(job, settings=within_gpu_memory(job.settings, forecast.gpu))


def check_before_training(plan: Plan, job: Job, splits: Splits, launch: LaunchEnvironment) -> None:
    """Raise `InputError` for an encoder or optimizer that cannot be used, before the output folder is claimed.

    One process of each host checks, the others wait until the folder holds the plan. An encoder whose tweets are in
    the folder's token tables has been checked before.
    """
    if launch.local_rank:
        return wait_for_plan(plan, launch)
    missing = {run.member.name: run.member for run in missing_runs(plan)}.values()
    if missing and not job.members[0].args.use_cpu:
        check_gpus()
    check_optimizers(missing, plan.output_dir)
    if is_stored(plan):
        check_same_encoders(plan, missing)
        missing = [member for member in missing if not has_token_table(plan.token_folder, "labelled", member)]
    names = {member.args.model_name_or_path for member in missing if member.has_encoder}
    check_encoders([m for m in job.members if m.args.model_name_or_path in names], job.task, splits.labelled)
    print_adaptation_notes([run for run in missing_runs(plan) if run.is_adaptation])


def print_adaptation_notes(adaptations: Sequence[Run]) -> None:
    """Print what is odd about encoders that are to be adapted; raise `InputError` for those that can't be."""
    if adaptations:
        from smm4h.training.adaptation.adapt import adaptation_notes  # Trainer takes seconds to import

        for note in adaptation_notes(adaptations):
            console.print(f"note: {note}", markup=False, soft_wrap=True)


def wait_for_plan(plan: Plan, launch: LaunchEnvironment) -> None:
    """Return when another process has written the plan; end where it ended instead, because the job was refused."""
    waiting = Waiting()
    try:
        while not is_stored(plan):
            if launch.is_orphaned():
                raise Stopped
            waiting.tell(lambda: f"{plan.plan_file}, which another process of this launch checks and writes")
            time.sleep(POLL_SECONDS)
    except Stopped:
        raise SystemExit(ASK_AGAIN) from None  # the other process has printed the reason


def check_optimizers(members: Iterable[Member], output_dir: Path) -> None:
    """Raise `InputError` for an optimizer whose package is missing."""
    for member in members:
        if member.has_encoder and member.args.optim not in OPTIMIZERS_OF_TORCH:
            from smm4h.training.resumable import ResumableTrainer, run_arguments  # Trainer takes seconds to import

            try:
                ResumableTrainer.get_optimizer_cls_and_kwargs(run_arguments(member, output_dir), torch.nn.Linear(1, 1))
            except ImportError as error:
                reason = " ".join(str(error).split())
                raise InputError(
                    f"member {member.name}: --optim {member.args.optim} can't be used: {reason}; install its package, "
                    "or choose --optim radam"
                ) from None
            except (ValueError, RuntimeError) as error:
                if isinstance(error, InputError):
                    raise
                reason = " ".join(str(error).split())
                raise InputError(
                    f"member {member.name}: --optim {member.args.optim} can't be used: {reason}; choose --optim radam"
                ) from None


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
    runs = without_removed([*adaptations_of(runs), *runs])
    console.print(state_table(runs))
    summary = f"{counted(len(runs), 'run')} in {job.output_dir}: {state_summary(runs)}"
    console.print(summary, markup=False, soft_wrap=True)


def verify(job: Job, launch: LaunchEnvironment) -> None:
    """Compare all files of the output folder with what was written, and print those that are damaged.

    Raises `JobFailed` where there are any; nothing is changed.
    """
    if not launch.is_main_process:
        return
    plan, _ = read_plan(job.output_dir)
    damaged = list(all_damages(plan))
    for name, wrong in damaged:
        console.print(f"{plan.output_dir / name} {wrong}", markup=False, soft_wrap=True)
    runs = [run for run in plan.runs if run.done_file.exists()]
    if damaged:
        raise JobFailed(
            f"{counted(len(damaged), 'file')} in {plan.output_dir} {are(len(damaged))} not as written; the job's "
            "command makes again what is damaged; of a run whose large weights are named, remove DONE first"
        )
    unlisted = [run for run in runs if run.is_done() and not run.listed_files()]
    listed = counted(len(runs) - len(unlisted), "run")
    console.print(f"{plan.output_dir}: all files of {listed} are as they were written")
    if unlisted:
        console.print(f"no hashes of files are known of {counted(len(unlisted), 'run')} of an earlier version")


def download(job: Job, launch: LaunchEnvironment) -> None:
    """Bring encoders and data set to this machine's cache, so that HF_HUB_OFFLINE=1 can be set afterwards."""
    if not launch.is_main_process:
        return
    silence_libraries()
    splits = load_splits(job)
    console.print(f"{len(splits.labelled)} labelled tweets and {len(splits.test or [])} test tweets can be read")
    check_optimizers(job.members, job.output_dir)
    for name in check_encoders(job.members, job.task, splits.labelled):
        console.print(f"{name} is here", markup=False)
    print_adaptation_notes(make_plan(job, *splits.hashes()).adaptations)


def prepare_output_dir(
    plan: Plan, job: Job, splits: Splits, launch: LaunchEnvironment, notices: Sequence[str]
) -> RunData:
    """Write folds, fingerprints, token tables and the report on the data, and print what was found."""
    labelled = splits.labelled
    if launch.is_main_process:
        counts = job.task.space.counts(splits.gold)
        shares = ", ".join(f"{name}: {count}" for name, count in zip(job.task.labels, counts, strict=True))
        unused = unused_gpus_note()
        for notice in [*job.notices, *notices, *([unused] if unused else [])]:
            console.print(f"note: {notice}", markup=False)
        console.print(f"{job.task.name}: {len(labelled)} labelled tweets ({shares})", markup=False)
        print_findings(splits.findings)
    if launch.is_main_process:
        write_shape(plan, job.task.submission, splits.test)
    derived, marks = plan.derived, plan.fingerprints_file
    derived.make(plan.folds_file, lambda: write_folds(labelled, plan.folds_file, job.task.space))
    tables = [table for table in (labelled, splits.test, splits.unlabelled) if table is not None]
    tables += [splits.extra.tweets] if splits.extra is not None else []
    tables += splits.adaptation.values()
    derived.make(marks, lambda: TweetFingerprints.from_tables(tables).write(marks))
    data = prepare_run_data(plan, job, splits)
    findings = write_data_report(plan, job, splits)
    if launch.is_main_process:
        print_findings(findings)
    return data


def write_data_report(plan: Plan, job: Job, splits: Splits) -> list[Finding]:
    """Write what was odd about the tweets; return the findings of the tokenizers.

    The token tables of all members that exist by then count, whichever process made them: under the lease, the last
    process to write sees all of them.
    """
    with wait_for_lease(lease_file_of(plan.report_file), plan.report_file):
        of_tokens = token_findings(plan.token_folder, job.members)
        content = [finding._asdict() for finding in (*splits.findings, *of_tokens)]
        if not plan.report_file.exists() or not _holds(plan.report_file, content):
            write_json(plan.report_file, content)
        plan.derived.record(plan.report_file)
    return of_tokens


def _holds(path: Path, content: Any) -> bool:
    """Return whether a JSON file has a content; False for a damaged file."""
    try:
        return read_json(path) == json.loads(json.dumps(content))
    except InputError:
        return False


def print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        console.print(f" {finding}", markup=False, soft_wrap=True)


def make_pseudo_labels(stage: int, plan: Plan, job: Job, splits: Splits, launch: LaunchEnvironment) -> None:
    """Write the pseudo labels of a stage, where they are missing, and show their counts; the first stage has none."""
    counts = write_pseudo_labels(stage, plan, job, splits) if stage > 1 else {}
    if launch.is_main_process:
        for seed, of_seed in counts.items():
            print_pseudo_label_counts(f"pseudo labels, folds of seed {seed}", of_seed)


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
        which = f"{len(missing)} of {counted(len(plan.runs), 'run')} {are(len(missing))} missing"
        console.print(f"{which}, so there is no final vote yet")
    if saved := saved_rule_note(plan, job.task):
        console.print(f"note: {saved}", markup=False, soft_wrap=True)
    scored = score_job(plan, job, LabelledPart.of_splits(splits), test_gold)
    if scored is None:
        return
    leaderboard, leaky, evaluation = scored
    print_scores(leaderboard.scores, leaky, job.task)
    if evaluation is not None:
        print_evaluation(evaluation, job.task.measure)
        finished = FinishedJob.read(plan.output_dir)
        print_decision(finished)
        if unadjusted := unadjusted_note(plan, finished.rule):
            console.print(f"note: {unadjusted}", markup=False, soft_wrap=True)
        from smm4h.reporting.html_report import write_report  # matplotlib would hold up the first step

        write_report(finished)


def print_next_steps(plan: Plan) -> None:
    """Print what to do with the output folder: read, submit, predict, publish, as far as it has what that needs."""
    folder = plan.output_dir
    steps = [("read", str(folder / "report.html"))] if (folder / "report.html").exists() else []
    steps += submit_steps(folder)
    if any((run.directory / "model").exists() for run in plan.runs):
        steps.append(("predict", f"{command_name('predict')} {folder} new_tweets.csv --output labels.csv"))
        steps.append(("publish", f"{command_name('publish')} {folder} --to_folder published/{folder.name}"))
    steps.append(("all files", f"{folder}; docs/pipeline.md says what each of them holds"))
    print_steps(steps)


def submit_steps(folder: Path) -> list[tuple[str, str]]:
    """Return a step for each file of a folder's submission."""
    return [("submit", str(path)) for path in sorted((folder / "submission").rglob("[!.]*")) if path.is_file()]


def print_steps(steps: Iterable[tuple[str, str]]) -> None:
    """Print steps, each as its name and what to read, hand in or run."""
    console.print()
    for step, what in steps:
        console.print_command(f"{step:9}  {what}")
