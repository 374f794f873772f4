"""Training of a job's runs by a pool of worker processes, or jointly, each run by all processes of the launch.

Workers are forked from a server that has imported everything once, and acquire run after run in the output folder, as
do the workers of every other job on that folder. When a worker dies, its successor resumes from the run's last
checkpoint.
"""

import multiprocessing
import multiprocessing.connection
import platform
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import psutil

from smm4h.config.job import Job
from smm4h.config.plans.adaptation import without_removed
from smm4h.config.plans.plan import Plan, teacher_runs
from smm4h.config.plans.run import Run
from smm4h.data.dataset import column
from smm4h.data.tokenization import encoder_size, token_table
from smm4h.parallel import fork_server
from smm4h.parallel.encoder_record import record_encoders
from smm4h.parallel.environment import LaunchEnvironment, devices, is_joint_training, streams_each, threads_each
from smm4h.parallel.forecast.cpu_workers import with_runs_per_device
from smm4h.parallel.progress import JobProgress
from smm4h.parallel.run_state import (
    RUN_FAILED,
    TICK,
    failures,
    has_failed_for_good,
    log_event,
    read_heartbeat,
    started_without_end,
    try_again,
    unfinished,
    waited_for,
    with_adaptations,
)
from smm4h.parallel.verification import first_damage
from smm4h.training.adaptation.texts import tables_of
from smm4h.training.run_data import RunData, keep_best_model, remove_intermediate_files
from smm4h.utils.console import console
from smm4h.utils.durable import remove
from smm4h.utils.errors import ASK_AGAIN, InputError, JobFailed, Stopped
from smm4h.utils.leases import LeaseHolder, Waiting
from smm4h.utils.wording import are, counted

MAX_EARLY_DEATHS = 3  # per worker: deaths in a row before a run was begun, after which the job ends with an error
SAVE_SECONDS = 120  # for stopped workers to save their state, before they are killed


class Trainers(Protocol):
    """Interface of `WorkerPool` and `JointTraining`: a context manager that trains runs."""

    def __enter__(self) -> "Trainers": ...

    def __exit__(self, *exception) -> None: ...

    def finish(self, runs: Sequence[Run], look: Callable[[], None]) -> None:
        """Return when all the runs are done or have failed for good; `look` is called repeatedly meanwhile."""


def longest_first(runs: Sequence[Run], costs: Mapping[str, float], teachers: Collection[str] = ()) -> list[Run]:
    """Return the runs by stage, longest first within a stage, so that the last worker to finish holds a short run.

    The adaptations of encoders come before all others, which wait for them.

    Args:
        teachers: names of the members that a later stage waits for; within a stage, they come before all others.
    """
    return sorted(
        runs, key=lambda run: (not run.is_adaptation, run.stage, run.member.name not in teachers, -costs[run.name])
    )


def estimate_costs(runs: Sequence[Run], data: RunData) -> dict[str, float]:
    """Return each run's relative duration by its name: word pieces of its tweets x epochs x the encoder's weights."""
    costs = {}
    for run in (run for run in runs if run.is_adaptation):
        lengths = [column(table, "length").to_numpy().sum() for table in tables_of(run.member, data.token_folder)]
        costs[run.name] = float(sum(lengths)) * run.member.args.num_train_epochs * encoder_size(run.member)
    for member in {run.member.name: run.member for run in runs if not run.is_adaptation}.values():
        lengths = column(token_table(data.token_folder, "labelled", member), "length").to_numpy()
        folds = data.folds(member.args.fold_seed)
        per_piece = member.args.num_train_epochs * encoder_size(member)
        own = (run for run in runs if run.member.name == member.name)
        costs |= {run.name: float(lengths[~run.holds_out(folds)].sum()) * per_piece for run in own}
    return costs


