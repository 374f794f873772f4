"""Jobs that share a folder, that are stopped, that fail in part, and that find no room: by the front door."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import all_files, history, job_words, launch_words, recipe_of, session_of, shell, start, wait_for

from smm4h.data.prediction_files import read_predictions
from smm4h.utils import leases
from smm4h.utils.leases import LeaseHolder

pytestmark = pytest.mark.slow


def alone(encoder, output, *more):
    return [sys.executable, "run_classification.py", *job_words(encoder, output, *more)]


def claim_of_another_host(path):
    """What a lease of filelock looks like that a host took before its power failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with LeaseHolder().try_acquire(path):
        text = path.read_text()
    path.write_text(text.replace(platform.node(), "node7"))


def claim_without_a_name(path):
    """What a process leaves that is killed between the creation of its claim and its first word there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("leave", [claim_of_another_host, claim_without_a_name])
def test_a_claim_left_by_the_dead_lapses(tmp_path, monkeypatch, leave):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    leave(tmp_path / "a.claim")
    watcher, begun = LeaseHolder(), time.monotonic()
    assert watcher.try_acquire(tmp_path / "a.claim") is None
    assert wait_for(lambda: watcher.try_acquire(tmp_path / "a.claim"), 10)
    assert time.monotonic() - begun > 0.9
    leave(tmp_path / ".made.claim")
    (tmp_path / ".made.partial").touch()
    leases.make_once(tmp_path / "made", (tmp_path / "made").touch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.claim", "made"]


def test_two_launchers_on_one_folder_share_the_work_and_take_over_that_of_a_dead_host(
    finished_job, tiny_encoder, tmp_path
):
    """One comes late; each finishes with the whole result, and each run was trained by one of them."""
    output, begun = tmp_path / "out", time.monotonic()
    claim_of_another_host(output / "last3-42" / ".fold-0.claim")
    claim_without_a_name(output / "last3-42" / ".fold-1.claim")
    logs = [tmp_path / "first.log", tmp_path / "late.log"]
    first = start(alone(tiny_encoder, output), logs[0])
    assert wait_for(lambda: any(output.glob("*/fold-*/RUNNING")), 120)
    late = start(launch_words(2, job_words(tiny_encoder, output)), logs[1])
    assert [first.wait(400), late.wait(400)] == [0, 0], logs[1].read_text()
    assert time.monotonic() - begun > leases.LEASE_SECONDS
    assert all_files(output) == all_files(finished_job.folder)
    makers = set()
    for folder in output.glob("*/fold-[0-9]"):
        events = history(folder)
        assert [event["event"] for event in events] == ["begun", "trained", "done"]
        makers.add(events[0]["pid"])
    assert len(makers) == 3
    assert all("final vote" in log.read_text() for log in logs)
    told = [line.split("  ")[1] for line in logs[0].read_text().splitlines() if line.startswith("run ")]
    assert told.index("last3-42 fold 0") > 10  # its place in the plan: the others did not wait for it
    assert told.index("last3-42 fold 1") > 10


def test_several_runs_on_one_device_are_trained_side_by_side(finished_job, tiny_encoder, tmp_path):
    outcome = shell(*alone(tiny_encoder, tmp_path / "out", "--members", "last3-42", "--runs_per_device", 2))
    assert outcome.code == 0, outcome.err
    folders = sorted((tmp_path / "out" / "last3-42").glob("fold-[0-9]"))
    assert len({history(folder)[0]["pid"] for folder in folders}) == 2
    for folder in folders:  # the same bytes as with another number of workers
        name = f"last3-42/{folder.name}/test.parquet"
        assert (tmp_path / "out" / name).read_bytes() == (finished_job.folder / name).read_bytes()


def test_a_run_that_fails_every_time_is_named_and_all_others_finish(tiny_encoder, tmp_path):
    recipe = recipe_of(tmp_path, good="{head: last3}", hopeless="{head: last3, learning_rate: 1e30, max_grad_norm: 0}")
    words = job_words(tiny_encoder, tmp_path / "out", "--n_folds", 2)
    words[0] = recipe
    outcome = shell(sys.executable, "run_classification.py", *words)
    assert outcome.code == 1
    assert "2 of 4 runs failed every time they were tried (hopeless/fold-0: ValueError: " in outcome.err
    assert "the run has diverged" in outcome.err
    assert "Traceback" not in outcome.err
    assert len(list((tmp_path / "out").glob("good/*/DONE"))) == 2
    assert not list((tmp_path / "out").glob("hopeless/*/DONE"))
    failed = [event for event in history(tmp_path / "out" / "hopeless" / "fold-1") if event["event"] == "failed"]
    assert len(failed) == 3
    assert "write_predictions" in failed[0]["traceback"]
    listed = shell(sys.executable, "run_classification.py", *words, "--list")
    assert "2 done, 0 running, 2 failed, 0 missing" in listed.out
    assert "3 x, last: ValueError" in listed.out


def test_a_worker_that_is_killed_is_replaced_and_its_run_goes_on(finished_job, tiny_encoder, tmp_path):
    output = tmp_path / "out"
    saving = ("--save_strategy", "steps", "--save_steps", 1, "--members", "last3-42", "--folds", 0)
    job = start(alone(tiny_encoder, output, *saving), tmp_path / "log")
    run = output / "last3-42" / "fold-0"
    assert wait_for(lambda: any(run.glob("checkpoint-*/SEALED")), 120)
    os.kill(json.loads((run / "RUNNING").read_text())["pid"], signal.SIGKILL)
    assert job.wait(120) == 0, (tmp_path / "log").read_text()
    events = history(run)
    assert [event["event"] for event in events] == ["begun", "failed", "begun", "trained", "done"]
    assert events[1]["error"] == "its worker died (SIGKILL)"
    assert (run / "test.parquet").read_bytes() == (finished_job.folder / "last3-42/fold-0/test.parquet").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_job_that_is_told_to_stop_saves_leaves_no_done_and_goes_on(tiny_encoder, tmp_path, number, code):
    output = tmp_path / "out"
    words = alone(tiny_encoder, output, "--members", "bigru-42", "--folds", 0, "--num_train_epochs", 60)
    job = start(words, tmp_path / "log")
    run = output / "bigru-42" / "fold-0"
    assert wait_for(lambda: (run / "RUNNING").exists() and json.loads((run / "RUNNING").read_text())["step"], 120)
    os.killpg(job.pid, number)  # as a terminal or Slurm does: all processes get it
    assert job.wait(60) == code
    assert "the same command goes on from there" in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not (run / "DONE").exists()
    assert not (run / "RUNNING").exists()
    assert len(list(run.glob("checkpoint-*/SEALED"))) == 1
    assert wait_for(lambda: not session_of(job), 10)
    outcome = shell(*words)
    assert outcome.code == 0, outcome.err
    assert [event["event"] for event in history(run)] == ["begun", "stopped", "begun", "trained", "done"]


def test_workers_do_not_outlive_a_killed_job(tiny_encoder, tmp_path):
    output = tmp_path / "out"
    job = start(alone(tiny_encoder, output, "--num_train_epochs", 100, "--runs_per_device", 2), tmp_path / "log")
    assert wait_for(lambda: len(list(output.glob("*/fold-*/RUNNING"))) == 2, 120)
    assert len(session_of(job)) >= 4  # the job, the forking server and two workers at least
    job.kill()
    assert wait_for(lambda: not session_of(job), 10), session_of(job)


def test_list_tells_at_any_time_what_is_running_where_and_how_long_it_will_take(tiny_encoder, tmp_path):
    recipe = recipe_of(tmp_path, short="{head: last3}", long="{head: last3, num_train_epochs: 900}")
    words = alone(tiny_encoder, tmp_path / "out", "--folds", 0, "--runs_per_device", 2)
    words[2] = recipe
    job = start(words, tmp_path / "log")
    try:
        running = tmp_path / "out" / "long" / "fold-0" / "RUNNING"
        assert wait_for(lambda: running.exists() and json.loads(running.read_text())["step"] > 100, 120)
        outcome = shell(*words, "--list")
    finally:
        job.kill()
    assert outcome.code == 0, outcome.err
    assert re.search(rf"long +0 +1 +running +\d+% on {platform.node()} cpu, for 0 min \d\d s", outcome.out)
    assert re.search(r"2 runs in .*: 1 done, 1 running, 0 failed, 0 missing; about \d+ min \d\d s left", outcome.out)
    assert wait_for(lambda: not session_of(job), 10)
    assert "1 done, 0 running, 0 failed, 1 missing" in shell(*words, "--list").out


def test_only_each_members_best_fold_keeps_its_model(tiny_encoder, tmp_path):
    words = alone(tiny_encoder, tmp_path / "out", "--members", "last3-42", "bigru-24", "--keep_models", "best")
    assert shell(*words, "--runs_per_device", 2).code == 0
    for member in ("last3-42", "bigru-24"):
        folders = sorted((tmp_path / "out" / member).glob("fold-[0-9]"))
        scores = [json.loads((folder / "metrics.json").read_text())["held_out"]["f1"] for folder in folders]
        kept = [folder for folder in folders if (folder / "model" / "model.safetensors").exists()]
        assert kept == [folders[scores.index(max(scores))]]
        assert all((folder / "test.parquet").exists() for folder in folders)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, to be filled and to be made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a file system can't be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_said_and_nothing_is_lost(small_disk, finished_job, tiny_encoder, tmp_path):
    words = alone(tiny_encoder, small_disk / "out", "--members", "last3-42", "bigru-24", "--bigru_hidden_size", 256)
    outcome = shell(*words, "--save_strategy", "steps", "--save_steps", 2)
    assert outcome.code == 2
    assert "error: No space left on device" in outcome.err
    assert "make room" in outcome.err
    assert "Traceback" not in outcome.err
    done = {path: path.stat().st_mtime_ns for path in (small_disk / "out").glob("*/*/DONE")}
    assert 0 < len(done) < 10
    subprocess.run(["mount", "-o", "remount,size=400m", small_disk], check=True)
    outcome = shell(*words)
    assert outcome.code == 0, outcome.err
    assert len(list((small_disk / "out").glob("*/*/DONE"))) == 10
    assert all(path.stat().st_mtime_ns == moment for path, moment in done.items())
    for fold in range(5):  # the bytes name another recipe: --bigru_hidden_size
        paths = [
            folder / "last3-42" / f"fold-{fold}" / "test.parquet"
            for folder in (small_disk / "out", finished_job.folder)
        ]
        one, other = (read_predictions(path).probabilities for path in paths)
        assert (one == other).all()


def test_a_read_only_folder_is_named(small_disk, finished_job, tiny_encoder, tmp_path):
    subprocess.run(["mount", "-o", "remount,size=400m", small_disk], check=True)
    shutil.copytree(finished_job.folder, small_disk / "out", ignore=shutil.ignore_patterns("model"))
    (small_disk / "out" / "last3-42" / "fold-2" / "DONE").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    outcome = shell(*alone(tiny_encoder, small_disk / "out"))
    assert outcome.code == 2
    assert "error: Read-only file system" in outcome.err
    assert "Traceback" not in outcome.err
