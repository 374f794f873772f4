"""How many runs at a time are trained where nobody says so."""

from dataclasses import replace

import pytest
from conftest import job_words, train_here

from smm4h.config.recipe import read_command_line
from smm4h.parallel import environment
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.parallel.forecast import cpu_workers
from smm4h.parallel.forecast.cpu_workers import runs_of_a_cpu, with_runs_per_device

GB = 1e9
SMALL, BASE, LARGE = 23e6, 110e6, 335e6  # weights


@pytest.mark.parametrize(
    ("n_cores", "n_runs", "memory", "n_weights", "n"),
    [
        (1, 45, 8 * GB, SMALL, 1),
        (2, 45, 8 * GB, SMALL, 2),
        (64, 45, 256 * GB, BASE, 4),
        (8, 3, 256 * GB, BASE, 3),
        (8, 45, 8 * GB, BASE, 1),
        (8, 45, 16 * GB, BASE, 3),
        (8, 45, 16 * GB, LARGE, 1),
        (8, 45, 4 * GB, LARGE, 1),
        (4, 12, 16 * GB, 0, 4),
    ],
)
def test_a_cpu_has_a_worker_a_core_as_far_as_runs_and_memory_allow(n_cores, n_runs, memory, n_weights, n):
    assert runs_of_a_cpu(n_cores, n_runs, memory, n_weights) == n


@pytest.fixture
def eight_cores(monkeypatch):
    for module in (cpu_workers, environment):
        monkeypatch.setattr(module, "usable_cores", lambda: 8)
    monkeypatch.setattr(cpu_workers, "total_memory", lambda: 64 * GB)


def chosen(words, launch) -> int:
    return with_runs_per_device(read_command_line(words), launch).settings.runs_per_device


@pytest.mark.usefixtures("eight_cores")
def test_what_is_asked_for_is_kept_and_gpus_launched_processes_and_joint_training_have_one(
    tiny_encoder, tmp_path, monkeypatch
):
    words = job_words(tiny_encoder, tmp_path / "out")
    alone = LaunchEnvironment.detect()
    assert chosen(words, alone) == 4
    assert chosen([*words, "--runs_per_device", "7"], alone) == 7
    assert chosen([*words, "--parallel", "data"], alone) == 1
    assert chosen(words, replace(alone, world_size=2)) == 1
    monkeypatch.setattr(cpu_workers, "devices", lambda launch, use_cpu: ["0", "1"])
    assert chosen(words, alone) == 1


@pytest.mark.usefixtures("eight_cores")
def test_a_job_says_how_many_workers_it_will_have(tiny_encoder, tmp_path):
    result = train_here([*job_words(tiny_encoder, tmp_path / "out"), "--check"])
    assert result.code == 0, result.err
    assert " by 4 workers" in result.out
