"""`--parallel data`: all processes train each run jointly, by DDP or DeepSpeed, on two CPU processes."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    ROOT,
    history,
    job_words,
    launch,
    launch_words,
    recipe_of,
    shell,
    start,
    train_here,
    wait_for,
)

from smm4h.config.plans.plan import read_plan
from smm4h.data.outputs.predictions import read_predictions
from smm4h.parallel.run_state import log_event

pytestmark = pytest.mark.slow
DDP, ZERO2 = ROOT / "accelerate_config.yaml", ROOT / "cluster" / "deepspeed_zero2.yaml"
needs_deepspeed_on_cpu = pytest.mark.skipif(
    shutil.which("g++") is None or torch.cuda.is_available(),
    reason="DeepSpeed builds its CPU communication with g++, and prefers a GPU",
)


def words_for(encoder, output_dir, **flags):
    """Return the words of a job that retrains collapsed runs: all processes must agree on that, too."""
    size = {
        "max_train_samples": 61,  # training parts of 48 and 49: the last batch of one is too small for two processes
        "max_predict_samples": 37,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 3,
        "members": "bigru-42",
        "classifier_dropout": 0,
    }
    rare = {"class_weights": "balanced", "focal_gamma": 1}  # their divisor is that of the whole step
    return job_words(encoder, output_dir, **{**size, **rare, "retrain_collapsed": True, **flags})


THREADS_AT_THE_END = """
import atexit, os, sys
from pathlib import Path

def write_names():
    if "RANK" in os.environ and "run_classification" in sys.argv[0]:
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        Path(os.environ["NAMES"], os.environ["RANK"]).write_text("\\n".join(names))

atexit.register(write_names)
"""


def launch_to_the_end(words, place: Path) -> None:
    """Launch a job that must succeed, and end without a thread of the process group in any process.

    Such a thread aborts the process now and then, when it frees a tensor after Python has ended.

    Args:
        place: a new folder, for the names of the threads, for which Linux is asked.
    """
    place.mkdir()
    (place / "sitecustomize.py").write_text(THREADS_AT_THE_END)
    result = shell(*words, env={"PYTHONPATH": str(place), "NAMES": str(place)})
    assert result.code == 0, result.err
    if Path("/proc/self/task").exists():
        names = {path.name: path.read_text() for path in place.glob("[0-9]")}
        assert sorted(names) == ["0", "1"]
        assert all("python" in text and "gloo" not in text for text in names.values()), names


@pytest.fixture(scope="module")
def trained_alone(still_encoder, tmp_path_factory) -> Path:
    """The folder of a job whose folds 0 and 1 one process trained."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    result = train_here(words_for(still_encoder, folder, folds=[0, 1]))
    assert result.code == 0, result.err
    return folder


SAVING = {"parallel": "data", "save_strategy": "steps", "save_steps": 2}


@pytest.fixture(scope="module")
def trained_jointly(still_encoder, tmp_path_factory) -> Path:
    """The folder of a job whose folds 0 and 1 two processes trained."""
    folder = tmp_path_factory.mktemp("jointly")
    words = launch_words(2, words_for(still_encoder, folder / "out", folds=[0, 1], **SAVING))
    launch_to_the_end(words, folder / "threads")
    launch_to_the_end(words, folder / "again")  # with nothing left to train
    return folder / "out"


def metrics(folder, fold=0):
    return json.loads((folder / "bigru-42" / f"fold-{fold}" / "metrics.json").read_text())


def assert_same_but_for_float_noise(left, right, folds=(0, 1)):
    for fold in folds:
        curves = [[(e["step"], e["loss"]) for e in metrics(folder, fold)["evaluations"]] for folder in (left, right)]
        assert len(curves[0]) == 3
        np.testing.assert_allclose(curves[0], curves[1], rtol=2e-5)
        for part in ("held_out", "test"):
            files = [
                read_predictions(folder / "bigru-42" / f"fold-{fold}" / f"{part}.parquet") for folder in (left, right)
            ]
            assert files[0].ids.equals(files[1].ids)
            assert files[0].rows.tolist() == files[1].rows.tolist()
            np.testing.assert_allclose(files[0].probabilities, files[1].probabilities, atol=2e-5)


