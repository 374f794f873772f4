"""Runs -> processes -> devices: who this process is, and how several of them share the work through the output folder.

The only room that knows processes. Each worker trains whole runs on its own device; claims are file locks, which the
system takes back from a process that dies.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from smm4h.errors import InputError
from smm4h.plan import Run

# What accelerate and torchrun tell their processes. A Trainer that saw it would make every run a distributed one.
LAUNCHER_NAMES = ("RANK", "WORLD_SIZE")
LAUNCHER_PREFIXES = ("LOCAL_", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_")


@dataclass(frozen=True)
class Worker:
    """This process among those that the launcher started."""

    rank: int
    local_world_size: int
    use_cpu: bool

    @property
    def speaks(self) -> bool:
        """Whether this worker shows the job's progress and results."""
        return self.rank == 0

    @property
    def flags(self) -> list[str]:
        return ["--use_cpu"] if self.use_cpu else []


def join() -> Worker:
    """Finds this process's place, gives it its GPU, and drops the launcher's variables from the environment.

    To be called before anything starts CUDA. Raises `InputError` for a launch that wants all processes in one run.
    """
    environment = os.environ
    for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM"):
        if environment.get(f"ACCELERATE_USE_{name}", "false").lower() in ("true", "1"):
            raise InputError(
                f"the accelerate config asks for {name}, but each run is trained whole on one device; "
                "launch with accelerate_config.yaml"
            )
    rank, local_rank = int(environment.get("RANK", 0)), int(environment.get("LOCAL_RANK", 0))
    worker = Worker(
        rank=rank,
        local_world_size=int(environment.get("LOCAL_WORLD_SIZE", 1)),
        use_cpu=environment.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1"),
    )
    for name in list(environment):
        if name in LAUNCHER_NAMES or name.startswith(LAUNCHER_PREFIXES):
            del environment[name]
    n_gpus = torch.cuda.device_count()  # asks the driver, starts nothing
    if n_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = own_device(environment, local_rank, n_gpus)
    elif not torch.accelerator.is_available():  # this asks CUDA itself, so not before the line above
        environment.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, once imported, warns that it found no other
    return worker


def own_device(environment: Mapping[str, str], local_rank: int, n_gpus: int) -> str:
    """The one GPU, as CUDA_VISIBLE_DEVICES names it, of the process with this local rank; more processes share."""
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (visible or [str(i) for i in range(n_gpus)])[local_rank % n_gpus]


def set_threads(worker: Worker, threads_per_worker: int) -> None:
    """Shares the machine's cores out among the workers; accelerate would leave each with a single thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = threads_per_worker or max(1, cores // worker.local_world_size)
    torch.set_num_threads(threads)
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # the tokenizers'


def work_through(runs: Sequence[Run], train: Callable[[Run], None], wait: Callable[[], None]) -> None:
    """Trains whatever of `runs` is not done and not another worker's, and returns when all of them are done."""
    while missing := [run for run in runs if not run.is_done()]:
        claimed = False
        for run in missing:
            run.directory.parent.mkdir(parents=True, exist_ok=True)
            try:
                with run.lock.acquire(timeout=0):
                    if not run.is_done():
                        train(run)
                        claimed = True
            except Timeout:
                wait()
        if not claimed:
            time.sleep(0.2)


def once(path: Path, make: Callable[[], None]) -> None:
    """Has `path` made by whichever worker comes first; the others wait for it."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{path.name}.lock"):
        if not path.exists():
            make()
