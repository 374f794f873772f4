"""Runs that share a process, each in a thread of its own: the bytes that they have alone, whatever befalls them."""

import contextvars
import json
import os
import random
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import GradientState
from conftest import history, job_words, start, train_words, wait_for

from smm4h.parallel.environment import streams_each
from smm4h.parallel.streams import OnlyPlace, Streams
from smm4h.parallel.worker import RunFailed, train_all
from smm4h.training.building import run_trainer
from smm4h.training.captured.trainer import can_capture
from smm4h.training.captured.turns import Beside, Queue, Turn, aside, begin_turns, pass_on
from smm4h.utils.errors import InputError, Stopped
from smm4h.utils.files import check_fence, fenced
from smm4h.utils.leases import LeaseLost

SOME = {"members": ["bigru-42", "last2-pooler-42"], "n_folds": 2, "num_train_epochs": 2}
LEARNS = {"learning_rate": 0.02, "adam_beta2": 0.8}


class StopAt(threading.Event):
    """A stop that comes at a certain look at it."""

    def __init__(self, look: int) -> None:
        super().__init__()
        self.looks_left = look

    def is_set(self) -> bool:
        self.looks_left -= 1
        return self.looks_left <= 0


def wanted(job) -> list:
    """Return the runs that the job's flags ask for; `PreparedJob.runs` has all."""
    return [run for run in job.runs if run.member.name in SOME["members"]]


def train_alone(job, runs) -> dict:
    train_all(runs, job.data, "cpu", OnlyPlace(threading.Event()))
    return bytes_of(runs)


def train_in_streams(job, runs, stop=None, n_streams=3) -> None:
    streams = Streams(n_streams, stop or threading.Event(), on_gpu=False)
    streams.work(lambda place: train_all(runs, job.data, "cpu", place))


def bytes_of(runs) -> dict:
    files = {run.name: (run.held_out_file, run.test_file, run.model / "model.safetensors") for run in runs}
    return {name: [path.read_bytes() for path in paths] for name, paths in files.items()}


def names(run) -> list[str]:
    return [event["event"] for event in history(run.directory)]


def begun_before_any_was_trained(runs) -> int:
    """Return how many of the runs had begun when the first of them was trained."""
    times = {name: sorted(e["time"] for run in runs for e in history(run.directory) if e["event"] == name)
             for name in ("begun", "trained")}  # fmt: skip
    return sum(time < times["trained"][0] for time in times["begun"])


@pytest.fixture(params=["padding-free", "plain", "captured"])
def path(request, monkeypatch) -> dict:
    """Return the flags of a path that a training's steps take; captured ones are computed on a CPU."""
    if request.param == "captured":
        monkeypatch.setattr(
            run_trainer, "is_captured", lambda member, _, head, longest: can_capture(member, head, longest)
        )
    return {**SOME, **LEARNS, "packed": request.param != "plain"}


def test_runs_of_one_process_have_the_bytes_that_they_have_alone_also_stopped_and_resumed(prepare_job, path):
    alone, together = prepare_job("alone", **path), prepare_job("together", **path)
    expected, runs = train_alone(alone, wanted(alone)), wanted(together)
    assert len(expected) == 4
    with pytest.raises(Stopped):
        train_in_streams(together, runs, StopAt(11))
    stopped = [run for run in runs if run.directory.exists() and names(run)[-1] == "stopped"]
    assert len([run for run in stopped if list(run.directory.glob("checkpoint-*/SEALED"))]) == 3
    train_in_streams(together, runs)
    assert begun_before_any_was_trained(runs) >= 3
    assert bytes_of(runs) == expected


def test_a_run_that_fails_stops_its_neighbours_and_is_tried_again_without_them(prepare_job):
    unclipped = {**SOME, **LEARNS, "max_grad_norm": 0}
    alone, together = prepare_job("alone", **unclipped), prepare_job("together", **unclipped)
    good = [run for run in wanted(alone) if run.fold == 0]
    expected = train_alone(alone, good)
    runs = [run for run in wanted(together) if run.fold == 0]
    other = next(run for run in wanted(together) if run.fold == 1)
    bad = replace(other, member=other.member.with_settings(learning_rate=1e30, num_train_epochs=1))
    for _ in range(3):
        with pytest.raises(RunFailed, match="the run has diverged"):
            train_in_streams(together, [bad, *runs])
    assert names(bad).count("failed") == 3
    assert all("failed" not in names(run) for run in runs)
    assert {names(run)[-1] for run in runs} == {"stopped"}
    begun = [[e["time"] for e in history(run.directory) if e["event"] == "begun"] for run in (bad, *runs)]
    assert [len(times) for times in begun] == [3, 1, 1]
    train_in_streams(together, [bad, *runs])
    assert bytes_of(runs) == expected


