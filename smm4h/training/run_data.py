"""A run but for the training: what all runs of a job share, what one learns from, and what it leaves behind."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from smm4h.config.plan import Run, fold_runs
from smm4h.config.task import Task
from smm4h.data.dataset import column
from smm4h.data.folds import fold_column
from smm4h.data.prediction_files import Predictions, is_complete, read_predictions, write_predictions
from smm4h.data.pseudo_labels import PseudoLabels, part_file, read_part
from smm4h.data.tokenization import token_table
from smm4h.metrics import rare_average_precision
from smm4h.training import checkpoints
from smm4h.utils.files import write_json


@dataclass(frozen=True)
class RunData:
    """What all runs of a job share, by the files where it lies: small enough to be sent to any worker."""

    task: Task
    folds_file: Path
    token_folder: Path
    pseudo_folder: Path
    has_test: bool
    pool: str = "test"  # the tweets that may be pseudo-labelled: the test tweets, or `unlabelled` ones
    teachers: frozenset[str] = frozenset()  # members who label them
    max_eval_samples: int | None = None
    keep_models: str = "all"
    keep_models_in: str = "float32"
    save_minutes: float = 5.0

    def pseudo_labels(self, run: Run) -> PseudoLabels | None:
        """The tweets that join a later stage's run's training part; None for a run of stage 1."""
        if run.stage == 1:
            return None
        tweets = token_table(self.token_folder, self.pool, run.member)
        return read_part(self.pseudo_file(run), column(tweets, "id"), self.task)

    def pseudo_file(self, run: Run) -> Path:
        return part_file(self.pseudo_folder, run.stage, run.member.get("fold_seed"), run.fold)

    def is_ready(self, run: Run) -> bool:
        """Whether all that the run learns from is there."""
        return run.stage == 1 or self.pseudo_file(run).is_file()

    def folds(self, seed: int) -> np.ndarray:
        """The fold (n_tweets,) that holds each labelled tweet out."""
        return pd.read_parquet(self.folds_file, columns=[fold_column(seed)]).to_numpy()[:, 0]

    def held_out(self, run: Run) -> np.ndarray:
        """Which labelled tweets (n_tweets,) the run holds out."""
        return run.holds_out(self.folds(run.member.get("fold_seed")))


def training_part(run: Run, data: RunData, pseudo: PseudoLabels | None) -> Dataset:
    """Token ids and labels of the tweets that the run's fold does not hold out, and of its pseudo-labelled ones."""
    known = np.flatnonzero(~data.held_out(run))
    labelled = token_table(data.token_folder, "labelled", run.member)
    if pseudo is None:
        return labelled.select(known)
    if pseudo.labels.ndim == 1:
        part = labelled.select(known)
    else:  # the labelled tweets' own labels are certain
        certain = np.eye(data.task.n_classes, dtype=np.float32)[column(labelled, "labels").to_numpy()[known]]
        part = _with_labels(labelled.remove_columns("labels"), known, certain)
    pool = token_table(data.token_folder, data.pool, run.member)
    return concatenate_datasets([part, _with_labels(pool, pseudo.rows, pseudo.labels).cast(part.features)])


def _with_labels(tweets: Dataset, rows: np.ndarray, labels: np.ndarray) -> Dataset:
    """Some rows of a token table, in memory, with class indices (n_rows,) or probabilities (n_rows, n_classes)."""
    kind = pa.int64() if labels.ndim == 1 else pa.list_(pa.float32())
    table = tweets.data.table.take(pa.array(rows)).append_column("labels", pa.array(labels.tolist(), kind))
    return Dataset(table.replace_schema_metadata(None))


def write_results(
    run: Run,
    data: RunData,
    probabilities: Callable[[Dataset], np.ndarray],
    found: dict[str, Any],
    *,
    writes: bool = True,
    agreed: Callable[[bool], bool] = bool,
) -> None:
    """Writes the probabilities of the held-out fold, if there is one, and of the test tweets, and the run's metrics.

    Args:
        probabilities: of the tweets of a token table, (n_tweets, n_classes).
        found: what training found out, for the metrics.
        writes: whether this process does; of several that train together, all predict and one writes.
        agreed: what all of them take for true.
    """
    maker = {"member": run.member.name, "fold": run.fold, "fingerprint": run.fingerprint}
    labelled = token_table(data.token_folder, "labelled", run.member)
    held_out = labelled.select(np.flatnonzero(data.held_out(run)))
    parts = [] if run.is_refit else [("held_out", run.held_out_file, held_out)]
    if data.has_test:
        parts.append(("test", run.test_file, token_table(data.token_folder, "test", run.member)))
    if data.pool == "unlabelled" and run.member.name in data.teachers:
        parts.append(("unlabelled", run.unlabelled_file, token_table(data.token_folder, "unlabelled", run.member)))
    for name, path, tweets in parts:
        if agreed(is_complete(path, {**maker, "part": name})):
            continue
        predicted = probabilities(tweets)
        if writes:
            rows, ids = column(tweets, "row").to_numpy(), column(tweets, "id")
            write_predictions(path, Predictions(rows, ids, predicted, data.task.labels, {**maker, "part": name}))
    if writes:
        facts = {name: value for name, value in found.items() if name not in ("fingerprint", "seconds")}
        facts |= {} if run.is_refit else {"held_out": _held_out_score(run, held_out, data.task)}
        write_json(run.metrics_file, {**maker, "held_out_tweets": len(held_out), **facts})


def _held_out_score(run: Run, held_out: Dataset, task: Task) -> dict[str, Any]:
    gold, predicted = column(held_out, "labels").to_numpy(), read_predictions(run.held_out_file).probabilities
    score = task.score(gold, predicted.argmax(axis=1))
    return {**score, "average_precision": rare_average_precision(predicted, gold, task.positive_indices)}


def remove_intermediate_files(run: Run) -> None:
    """Removes what a finished run needed on its way: optimizer states, and weights that are not to be kept."""
    checkpoints.remove_all(run.directory)
    for path in (run.trained_model, run.trained_file, run.collapsed_file, run.running_file, *run.directory.glob(".*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def keep_best_model(runs: Sequence[Run]) -> None:
    """Of a member's folds keeps the weights of the one with the highest held-out measure, of equals the first fold's.

    A worse one than another finished one can't become the best, so that this may be done at any time, by anyone: in
    whatever order the runs are given, or half of the equals would be removed by one and half by another.
    """
    done = sorted((run for run in fold_runs(runs) if run.is_done()), key=lambda run: run.fold)
    scores = [next(iter(run.measures()["held_out"].values())) for run in done]
    for place, run in enumerate(done):
        if place != scores.index(max(scores)):
            shutil.rmtree(run.model, ignore_errors=True)
