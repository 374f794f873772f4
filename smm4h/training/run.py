"""One run: train, keep the best epoch, predict the held-out fold and the test set. The only room that knows Trainer.

A run leaves a trail from which any process can go on where another one died: sealed checkpoints; `trained/` and TRAINED
when the last step is made; predictions and metrics; `model/`; and last DONE. The bytes at the end do not show it.
"""

import gc
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import nn
from transformers import PrinterCallback, Trainer, set_seed
from transformers.trainer_utils import IntervalStrategy

from heads import TweetClassifier, TweetClassifierConfig
from smm4h.config.arguments import DEFAULTS, RunArguments
from smm4h.config.job import Member, class_weights, run_arguments
from smm4h.config.plan import Run
from smm4h.config.task import Task
from smm4h.data.dataset import column
from smm4h.data.folds import stratified_choice
from smm4h.data.pseudo_labels import hard_labels
from smm4h.data.tokenization import hub_arguments, load_tokenizer, loading_error, longest_first, token_table, used_ids
from smm4h.models.batching import PaddingCollator
from smm4h.models.padding_free import PaddingFreeEncoder, supports_padding_free
from smm4h.training import checkpoints
from smm4h.training.losses import Loss, balanced_weights, log_prior, targets_of
from smm4h.training.optim import SparseRowEmbedding
from smm4h.training.run_data import RunData, remove_intermediate_files, training_part, write_results
from smm4h.training.sampler import ClassSampling
from smm4h.training.tracking import trackers_of
from smm4h.training.trainer import BestEpoch, RunMonitor, TweetTrainer
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_json

COLLAPSED, JUDGED_ON = 0.6, 100  # area under the ROC curve below which a run has learnt nothing; tweets of each kind
ANOTHER_SEED = 1000  # further, for a run that has collapsed
ADAMS = ("radam", "adamw_torch", "adamw_torch_fused")  # leave a weight alone that never gets a gradient


def build_model(member: Member, task: Task) -> TweetClassifier:
    """The member's head on its pretrained encoder, its weights drawn from the member's seed."""
    set_seed(member.get("seed"))
    config = TweetClassifierConfig(
        head=member.get("head"),
        bigru_input=member.get("bigru_input"),
        bigru_hidden_size=member.get("bigru_hidden_size"),
        classifier_dropout=member.get("classifier_dropout"),
        cleaning=member.get("cleaning"),
        task_name=task.name,
        id2label=dict(enumerate(task.labels)),
        label2id={label: index for index, label in enumerate(task.labels)},
    )
    name = member.get("model_name_or_path")
    try:
        return TweetClassifier.from_encoder(name, config, dtype=torch.float32, **hub_arguments(member))
    except (OSError, ValueError) as error:
        raise InputError(loading_error(name, error)) from None


def is_padding_free(member: Member, arguments: RunArguments, model: TweetClassifier) -> bool:
    """Whether `models.padding_free` computes the run's encoder; settings that change its own forward are honoured."""
    changed = arguments.fp16, arguments.gradient_checkpointing, arguments.torch_compile, arguments.neftune_noise_alpha
    alone_on_cpu = arguments.device.type == "cpu" and arguments.world_size == 1
    return member.get("packed") and alone_on_cpu and not any(changed) and supports_padding_free(model.encoder)


def make_padding_free(model: TweetClassifier, arguments: RunArguments, tweets: Dataset) -> None:
    """Leaves out the work that changes nothing: padding, unread states, embeddings of word pieces that no tweet has."""
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.bfloat16 if arguments.bf16 else torch.float32)
    if arguments.optim in ADAMS and arguments.weight_decay == 0:
        embeddings = model.encoder.embeddings
        n_rows = embeddings.word_embeddings.num_embeddings
        embeddings.word_embeddings = SparseRowEmbedding(embeddings.word_embeddings, used_ids(tweets, n_rows))


