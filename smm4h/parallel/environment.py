"""Who this process is among those that a launcher started, and what of the machine is its own."""

import os
from dataclasses import dataclass

import torch

from smm4h.config.arguments import JobSettings
from smm4h.parallel.fork_server import is_true, launcher_variables, sharding
from smm4h.utils.errors import InputError


@dataclass(frozen=True)
class LaunchEnvironment:
    """This process among those that a launcher started; alone where nobody launched it."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    use_cpu: bool
    sharded: str | None  # what the accelerate config names to spread one model over processes
    parent: int | None  # the launcher's process
    is_restart: bool = False  # by the launcher, after a process had failed (--max_restarts)

    @classmethod
    def detect(cls) -> "LaunchEnvironment":
        """Finds this process's place among those launched; to be called before anything starts CUDA."""
        environment = os.environ
        asked = sharding()
        return cls(
            rank=int(environment.get("RANK", 0)),
            world_size=int(environment.get("WORLD_SIZE", 1)),
            local_rank=int(environment.get("LOCAL_RANK", 0)),
            local_world_size=int(environment.get("LOCAL_WORLD_SIZE", 1)),
            use_cpu=is_true("ACCELERATE_USE_CPU"),
            sharded=asked[0] if asked else None,
            parent=os.getppid() if "RANK" in environment else None,
            is_restart=environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0",
        )

    @property
    def is_main_process(self) -> bool:
        """Whether this process shows the job's progress and results."""
        return self.rank == 0

    @property
    def flags(self) -> list[str]:
        return ["--use_cpu"] if self.use_cpu else []

    def is_orphaned(self) -> bool:
        """Whether the launcher is gone."""
        return self.parent is not None and os.getppid() != self.parent


def is_joint_training(launch: LaunchEnvironment, settings: JobSettings) -> bool:
    """Whether all processes train one run after the other; raises `InputError` where config and flags disagree."""
    if launch.sharded == "MEGATRON_LM" or (launch.sharded and settings.parallel == "runs"):
        raise InputError(
            f"the accelerate config asks for {launch.sharded}, which spreads one run over processes; launch with "
            "accelerate_config.yaml to train whole runs side by side"
        )
    return settings.parallel == "data" or launch.sharded is not None


def clear_launcher_variables() -> None:
    """Drops the launcher's variables, so that a run on this process's device is no part of something distributed."""
    for name in launcher_variables():
        del os.environ[name]


def devices(launch: LaunchEnvironment, use_cpu: bool) -> list[str | None]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them, that this process's workers get; a None where there is no GPU.

    A process that was launched beside others has one of them; one that nobody launched has all.
    """
    n_gpus = 0 if use_cpu else torch.cuda.device_count()  # asks the driver, starts nothing
    if not n_gpus:
        return [None]
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible or [str(i) for i in range(n_gpus)]
    return [names[launch.local_rank % n_gpus]] if launch.parent is not None else names[:n_gpus]


def threads_each(launch: LaunchEnvironment, n_workers: int, threads_per_worker: int) -> int:
    """CPU threads of a worker: as told, or the machine's cores shared out; accelerate would leave each with one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads_per_worker or max(1, cores // (launch.local_world_size * n_workers))


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # the tokenizers'
