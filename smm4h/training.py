"""One run: train, keep the best epoch, predict the held-out fold and the test set. The only room that knows Trainer."""

import gc
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainerCallback, set_seed

from heads import TweetClassifier, TweetClassifierConfig
from smm4h.arrow import column
from smm4h.errors import InputError
from smm4h.files import write_json
from smm4h.folds import folds_of, stratified_choice
from smm4h.metrics import TaskMeasure
from smm4h.plan import Run
from smm4h.predictions import Predictions, write_predictions
from smm4h.radam import RAdam
from smm4h.recipe import Member, RunArguments, run_arguments
from smm4h.tasks import Task
from smm4h.tokens import encoder_trouble, hub_arguments, load_tokenizer, longest_first, token_table


@dataclass(frozen=True)
class PseudoLabels:
    """Test tweets, by their row, that join a run's training part under the label that the teachers voted."""

    rows: np.ndarray  # (n_pseudo,)
    labels: np.ndarray  # (n_pseudo,) class indices


@dataclass(frozen=True)
class RunData:
    """What all runs of a job share: tweets with fold columns, the test tweets, and where token tables lie."""

    task: Task
    labelled: Dataset
    test: Dataset | None
    token_folder: Path
    max_eval_samples: int | None = None
    keep_models: bool = True


class TweetTrainer(Trainer):
    """Trainer with RAdam, and a loss that is the mean over all tweets of a step.

    The mean over the step, not over each micro-batch: batch 4 x accumulation 4 gives the gradients of 16 x 1, also in
    the last, incomplete step of an epoch.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, compute_loss_func=self.mean_over_step, **kwargs)

    def mean_over_step(self, outputs, labels, num_items_in_batch=None):
        """Cross-entropy summed over the batch and divided by the number of tweets in the whole step."""
        logits = outputs["logits"].float()
        total = nn.functional.cross_entropy(
            logits, labels, reduction="sum", label_smoothing=self.args.label_smoothing_factor
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def _get_eval_sampler(self, eval_dataset):
        """In the order given: with length-grouped training, Trainer would predict in a random order and not say so."""
        return SequentialSampler(eval_dataset)

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        if args.optim == "radam":
            betas = (args.adam_beta1, args.adam_beta2)
            return RAdam, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
        return Trainer.get_optimizer_cls_and_kwargs(args, model)


class BestEpoch(TrainerCallback):
    """Keeps, in memory, the weights of the evaluation with the highest measure; the later one where two are equal.

    The later one, because a rare class often scores 0.0 for a while: of equal nothings the longest trained is best.
    """

    def __init__(self, measure: str) -> None:
        self.measure = measure
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs):
        names = (self.measure, "precision", "recall", "loss")
        scores = {"epoch": state.epoch, "step": state.global_step, **{n: metrics[f"eval_{n}"] for n in names}}
        self.history.append(scores)
        if self.best is None or scores[self.measure] >= self.best[self.measure]:
            self.best = scores
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        model.load_state_dict(self.weights)
        self.weights = {}


class StepReport(TrainerCallback):
    """Tells the job's progress display how much of the run is done."""

    def __init__(self, report) -> None:
        self.report = report

    def on_step_end(self, args, state, control, **kwargs):
        self.report(state.global_step / state.max_steps)


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
        raise InputError(encoder_trouble(name, error)) from None


def training_part(run: Run, data: RunData, pseudo: PseudoLabels | None) -> Dataset:
    """Token ids and labels of the tweets that the run's fold does not hold out, and of its pseudo-labelled ones."""
    folds = folds_of(data.labelled, run.member.get("fold_seed"))
    part = token_table(data.token_folder, "labelled", data.labelled, run.member).select(
        np.flatnonzero(folds != run.fold)
    )
    if pseudo is None:
        return part
    table = token_table(data.token_folder, "test", data.test, run.member).data.table.take(pa.array(pseudo.rows))
    labelled = Dataset(table.append_column("labels", pa.array(pseudo.labels, pa.int64())))
    return concatenate_datasets([part, labelled.cast(part.features)])


