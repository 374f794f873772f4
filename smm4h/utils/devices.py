"""What this process has of the machine: cores and memory, in a container too, and GPUs that torch can use."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from smm4h.utils.errors import InputError

OWN_CGROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# By the version of cgroups: the folder below CGROUPS, the files of limit and use, and the name of unneeded file pages.
MEMORY_FILES = {
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("", "memory.max", "memory.current", "inactive_file"),
}

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that Linux has a driver for
QUANTISED = """
import sys, torch, bitsandbytes.functional as functional
weights = torch.ones(64, 64, device=sys.argv[1])
functional.dequantize_4bit(*functional.quantize_4bit(weights, quant_type="nf4", compress_statistics=True))
"""
KEEP_CUDNN = {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "0"}  # torch's own variable: so given, its order of choice is kept


def usable_cores() -> int:
    """Return the number of cores that this process may use: as a batch system or a container's CPU quota allows."""
    from joblib import cpu_count  # takes a while to import

    return cpu_count()


def available_memory() -> int:
    """Return the bytes that this process can take before others are swapped, or a container's limit ends it."""
    return min([psutil.virtual_memory().available, *(limit - used for limit, used in _memory_limits())])


def total_memory() -> int:
    """Return the bytes that this machine has, or a container's limit where that is less."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _memory_limits())])


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of this process's control group and of all groups above it that have a limit."""
    for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines() if OWN_CGROUPS.is_file() else ():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, limit, used, unneeded = MEMORY_FILES[1 if controllers else 2]
        own = Path(group.lstrip("/"))
        for name in (own, *own.parents):  # a container may see its own group as the root, under any name
            place = CGROUPS / folder / name
            try:
                most = (place / limit).read_text(encoding="utf-8").strip()
                now = int((place / used).read_text(encoding="utf-8"))
                pages = dict(row.split() for row in (place / "memory.stat").read_text(encoding="utf-8").splitlines())
            except OSError:  # there is no such group here, or the root, which has no limit
                continue
            if most != "max":
                yield int(most), min(int(most), now - int(pages.get(unneeded, 0)))


def check_gpus() -> None:
    """Raise `InputError` where there are GPUs that this torch can't use.

    NVML, which counts them, needs no CUDA: with a driver too old for this torch, everything would run on the CPU, for
    days and without a word.
    """
    import torch

    n_gpus = torch.cuda.device_count()
    if n_gpus and not torch.cuda.is_available():
        raise InputError(
            f"torch {torch.__version__} (for CUDA {torch.version.cuda}) can't use {_the_gpus(n_gpus)} of this machine, "
            "most often because the driver is too old; update the driver, install a torch for it (docs/parallel.md), "
            "or give --use_cpu"
        )


def unused_gpus_note() -> str | None:
    """Return a note about GPUs of NVIDIA that a torch without CUDA leaves unused; None where there are none."""
    import torch

    n_gpus = len(list(NVIDIA_GPUS.glob("*"))) if torch.version.cuda is None and torch.version.hip is None else 0
    return f"torch {torch.__version__} knows no CUDA, so {_the_gpus(n_gpus)} will not be used" if n_gpus else None


def why_not_quantised(*, use_cpu: bool) -> str | None:
    """Return why bitsandbytes can't quantise weights on this machine's device, in words; None where it can.

    It is tried, in a process of its own, so that this one holds no GPU.
    """
    import torch

    has_other = not use_cpu and torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator().type if has_other else "cpu"
    done = subprocess.run([sys.executable, "-c", QUANTISED, device], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
    return f"bitsandbytes can't do that on this machine's device, {device} ({last[:200]})"


def _the_gpus(n_gpus: int) -> str:
    """Return a number of GPUs in words."""
    return "the GPU" if n_gpus == 1 else f"the {n_gpus} GPUs"


def default_device(*, use_cpu: bool = False) -> str:
    """Return `cuda:0`, or `cpu` where there is no GPU or none is wanted; raise `InputError` for unusable GPUs."""
    import torch

    if use_cpu:
        return "cpu"
    check_gpus()
    prepare_gpu()
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def prepare_gpu() -> None:
    """Turn off cuDNN's attention, unless the environment keeps it.

    It plans anew for every padded length, about half a second each, and torch does not promise that it gives the same
    bytes twice.
    """
    import torch

    if not KEEP_CUDNN.items() <= os.environ.items():
        torch.backends.cuda.enable_cudnn_sdp(False)
