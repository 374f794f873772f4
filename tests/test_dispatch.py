"""Who a process is among those launched, which GPU is its own, and that work is done once."""

import os
import threading

import pytest

from smm4h import dispatch
from smm4h.errors import InputError

LAUNCHED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "x",
    "ROLE_RANK": "3",
}
LAUNCHED |= {"TORCHELASTIC_RUN_ID": "a", "ACCELERATE_MIXED_PRECISION": "no", "GROUP_RANK": "1", "FSDP_VERSION": "2"}


def test_a_launched_process_knows_its_place_and_forgets_the_launcher(monkeypatch):
    for name, value in {**LAUNCHED, "ACCELERATE_USE_CPU": "true", "LD_LIBRARY_PATH": "kept"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dispatch.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    worker = dispatch.join()
    assert (worker.rank, worker.local_world_size, worker.speaks, worker.flags) == (3, 2, False, ["--use_cpu"])
    assert not set(LAUNCHED) & set(os.environ)
    assert os.environ["LD_LIBRARY_PATH"] == "kept"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"


def test_a_process_that_nobody_launched_speaks_and_works_alone(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    worker = dispatch.join()
    assert (worker.rank, worker.local_world_size, worker.speaks, worker.flags) == (0, 1, True, [])


@pytest.mark.parametrize(
    ("visible", "local_rank", "n_gpus", "own"),
    [("", 0, 8, "0"), ("", 5, 8, "5"), ("2,3", 1, 2, "3"), ("", 3, 2, "1"), ("GPU-a,GPU-b", 0, 2, "GPU-a")],
)
def test_each_process_gets_one_gpu_of_those_it_may_see(visible, local_rank, n_gpus, own):
    assert dispatch.own_device({"CUDA_VISIBLE_DEVICES": visible}, local_rank, n_gpus) == own


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP"])
def test_a_launch_that_wants_all_processes_in_one_run_is_refused(monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(InputError, match=f"asks for {name}, but each run is trained whole on one device"):
        dispatch.join()


def test_what_is_made_once_is_made_once_by_many(tmp_path):
    made = []

    def make():
        made.append(1)
        (tmp_path / "vote.tsv").write_text("x")

    threads = [threading.Thread(target=dispatch.once, args=(tmp_path / "vote.tsv", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
