"""Distributed environment: a process's rank, its GPU, and joint training."""

import os
from dataclasses import replace

import pytest
import torch
from conftest import LAUNCHER_VARIABLES, job_words, recipe_of

from smm4h.config.arguments import JobSettings
from smm4h.config.recipe import read_command_line
from smm4h.parallel import environment
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.utils.errors import InputError


def test_a_launched_process_reads_its_rank_and_drops_the_launchers_variables(monkeypatch):
    for name, value in {**LAUNCHER_VARIABLES, "ACCELERATE_USE_CPU": "true", "LD_LIBRARY_PATH": "kept"}.items():
        monkeypatch.setenv(name, value)
    launch = LaunchEnvironment.detect()
    assert (launch.rank, launch.local_world_size) == (3, 2)
    assert not launch.is_main_process
    assert launch.flags == ["--use_cpu"]
    assert not launch.is_orphaned()
    environment.clear_launcher_variables()
    assert not set(LAUNCHER_VARIABLES) & set(os.environ)
    assert os.environ["LD_LIBRARY_PATH"] == "kept"


def test_a_process_without_a_launcher_is_the_main_process(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    launch = LaunchEnvironment.detect()
    assert (launch.rank, launch.local_world_size) == (0, 1)
    assert launch.is_main_process
    assert launch.flags == []


def pretend_gpus(monkeypatch, n_gpus):
    """Have torch answer as on a machine with GPUs, of which it asks no more here."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)


def one_of_eight(local_rank, *, launched=True):
    """Return a process of eight on one machine."""
    return LaunchEnvironment(
        rank=local_rank,
        world_size=8,
        local_rank=local_rank,
        local_world_size=8 if launched else 1,
        use_cpu=False,
        sharded=None,
        parent=1 if launched else None,
    )


@pytest.mark.parametrize(
    ("visible", "local_rank", "n_gpus", "own"),
    [("", 0, 8, "0"), ("", 5, 8, "5"), ("2,3", 1, 2, "3"), ("", 3, 2, "1"), ("GPU-a,GPU-b", 0, 2, "GPU-a")],
)
def test_each_launched_process_gets_one_gpu_of_those_it_may_see(monkeypatch, visible, local_rank, n_gpus, own):
    pretend_gpus(monkeypatch, n_gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.devices(one_of_eight(local_rank), use_cpu=False) == [own]
    assert environment.devices(one_of_eight(local_rank), use_cpu=True) == [None]


def test_the_only_process_of_a_launch_gets_all_gpus(monkeypatch):
    pretend_gpus(monkeypatch, 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    alone = replace(one_of_eight(0), world_size=1, local_world_size=1)
    assert environment.devices(alone, use_cpu=False) == [str(number) for number in range(8)]


def test_a_gpu_that_torch_cannot_use_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # NVML's answer, which needs no CUDA
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(InputError, match=r"for CUDA 13\.0.* can't use the 2 GPUs .*driver is too old.*--use_cpu"):
        environment.devices(one_of_eight(0), use_cpu=False)
    assert environment.devices(one_of_eight(0), use_cpu=True) == [None]


def test_a_process_without_a_launcher_gets_all_gpus(monkeypatch):
    pretend_gpus(monkeypatch, 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment.devices(one_of_eight(0, launched=False), use_cpu=False) == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert environment.devices(one_of_eight(0, launched=False), use_cpu=False) == ["4", "6", "7"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert environment.devices(one_of_eight(0, launched=False), use_cpu=False) == [None]


@pytest.mark.parametrize(
    ("name", "parallel", "is_joint"),
    [(None, "auto", False), (None, "data", True), ("DEEPSPEED", "auto", True), ("FSDP", "auto", True)],
)
def test_auto_trains_jointly_where_the_config_spreads_the_model(monkeypatch, name, parallel, is_joint):
    if name:
        monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    launch = LaunchEnvironment.detect()
    assert environment.is_joint_training(launch, JobSettings(parallel=parallel)) is is_joint


def test_whole_runs_side_by_side_under_deepspeed_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match="asks for DEEPSPEED, which spreads one run over processes"):
        environment.is_joint_training(LaunchEnvironment.detect(), JobSettings(parallel="runs"))


def test_an_adapter_under_fsdp_is_refused_before_anything_is_read(monkeypatch, tiny_encoder, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    recipe = recipe_of(tmp_path, lora="{head: last3, adapter: lora}")
    job = read_command_line(job_words(tiny_encoder, tmp_path / "out", recipe=recipe))
    with pytest.raises(InputError, match="member lora: nobody has trained an adapter under FSDP"):
        environment.become_coordinator_or_peer(LaunchEnvironment.detect(), job)
