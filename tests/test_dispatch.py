"""Who a process is among those launched, which GPU is its own, and that work is done once."""

import os
import signal
import sys
import threading

import pytest
from conftest import ROOT, session_of, shell, start, wait_for

from smm4h.config.arguments import JobSettings
from smm4h.parallel import environment, fork_server
from smm4h.utils import leases
from smm4h.utils.errors import InputError
from smm4h.utils.leases import LeaseHolder

LAUNCHED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "x",
    "ROLE_RANK": "3",
}
LAUNCHED |= {"TORCHELASTIC_RUN_ID": "a", "ACCELERATE_MIXED_PRECISION": "no", "GROUP_RANK": "1", "FSDP_VERSION": "2"}


def settings(**given):
    return JobSettings(**given)


def test_a_launched_process_knows_its_place_and_forgets_the_launcher(monkeypatch):
    for name, value in {**LAUNCHED, "ACCELERATE_USE_CPU": "true", "LD_LIBRARY_PATH": "kept"}.items():
        monkeypatch.setenv(name, value)
    place = environment.LaunchEnvironment.detect()
    assert (place.rank, place.local_world_size, place.is_main_process, place.flags) == (3, 2, False, ["--use_cpu"])
    assert not place.is_orphaned()
    environment.clear_launcher_variables()
    assert not set(LAUNCHED) & set(os.environ)
    assert os.environ["LD_LIBRARY_PATH"] == "kept"


def test_a_process_that_nobody_launched_speaks_and_works_alone(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    place = environment.LaunchEnvironment.detect()
    assert (place.rank, place.local_world_size, place.is_main_process, place.flags) == (0, 1, True, [])


def placed(local_rank, *, launched=True):
    return environment.LaunchEnvironment(local_rank, 8, local_rank, 8, False, None, 1 if launched else None)


@pytest.mark.parametrize(
    ("visible", "local_rank", "n_gpus", "own"),
    [("", 0, 8, "0"), ("", 5, 8, "5"), ("2,3", 1, 2, "3"), ("", 3, 2, "1"), ("GPU-a,GPU-b", 0, 2, "GPU-a")],
)
def test_each_launched_process_gets_one_gpu_of_those_it_may_see(monkeypatch, visible, local_rank, n_gpus, own):
    monkeypatch.setattr(environment.torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.devices(placed(local_rank), use_cpu=False) == [own]
    assert environment.devices(placed(local_rank), use_cpu=True) == [None]


def test_a_process_that_nobody_launched_gets_all_gpus(monkeypatch):
    monkeypatch.setattr(environment.torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment.devices(placed(0, launched=False), use_cpu=False) == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert environment.devices(placed(0, launched=False), use_cpu=False) == ["4", "6", "7"]
    monkeypatch.setattr(environment.torch.cuda, "device_count", lambda: 0)
    assert environment.devices(placed(0, launched=False), use_cpu=False) == [None]


@pytest.mark.parametrize(
    ("name", "parallel", "together"),
    [(None, "auto", False), (None, "data", True), ("DEEPSPEED", "auto", True), ("FSDP", "auto", True)],
)
def test_auto_trains_together_where_the_config_spreads_the_model(monkeypatch, name, parallel, together):
    if name:
        monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    assert (
        environment.is_joint_training(environment.LaunchEnvironment.detect(), settings(parallel=parallel)) is together
    )


def test_whole_runs_side_by_side_under_deepspeed_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match="asks for DEEPSPEED, which spreads one run over processes"):
        environment.is_joint_training(environment.LaunchEnvironment.detect(), settings(parallel="runs"))


def test_what_is_made_once_is_made_once_by_many(tmp_path):
    made = []

    def make():
        made.append(1)
        (tmp_path / "vote.tsv").write_text("x")

    threads = [threading.Thread(target=leases.make_once, args=(tmp_path / "vote.tsv", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_claim_is_free_again_when_its_with_ends(tmp_path):
    """Not when its process ends: whoever waits for a run's next claim, or clears up behind it, would wait for long."""
    claims = LeaseHolder()
    with claims.try_acquire(tmp_path / "x"):
        assert LeaseHolder().try_acquire(tmp_path / "x") is None
    assert not (tmp_path / "x").exists()
    assert LeaseHolder().try_acquire(tmp_path / "x") is not None


@pytest.fixture
def servers(monkeypatch) -> list[dict]:
    """What a server that forks workers would have found, had one been started."""
    found = []

    def ensure_running():
        found.append({"environment": dict(os.environ), "interrupt": signal.getsignal(signal.SIGINT)})

    monkeypatch.setattr(fork_server.forkserver, "ensure_running", ensure_running)
    monkeypatch.setattr(fork_server.atexit, "register", lambda *_: None)
    return found


def test_the_workers_server_knows_nothing_of_the_launcher_nor_of_ctrl_c(monkeypatch, servers):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGINT)
    fork_server.begin(["run_classification.py", "recipes/smm4h2020.yaml"])
    (found,) = servers
    assert not set(LAUNCHED) & set(found["environment"])
    assert str(ROOT) in found["environment"]["PYTHONPATH"].split(os.pathsep)
    assert found["interrupt"] is signal.SIG_IGN
    assert LAUNCHED.items() <= dict(os.environ).items()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("word", ["--help", "--list", "--fetch", "--parallel", "--parallel=data"])
def test_a_command_that_may_need_no_workers_starts_no_server_for_them(servers, word):
    fork_server.begin(["run_classification.py", "recipes/smm4h2020.yaml", word])
    assert servers == []


def test_a_config_that_spreads_the_model_starts_no_server_for_workers(monkeypatch, servers):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    fork_server.begin(["run_classification.py", "recipes/smm4h2020.yaml"])
    assert servers == []


def test_the_server_is_started_before_anything_heavy_is_imported():
    """Else its imports would begin when the job's have ended, and the first step would come seconds later."""
    heavy = "{'torch', 'transformers', 'numpy'}"
    tell = f"import sys; from smm4h.parallel import fork_server; print(*{heavy} & set(sys.modules))"
    assert shell(sys.executable, "-c", tell).out == "\n"
    lines = (ROOT / "run_classification.py").read_text().splitlines()
    imports = [line for line in lines[: lines.index('if __name__ == "__main__":')] if "import" in line]
    assert imports == ["import sys", "from smm4h.parallel import fork_server"]


def test_a_command_that_ends_at_once_leaves_no_server_behind():
    job = start([sys.executable, "run_classification.py", "recipes/smm4h2020.yaml", "--tsk", "x"])
    assert job.wait(60) == 2
    assert wait_for(lambda: not session_of(job), 1)  # the server's imports would take it several seconds more