@dataclass
class TrainingResult:
    """What a run's training found out; the content of its TRAINED file."""

    fingerprint: str
    training_tweets: int
    steps: int
    checkpoint: Any  # the chosen evaluation, or "last"
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    collapsed: dict[str, float] | None = None  # how the training before this one, by another seed, failed


def train_run(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None] = lambda step, steps: None,
    stop: Callable[[], bool] = lambda: False,
    on_trained: Callable[[], None] = lambda: None,
) -> None:
    """Trains a run, from wherever its last process was stopped, and writes its folder; DONE comes last.

    `report` is told step and steps. When `stop` says so, what has been made is saved and `Stopped` raised.
    """
    done = False
    while not done:
        done = _run_once(run, data, report, stop, on_trained)
        gc.collect()  # what is left of the trainer, by now that nobody holds it
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _run_once(run: Run, data: RunData, report, stop, on_trained) -> bool:
    """Makes whatever of a run is missing; False where it collapsed, and is to be trained with another seed."""
    began = time.perf_counter()
    run.directory.mkdir(parents=True, exist_ok=True)
    pseudo = data.pseudo_labels(run)
    part = training_part(run, data, pseudo)
    collapsed = broadcast_from_main(run.collapsed_file.is_file())
    trainer = _trainer(_reseeded(run) if collapsed else run, data, part, report, stop)
    trained = broadcast_from_main(_read_training_result(run))
    if trained is None:
        may_collapse = run.member.get("retrain_collapsed") and not collapsed
        trained = _train(run, trainer, data.task, len(part), may_collapse=may_collapse)
        if trained is None:
            trainer.accelerator.free_memory()
            return False
        on_trained()
    elif broadcast_from_main(run.trained_model.is_dir()):
        trainer.model.load_state_dict(load_file(run.trained_model / "model.safetensors"))
        trainer.is_deepspeed_enabled = trainer.is_fsdp_enabled = False  # they wrap models for training only
    started = time.perf_counter()
    if broadcast_from_main(
        run.trained_model.is_dir()
    ):  # else its model was put in place, which follows its predictions
        write_results(
            run,
            data,
            lambda tweets: predict_proba(trainer, tweets),
            {**asdict(trained), "pseudo_tweets": 0 if pseudo is None else len(pseudo.rows)},
            writes=trainer.args.should_save,
            agreed=broadcast_from_main,
        )
        _keep_model(run, data, trainer)
    if trainer.args.should_save:
        done = {
            "fingerprint": run.fingerprint,
            "seconds": round(trained.seconds + time.perf_counter() - started, 2),
            "training_seconds": round(trained.seconds, 2),
            "preparation_seconds": round((trainer.watch.first_step or began) - began, 2),
            "device": torch.cuda.get_device_name() if trainer.args.device.type == "cuda" else trainer.args.device.type,
            "processes": trainer.args.world_size,
            "bf16": trainer.args.bf16,
            "threads": torch.get_num_threads(),
        }
        write_json(run.done_file, done)
        remove_intermediate_files(run)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()
    return True


def _reseeded(run: Run) -> Run:
    """The run with another seed, for when it has collapsed."""
    settings = run.member.settings | {"seed": run.member.get("seed") + ANOTHER_SEED}
    return replace(run, member=replace(run.member, settings=settings))


def training_auc(trainer: "TweetTrainer", task: Task) -> float:
    """How well a trained model tells rare training tweets from others: area under the ROC curve, 0.5 by chance.

    Of as many of either, drawn once for all; 1.0 where there is only one kind.
    """
    part = trainer.train_dataset
    labels = np.asarray(column(part, "labels").to_pylist())
    is_rare = np.isin(hard_labels(labels), task.positive_indices)
    rare, others = (np.random.default_rng(0).permutation(np.flatnonzero(kind)) for kind in (is_rare, ~is_rare))
    n_each = min(len(rare), len(others), JUDGED_ON)
    if n_each == 0:
        return 1.0
    rows = np.concatenate([rare[:n_each], others[:n_each]])
    found = predict_proba(trainer, part.select(rows))
    return float(roc_auc_score(is_rare[rows], found[:, task.positive_indices].sum(axis=1)))