@dataclass
class TrainingPool:
    """A job's workers, or its joint training, which train the runs of all stages, with the progress display."""

    plan: Plan
    job: Job
    data: RunData
    trainers: "Trainers"
    progress: JobProgress

    def train(self, write_pseudo_labels: Callable[[int], None]) -> None:
        """Train the runs that were asked for and are missing, shared with other jobs on the same folder.

        Learners begin as soon as the last of their teachers is done, whatever other runs are still trained. Those whose
        pseudo labels are missing because a teacher's run has failed for good are not trained.

        Args:
            write_pseudo_labels: makes a stage's pseudo labels, where they are missing or damaged; called again where
                they are removed meanwhile.

        Raises `InputError` where pseudo labels are missing because runs of their teachers were not asked for, and where
        another job took the folder over.
        """
        taught: list[int] = []
        for stage in self.job.stages:
            teachers = {run.directory for run in teacher_runs(self.plan, self.job, stage)} if stage > 1 else set()
            self._finish([run for run in self.plan.wanted if run.directory in teachers], taught, write_pseudo_labels)
            write_pseudo_labels(stage)
            unready = [run for run in self._of([stage]) if not self.data.is_taught(run) and not run.is_done()]
            if unready:
                self._finish(self._of(taught), taught, write_pseudo_labels)
                return self._check_teachers(stage, unready[0])
            taught.append(stage)
        self._finish(self._of(taught), taught, write_pseudo_labels)

    def _of(self, stages: Collection[int]) -> list[Run]:
        """Return the runs of some stages that were asked for."""
        return [run for run in self.plan.wanted if run.stage in stages]

    def _finish(self, runs: Sequence[Run], taught: Collection[int], write_pseudo_labels: Callable[[int], None]) -> None:
        """Return when the runs are done or have failed for good, with the pseudo labels of the stages `taught` kept."""

        def look() -> None:
            self.data.check_claimed()
            for stage in taught:
                if not all(self.data.is_taught(run) for run in self._of([stage])):
                    write_pseudo_labels(stage)
            self.progress.look()

        self.trainers.finish(runs, look)
        for member in {run.member.name for run in runs if self.job.settings.keep_models == "best"}:
            keep_best_model(self.plan.runs_of([member]), self.data.best_by)

    def _check_teachers(self, stage: int, unready: Run) -> None:
        """Raise `InputError` where teachers of a stage were not asked for, which none of them has failed instead."""
        missing = [run for run in teacher_runs(self.plan, self.job, stage) if not run.is_done()]
        if not any(has_failed_for_good(run) for run in missing):
            runs = f"{counted(len(missing), 'run')} of their teachers {are(len(missing))}"
            raise InputError(
                f"{unready.member.name} needs pseudo labels, and {runs} missing "
                f"({missing[0].name}, ...); run the command without --members and --folds"
            )


@contextmanager
def make_pool(launch: LaunchEnvironment, job: Job, plan: Plan, data: RunData) -> Iterator[TrainingPool]:
    """Start the workers or the joint training of a job, and end them with the `with` block."""
    costs = estimate_costs(plan.wanted, data)
    runs = longest_first(plan.wanted, costs, data.teachers)
    reopen_damaged_runs(runs)
    remove_damaged_pseudo_labels(plan, data)
    clean_up_finished_runs(runs)
    if launch.local_rank == 0:  # once on each host, whose files may be its own
        record_encoders(plan, [run.member for run in unfinished(runs)])
    joint = is_joint_training(launch, job.settings)
    # The command was given again, so failed runs may be tried again. In joint training a failure ends all processes and
    # each command is one try: failed runs are tried again only when nothing else is left to do. Side by side, whichever
    # rank comes first says so: another would find nothing left to train, and end the launch.
    if not launch.is_restart and not (joint and (unfinished(runs) or not launch.is_main_process)):
        for run in runs:
            try_again(run, launch.name)
    if joint:
        from smm4h.parallel.joint_training import JointTraining  # imports Trainer, which only workers need otherwise

        trainers: Trainers = JointTraining(launch, job, runs, data)
    else:
        if unfinished(runs):  # damaged ones of a job that was finished, too
            job = with_runs_per_device(job, launch)
        trainers = WorkerPool(launch, job, runs, data)
    progress = JobProgress(without_removed(runs), costs, job.task.measure, quiet=not launch.is_main_process)
    with trainers, progress:
        yield TrainingPool(plan, job, data, trainers, progress)


