"""Joint (data-parallel) training: all processes of a launch train each run together, by DDP, FSDP or DeepSpeed."""

import gc
import importlib
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from types import ModuleType

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from smm4h.config.job import Job
from smm4h.config.plans.run import Run
from smm4h.parallel.environment import LaunchEnvironment, set_threads, threads_each
from smm4h.parallel.run_state import TICK, unfinished, waited_for
from smm4h.parallel.worker import acquire_next, train_and_log
from smm4h.training.resumable import run_arguments
from smm4h.training.run_data import RunData
from smm4h.utils.devices import prepare_gpu
from smm4h.utils.errors import Stopped
from smm4h.utils.leases import Lease, LeaseHolder, Waiting

# Imported before the process group exists: as default arguments of their functions, these modules keep a group from
# being destroyed, and a thread of the group (torch 2.13, gloo) that frees a tensor after Python has ended aborts the
# process.
GROUP_KEEPING_MODULES = ("torch.distributed.nn.functional", "deepspeed.comm.torch")
OVER, STOP, WAIT = "over", "stop", "wait"  # what rank 0 broadcasts instead of the index of the next run


class JointTraining:
    """Training of each run by all processes of the launch; a `with` block around it ends the process group."""

    def __init__(self, launch: LaunchEnvironment, job: Job, runs: Sequence[Run], data: RunData) -> None:
        self.launch, self.job, self.data = launch, job, data
        self.stopped = threading.Event()

    def __enter__(self) -> "JointTraining":
        signal.signal(signal.SIGTERM, lambda *_: self.stopped.set())  # only a flag: all ranks stop at the same step
        set_threads(threads_each(self.launch, 1, self.job.settings.threads_per_worker))
        for module in GROUP_KEEPING_MODULES:
            with suppress(ImportError):
                importlib.import_module(module)
        prepare_gpu()
        PartialState(cpu=self.job.members[0].args.use_cpu)
        for member in self.job.members:  # a batch that cannot be shared stops the job before anything is trained
            run_arguments(member, self.job.output_dir)
        return self

    def __exit__(self, *exception) -> None:
        if torch.distributed.is_initialized():
            if exception[0] is None:
                torch.distributed.barrier()  # or a rank could end the group while another still communicates
            gc.collect()  # models and trainers refer to the group, too
            self._communication().destroy_process_group()

    def _communication(self) -> ModuleType:
        """Return the module that manages the process groups."""
        if self.launch.sharded != "DEEPSPEED":
            return torch.distributed
        import deepspeed

        # deepspeed has groups of its own, once it has trained.
        return deepspeed.comm if deepspeed.comm.is_initialized() else torch.distributed

    def finish(self, runs: Sequence[Run], look: Callable[[], None]) -> None:
        """Return when all the runs are done or have failed for good; raise `Stopped` when this job is to stop."""
        train_jointly(runs, self.data, self._must_stop, f"{self.launch.world_size} processes", look)

    def _must_stop(self) -> bool:
        return self.stopped.is_set() or self.launch.is_orphaned()


def train_jointly(
    runs: Sequence[Run], data: RunData, stop: Callable[[], bool], device: str, look: Callable[[], None]
) -> None:
    """Train the runs one after the other, each by all processes of the process group.

    Rank 0 alone holds leases, and broadcasts what all ranks do next.

    Args:
        stop: returns True once the process must stop.
        device: name of the device, for display.
        look: called after each run and each wait.

    Raises `Stopped` in all ranks once `stop` returns True in rank 0.
    """
    leases, is_main_process, waiting = LeaseHolder(), PartialState().is_main_process, Waiting()
    while True:
        step, lease = _next_step(runs, data, leases, stop) if is_main_process else (None, None)
        step = broadcast_object_list([step])[0]
        if step == OVER:
            return
        if step == STOP:
            raise Stopped
        if step == WAIT:
            if is_main_process:
                waiting.tell(lambda: waited_for(unfinished(runs)))
            look()
            threading.Event().wait(TICK)
            continue
        waiting.over()
        with lease or nullcontext():
            train_and_log(runs[step], data, device, stop, lease, is_main_process=is_main_process)
        look()


def _next_step(
    runs: Sequence[Run], data: RunData, leases: LeaseHolder, stop: Callable[[], bool]
) -> tuple[int | str, Lease | None]:
    """Return the index of an acquired run, with its lease; or `OVER`, `STOP` or `WAIT`, without a lease."""
    remaining = unfinished(runs)
    if not remaining:
        return OVER, None
    if stop():
        return STOP, None
    if acquired := acquire_next(remaining, data, leases):
        run, lease = acquired
        return runs.index(run), lease
    return WAIT, None
