"""Distributed environment: this process among those that a launcher started, and its share of the machine."""

import os
import platform
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from smm4h.config.arguments import JobSettings
from smm4h.config.job import Job
from smm4h.parallel import fork_server
from smm4h.utils.devices import check_gpus, usable_cores
from smm4h.utils.errors import InputError, Stopped

# Variables that accelerate and torchrun set. A Trainer that saw them would make every run a distributed one.
LAUNCHER_NAMES = ("RANK", "WORLD_SIZE")
LAUNCHER_PREFIXES = ("LOCAL_", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_")
SHARDING = ("DEEPSPEED", "FSDP", "MEGATRON_LM")  # what an accelerate config may ask for to spread one model


@dataclass(frozen=True)
class LaunchEnvironment:
    """This process among those that a launcher started; rank 0 of 1 where nobody launched it."""

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
        """Read the launcher's variables; to be called before anything starts CUDA."""
        environment = os.environ
        sharded = [name for name in SHARDING if is_true(f"ACCELERATE_USE_{name}")]
        return cls(
            rank=int(environment.get("RANK", 0)),
            world_size=int(environment.get("WORLD_SIZE", 1)),
            local_rank=int(environment.get("LOCAL_RANK", 0)),
            local_world_size=int(environment.get("LOCAL_WORLD_SIZE", 1)),
            use_cpu=is_true("ACCELERATE_USE_CPU"),
            sharded=sharded[0] if sharded else None,
            parent=os.getppid() if "RANK" in environment else None,
            is_restart=environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0",
        )

    @property
    def is_main_process(self) -> bool:
        """Whether this process shows the job's progress and results."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """Tells launches apart, and is the same in all processes of a launch on this host."""
        process = psutil.Process(self.parent)  # None: this one
        return f"{platform.node()} {process.pid} {process.create_time():.2f}"

    @property
    def flags(self) -> list[str]:
        """Flags that the accelerate config stands for."""
        return ["--use_cpu"] if self.use_cpu else []

    def is_orphaned(self) -> bool:
        """Whether the launcher is gone."""
        return self.parent is not None and os.getppid() != self.parent


def is_true(name: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(name, "false").lower() in ("true", "1")


def is_joint_training(launch: LaunchEnvironment, settings: JobSettings) -> bool:
    """Whether all processes train one run after the other; raise `InputError` where config and flags disagree."""
    if launch.sharded == "MEGATRON_LM" or (launch.sharded and settings.parallel == "runs"):
        raise InputError(
            f"the accelerate config asks for {launch.sharded}, which spreads one run over processes; launch with "
            "accelerate_config.yaml to train whole runs side by side"
        )
    return settings.parallel == "data" or launch.sharded is not None


def check_sharding(launch: LaunchEnvironment, job: Job) -> None:
    """Raise `InputError` for members that the sharding of the accelerate config has never trained."""
    adapted = next((member for member in job.members if member.asks_for_adapter), None)
    if launch.sharded == "FSDP" and adapted is not None:
        raise InputError(
            f"{job.where(adapted)}nobody has trained an adapter under FSDP, which shards its weights and the frozen "
            "ones together; launch with cluster/deepspeed_zero2.yaml, or without a sharding config and with "
            "--parallel data"
        )


def check_streams(launch: LaunchEnvironment, job: Job) -> None:
    """Raise `InputError` where each process would train several runs at a time, and all train one."""
    if job.settings.streams_per_device > 1 and is_joint_training(launch, job.settings):
        raise InputError(
            f"--streams_per_device {job.settings.streams_per_device}: this launch trains one run at a time, by all "
            "processes; leave the flag out"
        )


def streams_each(settings: JobSettings, places: Sequence[str | None], use_cpu: bool) -> int:
    """Return how many runs each worker trains at a time; raise `InputError` for a device without CUDA's streams."""
    import torch

    if settings.streams_per_device > 1 and None in places and not use_cpu and torch.accelerator.is_available():
        raise InputError(
            f"--streams_per_device {settings.streams_per_device}: runs have streams of their own on GPUs that CUDA "
            f"uses, not on {torch.accelerator.current_accelerator().type}; leave the flag out"
        )
    return settings.streams_per_device


def become_coordinator_or_peer(launch: LaunchEnvironment, job: Job) -> None:
    """Make this process a peer in joint training, or the coordinator of workers of its own.

    A coordinator starts the fork server, unless the job trains nothing, and drops the launcher's variables first.
    Raises `InputError` where `check_sharding` and `check_streams` do.
    """
    check_sharding(launch, job)
    check_streams(launch, job)
    signal.signal(signal.SIGTERM, _stop)
    if is_joint_training(launch, job.settings):
        return
    clear_launcher_variables()
    if not job.settings.download_only:
        fork_server.start()


def _stop(*_) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the end
    raise Stopped


def clear_launcher_variables() -> None:
    """Drop the launcher's variables, so that a run on this process's device is no part of something distributed."""
    for name in list(os.environ):
        if name in LAUNCHER_NAMES or name.startswith(LAUNCHER_PREFIXES):
            del os.environ[name]


def devices(launch: LaunchEnvironment, use_cpu: bool) -> list[str | None]:
    """Return the GPUs of this process's workers, as CUDA_VISIBLE_DEVICES names them; [None] where there is no GPU.

    A process that was launched beside others of this machine has one of them; any other has all.

    Raises `InputError` for GPUs that torch can't use.
    """
    import torch

    n_gpus = 0 if use_cpu else torch.cuda.device_count()  # asks the driver, starts nothing
    if n_gpus:
        check_gpus()
    if not n_gpus:
        return [None]
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible or [str(i) for i in range(n_gpus)]
    return [names[launch.local_rank % n_gpus]] if launch.local_world_size > 1 else names[:n_gpus]


def threads_each(launch: LaunchEnvironment, n_workers: int, threads_per_worker: int) -> int:
    """Return the CPU threads of a worker: as asked, or the cores shared out; accelerate would leave each with one."""
    return threads_per_worker or max(1, usable_cores() // (launch.local_world_size * n_workers))


def set_threads(threads: int) -> None:
    """Set the CPU threads of torch and of the tokenizers."""
    import torch

    torch.set_num_threads(threads)
    os.environ["RAYON_NUM_THREADS"] = str(threads)