def clean_up_finished_runs(runs: Sequence[Run]) -> None:
    """Remove intermediate files of finished runs whose workers were killed after DONE, before they removed them."""
    leases = LeaseHolder()
    for run in runs:
        if run.is_done() and (lease := leases.try_acquire(run.lease_file)):
            with lease:
                remove_intermediate_files(run)


def reopen_damaged_runs(runs: Sequence[Run]) -> None:
    """Remove DONE of finished runs with a damaged file, and say so: they are then made again.

    Large weights, which no vote needs, are compared by size only: their hashes are compared when they are loaded.
    """
    leases = LeaseHolder()
    for run in runs:
        if run.done_file.exists() and (damage := first_damage(run)) and (lease := leases.try_acquire(run.lease_file)):
            with lease:
                if first_damage(run):
                    console.print(f"note: {run.directory / damage}; it is made again", markup=False, soft_wrap=True)
                    remove(run.done_file)


def remove_damaged_pseudo_labels(plan: Plan, data: RunData) -> None:
    """Remove pseudo labels that are not whole, and say so: runs that wait for them begin as soon as they are there."""
    for folder in sorted(data.pseudo_folder.rglob("seed-*")):
        if damage := plan.derived.damage_of(folder):
            console.print(f"note: {folder} {damage}; it is made again", markup=False, soft_wrap=True)
            remove(folder)


def share_out(
    runs: Sequence[Run], places: Sequence[str | None], *, has_cpu_worker: bool
) -> list[tuple[str | None, list[Run]]]:
    """Return for each worker its device and the runs that it may train; no more workers than runs.

    Runs without an encoder use no GPU: where there are GPUs, one more worker trains them, so that none waits for them.

    Args:
        places: device of each worker; None: the CPU.
        has_cpu_worker: whether that further worker is one of this process's.
    """
    on_cpu = [run for run in runs if not run.member.has_encoder]
    if None in places or not on_cpu:
        return [(place, list(runs)) for place in places[: len(runs)]]
    on_gpu = [run for run in runs if run.member.has_encoder]
    shares: list[tuple[str | None, list[Run]]] = [(place, on_gpu) for place in places[: len(on_gpu)]]
    return [*shares, (None, on_cpu)] if has_cpu_worker else shares


