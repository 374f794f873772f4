"""Captured steps, with a stand-in for CUDA graphs that computes: the same trainings as without, killed and resumed."""

import pytest
import torch
from safetensors.torch import load_file

from smm4h.training.building import run_trainer
from smm4h.training.building.model import build_model
from smm4h.training.captured.trainer import CapturedTrainer, can_capture
from smm4h.training.run import train_run
from smm4h.training.trainer import TweetTrainer
from smm4h.utils.errors import Stopped

LEARNS = {"learning_rate": 0.02, "num_train_epochs": 3, "adam_beta2": 0.8}


@pytest.fixture
def capture_on_cpu(monkeypatch):
    """Capture steps on the CPU, too, and return the trainers that do."""
    made = []

    class Noted(CapturedTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(run_trainer, "is_captured", lambda member, _, head, longest: can_capture(member, head, longest))
    monkeypatch.setattr(run_trainer, "CapturedTrainer", Noted)
    return made


def run_of(job, name):
    return next(run for run in job.runs if run.member.name == name)


def change_of(run, job_task):
    """Return what training has changed of a run's weights, as one vector."""
    before, after = build_model(run.built_member, job_task).state_dict(), load_file(run.model / "model.safetensors")
    return torch.cat([(after[name] - before[name]).flatten() for name in sorted(after)])


@pytest.mark.parametrize(
    ("member", "flags"),
    [
        ("bigru-42", {}),
        ("last2-pooler-42", {"class_weights": "balanced", "max_grad_norm": 0.05}),
        ("last3-42", {"optim": "adamw_torch", "weight_decay": 0.1, "max_grad_norm": 0.05}),
        ("last3-42", {"layer_decay": 0.7, "negatives_per_positive": 2, "logit_adjustment": 1}),
        ("last3-pooler-42", {"head": "mean", "label_smoothing_factor": 0.1, "max_grad_norm": 0}),
    ],
)
def test_a_captured_run_learns_what_a_plain_one_learns(prepare_job, still_encoder, capture_on_cpu, member, flags):
    changes = []
    for captured in (True, False):
        settings = {**LEARNS, "checkpoint": "last", "eval_strategy": "no", "classifier_dropout": 0, **flags}
        job = prepare_job(f"captured-{captured}", still_encoder, captured=captured, **settings)
        run = run_of(job, member)
        train_run(run, job.data)
        changes.append(change_of(run, job.data.task))
    assert len(capture_on_cpu) == 1
    assert (changes[0] - changes[1]).norm() < 1e-3 * changes[1].norm()


def test_a_captured_run_that_was_stopped_resumes_with_the_same_bytes(prepare_job, capture_on_cpu):
    answers, made = [], []
    for name, stops in (("whole", ()), ("stopped", (2, 5))):
        job = prepare_job(name, **LEARNS)
        run = run_of(job, "last2-pooler-42")
        made.clear()
        for stop_at in stops:
            with pytest.raises(Stopped):
                train_run(run, job.data, lambda step, _: made.append(step), lambda at=stop_at: made[-1:] == [at])
        train_run(run, job.data, lambda step, _: made.append(step))
        files = run.held_out_file, run.test_file, run.model / "model.safetensors"
        answers.append([path.read_bytes() for path in files])
    assert made.count(4) == 1
    assert answers[0] == answers[1]


@pytest.mark.parametrize("first_is_captured", [True, False])
def test_a_checkpoint_of_the_other_kind_is_left_alone_and_the_run_trained_anew(
    prepare_job, monkeypatch, first_is_captured
):
    job = prepare_job(**LEARNS)
    run, made = run_of(job, "last3-42"), []
    for captured, stop_at in ((first_is_captured, 4), (not first_is_captured, None)):
        monkeypatch.setattr(run_trainer, "is_captured", lambda *_, captured=captured: captured)
        arguments = run, job.data, lambda step, _: made.append(step), lambda at=stop_at: made[-1:] == [at]
        if stop_at is None:
            train_run(*arguments)
        else:
            with pytest.raises(Stopped):
                train_run(*arguments)
    assert made.count(2) == 2
    assert run.is_done()


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_evaluations_is_left_to_them(prepare_job, still_encoder, capture_on_cpu, schedule):
    settings = {**LEARNS, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    job = prepare_job(encoder=still_encoder, lr_scheduler_type=schedule, **settings)
    run = run_of(job, "last3-42")
    train_run(run, job.data)
    assert capture_on_cpu[0].lr_scheduler.last_epoch == 2
    assert run.is_done()


class Heard:
    """A callback that notes which of its methods are called."""

    def __init__(self, trainer):
        self.events = []
        trainer.add_callback(self)

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_, **__: self.events.append(name)


def test_trackers_and_callbacks_are_told_what_a_plain_run_tells_them(
    prepare_job, still_encoder, capture_on_cpu, monkeypatch
):
    pytest.importorskip("tensorboard")
    plain, logs, heard = [], [], []

    class NotedCaptured(run_trainer.CapturedTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            heard.append(Heard(self))

    class NotedPlain(TweetTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            plain.append(self)
            heard.append(Heard(self))

    monkeypatch.setattr(run_trainer, "CapturedTrainer", NotedCaptured)
    monkeypatch.setattr(run_trainer, "TweetTrainer", NotedPlain)
    settings = {"report_to": "tensorboard", "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
    settings |= {"max_steps": 3, "classifier_dropout": 0, "max_grad_norm": 0}
    for captured, made in ((True, capture_on_cpu), (False, plain)):
        job = prepare_job(f"logged-{captured}", still_encoder, captured=captured, **LEARNS, **settings)
        train_run(run_of(job, "last3-42"), job.data)
        steps = [entry for entry in made[0].state.log_history if "loss" in entry]
        logs.append([entry[name] for entry in steps for name in ("loss", "grad_norm", "learning_rate")])
    assert len(logs[0]) == 9
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)
    assert heard[0].events.count("on_optimizer_step") == 3
    assert heard[0].events == heard[1].events


def test_a_loss_that_is_not_finite_is_left_out_of_the_report_where_that_is_set(
    prepare_job, still_encoder, capture_on_cpu
):
    job = prepare_job(captured=True, encoder=still_encoder, **LEARNS, max_steps=1, logging_nan_inf_filter=True)
    train_run(run_of(job, "last3-42"), job.data)
    trainer = capture_on_cpu[0]
    trainer._tr_loss, trainer._globalstep_last_logged = torch.tensor(3.0), 0
    trainer.state.global_step = 2
    assert [trainer._reported(torch.tensor(loss)).item() for loss in (float("nan"), 0.5)] == [1.0, 0.5]
