"""Cores and memory of a container; GPUs: what is said of unusable ones, and what is set before others are used."""

import os
import re

import psutil
import pytest
import torch

from smm4h.models.predictors import best_precision
from smm4h.parallel.environment import LaunchEnvironment, threads_each
from smm4h.parallel.forecast.forecast import Forecast, shortages
from smm4h.utils import devices
from smm4h.utils.errors import InputError


@pytest.fixture
def cudnn_attention():
    """Whether torch may use cuDNN's attention, asked anew at each call; restored after the test."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield torch.backends.cuda.cudnn_sdp_enabled
    torch.backends.cuda.enable_cudnn_sdp(before)


def test_cudnn_attention_is_off_unless_the_environment_keeps_it(monkeypatch, cudnn_attention):
    monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", "0")
    devices.prepare_gpu()
    assert cudnn_attention()
    monkeypatch.delenv("TORCH_CUDNN_SDPA_DEPRIORITIZED")
    devices.prepare_gpu()
    assert not cudnn_attention()


def test_new_tweets_are_not_predicted_on_the_cpu_in_silence(monkeypatch, cudnn_attention):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="can't use the GPU of this machine"):
        devices.default_device()
    assert devices.default_device(use_cpu=True) == "cpu"


def test_gpus_that_a_torch_without_cuda_leaves_unused_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "NVIDIA_GPUS", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert devices.unused_gpus_note() is None
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert "knows no CUDA, so the 2 GPUs will not be used" in devices.unused_gpus_note()


@pytest.mark.parametrize(
    ("capability", "bf16", "precision"),
    [((6, 0), False, "float32"), ((7, 5), False, "float16"), ((8, 0), True, "bfloat16")],
    ids=["P100", "T4", "A100"],
)
def test_a_gpu_computes_in_the_fastest_format_that_it_has(monkeypatch, capability, bf16, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert best_precision("cuda") == precision


MEBIBYTE = 2**20
CONTAINERS = {  # lines of /proc/self/cgroup, and the groups that are seen below /sys/fs/cgroup
    "version 2": ("0::/\n", {"": (500, 300, 100)}, 300),
    "version 2, a limit above": ("0::/pod/box\n", {"": None, "pod": (400, 300, 0), "pod/box": ("max", 200, 50)}, 100),
    "version 1": ("9:cpu:/box\n4:memory:/box\n0::/\n", {"memory/box": (500, 450, 40), "memory": (2**43, 900, 0)}, 90),
    "version 1, its own group as the root": ("4:hugetlb,memory:/docker/1f\n", {"memory": (500, 450, 0)}, 50),
    "used up": ("0::/\n", {"": (500, 501, 0)}, 0),
}


@pytest.fixture
def contain(tmp_path, monkeypatch):
    """Have this process be in a control group, given as in `CONTAINERS`, in mebibytes."""

    def contain(own: str, groups: dict) -> None:
        monkeypatch.setattr(devices, "OWN_CGROUPS", tmp_path / "own")
        monkeypatch.setattr(devices, "CGROUPS", tmp_path / "cgroup")
        (tmp_path / "own").write_text(own)
        for name, figures in groups.items():
            version = 1 if name.startswith("memory") else 2
            folder = tmp_path / "cgroup" / name
            folder.mkdir(parents=True, exist_ok=True)
            if figures is None:
                continue
            _, limit, used, unneeded = devices.MEMORY_FILES[version]
            most, now, pages = (one if one == "max" else one * MEBIBYTE for one in figures)
            (folder / limit).write_text(f"{most}\n")
            (folder / used).write_text(f"{now}\n")
            (folder / "memory.stat").write_text(f"anon 7\n{unneeded} {pages}\nshmem 0\n")

    return contain


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_containers_limit_bounds_the_memory_that_is_available(name, contain):
    own, groups, left = CONTAINERS[name]
    contain(own, groups)
    assert devices.available_memory() == left * MEBIBYTE


@pytest.mark.parametrize("own", ["", "0::/\n", "3:cpu:/\n"])
def test_without_a_limit_all_free_memory_is_available(own, contain, monkeypatch):
    contain(own, {"": None})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1234}))
    assert devices.available_memory() == 1234


def test_a_job_whose_container_has_too_little_memory_is_told_so(contain, tmp_path):
    contain("0::/\n", {"": (500, 400, 0)})
    held = psutil.Process().memory_info().rss  # is free again for what is forecast
    small, large = (Forecast(60, 3, 1, True, memory=held + free * MEBIBYTE) for free in (50, 150))
    assert shortages(small, tmp_path) == []
    (line,) = shortages(large, tmp_path)
    assert re.match(r"only .* of memory are free; train fewer runs at a time", line)


def test_a_cpu_quota_bounds_the_threads_of_workers(monkeypatch):
    launch = LaunchEnvironment.detect()
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert threads_each(launch, 2, 0) == 32
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "6")  # joblib takes the least of this and the quota, which no test can set
    assert [threads_each(launch, n, 0) for n in (1, 2, 8)] == [6, 3, 1]
    assert threads_each(launch, 2, 5) == 5