def train_run(run: Run, data: RunData, pseudo: PseudoLabels | None, report=lambda fraction: None) -> None:
    """Trains a run and writes its folder: model, held_out.parquet, test.parquet, metrics.json and, last, DONE.

    What an interrupted run left in the folder is thrown away first.
    """
    started = time.perf_counter()
    shutil.rmtree(run.directory, ignore_errors=True)
    run.directory.mkdir(parents=True)
    arguments = run_arguments(run.member, run.directory)
    task, labels = data.task, column(data.labelled, "label").to_numpy()
    held_out_rows = np.flatnonzero(folds_of(data.labelled, run.member.get("fold_seed")) == run.fold)
    tokens = token_table(data.token_folder, "labelled", data.labelled, run.member)
    checked = held_out_rows
    if data.max_eval_samples is not None:
        checked = held_out_rows[stratified_choice(labels[held_out_rows], data.max_eval_samples, arguments.seed)]
    train_dataset = training_part(run, data, pseudo)
    eval_dataset = tokens.select(checked)
    trainer, best = _trainer(run, data, arguments, train_dataset, eval_dataset, report)
    trainer.train()
    if trainer.state.global_step < trainer.state.max_steps:
        raise RuntimeError(f"{run.name} stopped after {trainer.state.global_step} of {trainer.state.max_steps} steps")
    if run.member.get("checkpoint") == "best":
        if best.best is None:
            raise InputError(
                f"{run.name} was not scored in its {trainer.state.max_steps} steps; lower --eval_delay or --eval_steps"
            )
        best.restore(trainer.model)
    trained = time.perf_counter() - started
    maker = {"member": run.member.name, "fold": run.fold, "fingerprint": run.fingerprint}
    held_out = probabilities(trainer, tokens.select(held_out_rows))
    ids = column(data.labelled, "id").take(held_out_rows)
    made = Predictions(held_out_rows, ids, held_out, task.labels, {**maker, "part": "held_out"})
    write_predictions(run.held_out_file, made)
    if data.test is not None:
        table = token_table(data.token_folder, "test", data.test, run.member)
        ids = column(data.test, "id")
        made = Predictions(
            np.arange(len(table)), ids, probabilities(trainer, table), task.labels, {**maker, "part": "test"}
        )
        write_predictions(run.test_file, made)
    if data.keep_models:
        trainer.save_model(str(run.directory / "model"))
    metrics = {
        **maker,
        "training_tweets": len(train_dataset),
        "pseudo_tweets": 0 if pseudo is None else len(pseudo.rows),
        "held_out_tweets": len(held_out_rows),
        "steps": trainer.state.global_step,
        "checkpoint": best.best if run.member.get("checkpoint") == "best" else "last",
        "evaluations": best.history,
        "held_out": task.score(labels[held_out_rows], held_out.argmax(axis=1)),
    }
    write_json(run.metrics_file, metrics)
    done = {
        "fingerprint": run.fingerprint,
        "seconds": round(time.perf_counter() - started, 2),
        "training_seconds": round(trained, 2),
        "device": torch.cuda.get_device_name() if arguments.device.type == "cuda" else arguments.device.type,
        "bf16": arguments.bf16,
        "threads": torch.get_num_threads(),
    }
    write_json(run.done_file, done)
    del trainer, best
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _trainer(
    run: Run, data: RunData, arguments: RunArguments, train_dataset: Dataset, eval_dataset: Dataset, report
) -> tuple[TweetTrainer, BestEpoch]:
    task = data.task
    measure = TaskMeasure(task.measure, task.n_classes, task.positive_indices)
    best = BestEpoch(task.measure)
    tokenizer = load_tokenizer(run.member)
    trainer = TweetTrainer(
        model=build_model(run.member, task),
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset.select(longest_first(eval_dataset)),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=lambda p: measure.compute(predictions=p.predictions.argmax(axis=1), references=p.label_ids),
        callbacks=[best, StepReport(report)],
    )
    trainer.remove_callback(PrinterCallback)  # the job's display speaks for all its runs
    return trainer, best


def probabilities(trainer: Trainer, tokens: Dataset) -> np.ndarray:
    """Softmax probabilities (n_tweets, n_classes) in the order of `tokens`, computed in batches of like lengths."""
    order = longest_first(tokens)
    logits = trainer.predict(tokens.select(order).select_columns("input_ids")).predictions
    found = torch.from_numpy(logits).double().softmax(dim=1).float().numpy()
    restored = np.empty_like(found)
    restored[order] = found
    return restored