def broadcast_from_main(found: Any) -> Any:
    """What the first process found: of those that train together, none may act on another look at the files."""
    return broadcast_object_list([found])[0]


def _read_training_result(run: Run) -> TrainingResult | None:
    """What an earlier process found out by training the run to its end, if one did."""
    try:
        found = TrainingResult(**json.loads(run.trained_file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.fingerprint == run.fingerprint else None


def _train(
    run: Run, trainer: "TweetTrainer", task: Task, training_tweets: int, *, may_collapse: bool
) -> TrainingResult | None:
    """Makes the training steps that are left, chooses the epoch, and saves its weights.

    None where the run `may_collapse` and did: then that is written down, and it is to be trained with another seed.
    """
    best, watch = trainer.best, trainer.watch
    checkpoint = broadcast_from_main(checkpoints.latest_complete(run.directory, run.fingerprint))
    if checkpoint is not None:
        best.load(checkpoint)
        watch.seconds_before = checkpoints.completion_record(checkpoint)["training_seconds"]
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    steps, wanted = trainer.state.global_step, trainer.state.max_steps
    if steps < wanted:
        raise RuntimeError(f"{run.name} stopped after {steps} of {wanted} steps")
    if best.keep:
        if best.best is None:
            raise InputError(f"{run.name} was not scored in its {steps} steps; lower --eval_delay or --eval_steps")
        best.restore(trainer.model)
    if may_collapse and (ranks := training_auc(trainer, task)) < COLLAPSED:
        if trainer.args.should_save:
            checkpoints.remove_all(run.directory)
            write_json(run.collapsed_file, {"seed": run.member.get("seed"), "auc_of_training_tweets": ranks})
        trainer.accelerator.wait_for_everyone()
        return None
    trained = TrainingResult(
        run.fingerprint,
        training_tweets,
        steps,
        best.best if best.keep else "last",
        best.history,
        watch.training_seconds(),
        broadcast_from_main(json.loads(run.collapsed_file.read_text()) if run.collapsed_file.is_file() else None),
    )
    partial = run.directory / ".trained.partial"
    trainer.save_model(str(partial))
    if trainer.args.should_save:
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle, which names this machine's folders
        shutil.rmtree(run.trained_model, ignore_errors=True)
        partial.rename(run.trained_model)
        write_json(run.trained_file, asdict(trained))
        checkpoints.remove_all(run.directory)
    trainer.accelerator.wait_for_everyone()
    return trained


def _keep_model(run: Run, data: RunData, trainer: "TweetTrainer") -> None:
    """Puts the chosen weights in their place, if they are to be kept."""
    if not trainer.args.should_save or data.keep_models == "none" or run.model.exists():
        return
    if data.keep_models_in == "float32":
        run.trained_model.rename(run.model)
        return
    partial = run.directory / ".model.partial"
    model = TweetClassifier.from_pretrained(run.trained_model, dtype=getattr(torch, data.keep_models_in))
    model.save_pretrained(partial)
    trainer.processing_class.save_pretrained(partial)
    partial.rename(run.model)


def _trainer(run: Run, data: RunData, train_dataset: Dataset, report, stop) -> "TweetTrainer":
    from smm4h.training.task_metric import (
        TaskMeasure,  # by those who train: it takes seconds, which the job's own process saves
    )

    task, member = data.task, run.member
    arguments = run_arguments(member, run.directory)
    if run.is_refit:
        arguments.eval_strategy = IntervalStrategy.NO  # there is nothing to score
    arguments.run_name, arguments.report_to = run.name, trackers_of(member)
    if arguments.project == DEFAULTS["project"]:
        arguments.project = run.directory.parents[1].resolve().name
    tokens = token_table(data.token_folder, "labelled", member)
    checked = np.flatnonzero(data.held_out(run))
    if data.max_eval_samples is not None:
        labels = column(tokens, "labels").to_numpy()[checked]
        checked = checked[stratified_choice(labels, data.max_eval_samples, arguments.seed)]
    eval_dataset = tokens.select(checked)
    measure = TaskMeasure(task.measure, task.n_classes, task.positive_indices)

    def score(found) -> dict[str, float]:
        scores = measure.compute(predictions=found.predictions.argmax(axis=1), references=found.label_ids)
        logits, labels = torch.from_numpy(found.predictions).double(), torch.from_numpy(found.label_ids)
        return {**scores, "cross_entropy": nn.functional.cross_entropy(logits, labels).item()}

    labels = np.asarray(column(train_dataset, "labels").to_pylist())
    sampling = sampling_of(member, task, labels)
    if member.get("min_steps"):
        a = arguments
        n_shown = len(train_dataset if sampling is None else sampling)
        step_size = a.per_device_train_batch_size * a.world_size * a.gradient_accumulation_steps
        per_epoch = max(1, n_shown // step_size if a.dataloader_drop_last else -(-n_shown // step_size))
        a.num_train_epochs = max(a.num_train_epochs, math.ceil(member.get("min_steps") / per_epoch))
    tokenizer = load_tokenizer(member)
    model = build_model(member, task)
    if meant_for := member.get("learning_rate_width"):
        arguments.learning_rate *= meant_for / model.encoder.config.hidden_size
    if is_padding_free(member, arguments, model):
        make_padding_free(model, arguments, train_dataset)
    trainer = TweetTrainer(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset.select(longest_first(eval_dataset)),
        data_collator=PaddingCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        compute_metrics=score,
        loss=loss_of(member, task, labels, sampling, arguments.label_smoothing_factor),
        sampling=sampling,
        layer_decay=member.get("layer_decay"),
        fingerprint=run.fingerprint,
        best=BestEpoch(task.measure, keep=member.get("checkpoint") == "best"),
        watch=RunMonitor(report, stop, data.save_minutes),
    )
    trainer.remove_callback(PrinterCallback)  # the job's display speaks for all its runs
    return trainer


def sampling_of(member: Member, task: Task, labels: np.ndarray) -> ClassSampling | None:
    """Which tweets the member's epochs show, of labels (n_tweets,) or probabilities (n_tweets, n_classes)."""
    per_positive, copies = member.get("negatives_per_positive"), member.get("positive_copies")
    if per_positive is None and copies == 1:
        return None
    return ClassSampling(np.isin(hard_labels(labels), task.positive_indices), per_positive, copies)


def loss_of(member: Member, task: Task, labels: np.ndarray, sampling: ClassSampling | None, smoothing: float) -> Loss:
    """The member's loss; weights and shares are those of the tweets as the run's epochs show them."""
    targets = targets_of(torch.from_numpy(labels), task.n_classes).double()
    if sampling is not None:
        targets = targets * torch.from_numpy(sampling.shown()).unsqueeze(1)
    counts, named = targets.sum(dim=0), class_weights(member)
    weights = balanced_weights(counts) if named == "balanced" else None
    if isinstance(named, dict):
        weights = torch.tensor([float(named.get(label, 1.0)) for label in task.labels])
    tau = member.get("logit_adjustment")
    return Loss(weights, member.get("focal_gamma"), tau * log_prior(counts) if tau else None, smoothing)


def predict_proba(trainer: Trainer, tokens: Dataset) -> np.ndarray:
    """Softmax probabilities (n_tweets, n_classes) in the order of `tokens`, computed in batches of like lengths."""
    order = longest_first(tokens)
    logits = trainer.predict(tokens.select(order).select_columns("input_ids")).predictions
    found = torch.from_numpy(logits).double().softmax(dim=1).float().numpy()
    restored = np.empty_like(found)
    restored[order] = found
    return restored
