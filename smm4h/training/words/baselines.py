"""Runs without an encoder: classifiers that count or embed words, and members whose predictions are from elsewhere."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.dataset import column
from smm4h.data.pseudo_labels import hard_labels
from smm4h.models.word_models import (
    SAFE,
    BucketEmbeddingClassifier,
    BucketLinear,
    HashedTfidf,
    WordEmbeddingClassifier,
)
from smm4h.training import checkpoints
from smm4h.training.checkpoints import ResultFiles
from smm4h.training.run_data import RunData, training_part, write_done, write_results
from smm4h.training.words.fitting import CLASSIFIERS, fit_counts, fit_net, fit_safe_counts, fit_safe_net
from smm4h.training.words.safe_terms import NoSafeTerms
from smm4h.utils.errors import InputError, Stopped
from smm4h.utils.files import read_json, write_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
WordModel = HashedTfidf | BucketLinear | WordEmbeddingClassifier | BucketEmbeddingClassifier


def save_baseline(name: str, model: WordModel, folder: Path) -> None:
    """Write a model without an encoder as config.json and model.safetensors; see `load_baseline`."""
    if isinstance(model, HashedTfidf | BucketLinear):
        config, arrays = model.about, model.arrays
    else:
        arrays = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        is_safe = isinstance(model, BucketEmbeddingClassifier)
        size = {"n_buckets": model.n_buckets} if is_safe else {"n_words": len(model.words)}
        config = {"classifier": name, **size, **shape_of(model)}
    save_file(arrays, folder / WEIGHTS)
    write_json(folder / CONFIG, config)


def shape_of(model: WordEmbeddingClassifier | BucketEmbeddingClassifier) -> dict[str, Any]:
    """Return what a config says of a network's labels."""
    of_sets = {} if model.problem_type is None else {"problem_type": model.problem_type}
    return {"n_classes": model.net.classifier[-1].out_features, **of_sets}


def load_baseline(folder: Path) -> WordModel:
    """Read a model that `save_baseline` wrote, today's or an older version's; it predicts the same as before."""
    config, arrays = read_json(folder / CONFIG), load_file(folder / WEIGHTS)
    is_safe = "n_buckets" in config
    if config["classifier"] in CLASSIFIERS:
        return BucketLinear(config, arrays) if is_safe else HashedTfidf(config, arrays)
    net_class, size = (BucketEmbeddingClassifier, "n_buckets") if is_safe else (WordEmbeddingClassifier, "n_words")
    net = net_class(config["classifier"], config[size], config["n_classes"], config.get("problem_type"))
    net.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    return net.eval()


def train_baseline(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None],
    stop: Callable[[], bool],
    on_trained: Callable[[], None],
) -> None:
    """Train a run without an encoder and write its folder, DONE last; the main process alone does so.

    Training takes seconds, so nothing is saved on a stop and an interrupted run starts over. For the arguments see
    `run.train_run`.
    """
    checkpoints.on_main_process(lambda: _fit_and_predict(run, data, report, stop, on_trained))


def take_outside_predictions(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None],
    stop: Callable[[], bool],
    on_trained: Callable[[], None],
) -> None:
    """Write the folder of a run whose member comes from elsewhere: its fold's part of the predictions, DONE last.

    Nothing is trained, and no model is kept. For the arguments see `run.train_run`.
    """

    def take() -> None:
        started_at, written = time.perf_counter(), ResultFiles(run)
        run.directory.mkdir(parents=True, exist_ok=True)
        report(0, 1)
        facts = {"training_tweets": 0, "pseudo_tweets": 0}
        write_results(run, data, data.outside_predictions(run.member.name), facts, written)
        on_trained()
        _write_done(run, written, time.perf_counter() - started_at, 0.0)

    checkpoints.on_main_process(take)


def fit_member(name, texts, authors, labels, n_classes, seed, report) -> BucketLinear | BucketEmbeddingClassifier:
    """Fit a member, whose weights may be published; for the arguments see `fit_safe_counts` and `fit_net`."""
    if name in CLASSIFIERS:
        return fit_safe_counts(name, texts, authors, labels, n_classes, seed)
    return fit_safe_net(name, texts, authors, labels, n_classes, seed, report)


def _fit_and_predict(run: Run, data: RunData, report, stop, on_trained) -> None:
    """Fit the run's classifier, write predictions and metrics, save the model, then write DONE."""
    started_at = time.perf_counter()
    run.directory.mkdir(parents=True, exist_ok=True)
    pseudo = data.pseudo_labels(run)
    part = training_part(run, data, pseudo)
    texts, labels = column(part, "text").to_pylist(), labels_of_part(part, data.task)
    name, seed, n_classes = run.member.args.classifier, run.member.args.seed, data.task.n_classes

    def report_or_stop(step: int, steps: int) -> None:
        report(step, steps)
        if stop():
            raise Stopped

    report_or_stop(0, 1)
    try:
        if run.is_baseline:
            options = () if name in CLASSIFIERS else (report_or_stop,)
            model = (fit_counts if name in CLASSIFIERS else fit_net)(name, texts, labels, n_classes, seed, *options)
        else:
            model = fit_member(name, texts, column(part, "author").to_pylist(), labels, n_classes, seed, report_or_stop)
    except NoSafeTerms as error:
        raise InputError(
            f"{run.name}: its training part has no word that {SAFE} authors share ({error}), and rarer ones must not "
            "show in weights; give it more tweets, or leave the column of users out of the task if it names no authors"
        ) from None
    except ValueError as error:
        if "no terms remain" in str(error) or "empty vocabulary" in str(error):
            raise InputError(
                f"{run.name}: the tweets of its training part share no word; give it more of them"
            ) from None
        raise
    on_trained()
    trained_at = time.perf_counter()

    def predict(_: str, tweets: Dataset) -> np.ndarray:
        return model.predict_proba(column(tweets, "text").to_pylist()).astype(np.float32)

    n_pseudo, written = 0 if pseudo is None else len(pseudo.rows), ResultFiles(run)
    write_results(run, data, predict, {"training_tweets": len(part), "pseudo_tweets": n_pseudo}, written)
    # A baseline's model is kept on demand only, because its hashed terms can be read back.
    if data.keep_baselines if run.is_baseline else data.keeps_model(run):
        own = checkpoints.make_own_folder(run.directory)
        (own / "model").mkdir()
        save_baseline(name, model, own / "model")
        checkpoints.move_into_place(own / "model", run.model)
    _write_done(run, written, time.perf_counter() - started_at, trained_at - started_at)


def labels_of_part(part: Dataset, task: Task) -> np.ndarray:
    """Return a training part's labels: class indices (n_tweets,), of label sets targets (n_tweets, n_labels)."""
    labels = np.asarray(column(part, "labels").to_pylist())
    if not task.multi_label:
        return hard_labels(labels)
    return (task.space.targets(labels) if labels.ndim == 1 else labels) > 0.5


def _write_done(run: Run, written: ResultFiles, seconds: float, training_seconds: float) -> None:
    record = {
        "seconds": round(seconds, 2),
        "training_seconds": round(training_seconds, 2),
        "preparation_seconds": 0.0,
        "device": "cpu",
        "processes": 1,
        "threads": torch.get_num_threads(),
    }
    write_done(run, record, written.files)
