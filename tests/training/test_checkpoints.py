"""A run that was stopped, anywhere and any number of times, ends with the bytes of one that never was."""

import json
import shutil
import threading

import pytest

from smm4h.parallel.verification import unfinished_damages
from smm4h.training import checkpoints
from smm4h.training.run import train_run
from smm4h.training.run_data import remove_intermediate_files
from smm4h.utils.errors import Stopped
from smm4h.utils.files import fenced
from smm4h.utils.leases import LeaseHolder, LeaseLost

LONG = {"num_train_epochs": 2, "per_device_train_batch_size": 8}  # 48 tweets: 6 steps an epoch


def files_of(run):
    """Return the bytes of all of a run's files but for DONE, which has its seconds."""
    files = {str(p.relative_to(run.directory)): p.read_bytes() for p in run.directory.rglob("*") if p.is_file()}
    files.pop("DONE")
    return files


class Monitor:
    """The steps that a training reports, and a stop after one of them.

    Args:
        stop_at: a step; None: no stop.
    """

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.steps = []

    def report(self, step, n_steps):
        self.steps.append(step)

    def stop(self):
        return self.stop_at is not None and self.steps[-1] == self.stop_at


def train_and_stop(run, data, step):
    """Train the run until it stops after a step; return the step that it resumed from."""
    monitor = Monitor(step)
    with pytest.raises(Stopped):
        train_run(run, data, monitor.report, monitor.stop)
    assert not run.is_done()
    return monitor.steps[0]


def train_to_the_end(run, data):
    """Train the run to its end; return the step that it resumed from, None where no step was left."""
    monitor = Monitor()
    train_run(run, data, monitor.report, monitor.stop)
    return monitor.steps[0] if monitor.steps else None


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
@pytest.mark.parametrize(
    "steps", [(2,), (6,), pytest.param((3, 4, 9), marks=pytest.mark.slow), pytest.param((12,), marks=pytest.mark.slow)]
)
def test_a_stopped_run_ends_with_the_same_bytes(prepare_job, strategy, steps):
    flags = {**LONG, "train_sampling_strategy": strategy}
    undisturbed, stopped = prepare_job("undisturbed", **flags), prepare_job("stopped", **flags)
    train_run(undisturbed.runs[0], undisturbed.data)
    run = stopped.runs[0]
    resumed_from = [*(train_and_stop(run, stopped.data, step) for step in steps), train_to_the_end(run, stopped.data)]
    assert resumed_from == [0, *(step if step < 12 else None for step in steps)]
    assert files_of(run) == files_of(undisturbed.runs[0])
    assert json.loads(run.metrics_file.read_text())["steps"] == 12


@pytest.mark.slow
def test_a_stop_between_accumulated_batches_and_evaluations_changes_no_byte(prepare_job):
    flags = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    flags |= {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 1}
    undisturbed, stopped = prepare_job("undisturbed", **flags), prepare_job("stopped", **flags)
    train_run(undisturbed.runs[7], undisturbed.data)
    for step in (1, 5, 6):
        train_and_stop(stopped.runs[7], stopped.data, step)
    train_to_the_end(stopped.runs[7], stopped.data)
    assert files_of(stopped.runs[7]) == files_of(undisturbed.runs[7])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "without its list": lambda folder: (folder / "SEALED").unlink(),
    "with a cut list": lambda folder: (folder / "SEALED").write_text("{"),
    "with a changed list": lambda folder: flip_a_bit(folder / "SEALED"),
    "without the state of chance": lambda folder: (folder / "rng_state.pth").unlink(),
    "with a cut file": lambda folder: (folder / "optimizer.pt").write_bytes(b"cut"),
    "with a flipped bit": lambda folder: flip_a_bit(folder / "optimizer.pt"),
    "with a file too many": lambda folder: (folder / "more").touch(),
}


def test_incomplete_checkpoints_are_ignored(prepare_job):
    undisturbed, stopped = prepare_job("undisturbed", **LONG), prepare_job("stopped", **LONG)
    train_run(undisturbed.runs[0], undisturbed.data)
    run = stopped.runs[0]
    train_and_stop(run, stopped.data, 4)
    complete = run.directory / "checkpoint-4"
    assert [path.name for path in run.directory.iterdir()] == ["checkpoint-4"]
    assert checkpoints.completion_record(complete)["fingerprint"] == run.fingerprint
    for step, (name, damage) in enumerate(DAMAGE.items(), start=5):
        shutil.copytree(complete, run.directory / f"checkpoint-{step}")
        damage(run.directory / f"checkpoint-{step}")
        assert checkpoints.completion_record(run.directory / f"checkpoint-{step}") is None, name
    of_another_recipe = run.directory / "checkpoint-99"
    shutil.copytree(complete, of_another_recipe)
    checkpoints.mark_complete(of_another_recipe, {"fingerprint": "another recipe's", "training_seconds": 1.0})
    assert train_to_the_end(run, stopped.data) == 4
    assert files_of(run) == files_of(undisturbed.runs[0])


def test_a_checkpoint_of_an_earlier_version_is_taken_by_its_sizes(prepare_job):
    job = prepare_job(**LONG)
    run = job.runs[0]
    train_and_stop(run, job.data, 4)
    record = json.loads((run.directory / "checkpoint-4" / "SEALED").read_text())
    sizes = {name: listed["bytes"] for name, listed in record["files"].items()}
    old = {"fingerprint": run.fingerprint, "training_seconds": record["training_seconds"], "files": sizes}
    (run.directory / "checkpoint-4" / "SEALED").write_text(json.dumps(old))
    assert train_to_the_end(run, job.data) == 4