@dataclass
class Worker:
    """A worker process.

    psutil tells whether it is alive, since multiprocessing reports a worker as ended once its fork server was killed.
    """

    device: str | None
    runs: Sequence[Run]  # that it may train
    process: multiprocessing.Process
    system_process: psutil.Process | None  # None: it had ended before psutil could find it
    messages: multiprocessing.connection.Connection  # receives errors that only the user can mend

    def is_alive(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return self.system_process is not None and self.system_process.status() != psutil.STATUS_ZOMBIE
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with suppress(psutil.NoSuchProcess):
            if self.system_process is not None:
                self.system_process.send_signal(number)


class WorkerPool:
    """Worker processes of this process: one or several for each of its devices."""

    def __init__(self, launch: LaunchEnvironment, job: Job, runs: Sequence[Run], data: RunData) -> None:
        self.launch, self.runs, self.data = launch, list(runs), data
        use_cpu = job.members[0].args.use_cpu
        places = devices(launch, use_cpu) * (job.settings.runs_per_device or 1)  # 0: nothing is left to train
        self.n_streams = streams_each(job.settings, places, use_cpu)
        self.shares = share_out(self.runs, places, has_cpu_worker=launch.local_rank == 0)
        n_workers = max(len(places), len(self.shares))  # of the whole job: bytes depend on threads, not on --folds
        self.threads = threads_each(launch, n_workers, job.settings.threads_per_worker)
        self.workers: list[Worker] = []
        self.early_deaths = 0  # in a row, of workers that had not begun a run

    def __enter__(self) -> "WorkerPool":
        if unfinished(self.runs):
            self.context = fork_server.context()
            self.workers = [self._start(device, runs) for device, runs in self.shares]
        return self

    def _start(self, device: str | None, runs: Sequence[Run]) -> Worker:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        n_streams = self.n_streams if any(run.member.has_encoder for run in runs) else 1
        arguments = (device, self.threads, n_streams, runs, self.data, theirs)
        process = self.context.Process(target=fork_server.run_worker, args=arguments)
        process.start()
        theirs.close()
        system_process = None
        with suppress(psutil.NoSuchProcess):
            system_process = psutil.Process(process.pid)
        return Worker(device, runs, process, system_process, ours)

    def __exit__(self, *exception) -> None:
        """Stop the workers by SIGTERM, upon which they save their state; kill those left after `SAVE_SECONDS`."""
        try:
            for worker in self.workers:
                worker.signal(signal.SIGTERM)
                if hasattr(signal, "SIGCONT"):
                    worker.signal(signal.SIGCONT)  # a worker that somebody stopped must end, too
            started = [worker.system_process for worker in self.workers if worker.system_process]
            psutil.wait_procs(started, SAVE_SECONDS)
        finally:
            for worker in self.workers:
                worker.signal(signal.SIGKILL)

    def finish(self, runs: Sequence[Run], look: Callable[[], None]) -> None:
        """Return when all the runs are done or have failed for good; replace workers of this process that die.

        Raises `Stopped` when the launcher is gone, and `InputError` for what only the user can mend.
        """
        waiting = Waiting()
        while remaining := unfinished(runs):
            if self.launch.is_orphaned():
                raise Stopped
            self._replace_dead_workers()
            look()
            if self._trains_any_of(remaining):
                waiting.over()
            elif self.launch.is_main_process:
                waiting.tell(lambda remaining=remaining: waited_for(remaining))
            time.sleep(TICK)
        look()
        clean_up_finished_runs(runs)

    def _trains_any_of(self, runs: Sequence[Run]) -> bool:
        """Return whether a worker of this process trains one of the runs."""
        pids = {worker.process.pid for worker in self.workers}
        heartbeats = [heartbeat for run in with_adaptations(runs) if (heartbeat := read_heartbeat(run))]
        return any(heartbeat.host == platform.node() and heartbeat.pid in pids for heartbeat in heartbeats)

    def _replace_dead_workers(self) -> None:
        for number, worker in enumerate(self.workers):
            if not worker.is_alive() and unfinished(worker.runs):
                self._log_end(worker)
                self.workers[number] = self._start(worker.device, worker.runs)

    def _log_end(self, worker: Worker) -> None:
        """Log the failure of a run whose worker died; raise `InputError` for what only the user can mend."""
        with suppress(EOFError):
            if worker.messages.poll():
                raise InputError(worker.messages.recv())
        worker.process.join(1)  # psutil may see the end before the fork server has sent the exit code
        pid, code = worker.process.pid, worker.process.exitcode
        started = [run for run in self.runs if started_without_end(run, pid)]
        for run in started:
            log_event(run, "failed", pid=pid, error=f"its worker died ({_exit_text(code)})")
        self.early_deaths = 0 if started or code in (0, RUN_FAILED, ASK_AGAIN) else self.early_deaths + 1
        if self.early_deaths >= MAX_EARLY_DEATHS * len(self.workers):
            raise InputError(
                f"workers die before they can train ({_exit_text(code)}); give them more memory, or start "
                "fewer (--num_processes, --runs_per_device, --streams_per_device)"
            )


def _exit_text(code: int | None) -> str:
    """Return the name of the signal that ended a process, or its exit code, for messages."""
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def raise_for_failures(runs: Sequence[Run]) -> None:
    """Raise `JobFailed` with the runs that are not done because they failed, and their last errors."""
    errors = {run.name: failures(run)[-1] for run in runs if not run.is_done() and failures(run)}
    if errors:
        listed = "; ".join(f"{name}: {error}" for name, error in errors.items())
        raise JobFailed(
            f"{len(errors)} of {counted(len(runs), 'run')} failed every time they were tried ({listed}); each one's "
            "attempts.jsonl has the tracebacks, and the same command tries them again"
        )
