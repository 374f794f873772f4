"""GPUs of this machine: whether torch can use them, and what is set before they are used."""

import os
import subprocess
import sys
from pathlib import Path

from smm4h.utils.errors import InputError

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU that Linux has a driver for
QUANTISED = """
import sys, torch, bitsandbytes.functional as functional
weights = torch.ones(64, 64, device=sys.argv[1])
functional.dequantize_4bit(*functional.quantize_4bit(weights, quant_type="nf4", compress_statistics=True))
"""
KEEP_CUDNN = {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "0"}  # torch's own variable: so given, its order of choice is kept


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
