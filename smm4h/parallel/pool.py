"""Runs -> workers -> devices: a job's own process reads, votes and tells; its workers train.

Workers are forked from a server that has imported everything once, so that another one costs nothing, and claim run
after run in the output folder, as do the workers of every other job that was started on that folder. A worker that dies
takes nothing with it: its successor goes on from the run's last checkpoint.
"""

import gc
import importlib
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType

import psutil
import torch
from accelerate import PartialState

from smm4h.config.job import Job, run_arguments
from smm4h.config.plan import Run
from smm4h.data.dataset import column
from smm4h.data.tokenization import encoder_size, token_table
from smm4h.parallel import fork_server
from smm4h.parallel.environment import (
    LaunchEnvironment,
    clear_launcher_variables,
    devices,
    is_joint_training,
    set_threads,
    threads_each,
)
from smm4h.parallel.run_state import failures, log_event, started_without_end
from smm4h.parallel.worker import RUN_FAILED, TICK, train_jointly, unfinished, work
from smm4h.training.run_data import RunData, remove_intermediate_files
from smm4h.utils.errors import ASK_AGAIN, InputError, JobFailed, Stopped
from smm4h.utils.leases import LeaseHolder

FRUITLESS = 3  # workers that may die one after the other without having begun a run
PATIENCE = 120  # seconds that stopped workers get to save their state
# A process group that is there when these are imported outlives its destruction, in their functions' default arguments,
# and a thread of it (torch 2.13, gloo) that lets go of a tensor after Python has ended aborts the process.
KEEP_A_GROUP = ("torch.distributed.nn.functional", "deepspeed.comm.torch")

Look = Callable[[], None]


def longest_first(runs: Sequence[Run], costs: Mapping[str, float]) -> list[Run]:
    """The runs by stage, in each the longest first: whoever is last then has only a short one left."""
    return sorted(runs, key=lambda run: (run.stage, -costs[run.name]))


def estimate_costs(runs: Sequence[Run], data: RunData) -> dict[str, float]:
    """How long each run takes, by its name, up to a factor that all share: word pieces x the encoder's weights."""
    found = {}
    for member in {run.member.name: run.member for run in runs}.values():
        lengths = column(token_table(data.token_folder, "labelled", member), "length").to_numpy()
        folds = data.folds(member.get("fold_seed"))
        per_piece = member.get("num_train_epochs") * encoder_size(member)
        own = (run for run in runs if run.member.name == member.name)
        found |= {run.name: float(lengths[~run.holds_out(folds)].sum()) * per_piece for run in own}
    return found


def become_coordinator_or_peer(launch: LaunchEnvironment, job: Job) -> None:
    """Makes this process what it is to be: one of those that train together, or one that has workers of its own."""
    signal.signal(signal.SIGTERM, _stop)
    if is_joint_training(launch, job.settings):
        fork_server.end()
        return
    clear_launcher_variables()
    if not (job.settings.list or job.settings.fetch):
        fork_server.start()


def _stop(*_) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and what follows is not to be disturbed
    raise Stopped


def make_pool(launch: LaunchEnvironment, job: Job, runs: Sequence[Run], data: RunData) -> "WorkerPool | JointTraining":
    """Those who train the job's runs, to be used in a `with`."""
    tidy(runs)
    together = is_joint_training(launch, job.settings)
    # The command was given again, so that failed runs get their tries again. Where a failure ends all processes, each
    # command is one try: there they get them only when nothing else is left to do.
    if launch.is_main_process and not launch.is_restart and not (together and unfinished(runs)):
        for run in runs:
            if not run.is_done() and failures(run):
                log_event(run, "again")
    return (JointTraining if together else WorkerPool)(launch, job, runs, data)


def tidy(runs: Sequence[Run]) -> None:
    """Removes what workers that were killed between a run's DONE and their last move left of it."""
    claims = LeaseHolder()
    for run in runs:
        if run.is_done() and (claim := claims.try_acquire(run.lease_file)):
            with claim:
                remove_intermediate_files(run)


