"""Timed training of a few steps, in a process of its own: what the real runs do, on a sample of their tweets."""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from datasets import Dataset

from smm4h.config.job import Member
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.dataset import column
from smm4h.data.folds import fold_column, write_folds
from smm4h.data.tokenization import tokenise
from smm4h.parallel.forecast.costs import Measured
from smm4h.training.adaptation.adapt import masked_trainer
from smm4h.training.building.run_trainer import make_trainer
from smm4h.training.run import free_memory
from smm4h.training.run_data import RunData, training_part
from smm4h.training.trainer import predict_proba
from smm4h.training.words.baselines import WordModel, fit_member, labels_of_part, save_baseline
from smm4h.training.words.fitting import CLASSIFIERS, fit_counts, fit_net
from smm4h.utils.derived import DerivedFiles
from smm4h.utils.durable import listing
from smm4h.utils.temporaries import private_folder

SECONDS, FEWEST_STEPS, MOST_STEPS = 1.5, 3, 40  # of training, for each kind; the first step does not count
SLOW_STEP = 5.0  # seconds; of slower ones, two are enough
PREDICTED = 128  # tweets
SMALLER = 3  # of two fits without an encoder, one has a third of the tweets


class Enough(Exception):
    """Ends a training that has been timed."""


class StepTimer:
    """Callback of a training: notes its begin and each step's end, and raises `Enough` after some steps."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, step: int, steps: int) -> None:
        self.times.append(now := time.perf_counter())
        n_timed = len(self.times) - 2
        if n_timed < 1:
            return
        spent = now - self.times[1]
        if spent > SLOW_STEP * n_timed or (n_timed >= FEWEST_STEPS and spent > SECONDS):
            raise Enough

    def step_seconds(self) -> float:
        """Return the mean duration of a step but for the first, which also sets up the optimizer."""
        return (self.times[-1] - self.times[1]) / (len(self.times) - 2)

    def setup_seconds(self) -> float:
        """Return what the first step took longer."""
        return max(0.0, self.times[1] - self.times[0] - self.step_seconds())


def measure(runs: Sequence[Run], sample: Dataset, task: Task) -> list[Measured]:
    """Return the costs of runs, whose names say nothing here, measured one after the other.

    Args:
        runs: one of each kind.
        sample: labelled tweets; every second one is trained on, the others are held out.
    """
    with private_folder(Path(tempfile.gettempdir())) as folder:
        data = _run_data(folder, [run.member for run in runs], sample, task)
        results = []
        for number, asked in enumerate(runs):
            directory = folder / f"probe-{number}" / "fold-0"
            run = replace(asked, fold=0, directory=directory, fingerprint="probe", adaptation=None)
            run.directory.mkdir(parents=True)
            before = _resident()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            of_kind = _measure_encoder if run.member.has_encoder else _measure_words
            measured = of_kind(run, data, is_first=number == 0)
            results.append(replace(measured, memory=max(0, _peak() - before), **_of_gpu()))
            free_memory()
        return results


def _run_data(folder: Path, members: Sequence[Member], sample: Dataset, task: Task) -> RunData:
    """Write what runs read: folds, and token tables."""
    for seed in sorted({member.args.fold_seed for member in members}):
        sample = sample.add_column(fold_column(seed), np.arange(len(sample), dtype=np.int64) % 2)
    folds_file, tokens = folder / "folds.parquet", folder / "tokens"
    write_folds(sample, folds_file)
    tokenise(tokens, "labelled", sample, members, DerivedFiles(folder))
    return RunData(task, folds_file, tokens, folder / "pseudo_labels", has_test=False, save_minutes=0.0)


def timed_member(member: Member) -> Member:
    """Return the member with settings under which a training can be ended after any step, and nothing is tracked."""
    return member.with_settings(
        **{"max_steps": MOST_STEPS, "eval_strategy": "no", "checkpoint": "last", "min_steps": 0, "report_to": []},
        **{"pseudo_labels": False, "refit": False, "save_strategy": "no", "push_to_hub": False},
    )


def _measure_encoder(run: Run, data: RunData, *, is_first: bool) -> Measured:
    run, timer = replace(run, member=timed_member(run.member)), StepTimer()
    part, trainer_for = training_part(run, data, None), masked_trainer if run.is_adaptation else make_trainer
    if is_first:  # a process's first trainer also loads what all later ones find loaded
        trainer_for(run, data, run.directory / "first", part, timer, lambda: False)
    started = time.perf_counter()
    trainer = trainer_for(run, data, run.directory / "own", part, timer, lambda: False)
    with suppress(Enough):
        trainer.train()
    tweets = part.select(range(min(PREDICTED, len(part))))
    trained = time.perf_counter()
    if not run.is_adaptation:
        predict_proba(trainer, tweets)
    predicted = time.perf_counter()
    n_bytes = _save(run, lambda folder: trainer.save_model(str(folder)))
    return Measured(
        preparation=timer.times[0] - started + timer.setup_seconds(),
        step=timer.step_seconds(),
        prediction=(predicted - trained) / len(tweets),
        finish=time.perf_counter() - predicted,
        model_bytes=n_bytes,
        memory=0,
    )


def _save(run: Run, save: Callable[[Path], None]) -> int:
    """Save a model and hash its files, as a run does; return their bytes."""
    folder = run.directory / "own" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    save(folder)
    return sum(file["bytes"] for file in listing(folder, [folder]).values())


def _measure_words(run: Run, data: RunData, *, is_first: bool) -> Measured:
    """Measure a classifier without an encoder, by fits to two numbers of tweets; the model is the larger one's."""
    part = training_part(run, data, None)
    n_all, name = len(part), run.member.args.classifier
    fits = []
    for n_tweets in sorted({max(1, n_all // SMALLER), n_all}):
        rows = part.select(np.linspace(0, n_all - 1, n_tweets).astype(int))
        started = time.perf_counter()
        model = _fit(name, rows, data.task, run)
        fits.append((n_tweets, time.perf_counter() - started))
    tweets = column(part, "text").to_pylist()[:PREDICTED]
    started = time.perf_counter()
    model.predict_proba(tweets)
    predicted = time.perf_counter()
    n_bytes = 0 if run.is_baseline else _save(run, lambda folder: save_baseline(name, model, folder))
    finish = time.perf_counter() - predicted
    return Measured(0.0, 0.0, (predicted - started) / len(tweets), finish, n_bytes, memory=0, fits=tuple(fits))


def _fit(name: str, part: Dataset, task: Task, run: Run) -> WordModel:
    """Fit a classifier to some tweets as its run does."""
    texts, common = column(part, "text").to_pylist(), (labels_of_part(part, task), task.n_classes, run.member.args.seed)
    if run.is_baseline:
        return (fit_counts if name in CLASSIFIERS else fit_net)(name, texts, *common)
    return fit_member(name, texts, column(part, "author").to_pylist(), *common, lambda step, steps: None)


def _resident() -> int:
    """Return the bytes of memory of this process."""
    return psutil.Process().memory_info().rss


def _peak() -> int:
    """Return the most bytes that this process has had; where the system does not say it, those that it has now."""
    try:
        import resource  # Windows has none
    except ImportError:
        return _resident()
    unit = 1 if sys.platform == "darwin" else 1024
    return max(_resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _of_gpu() -> dict[str, int]:
    """Return the most bytes of the GPU that this process has had since its peak was reset, and how many there are."""
    if not torch.cuda.is_available():
        return {}
    total = torch.cuda.get_device_properties(0).total_memory
    return {"gpu_memory": torch.cuda.max_memory_reserved(), "gpu_total": total}
