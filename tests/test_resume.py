"""A run that was stopped, anywhere and any number of times, ends with the bytes of one that never was."""

import json
import shutil

import numpy as np
import pytest
from conftest import job_words
from torch.utils.data import DataLoader

import run_classification
from smm4h.config.plan import make_plan
from smm4h.config.recipe import read_command_line
from smm4h.data.folds import write_folds
from smm4h.training import checkpoints
from smm4h.training.run import remove_intermediate_files, train_run
from smm4h.training.sampler import FILLER, ResumableBatchSampler, epoch_order
from smm4h.utils.errors import Stopped


@pytest.fixture
def job(tiny_encoder, tmp_path):
    """Builds runs of the thinned quickstart with these flags, in a folder of this name: (runs, data)."""

    def build(name, *flags):
        read = read_command_line(job_words(tiny_encoder, tmp_path / name, *flags))
        tweets = run_classification.load_splits(read)
        plan = make_plan(read, tweets.content_hashes())
        write_folds(tweets.labelled, plan.folds_file)
        return plan.runs, run_classification.run_data(plan, read, tweets)

    return build


def result(run):
    """Bytes of everything that a run leaves, but for seconds."""
    files = {str(p.relative_to(run.directory)): p.read_bytes() for p in run.directory.rglob("*") if p.is_file()}
    files.pop("DONE")
    return files


