"""Runs without an encoder: what Bai & Zhou call classical machine learning methods, CNN models and RNN models.

They are members like others, and may vote; as `--baselines` they only stand in the table, to be beaten.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from smm4h.arrow import column
from smm4h.counting import CountedWords
from smm4h.errors import InputError, Stopped
from smm4h.files import read_json, write_json
from smm4h.plan import Run
from smm4h.pseudo import classes_of
from smm4h.runs import RunData, sweep, training_part, write_results
from smm4h.wordnets import WordNet
from smm4h.words import CLASSIFIERS, fit_counts, fit_net

ABOUT, WEIGHTS = "config.json", "model.safetensors"


def save_baseline(name: str, model: CountedWords | WordNet, folder: Path) -> None:
    """Writes the model of a run without an encoder; `load_baseline` reads it."""
    if isinstance(model, CountedWords):
        about, arrays = model.about, model.arrays
    else:
        arrays = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        about = {"classifier": name, "n_words": len(model.words), "n_classes": model.net.classifier[-1].out_features}
    save_file(arrays, folder / WEIGHTS)
    write_json(folder / ABOUT, about)


def load_baseline(folder: Path) -> CountedWords | WordNet:
    """The model of a finished run without an encoder: the same probabilities."""
    about, arrays = read_json(folder / ABOUT), load_file(folder / WEIGHTS)
    if about["classifier"] in CLASSIFIERS:
        return CountedWords(about, arrays)
    net = WordNet(about["classifier"], about["n_words"], about["n_classes"])
    net.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    return net.eval()


def train_baseline(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None],
    stop: Callable[[], bool],
    on_trained: Callable[[], None],
) -> None:
    """Fits a run that has no encoder and writes its folder, DONE last. It takes so little that a stop starts it over.

    The arguments are `train_run`'s. Of processes that train together the first does it.
    """
    state = PartialState()
    if state.is_main_process:
        _fit_and_predict(run, data, report, stop, on_trained)
    state.wait_for_everyone()


def _fit_and_predict(run: Run, data: RunData, report, stop, on_trained) -> None:
    started = time.perf_counter()
    run.directory.mkdir(parents=True, exist_ok=True)
    pseudo = data.pseudo_labels(run)
    part = training_part(run, data, pseudo)
    texts, labels = column(part, "text").to_pylist(), classes_of(np.asarray(column(part, "labels").to_pylist()))
    name, seed, n_classes = run.member.get("classifier"), run.member.get("seed"), data.task.n_classes

    def tell(step: int, steps: int) -> None:
        report(step, steps)
        if stop():
            raise Stopped

    tell(0, 1)
    try:
        if name in CLASSIFIERS:
            model = fit_counts(name, texts, labels, n_classes, seed)
        else:
            model = fit_net(name, texts, labels, n_classes, seed, tell)
    except ValueError as error:
        if "no terms remain" in str(error) or "empty vocabulary" in str(error):
            raise InputError(
                f"{run.name}: the tweets of its training part share no word; give it more of them"
            ) from None
        raise
    on_trained()
    trained = time.perf_counter()

    def probabilities(tweets: Dataset) -> np.ndarray:
        return model.probabilities(column(tweets, "text").to_pylist()).astype(np.float32)

    n_pseudo = 0 if pseudo is None else len(pseudo.rows)
    write_results(run, data, probabilities, {"training_tweets": len(part), "pseudo_tweets": n_pseudo})
    if data.keep_models != "none" and not run.model.exists():
        partial = run.directory / ".model.partial"
        partial.mkdir(exist_ok=True)
        save_baseline(name, model, partial)
        partial.rename(run.model)
    done = {
        "fingerprint": run.fingerprint,
        "seconds": round(time.perf_counter() - started, 2),
        "training_seconds": round(trained - started, 2),
        "preparation_seconds": 0.0,
        "device": "cpu",
        "processes": 1,
        "threads": torch.get_num_threads(),
    }
    write_json(run.done_file, done)
    sweep(run)
