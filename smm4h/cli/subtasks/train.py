"""The command `train` on a task with subtasks: a job for each, one submission and one table for all."""

from collections.abc import Callable, Mapping, Sequence

from smm4h.cli.subtasks.command import commands_of
from smm4h.config.job import Job
from smm4h.config.plans.subtask_jobs import SubtaskJobs
from smm4h.config.validation import check_input_files, check_packages
from smm4h.parallel.environment import LaunchEnvironment, become_coordinator_or_peer, is_joint_training
from smm4h.utils.console import console
from smm4h.utils.errors import InputError, JobFailed


def run_subtasks(jobs: SubtaskJobs, words: Sequence[str], launch: LaunchEnvironment) -> None:
    """Do for each subtask what the command asks for: train, check, list, verify or download."""
    commands = commands_of(jobs, words)
    settings = next(iter(commands.values())).settings
    reads_only = settings.list_runs or settings.verify
    if settings.time_limit:
        raise InputError(
            "--time_limit plans one job, and a task with subtasks has several; leave it out, or give a command for each"
        )
    if not reads_only:
        jobs.check_claimable()
        for job in commands.values():
            check_packages(job)
            check_input_files(job)
    if not (reads_only or settings.check):
        start(jobs, next(iter(commands.values())), launch)

    from smm4h.cli.train_job import download, print_run_table  # libraries that take seconds to import

    if settings.list_runs:
        each(commands, launch, lambda job: print_run_table(job, launch))
    elif settings.verify:
        verify_subtasks(jobs, commands, launch)
    elif settings.check:
        check_subtasks(jobs, commands, launch)
    elif settings.download_only:
        each(commands, launch, lambda job: download(job, launch))
    else:
        train_subtasks(jobs, commands, launch)


def start(jobs: SubtaskJobs, job: Job, launch: LaunchEnvironment) -> None:
    """Make this process a coordinator; raise `InputError` for joint training, whose processes train one job."""
    if is_joint_training(launch, job.settings):
        one = jobs.subtasks.names[0]
        raise InputError(
            "processes that train each run together take one subtask after the other; give a command for each, such as "
            f"--task {job.settings.task} --output_dir {jobs.folders[one]}"
        )
    become_coordinator_or_peer(launch, job)


def each(commands: Mapping[str, Job], launch: LaunchEnvironment, act: Callable[[Job], object]) -> dict[str, str]:
    """Call `act` with each subtask's job under a heading; return the messages of those that failed."""
    failed = {}
    for number, (name, job) in enumerate(commands.items(), 1):
        if launch.is_main_process:
            console.print(
                f"\n[bold]subtask {name}[/], {number} of {len(commands)}, in {job.output_dir}", soft_wrap=True
            )
        try:
            act(job)
        except JobFailed as error:
            failed[name] = str(error)
    return failed


def raise_for_subtasks(failed: Mapping[str, str]) -> None:
    """Raise `JobFailed` with what failed of each subtask, if anything did."""
    if failed:
        raise JobFailed("; ".join(f"subtask {name}: {message}" for name, message in failed.items()))


def train_subtasks(jobs: SubtaskJobs, commands: Mapping[str, Job], launch: LaunchEnvironment) -> None:
    """Read and check the input of all subtasks, then train what is missing of one after the other, and bring together.

    A subtask whose runs failed for good does not keep the others from being trained.

    Raises:
        InputError: for what is wrong with any subtask's input, before anything is trained.
        JobFailed: where runs of any subtask failed for good.
    """
    from smm4h.cli.subtasks.summary import finish_subtasks
    from smm4h.cli.train_job import PreparedJob, check_before_training, train_prepared
    from smm4h.config.claim import check_claimable
    from smm4h.parallel.pool import raise_for_failures

    prepared = {job.output_dir: PreparedJob.of(job, launch) for job in commands.values()}
    check_same_tweets([one.splits for one in prepared.values()], jobs)
    for one in prepared.values():
        check_claimable(one.plan)
        if not launch.local_rank:
            check_before_training(one.plan, one.job, one.splits, launch)
    if launch.is_main_process:
        jobs.write()

    def act(job: Job) -> None:
        one = prepared.pop(job.output_dir)
        if launch.local_rank:
            check_before_training(one.plan, one.job, one.splits, launch)
        train_prepared(one, launch)
        raise_for_failures(one.plan.wanted)

    failed = each(commands, launch, act)
    if launch.is_main_process:
        finish_subtasks(jobs)
    raise_for_subtasks(failed)


def check_same_tweets(splits: Sequence, jobs: SubtaskJobs) -> None:
    """Raise `InputError` where subtasks would predict other test tweets than the first one."""
    from smm4h.data.dataset import column

    ids = [None if one.test is None else column(one.test, "id").to_pylist() for one in splits]
    for name, own in zip(jobs.subtasks.names, ids, strict=True):
        if own != ids[0]:
            raise InputError(
                f"subtask {name} has other test tweets than subtask {jobs.subtasks.names[0]}, and their labels are "
                "handed in together; name one test file"
            )


def check_subtasks(jobs: SubtaskJobs, commands: Mapping[str, Job], launch: LaunchEnvironment) -> None:
    """Read and check the input of all subtasks, and print what was found; train nothing."""
    if not launch.is_main_process:
        return
    from smm4h.cli.check_job import check_input

    splits = []
    each(commands, launch, lambda job: splits.append(check_input(job, launch)))
    check_same_tweets(splits, jobs)
    console.print("Nothing was trained. The same command without --check trains.")


def verify_subtasks(jobs: SubtaskJobs, commands: Mapping[str, Job], launch: LaunchEnvironment) -> None:
    """Compare all files of all subtasks, and those that they have in common, with what was written.

    Raises `JobFailed` where there are damaged ones; nothing is changed.
    """
    from smm4h.cli.train_job import verify

    failed = each(commands, launch, lambda job: verify(job, launch))
    if launch.is_main_process:
        for name, wrong in jobs.derived.damaged():
            console.print(f"{jobs.folder / name} {wrong}", markup=False, soft_wrap=True)
            failed["files of all subtasks"] = "not as they were written; the job's command makes them again"
    raise_for_subtasks(failed)