def test_two_processes_have_the_loss_of_one_and_no_thread_of_their_group_outlives_them(trained_jointly, trained_alone):
    assert json.loads((trained_jointly / "bigru-42" / "fold-0" / "DONE").read_text())["processes"] == 2
    assert metrics(trained_jointly)["steps"] == metrics(trained_alone)["steps"]
    assert_same_but_for_float_noise(trained_jointly, trained_alone)


def test_a_batch_that_the_processes_can_not_share_is_an_error(still_encoder, tmp_path):
    words = words_for(still_encoder, tmp_path / "out", parallel="data", per_device_train_batch_size=9)
    result = launch(2, words)
    assert result.code != 0
    assert "error: member bigru-42: a batch of 9 can't be shared by 2 processes" in result.err
    assert not list((tmp_path / "out").glob("*/*/DONE"))


def stop_during(words, run_folder) -> int:
    """Send SIGTERM to the launcher once the run has saved its state; return the launcher's exit code."""
    job = start(words)
    try:
        assert wait_for(lambda: any(run_folder.glob("checkpoint-*/SEALED")), 300)
        job.send_signal(signal.SIGTERM)
        return job.wait(120)
    finally:
        if job.is_running():
            job.kill()


def test_two_processes_stop_and_resume_jointly(still_encoder, trained_jointly, tmp_path):
    run = tmp_path / "out" / "bigru-42" / "fold-0"
    words = launch_words(2, words_for(still_encoder, tmp_path / "out", folds=0, **SAVING))
    assert stop_during(words, run) != 0
    assert not (run / "DONE").exists()
    result = shell(*words)
    assert result.code == 0, result.err
    for name in ("held_out.parquet", "test.parquet", "metrics.json", "model/model.safetensors"):
        assert (run / name).read_bytes() == (trained_jointly / "bigru-42" / "fold-0" / name).read_bytes()


@needs_deepspeed_on_cpu
def test_deepspeed_zero_2_trains_resumes_predicts_all_rows_in_order_and_leaves_no_thread(
    still_encoder, trained_alone, tmp_path
):
    saving = {"save_strategy": "steps", "save_steps": 2, "folds": [0, 1]}
    run = tmp_path / "out" / "bigru-42" / "fold-0"
    words = launch_words(2, words_for(still_encoder, tmp_path / "out", **saving), ZERO2)
    assert stop_during(words, run) != 0
    assert not (run / "DONE").exists()
    launch_to_the_end(words, tmp_path / "threads")
    assert [event["event"] for event in history(run)] == ["begun", "stopped", "begun", "trained", "done"]
    assert_same_but_for_float_noise(tmp_path / "out", trained_alone)
    assert not list((tmp_path / "out").rglob("*optim_states*"))


def test_a_run_that_failed_with_three_commands_is_skipped_by_the_next(still_encoder, tmp_path):
    recipe = recipe_of(tmp_path, hopeless="{head: last3, learning_rate: 1e30, max_grad_norm: 0}", good="{head: last3}")
    words = job_words(still_encoder, tmp_path / "out", recipe=recipe, parallel="data", folds=0)
    first = launch(2, words)
    for _ in range(2):
        log_event(read_plan(tmp_path / "out")[0].runs[0], "failed", error="ValueError: as with another command")
    last = launch(2, words)
    assert [first.code, last.code] == [1, 1]
    failed = [event for event in history(tmp_path / "out" / "hopeless" / "fold-0") if event["event"] == "failed"]
    assert len(failed) == 3
    assert "error: hopeless/fold-0 failed (ValueError: " in first.err
    assert (tmp_path / "out" / "good" / "fold-0" / "DONE").exists()
    assert "1 of 2 runs failed every time they were tried (hopeless/fold-0: ValueError: " in last.err