class JointTraining:
    """All processes of the launch, each a part of every run."""

    def __init__(self, launch: LaunchEnvironment, job: Job, runs: Sequence[Run], data: RunData) -> None:
        self.launch, self.job, self.data = launch, job, data
        self.stopped = threading.Event()

    def __enter__(self) -> "JointTraining":
        signal.signal(signal.SIGTERM, lambda *_: self.stopped.set())  # all are to stop at the same step
        set_threads(threads_each(self.launch, 1, self.job.settings.threads_per_worker))
        for module in KEEP_A_GROUP:
            with suppress(ImportError):
                importlib.import_module(module)
        PartialState(cpu=self.job.members[0].get("use_cpu"))
        for member in self.job.members:  # a batch that can't be shared is said before anything is trained
            run_arguments(member, self.job.output_dir)
        return self

    def __exit__(self, *exception) -> None:
        if torch.distributed.is_initialized():
            if exception[0] is None:
                torch.distributed.barrier()  # nobody hangs up while another is still listening
            gc.collect()  # models and trainers keep the group, too
            self._communication().destroy_process_group()

    def _communication(self) -> ModuleType:
        if self.launch.sharded != "DEEPSPEED":
            return torch.distributed
        import deepspeed

        # It has groups of its own, once it has trained.
        return deepspeed.comm if deepspeed.comm.is_initialized() else torch.distributed

    def finish(self, runs: Sequence[Run], look: Look) -> None:
        """Returns when all the runs are done or given up."""
        train_jointly(runs, self.data, self._is_to_stop, f"{self.launch.world_size} processes", look)

    def _is_to_stop(self) -> bool:
        return self.stopped.is_set() or self.launch.is_orphaned()


@dataclass
class Worker:
    """A worker process. Its life is asked of the system: it goes on when the server that forked it is killed."""

    device: str | None
    process: multiprocessing.Process
    life: psutil.Process | None  # None: it was gone before it could be looked at
    sentences: multiprocessing.connection.Connection

    def is_alive(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return self.life is not None and self.life.status() != psutil.STATUS_ZOMBIE
        return False

    def signal(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            if self.life is not None:
                self.life.send_signal(number)


class WorkerPool:
    """This process's workers: one for each of its devices, or several."""

    def __init__(self, launch: LaunchEnvironment, job: Job, runs: Sequence[Run], data: RunData) -> None:
        self.launch, self.runs, self.data = launch, list(runs), data
        self.devices = devices(launch, job.members[0].get("use_cpu")) * job.settings.runs_per_device
        self.threads = threads_each(launch, len(self.devices), job.settings.threads_per_worker)
        self.workers: list[Worker] = []
        self.fruitless = 0

    def __enter__(self) -> "WorkerPool":
        if unfinished(self.runs):
            self.context = fork_server.context()
            self.workers = [self._start(device) for device in self.devices]
        return self

    def _start(self, device: str | None) -> Worker:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (device, self.threads, self.runs, self.data, theirs)
        process = self.context.Process(target=work, args=arguments)
        process.start()
        theirs.close()
        life = None
        with suppress(psutil.NoSuchProcess):
            life = psutil.Process(process.pid)
        return Worker(device, process, life, ours)

    def __exit__(self, *exception) -> None:
        """Tells the workers to save what they have and to end."""
        try:
            for worker in self.workers:
                worker.signal(signal.SIGTERM)
            psutil.wait_procs([worker.life for worker in self.workers if worker.life], PATIENCE)
        finally:
            for worker in self.workers:
                worker.signal(signal.SIGKILL)

    def finish(self, runs: Sequence[Run], look: Look) -> None:
        """Returns when all the runs are done or given up, by whichever workers; replaces its own that die."""
        while unfinished(runs):
            if self.launch.is_orphaned():
                raise Stopped
            self._tend()
            look()
            time.sleep(TICK)
        look()
        tidy(runs)

    def _tend(self) -> None:
        for number, worker in enumerate(self.workers):
            if not worker.is_alive():
                self._take_note(worker)
                self.workers[number] = self._start(worker.device)

    def _take_note(self, worker: Worker) -> None:
        """Writes down what a worker that has ended was at; raises `InputError` for what only the user can mend."""
        with suppress(EOFError):
            if worker.sentences.poll():
                raise InputError(worker.sentences.recv())
        worker.process.join(1)  # its end may be seen before the server that forked it has told how it ended
        pid, code = worker.process.pid, worker.process.exitcode
        began = [run for run in self.runs if started_without_end(run, pid)]
        for run in began:
            log_event(run, "failed", pid=pid, error=f"its worker died ({_how(code)})")
        self.fruitless = 0 if began or code in (0, RUN_FAILED, ASK_AGAIN) else self.fruitless + 1
        if self.fruitless >= FRUITLESS * len(self.workers):
            raise InputError(
                f"workers die before they can train ({_how(code)}); give them more memory, or start "
                "fewer (--num_processes, --runs_per_device)"
            )


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def raise_for_failures(runs: Sequence[Run]) -> None:
    """Raises `JobFailed` with the runs that were given up, and why."""
    why = {run.name: failures(run)[-1] for run in runs if not run.is_done() and failures(run)}
    if why:
        listed = "; ".join(f"{name}: {reason}" for name, reason in why.items())
        raise JobFailed(
            f"{len(why)} of {len(runs)} runs failed every time they were tried ({listed}); each one's attempts.jsonl "
            "has the tracebacks, and the same command tries them again"
        )
