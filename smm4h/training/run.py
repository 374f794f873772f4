"""Train one run: fine-tune, restore the best epoch, predict the held-out fold and the test set.

An interrupted run resumes in any process and ends with byte-identical files. In order of appearance: checkpoints,
`trained/` + TRAINED, predictions and metrics, `model/`, DONE; what is unfinished, in this process's own folder.
"""

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedTokenizerBase

from heads import TweetClassifier
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.config.versions import own_version
from smm4h.data.dataset import column
from smm4h.training import checkpoints
from smm4h.training.adapters import convert_saved, end_adapter, load_trained
from smm4h.training.building.run_trainer import make_trainer
from smm4h.training.captured.turns import Beside
from smm4h.training.checkpoints import (
    RunFiles,
    TrainingResult,
    read_training_result,
    weights_folder,
    write_training_result,
)
from smm4h.training.resumable import ResumableTrainer, RunArguments
from smm4h.training.run_data import HELD_OUT, RunData, training_part, write_done, write_results
from smm4h.training.trainer import TweetTrainer, predict_proba
from smm4h.utils.durable import listing, read_checked_json, write_checked_json
from smm4h.utils.errors import InputError

MIN_AUC, AUC_TWEETS = 0.6, 100  # below this AUC a run has collapsed; training tweets of each kind to compute it on
RESEED_OFFSET = 1000  # added to the seed of a collapsed run


def train_run(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None] = lambda step, steps: None,
    stop: Callable[[], bool] = lambda: False,
    on_trained: Callable[[], None] = lambda: None,
) -> None:
    """Train a run, resuming where an earlier process was interrupted, and write its folder, DONE last.

    Args:
        report: called with the step and the total number of steps.
        stop: returns True once the process must stop; the run's state is then saved.
        on_trained: called after the last training step, before predictions.

    Raises `Stopped` after saving on a stop, and `InputError` for settings that the user must correct.
    """
    with own_folder(run) as own:
        is_complete = False
        while not is_complete:
            with Beside() as saving:
                is_complete = _run_once(run, data, own, report, stop, on_trained, saving)
            free_memory()


@contextmanager
def own_folder(run: Run) -> Iterator[Path]:
    """Yield a folder in the run's for this process, or all that train it jointly, and free memory in the end."""
    own = broadcast_from_main(checkpoints.make_own_folder(run.directory) if PartialState().is_main_process else None)
    try:
        yield own
    finally:
        if PartialState().is_main_process:
            checkpoints.leave_own_folder(own)
        free_memory()


def free_memory() -> None:
    """Free what the last run's trainer holds, on the host and on the GPU."""
    gc.collect()  # or the trainer's reference cycles would keep the last model in memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _run_once(run: Run, data: RunData, own: Path, report, stop, on_trained, saving: Beside) -> bool:
    """Complete a run's missing steps; return False if the run collapsed and must be trained with another seed.

    Args:
        own: folder of this process alone, for what is unfinished.
        saving: makes the trained weights durable while they predict.
    """
    started_at = time.perf_counter()
    pseudo = data.pseudo_labels(run)
    part = training_part(run, data, pseudo)
    collapsed = broadcast_from_main(read_checked_json(run.collapsed_file)) is not None
    trainer = make_trainer(_reseeded(run) if collapsed else run, data, own, part, report, stop)
    trained = broadcast_from_main(read_training_result(run))
    if trained is None:
        may_collapse = run.member.args.retrain_collapsed and not collapsed
        trained = _train(run, trainer, data.task, len(part), saving, may_collapse=may_collapse)
        if trained is None:
            trainer.accelerator.free_memory()
            return False
        on_trained()
    else:
        load_trained(trainer.model, broadcast_from_main(weights_folder(run)))
        trainer.is_deepspeed_enabled = trainer.is_fsdp_enabled = False  # their wrappers serve training only
    predicting_since = time.perf_counter()
    written = RunFiles(run, trained)

    def write_after_saving(write: Callable[[], None]) -> None:
        saving.wait()
        checkpoints.on_main_process(write)

    write_results(
        run,
        data,
        lambda part, tweets: predict_proba(trainer, tweets, trainer.best.logits if part == HELD_OUT else None),
        {**trained.facts, "pseudo_tweets": 0 if pseudo is None else len(pseudo.rows)},
        written,
        in_one_process=write_after_saving,
        broadcast=broadcast_from_main,
    )

    def finish() -> None:
        _keep_model(run, data, own, trainer.processing_class)
        record = {
            "seconds": round(trained.seconds + time.perf_counter() - predicting_since, 2),
            "training_seconds": round(trained.seconds, 2),
            "preparation_seconds": round((trainer.watch.first_step or started_at) - started_at, 2),
            **machine_of(trainer.args),
        }
        write_done(run, record, written.files)

    checkpoints.on_main_process(finish)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()
    return True


def _reseeded(run: Run) -> Run:
    """Return the run with the seed for training after a collapse."""
    return replace(run, member=run.member.with_settings(seed=run.member.args.seed + RESEED_OFFSET))


def training_auc(trainer: TweetTrainer, task: Task) -> float:
    """Return the area under the ROC curve of rare against other training tweets, 0.5 by chance.

    The sample is always the same, with equally many tweets of both kinds; 1.0 where either kind is missing.
    """
    tweets = trainer.train_dataset
    labels = np.asarray(column(tweets, "labels").to_pylist())
    if task.multi_label:
        return _auc_of_labels(trainer, labels, task)
    is_rare = task.has_rare(labels)
    rare, others = (np.random.default_rng(0).permutation(np.flatnonzero(kind)) for kind in (is_rare, ~is_rare))
    n_each = min(len(rare), len(others), AUC_TWEETS)
    if n_each == 0:
        return 1.0
    rows = np.concatenate([rare[:n_each], others[:n_each]])
    probabilities = predict_proba(trainer, tweets.select(rows))
    return float(roc_auc_score(is_rare[rows], probabilities[:, task.positive_indices].sum(axis=1)))