class StopsAt:
    """A stop that comes after a number of steps, once or each time."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.asked = 0
        self.seen = []

    def report(self, step, steps):
        self.now = step
        self.seen.append(step)

    def __call__(self):
        return bool(self.steps) and self.now == self.steps[0]


def train_with_stops(run, data, *steps):
    """Trains the run, stopped after each of these steps; the step that each process began with, None for no step."""
    begun = []
    for step in steps:
        stop = StopsAt(step)
        with pytest.raises(Stopped):
            train_run(run, data, stop.report, stop)
        begun.append(stop.seen[0])
        assert not run.is_done()
    last = StopsAt()
    train_run(run, data, last.report, last)
    return [*begun, last.seen[0] if last.seen else None]


LONG = ("--num_train_epochs", 2, "--per_device_train_batch_size", 8)  # 48 tweets: 6 steps an epoch


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
@pytest.mark.parametrize("steps", [(2,), (6,), (3, 4, 9), (12,)])
def test_a_stopped_run_ends_with_the_same_bytes(job, strategy, steps):
    flags = (*LONG, "--train_sampling_strategy", strategy)
    (undisturbed, data), (stopped, same_data) = [
        (runs[0], data) for runs, data in (job(name, *flags) for name in ("a", "b"))
    ]
    train_run(undisturbed, data)
    begun = train_with_stops(stopped, same_data, *steps)
    assert begun == [0, *(step if step < 12 else None for step in steps)]
    assert result(stopped) == result(undisturbed)
    assert json.loads(stopped.metrics_file.read_text())["steps"] == 12


def test_a_stop_amid_accumulated_steps_and_step_evaluations_does_not_show(job):
    flags = ("--num_train_epochs", 2, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 3)
    flags += ("--eval_strategy", "steps", "--eval_steps", 3, "--save_strategy", "steps", "--save_steps", 1)
    runs, data = job("a", *flags)
    others, same_data = job("b", *flags)
    train_run(runs[7], data)
    train_with_stops(others[7], same_data, 1, 5, 6)
    assert result(others[7]) == result(runs[7])


def test_torn_checkpoints_are_passed_over(job):
    runs, data = job("a", *LONG)
    train_run(runs[0], data)
    others, same_data = job("b", *LONG)
    run = others[0]
    stop = StopsAt(4)
    with pytest.raises(Stopped):
        train_run(run, same_data, stop.report, stop)
    whole = run.directory / "checkpoint-4"
    assert checkpoints.latest_complete(run.directory, run.fingerprint) == whole
    for step, spoil in ((7, "SEALED"), (9, "optimizer.pt")):
        torn = run.directory / f"checkpoint-{step}"
        shutil.copytree(whole, torn)
        path = torn / spoil
        path.write_bytes(path.read_bytes()[:-1]) if spoil != "SEALED" else path.unlink()
    assert checkpoints.latest_complete(run.directory, run.fingerprint) == whole
    assert checkpoints.latest_complete(run.directory, "another recipe's") is None
    last = StopsAt()
    train_run(run, same_data, last.report, last)
    assert last.seen[0] == 4
    assert result(run) == result(runs[0])


@pytest.mark.parametrize("lost", ["predictions", "one part", "metrics", "only DONE"])
def test_a_run_killed_after_training_is_not_trained_again(job, lost):
    """Each case is what a SIGKILL leaves at some point after the last step."""
    runs, data = job("a")
    run = runs[0]
    train_run(run, data)
    before = result(run)
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
        run.held_out_file.write_text("torn")
    steps = []
    train_run(run, data, report=lambda step, total: steps.append(step), on_trained=lambda: steps.append("trained"))
    assert steps == []
    assert result(run) == before


@pytest.mark.parametrize("flags", [(), ("--keep_models", "none"), ("--keep_models_in", "bfloat16")])
def test_no_optimizer_state_is_kept_after_a_run(job, flags):
    runs, data = job("a", "--save_strategy", "steps", "--save_steps", 1, *flags)
    train_run(runs[0], data)
    names = {path.name for path in runs[0].directory.iterdir()}
    kept = {"DONE", "held_out.parquet", "metrics.json", "model", "test.parquet"}
    assert names == (kept - {"model"} if "none" in flags else kept)


def test_weights_kept_in_bfloat16_take_half_the_room_and_load(job):
    from heads import TweetClassifier

    sizes = []
    for name, flags in (("a", ()), ("b", ("--keep_models_in", "bfloat16"))):
        runs, data = job(name, *flags)
        train_run(runs[0], data)
        sizes.append((runs[0].model / "model.safetensors").stat().st_size)
        model = TweetClassifier.from_pretrained(runs[0].model)
        assert {str(p.dtype) for p in model.parameters()} == {"torch.bfloat16" if flags else "torch.float32"}
        assert "tokenizer.json" in {path.name for path in runs[0].model.iterdir()}
    assert sizes[1] < 0.7 * sizes[0]


def test_what_a_kill_left_of_a_finished_run_is_swept_away(job):
    runs, data = job("a")
    train_run(runs[0], data)
    before = result(runs[0])
    (runs[0].directory / "checkpoint-2").mkdir()
    (runs[0].directory / "checkpoint-2" / "optimizer.pt").write_text("large")
    runs[0].trained_model.mkdir()
    runs[0].trained_file.write_text("{}")
    remove_intermediate_files(runs[0])
    assert result(runs[0]) == before


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "sequential"])
def test_an_epochs_order_depends_on_seed_and_epoch_alone(strategy):
    lengths = np.random.default_rng(0).integers(5, 40, 203).tolist()
    orders = {(seed, epoch): epoch_order(lengths, 16, strategy, seed, epoch) for seed in (1, 2) for epoch in (0, 1)}
    assert all(sorted(order) == list(range(203)) for order in orders.values())
    assert epoch_order(lengths, 16, strategy, 1, 1) == orders[1, 1]
    assert len({tuple(order) for order in orders.values()}) == (1 if strategy == "sequential" else 4)


def test_length_groups_hold_hardly_any_padding():
    lengths = np.random.default_rng(0).integers(5, 90, 2000).tolist()
    padded = {}
    for strategy in ("random", "group_by_length"):
        batches = list(ResumableBatchSampler(lengths, 16, strategy=strategy))
        padded[strategy] = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) / sum(lengths)
    assert padded["random"] > 1.5
    assert padded["group_by_length"] < 1.1


@pytest.mark.parametrize("n_tweets", [32, 37, 33])
@pytest.mark.parametrize("n_processes", [2, 4])
def test_the_parts_of_all_processes_are_together_the_batch_of_one(n_tweets, n_processes):
    alone = list(ResumableBatchSampler([1] * n_tweets, 8, seed=3))
    parts = [
        list(ResumableBatchSampler([1] * n_tweets, 8, seed=3, rank=r, n_processes=n_processes))
        for r in range(n_processes)
    ]
    assert {len(part) for part in parts} == {len(alone)}
    for number, batch in enumerate(alone):
        shared = [part[number] for part in parts]
        assert len({len(piece) for piece in shared}) == 1  # no process waits for another one's step
        assert sorted(i for piece in shared for i in piece if i != FILLER) == sorted(batch)


def test_batches_can_be_taken_up_in_the_middle():
    batches = ResumableBatchSampler([1] * 40, 8, seed=1)
    batches.epoch = 2
    loader = DataLoader(list(range(40)), batch_sampler=batches)
    whole = [batch.tolist() for batch in loader]
    assert [batch.tolist() for batch in loader] == whole
