"""A run's trainer: its settings, model, tweets, loss and callbacks."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PrinterCallback
from transformers.trainer_utils import IntervalStrategy

from heads import TweetClassifier
from smm4h.config.arguments import DEFAULTS
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.config.versions import OWN, own_version
from smm4h.data.dataset import column, group_names
from smm4h.data.folds import stratified_choice
from smm4h.data.tokenization import load_tokenizer, longest_first, token_table
from smm4h.models.batching import PaddingCollator
from smm4h.training.building.model import build_model, is_padding_free, make_padding_free
from smm4h.training.building.scoring import Scoring, TaskMetric
from smm4h.training.captured.trainer import CapturedTrainer, is_captured
from smm4h.training.losses import loss_of
from smm4h.training.resumable import RunArguments, RunMonitor, run_arguments
from smm4h.training.run_data import RunData
from smm4h.training.sampler import sampling_of
from smm4h.training.tracking import trackers_of
from smm4h.training.trainer import BestEpoch, TweetTrainer, input_columns


def make_trainer(
    run: Run,
    data: RunData,
    own: Path,
    train_dataset: Dataset,
    report: Callable[[int, int], None],
    stop: Callable[[], bool],
) -> TweetTrainer:
    """Return a run's trainer.

    Args:
        own: folder of this process alone, for what the trainer writes.
        train_dataset: token table with labels; see `training_part`.
        report: called with the step and the total number of steps.
        stop: returns True once the process must stop.
    """
    task, member = data.task, run.member
    arguments = _arguments(run, own)
    eval_dataset = _evaluated(run, data, arguments.seed)
    best = BestEpoch(task.measure, keep=member.args.checkpoint == "best")
    # An adapter is merged, and so its weights rounded, before predictions; joint processes may count a tweet twice.
    are_final = data.max_eval_samples is None and member.adapter is None and arguments.world_size == 1
    labels = np.asarray(column(train_dataset, "labels").to_pylist())
    sampling = sampling_of(member, task, labels)
    if member.args.min_steps:
        n_shown = len(train_dataset if sampling is None else sampling)
        n_epochs = math.ceil(member.args.min_steps / _steps_of_epoch(n_shown, arguments))
        arguments.num_train_epochs = max(arguments.num_train_epochs, n_epochs)
    tokenizer = load_tokenizer(member)
    model = _model(run, task, arguments, train_dataset)
    lengths = column(train_dataset, "length").to_numpy()
    captured = is_captured(member, model.encoder_override, model.head, int(lengths.max(initial=0)))
    trainer = (CapturedTrainer if captured else TweetTrainer)(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=input_columns(eval_dataset, "labels"),
        data_collator=PaddingCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        compute_metrics=Scoring(task, TaskMetric(task, group_names(eval_dataset)), best, are_final),
        loss=loss_of(member, task, labels, sampling, arguments.label_smoothing_factor),
        sampling=sampling,
        layer_decay=member.args.layer_decay,
        run_directory=run.directory,
        # A captured run's checkpoints hold the optimizer's state of other tensors.
        facts={"fingerprint": run.fingerprint, "seed": member.args.seed, OWN: own_version(), "captured": captured},
        best=best,
        watch=RunMonitor(report, stop, data.save_minutes),
    )
    trainer.remove_callback(PrinterCallback)  # the job displays the progress of all its runs
    return trainer


def _arguments(run: Run, own: Path) -> RunArguments:
    """Return Trainer's settings of a run."""
    arguments = run_arguments(run.member, own)
    if run.is_refit:
        arguments.eval_strategy = IntervalStrategy.NO  # a refitted run holds no tweets out
    arguments.run_name, arguments.report_to = run.name, trackers_of(run.member)
    if not arguments.report_to:
        arguments.logging_strategy = IntervalStrategy.NO  # to read a loss is to wait for the GPU
    if arguments.project == DEFAULTS["project"]:
        arguments.project = run.directory.parents[1].resolve().name
    return arguments


def _evaluated(run: Run, data: RunData, seed: int) -> Dataset:
    """Return the token table of the tweets that evaluations score, the longest first."""
    tokens = token_table(data.token_folder, "labelled", run.member)
    rows = np.flatnonzero(data.held_out(run))
    if data.max_eval_samples is not None:
        labels = column(tokens, "labels").to_numpy()[rows]
        rows = rows[stratified_choice(labels, data.max_eval_samples, seed)]
    tweets = tokens.select(rows)
    return tweets.select(longest_first(tweets))


def _steps_of_epoch(n_shown: int, arguments: RunArguments) -> int:
    """Return the optimizer steps of an epoch that shows so many tweets."""
    step_size = arguments.per_device_train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    return max(1, n_shown // step_size if arguments.dataloader_drop_last else -(-n_shown // step_size))


def _model(run: Run, task: Task, arguments: RunArguments, tweets: Dataset) -> TweetClassifier:
    """Return a run's model, and set the learning rate that suits its width."""
    if run.adaptation is not None:
        run.adaptation.check_file(run.adaptation.model)
    model = build_model(run.built_member, task, arguments.device)
    if meant_for := run.member.args.learning_rate_width:
        arguments.learning_rate *= meant_for / model.encoder.config.hidden_size
    if is_padding_free(run.member, arguments, model):
        make_padding_free(model, arguments, tweets)
    return model