def test_a_run_is_made_by_one_state_of_the_code(prepare_job, monkeypatch):
    """A checkpoint and weights of another state are not continued: half of the run would be of either."""
    job = prepare_job(**LONG)
    run = job.runs[0]
    for where in ("run", "building.run_trainer"):
        monkeypatch.setattr(f"smm4h.training.{where}.own_version", lambda: "0.1.0+another")
    train_and_stop(run, job.data, 4)
    monkeypatch.undo()
    assert train_to_the_end(run, job.data) == 0
    assert json.loads(run.done_file.read_text())["smm4h"].startswith("0.")


def test_a_run_that_another_process_took_over_changes_nothing_any_more(prepare_job, tmp_path):
    """The process is stopped with SIGSTOP, say, beyond the lease: here the lease goes to another holder meanwhile."""
    undisturbed, shared = prepare_job("undisturbed", **LONG), prepare_job("shared", **LONG)
    train_run(undisturbed.runs[0], undisturbed.data)
    run = shared.runs[0]

    def train_under_lease():
        with LeaseHolder().try_acquire(run.lease_file):
            train_run(run, shared.data)

    def take_over(step, n_steps):
        if step == 3:
            run.lease_file.unlink()
            successor = threading.Thread(target=train_under_lease)  # not under this thread's lease
            successor.start()
            successor.join()

    with LeaseHolder().try_acquire(run.lease_file), pytest.raises(LeaseLost):
        train_run(run, shared.data, report=take_over, stop=lambda: False)
    assert files_of(run) == files_of(undisturbed.runs[0])
    assert not list(run.directory.glob(".*"))


def train_while_weights_wait(job, check) -> None:
    """Train a job's first run; `check` is called, in its thread, before the trained weights are moved into place.

    It gets an event that says that the run has begun to predict.
    """
    own_thread, trained, predicts = threading.current_thread(), threading.Event(), threading.Event()

    def fence() -> None:
        if threading.current_thread() is not own_thread:
            check(predicts)

    def look() -> bool:
        if trained.is_set():
            predicts.set()
        return False

    with fenced(fence):
        train_run(job.runs[0], job.data, stop=look, on_trained=trained.set)


def test_a_run_predicts_while_its_weights_are_written_to_the_disk(prepare_job):
    at_once, later, waited = prepare_job("at_once"), prepare_job("later"), []
    train_run(at_once.runs[0], at_once.data)
    train_while_weights_wait(later, lambda predicts: waited.append(predicts.wait(20)))
    assert waited
    assert all(waited)
    assert files_of(later.runs[0]) == files_of(at_once.runs[0])


def test_a_run_whose_weights_could_not_be_saved_writes_no_predictions(prepare_job):
    job = prepare_job()

    def lose(predicts) -> None:
        raise LeaseLost("lost while the weights were saved")

    with pytest.raises(LeaseLost, match="while the weights were saved"):
        train_while_weights_wait(job, lose)
    run = job.runs[0]
    assert not any(path.exists() for path in (run.held_out_file, run.trained_file, run.done_file))
    train_run(run, job.data)
    assert run.is_done()


@pytest.mark.parametrize("lost", ["predictions", "one part", "metrics", "only DONE"])
def test_a_run_killed_after_training_is_not_trained_again(prepare_job, lost):
    """Each case is what a SIGKILL leaves at some point after the last step."""
    job = prepare_job()
    run = job.runs[0]
    train_run(run, job.data)
    before = files_of(run)
    metrics = run.measures()
    trained = {"fingerprint": run.fingerprint, "training_tweets": metrics["training_tweets"], "steps": metrics["steps"]}
    trained |= {"checkpoint": metrics["checkpoint"], "evaluations": metrics["evaluations"], "seconds": 1.0}
    run.trained_file.write_text(json.dumps(trained))
    run.done_file.unlink()
    if lost != "only DONE":
        run.model.rename(run.trained_model)
        run.metrics_file.unlink()
    if lost in ("predictions", "one part"):
        run.test_file.unlink()
    if lost == "predictions":
        run.held_out_file.write_text("incomplete")
    steps = []
    train_run(run, job.data, report=lambda step, total: steps.append(step), on_trained=lambda: steps.append("trained"))
    assert steps == []
    assert files_of(run) == before


def test_intermediate_files_of_a_finished_run_are_removed(prepare_job):
    job = prepare_job()
    run = job.runs[0]
    train_run(run, job.data)
    before = files_of(run)
    (run.directory / "checkpoint-2").mkdir()
    (run.directory / "checkpoint-2" / "optimizer.pt").write_text("large")
    run.trained_model.mkdir()
    run.trained_file.write_text("{}")
    remove_intermediate_files(run)
    assert files_of(run) == before


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.write_bytes(b"")], ids=["flipped", "empty"])
def test_damaged_files_of_a_half_finished_run_are_made_again(prepare_job, damage):
    """The run was stopped when it had predicted the test tweets, and not yet its held-out ones."""
    last = {"checkpoint": "last", "eval_strategy": "no"}  # or an evaluation would have predicted the held-out tweets
    undisturbed, stopped = prepare_job("undisturbed", **last), prepare_job("stopped", **last)
    train_run(undisturbed.runs[0], undisturbed.data)
    run = stopped.runs[0]
    for name, is_trained_again in (("test.parquet", False), ("TRAINED", True), ("trained/model.safetensors", True)):
        with pytest.raises(Stopped):
            train_run(run, stopped.data, stop=run.test_file.exists)
        damage(run.directory / name)
        assert list(unfinished_damages(run)) or not is_trained_again
        assert (train_to_the_end(run, stopped.data) is not None) == is_trained_again
        assert files_of(run) == files_of(undisturbed.runs[0])
        shutil.rmtree(run.directory)