def test_what_a_process_has_once_is_each_threads_own_between_two_of_its_steps():
    queue, drawn = Queue(), {}

    def draw(name: str) -> None:
        turn = Turn(queue, None)
        begin_turns(turn)
        with turn:
            random.seed(5)
            np.random.seed(5)
            torch.manual_seed(5)
            GradientState().sync_gradients = name
            drawn[name] = []
            for _ in range(20):
                drawn[name].append((random.random(), np.random.rand(), torch.rand(1).item()))
                drawn["order"].append(name)
                pass_on()
                assert GradientState().sync_gradients == name

    drawn["order"] = []
    threads = [threading.Thread(target=draw, args=(name,)) for name in ("a", "b", "c")]
    queue.take()  # until all of them wait
    for thread in threads:
        thread.start()
    assert wait_for(lambda: len(queue._waiting) == 3, 10)
    queue.give_up()
    for thread in threads:
        thread.join()
    GradientState._reset_state()
    assert drawn["a"] == drawn["b"] == drawn["c"]
    assert len(set(drawn["a"])) == 20
    assert "".join(drawn["order"]) == "".join(drawn["order"][:3]) * 20


def test_others_go_on_while_a_thread_flushes_its_files():
    queue, is_flushing, has_gone_on, found = Queue(), threading.Event(), threading.Event(), {}

    def save() -> None:
        turn = Turn(queue, None)
        begin_turns(turn)
        with turn:
            torch.manual_seed(5)
            with aside():
                is_flushing.set()
                found["others went on"] = has_gone_on.wait(20)
            found["drawn after it"] = torch.rand(1).item()

    def go_on() -> None:
        with Turn(queue, None):
            torch.manual_seed(6)
            has_gone_on.set()

    threads = [threading.Thread(target=save), threading.Thread(target=go_on)]
    threads[0].start()
    assert is_flushing.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join()
    torch.manual_seed(5)
    assert found == {"others went on": True, "drawn after it": torch.rand(1).item()}


def test_what_is_done_beside_a_run_has_its_fence_and_no_turn_and_ends_with_it():
    begin_turns(Turn(Queue(), None))
    may_end, seen = threading.Event(), []

    def check() -> None:
        seen.append("fence")

    def move() -> None:
        pass_on()  # of a turn that nobody has taken: it would never come
        check_fence()
        may_end.wait(20)
        seen.append("moved")
        raise LeaseLost("lost")

    def run(error: type[Exception] | None) -> None:
        with fenced(check), Beside() as saving:
            saving.begin(move)
            may_end.set()
            if error:
                raise error("of the run itself")

    for error, raised in ((None, LeaseLost), (ValueError, ValueError)):
        with pytest.raises(raised):
            contextvars.copy_context().run(run, error)
        assert seen == ["fence", "moved"]
        seen.clear()


def test_a_threads_graphs_draw_from_a_random_generator_of_its_own(monkeypatch):
    states = []

    class Default:
        graphsafe_set_state = staticmethod(states.append)

    monkeypatch.setattr(torch.cuda, "default_generators", (Default,))
    queue, own = Queue(), [object(), object()]
    for turn in [Turn(queue, generator) for generator in own] * 2:
        with turn:
            pass
    assert states == own * 2


def test_a_device_without_cudas_streams_is_named(prepare_job, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))

    class Settings:
        streams_per_device = 2

    with pytest.raises(InputError, match="on GPUs that CUDA uses, not on mps"):
        streams_each(Settings(), [None], use_cpu=False)
    assert streams_each(Settings(), [None], use_cpu=True) == streams_each(Settings(), ["0"], use_cpu=False) == 2


@pytest.mark.slow
def test_a_jobs_runs_share_a_worker_and_go_on_when_it_is_killed(finished_job, tiny_encoder, tmp_path):
    output = tmp_path / "out"
    flags = {"members": ["bigru-42", "last3-42"], "folds": [0, 1], "save_strategy": "steps", "save_steps": 1}
    words = job_words(tiny_encoder, output, runs_per_device=1, streams_per_device=3, **flags)
    job = start(train_words(words), tmp_path / "log")
    assert wait_for(lambda: len(list(output.glob("*/fold-*/checkpoint-*/SEALED"))) >= 2, 120)
    running = [json.loads(path.read_text()) for path in output.glob("*/fold-*/RUNNING")]
    os.kill(running[0]["pid"], signal.SIGKILL)
    assert job.wait(240) == 0, (tmp_path / "log").read_text()
    begun = [events[0] for folder in output.glob("*/fold-*") if (events := history(folder))]
    assert [event["pid"] for event in begun].count(running[0]["pid"]) >= 3
    assert "its worker died (SIGKILL)" in str([history(folder) for folder in output.glob("*/fold-*")])
    for member in flags["members"]:
        for name in ("fold-0/held_out.parquet", "fold-0/test.parquet", "fold-1/test.parquet"):
            assert (output / member / name).read_bytes() == (finished_job.folder / member / name).read_bytes()
        models = [
            folder / member / "fold-1" / "model" / "model.safetensors" for folder in (output, finished_job.folder)
        ]
        assert models[0].read_bytes() == models[1].read_bytes()
