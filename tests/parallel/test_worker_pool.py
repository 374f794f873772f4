"""Jobs that share a folder, are stopped, fail in part, or find no room on the disk."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import (
    all_files,
    history,
    job_words,
    launch_words,
    leave_empty_lease,
    leave_lease_of_another_host,
    recipe_of,
    session_of,
    start,
    train,
    train_words,
    wait_for,
)

from smm4h.cli.train import main
from smm4h.config.job import Member
from smm4h.config.plans.run import Run
from smm4h.data.outputs.predictions import read_predictions
from smm4h.parallel.pool import share_out
from smm4h.utils import leases

pytestmark = pytest.mark.slow
SETTINGS = {"encoder": {"head": "last3"}, "words": {"classifier": "tfidf-svm"}, "elsewhere": {"predictions": "{}"}}


def test_two_jobs_on_one_folder_share_the_runs_and_take_over_those_of_a_dead_host(
    finished_job, tiny_encoder, tmp_path, monkeypatch
):
    """One starts late; each finishes with the complete result, and each run is trained by one of them."""
    monkeypatch.setenv(leases.LEASE_VARIABLE, "45")  # long enough for other runs, and half as long as by default
    monkeypatch.setattr(leases, "LEASE_SECONDS", 45.0)  # of the lease that this process leaves
    output, begun = tmp_path / "out", time.monotonic()
    leave_lease_of_another_host(output / "last3-42" / ".fold-0.claim")
    leave_empty_lease(output / "last3-42" / ".fold-1.claim")
    words = job_words(tiny_encoder, output, runs_per_device=1)
    logs = [tmp_path / "first.log", tmp_path / "late.log"]
    first = start(train_words(words), logs[0])
    assert wait_for(lambda: any(output.glob("*/fold-*/RUNNING")), 120)
    late = start(launch_words(2, words), logs[1])
    assert [first.wait(400), late.wait(400)] == [0, 0], logs[1].read_text()
    assert time.monotonic() - begun > leases.LEASE_SECONDS
    assert all_files(output) == all_files(finished_job.folder)
    workers = set()
    for folder in output.glob("*/fold-[0-9]"):
        events = history(folder)
        assert [event["event"] for event in events] == ["begun", "trained", "done"]
        workers.add(events[0]["pid"])
    assert len(workers) == 3
    assert all("final vote" in log.read_text() for log in logs)
    finished = [line.split("  ")[1] for line in logs[0].read_text().splitlines() if line.startswith("run ")]
    assert finished.index("last3-42 fold 0") > 3  # first in the plan, but no run waited for it
    assert finished.index("last3-42 fold 1") > 3


def test_several_runs_on_one_device_are_trained_side_by_side(finished_job, tiny_encoder, tmp_path, call):
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", members="last3-42", runs_per_device=2))
    assert result.code == 0, result.err
    folders = sorted((tmp_path / "out" / "last3-42").glob("fold-[0-9]"))
    assert len({history(folder)[0]["pid"] for folder in folders}) == 2
    for folder in folders:  # the same bytes as with another number of workers
        name = f"last3-42/{folder.name}/test.parquet"
        assert (tmp_path / "out" / name).read_bytes() == (finished_job.folder / name).read_bytes()


def test_learners_do_not_wait_for_runs_that_teach_nobody(tiny_encoder, tmp_path):
    """A run that somebody else trains for ever holds up the end of the job and nothing before it."""
    rows = {"teacher": "{classifier: tfidf-logistic}", "learner": "{head: last3, pseudo_labels: true}"}
    output = tmp_path / "out"
    words = job_words(tiny_encoder, output, recipe=recipe_of(tmp_path, **rows), n_folds=2, baselines="tfidf-svm")
    run = output / "baselines" / "tfidf-svm" / "fold-0"
    run.parent.mkdir(parents=True)
    with leases.LeaseHolder().try_acquire(leases.lease_file_of(run)):
        job = start(train_words(words), tmp_path / "log")
        assert wait_for(lambda: len(list(output.glob("learner/fold-*/DONE"))) == 2, 120), (tmp_path / "log").read_text()
        assert not (run / "DONE").exists()
    assert job.wait(120) == 0, (tmp_path / "log").read_text()
    assert (run / "DONE").exists()


def test_runs_without_an_encoder_have_a_worker_beside_the_gpus():
    runs = [Run(Member(name, settings), 0, Path(name), "") for name, settings in SETTINGS.items()]
    encoder, others = runs[:1], runs[1:]
    assert share_out(runs, ["0", "1"], has_cpu_worker=True) == [("0", encoder), (None, others)]
    many = encoder * 3
    assert share_out(many + others, ["0", "1"], has_cpu_worker=True) == [("0", many), ("1", many), (None, others)]
    assert share_out(runs, ["1"], has_cpu_worker=False) == [("1", encoder)]
    assert share_out(runs, [None, None], has_cpu_worker=True) == [(None, runs)] * 2
    assert share_out(encoder, ["0", "1"], has_cpu_worker=True) == [("0", encoder)]
    assert share_out(encoder, [None, None], has_cpu_worker=True) == [(None, encoder)]
    assert share_out(others, ["0", "1"], has_cpu_worker=True) == [(None, others)]


def test_a_run_that_fails_every_time_is_named_and_all_others_finish(tiny_encoder, tmp_path, call):
    recipe = recipe_of(tmp_path, good="{head: last3}", hopeless="{head: last3, learning_rate: 1e30, max_grad_norm: 0}")
    words = job_words(tiny_encoder, tmp_path / "out", recipe=recipe, n_folds=2)
    result = train(words)
    assert result.code == 1
    assert "2 of 4 runs failed every time they were tried (hopeless/fold-0: ValueError: " in result.err
    assert "the run has diverged" in result.err
    assert "Traceback" not in result.err
    assert len(list((tmp_path / "out").glob("good/*/DONE"))) == 2
    assert not list((tmp_path / "out").glob("hopeless/*/DONE"))
    failed = [event for event in history(tmp_path / "out" / "hopeless" / "fold-1") if event["event"] == "failed"]
    assert len(failed) == 3
    assert "write_predictions" in failed[0]["traceback"]
    listed = call(main, *words, "--list")
    assert "2 done, 0 running, 2 failed, 0 missing" in listed.out
    assert "3 x, last: ValueError" in listed.out


def test_a_killed_worker_is_replaced_and_its_run_resumes(finished_job, tiny_encoder, tmp_path):
    output = tmp_path / "out"
    flags = {"members": "last3-42", "folds": 0, "save_strategy": "steps", "save_steps": 1}
    job = start(train_words(job_words(tiny_encoder, output, **flags)), tmp_path / "log")
    run = output / "last3-42" / "fold-0"
    assert wait_for(lambda: any(run.glob("checkpoint-*/SEALED")), 120)
    os.kill(json.loads((run / "RUNNING").read_text())["pid"], signal.SIGKILL)
    assert job.wait(120) == 0, (tmp_path / "log").read_text()
    events = history(run)
    assert [event["event"] for event in events] == ["begun", "failed", "begun", "trained", "done"]
    assert events[1]["error"] == "its worker died (SIGKILL)"
    assert (run / "test.parquet").read_bytes() == (finished_job.folder / "last3-42/fold-0/test.parquet").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_job_saves_its_state_leaves_no_done_and_resumes(tiny_encoder, tmp_path, number, code, call):
    output = tmp_path / "out"
    words = job_words(tiny_encoder, output, members="bigru-42", folds=0, num_train_epochs=60)
    job = start(train_words(words), tmp_path / "log")
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
    result = call(main, *words)
    assert result.code == 0, result.err
    assert [event["event"] for event in history(run)] == ["begun", "stopped", "begun", "trained", "done"]


def test_workers_do_not_outlive_a_killed_job(tiny_encoder, tmp_path):
    output = tmp_path / "out"
    words = job_words(tiny_encoder, output, num_train_epochs=100, runs_per_device=2)
    job = start(train_words(words), tmp_path / "log")
    assert wait_for(lambda: len(list(output.glob("*/fold-*/RUNNING"))) == 2, 120)
    assert len(session_of(job)) >= 4  # the job, the fork server and two workers at least
    job.kill()
    assert wait_for(lambda: not session_of(job), 10), session_of(job)


def test_only_each_members_best_fold_keeps_its_model(tiny_encoder, tmp_path, call):
    flags = {"members": ["last3-42", "bigru-24"], "keep_models": "best", "runs_per_device": 2}
    assert call(main, *job_words(tiny_encoder, tmp_path / "out", **flags)).code == 0
    for member in ("last3-42", "bigru-24"):
        folders = sorted((tmp_path / "out" / member).glob("fold-[0-9]"))
        scores = [json.loads((folder / "metrics.json").read_text())["held_out"]["f1"] for folder in folders]
        kept = [folder for folder in folders if (folder / "model" / "model.safetensors").exists()]
        assert kept == [folders[scores.index(max(scores))]]
        assert all((folder / "test.parquet").exists() for folder in folders)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 3 MB, which a test can fill or make read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a file system can't be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_reported_and_nothing_is_lost(small_disk, finished_job, tiny_encoder, tmp_path, call):
    flags = {"members": ["last3-42", "bigru-24"], "bigru_hidden_size": 256}
    words = job_words(tiny_encoder, small_disk / "out", **flags)
    result = train([*words, "--save_strategy", "steps", "--save_steps", "2"])
    assert result.code == 2
    assert "error: No space left on device" in result.err
    assert "make room" in result.err
    assert "Traceback" not in result.err
    done = {path: path.stat().st_mtime_ns for path in (small_disk / "out").glob("*/*/DONE")}
    assert 0 < len(done) < 10
    subprocess.run(["mount", "-o", "remount,size=400m", small_disk], check=True)
    result = call(main, *words)
    assert result.code == 0, result.err
    assert len(list((small_disk / "out").glob("*/*/DONE"))) == 10
    assert all(path.stat().st_mtime_ns == moment for path, moment in done.items())
    for fold in range(5):  # not the bytes, which name the recipe
        paths = [
            folder / "last3-42" / f"fold-{fold}" / "test.parquet"
            for folder in (small_disk / "out", finished_job.folder)
        ]
        on_small_disk, in_finished_job = (read_predictions(path).probabilities for path in paths)
        assert (on_small_disk == in_finished_job).all()


def test_a_read_only_folder_is_named(small_disk, finished_job, tiny_encoder, tmp_path):
    subprocess.run(["mount", "-o", "remount,size=400m", small_disk], check=True)
    shutil.copytree(finished_job.folder, small_disk / "out", ignore=shutil.ignore_patterns("model"))
    (small_disk / "out" / "last3-42" / "fold-2" / "DONE").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    result = train(job_words(tiny_encoder, small_disk / "out"))
    assert result.code == 2
    assert "error: Read-only file system" in result.err
    assert "Traceback" not in result.err


def test_pseudo_labels_that_are_removed_while_their_runs_are_trained_are_made_again(tiny_encoder, tmp_path):
    rows = {"counts": "{classifier: tfidf-logistic}", "learner": "{head: mean, pseudo_labels: true}"}
    recipe, output = recipe_of(tmp_path, **rows), tmp_path / "out"
    log, labels = tmp_path / "log", output / "pseudo_labels"
    job = start(train_words(job_words(tiny_encoder, output, recipe=recipe, n_folds=2)), log)
    assert wait_for(lambda: job.poll() is not None or any(output.glob("learner/fold-*/RUNNING")), 200)
    assert job.poll() is None, log.read_text()
    before = {path.name: path.read_bytes() for path in sorted(labels.rglob("*.tsv"))}
    labels.rename(tmp_path / "removed")  # in one act: a removal file by file races with a worker that makes them again
    assert job.wait(200) == 0, log.read_text()
    assert {path.name: path.read_bytes() for path in sorted(labels.rglob("*.tsv"))} == before
    assert "Traceback" not in log.read_text()
    assert all(history(folder)[-1]["event"] == "done" for folder in output.glob("*/fold-*"))