def _auc_of_labels(trainer: TweetTrainer, labels: np.ndarray, task: Task) -> float:
    """Return the mean over labels of the area under the ROC curve of training tweets with and without the label."""
    rows = np.random.default_rng(0).permutation(len(labels))[: 2 * AUC_TWEETS]
    targets = (task.space.targets(labels) if labels.ndim == 1 else labels)[rows] > 0.5
    probabilities = predict_proba(trainer, trainer.train_dataset.select(rows))
    columns = [i for i in range(task.n_classes) if 0 < targets[:, i].sum() < len(rows)]
    return float(np.mean([roc_auc_score(targets[:, i], probabilities[:, i]) for i in columns])) if columns else 1.0


def broadcast_from_main(value: Any) -> Any:
    """Broadcast a value from rank 0, so that all ranks act on the same view of the file system."""
    return broadcast_object_list([value])[0]


def _train(
    run: Run, trainer: TweetTrainer, task: Task, training_tweets: int, saving: Beside, *, may_collapse: bool
) -> TrainingResult | None:
    """Train the remaining steps, restore the best epoch, and save its weights, which `saving` completes.

    Returns None for a run that `may_collapse` and did: COLLAPSED is then written, and the run must be trained with
    another seed. Raises `InputError` where no evaluation was made to choose from.
    """
    best, watch, own = trainer.best, trainer.watch, Path(trainer.args.output_dir)
    checkpoint = adopt_checkpoint(run, trainer, own)
    if checkpoint is not None:
        best.load(checkpoint)
    steps = train_to_the_end(run, trainer, checkpoint)
    if best.keep:
        if best.best is None:
            raise InputError(f"{run.name} was not scored in its {steps} steps; lower --eval_delay or --eval_steps")
        best.restore(trainer.model)
    end_adapter(trainer.model)
    if may_collapse and (auc := training_auc(trainer, task)) < MIN_AUC:
        checkpoints.on_main_process(lambda: _write_collapse(run, auc))
        return None
    trainer.save_model(str(own / "trained"))
    trained = TrainingResult(
        run.fingerprint,
        training_tweets,
        steps,
        best.best if best.keep else "last",
        best.history,
        watch.training_seconds(),
        broadcast_from_main(read_checked_json(run.collapsed_file)),
        own_version(),
        {},
    )

    def publish() -> None:
        (own / "trained" / "training_args.bin").unlink(missing_ok=True)  # a pickle that contains local paths
        trained.files = listing(own, [own / "trained"])
        checkpoints.move_into_place(own / "trained", run.trained_model)
        write_training_result(run, trained)
        checkpoints.remove_all(run.directory)

    if trainer.args.world_size == 1:
        saving.begin(publish)
    else:
        checkpoints.on_main_process(publish)
    return trained


def train_to_the_end(run: Run, trainer: ResumableTrainer, checkpoint: Path | None) -> int:
    """Train the steps after a checkpoint, if there is one; return the number of all. Raises RuntimeError for fewer."""
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    steps, planned = trainer.state.global_step, trainer.state.max_steps
    if steps < planned:
        raise RuntimeError(f"{run.name} stopped after {steps} of {planned} steps")
    return steps


def machine_of(arguments: RunArguments) -> dict[str, Any]:
    """Return what DONE says of the machine that trained a run."""
    return {
        "device": torch.cuda.get_device_name() if arguments.device.type == "cuda" else arguments.device.type,
        "processes": arguments.world_size,
        "bf16": arguments.bf16,
        "threads": torch.get_num_threads(),
    }


def adopt_checkpoint(run: Run, trainer: ResumableTrainer, own: Path) -> Path | None:
    """Return the checkpoint to resume from, in this process's own folder, and count its seconds; None without one."""
    adopted: list[Path | None] = [None]

    def adopt() -> None:
        adopted[0] = checkpoints.adopt_latest(run.directory, own, trainer.facts)

    checkpoints.on_main_process(adopt)
    checkpoint = broadcast_from_main(adopted[0])
    if checkpoint is not None:
        record = json.loads((checkpoint / checkpoints.COMPLETE_FILE).read_text(encoding="utf-8"))
        trainer.watch.seconds_before = record["training_seconds"]
    return checkpoint


def _write_collapse(run: Run, auc: float) -> None:
    """Write COLLAPSED, and remove the checkpoints of the collapsed training."""
    write_checked_json(run.collapsed_file, {"seed": run.member.args.seed, "auc_of_training_tweets": auc})
    checkpoints.remove_all(run.directory)


def _keep_model(run: Run, data: RunData, own: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Move or convert the trained weights to the run's model folder, if they are to be kept."""
    if not data.keeps_model(run) or not run.trained_model.is_dir():
        return
    if data.keep_models_in == "float32":
        checkpoints.move_into_place(run.trained_model, run.model)
        return
    dtype = getattr(torch, data.keep_models_in)
    if run.member.saves_adapter_alone:
        shutil.copytree(run.trained_model, own / "model")
        convert_saved(run.trained_model, own / "model", dtype)
    else:
        TweetClassifier.from_pretrained(run.trained_model, dtype=dtype).save_pretrained(own / "model")
        tokenizer.save_pretrained(own / "model")
    checkpoints.move_into_place(own / "model", run.model)
