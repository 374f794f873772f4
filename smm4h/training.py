"""One run: train, keep the best epoch, predict the held-out fold and the test set. The only room that knows Trainer.

A run leaves a trail from which any process can go on where another one died: sealed checkpoints; `trained/` and TRAINED
when the last step is made; predictions and metrics; `model/`; and last DONE. The bytes at the end do not show it.
"""

import gc
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from torch.utils.data import Dataset as TorchDataset
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed

from heads import TweetClassifier, TweetClassifierConfig
from smm4h import checkpoints
from smm4h.arrow import column
from smm4h.batches import FILLER, Batches, Padding
from smm4h.errors import InputError, Stopped
from smm4h.files import write_json
from smm4h.folds import fold_column, stratified_choice
from smm4h.packed import PackedEncoder, can_pack
from smm4h.plan import Run
from smm4h.predictions import Predictions, is_whole, read_predictions, write_predictions
from smm4h.pseudo import part_file, read_part
from smm4h.radam import RAdam
from smm4h.recipe import Member, RunArguments, run_arguments
from smm4h.rows import UsedRows
from smm4h.tasks import Task
from smm4h.tokens import encoder_trouble, hub_arguments, load_tokenizer, longest_first, token_table, used_ids

IGNORED = -100  # the label that the loss passes over
ADAMS = ("radam", "adamw_torch", "adamw_torch_fused")  # leave a weight alone that never gets a gradient


@dataclass(frozen=True)
class PseudoLabels:
    """Test tweets, by their row, that join a run's training part under the label that the teachers voted."""

    rows: np.ndarray  # (n_pseudo,)
    labels: np.ndarray  # (n_pseudo,) class indices


@dataclass(frozen=True)
class RunData:
    """What all runs of a job share, by the files where it lies: small enough to be sent to any worker."""

    task: Task
    folds_file: Path
    token_folder: Path
    pseudo_folder: Path
    has_test: bool
    max_eval_samples: int | None = None
    keep_models: str = "all"
    keep_models_in: str = "float32"
    save_minutes: float = 5.0

    def pseudo_labels(self, run: Run) -> PseudoLabels | None:
        """The tweets that join a stage-2 run's training part; None for a run of stage 1."""
        if run.stage == 1:
            return None
        tweets = token_table(self.token_folder, "test", run.member)
        return PseudoLabels(*read_part(self.pseudo_file(run), column(tweets, "id"), self.task))

    def pseudo_file(self, run: Run) -> Path:
        return part_file(self.pseudo_folder, run.member.get("fold_seed"), run.fold)

    def is_ready(self, run: Run) -> bool:
        """Whether all that the run learns from is there."""
        return run.stage == 1 or self.pseudo_file(run).is_file()

    def folds(self, seed: int) -> np.ndarray:
        """The fold (n_tweets,) that holds each labelled tweet out."""
        return pd.read_parquet(self.folds_file, columns=[fold_column(seed)]).to_numpy()[:, 0]


class TweetTrainer(Trainer):
    """Trainer with RAdam, and a loss that is the mean over all tweets of a step.

    The mean over the step, not over each micro-batch: batch 4 x accumulation 4 gives the gradients of 16 x 1, also in
    the last, incomplete step of an epoch.
    """

    def __init__(self, *args, fingerprint: str, best: "BestEpoch", watch: "Watch", **kwargs):
        super().__init__(*args, compute_loss_func=self.mean_over_step, callbacks=[best, watch], **kwargs)
        self.fingerprint, self.best, self.watch = fingerprint, best, watch

    def mean_over_step(self, outputs, labels, num_items_in_batch=None):
        """Cross-entropy summed over the batch and divided by the number of tweets in the whole step."""
        logits = outputs["logits"].float()
        total = nn.functional.cross_entropy(
            logits,
            labels,
            reduction="sum",
            ignore_index=IGNORED,
            label_smoothing=self.args.label_smoothing_factor,
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def get_train_dataloader(self) -> DataLoader:
        """Our own batches, which neither Trainer nor accelerate cuts once more."""
        args = self.args
        batches = Batches(
            column(self.train_dataset, "length").to_pylist(),
            args.per_device_train_batch_size * args.world_size,
            accumulation=args.gradient_accumulation_steps,
            strategy=str(args.train_sampling_strategy),
            seed=args.seed if args.data_seed is None else args.data_seed,
            drop_last=args.dataloader_drop_last,
            rank=args.process_index,
            n_processes=args.world_size,
        )
        self.watch.batches = batches
        return DataLoader(
            TrainingRows(self.train_dataset.select_columns(["input_ids", "labels"])),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # its own, so that dropout alone draws from the global one
        )

    def _clip_grad_norm(self, model):
        """The norm before clipping, which is left to our RAdam where it is cheap to wait for the norm."""
        optimizer = getattr(self.optimizer, "optimizer", None)
        if not isinstance(optimizer, RAdam) or self.args.world_size > 1 or self.args.device.type != "cpu":
            return super()._clip_grad_norm(model)
        grads = [p.grad.view(-1) for p in model.parameters() if p.grad is not None]
        norm = torch.stack([grad.dot(grad) for grad in grads]).sum().sqrt()  # in half the time of torch's norm
        optimizer.clip = min(1.0, self.args.max_grad_norm / (norm.item() + 1e-6))
        return norm

    def floating_point_ops(self, inputs):
        return 0  # nobody reads the sum, and Trainer counts all weights at every step for it

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            self.best.save(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            made = {"fingerprint": self.fingerprint, "training_seconds": self.watch.training_seconds()}
            checkpoints.seal(folder, made)
        if self.watch.stopping:
            raise Stopped

    def _get_eval_sampler(self, eval_dataset):
        """In the order given: with length-grouped training, Trainer would predict in a random order and not say so."""
        return SequentialSampler(eval_dataset)

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        if args.optim == "radam":
            betas = (args.adam_beta1, args.adam_beta2)
            return RAdam, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
        return Trainer.get_optimizer_cls_and_kwargs(args, model)


class TrainingRows(TorchDataset):
    """Rows of a Dataset by their places in it; a `FILLER` is some tweet without a label, so that no loss counts it."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        rows = self.rows[[max(place, 0) for place in places]]
        labels = [IGNORED if place == FILLER else label for place, label in zip(places, rows["labels"], strict=True)]
        return [{"input_ids": i, "labels": label} for i, label in zip(rows["input_ids"], labels, strict=True)]


class BestEpoch(TrainerCallback):
    """Keeps, in memory, the weights of the evaluation with the highest measure; the later one where two are equal.

    The later one, because a rare class often scores 0.0 for a while: of equal nothings the longest trained is best.
    Without `keep` it only writes down the history.
    """

    WEIGHTS, HISTORY = "best.safetensors", "best.json"

    def __init__(self, measure: str, *, keep: bool = True) -> None:
        self.measure, self.keep = measure, keep
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs):
        names = (self.measure, "precision", "recall")
        scores = {"epoch": state.epoch, "step": state.global_step, **{n: metrics[f"eval_{n}"] for n in names}}
        scores["loss"] = metrics["eval_cross_entropy"]  # eval_loss counts a tweet twice where processes share a batch
        self.history.append(scores)
        if self.keep and (self.best is None or scores[self.measure] >= self.best[self.measure]):
            self.best = scores
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        model.load_state_dict(self.weights)
        self.weights = {}

    def save(self, checkpoint: Path) -> None:
        """Adds what it keeps to a checkpoint."""
        if self.weights:
            save_file({name: tensor.contiguous() for name, tensor in self.weights.items()}, checkpoint / self.WEIGHTS)
        write_json(checkpoint / self.HISTORY, {"history": self.history, "best": self.best})

    def load(self, checkpoint: Path) -> None:
        kept = json.loads((checkpoint / self.HISTORY).read_text())
        self.history, self.best = kept["history"], kept["best"]
        if self.best is not None:
            self.weights = load_file(checkpoint / self.WEIGHTS)


class Watch(TrainerCallback):
    """Stands between the steps: tells the progress, and asks for a checkpoint when it is time or the process must stop.

    A checkpoint due at the last step of an epoch waits for the epoch's evaluation, which a resumed run would not make
    up for. Of several processes that train together, one that must save or stop makes all do so.
    """

    def __init__(self, report: Callable[[int, int], None], stop: Callable[[], bool], save_minutes: float) -> None:
        self.report, self.stop, self.save_seconds = report, stop, save_minutes * 60
        self.batches: Batches | None = None
        self.saved = self.started = time.perf_counter()
        self.seconds_before = 0.0  # of training, by processes before this one
        self.first_step: float | None = None
        self.training = self.stopping = self.due = False

    def training_seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def on_train_begin(self, args, state, control, **kwargs):
        self.training = True
        self.report(state.global_step, state.max_steps)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.batches.epoch = int(state.epoch or 0)

    def on_step_begin(self, args, state, control, **kwargs):
        if self.first_step is None:
            self.first_step = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.report(state.global_step, state.max_steps)
        is_time = self.save_seconds > 0 and time.perf_counter() - self.saved > self.save_seconds
        is_time, self.stopping = _agreed(args, is_time, self.stop())
        self.due = control.should_save or is_time or self.stopping
        last_of_epoch = state.global_step >= state.max_steps or float(state.epoch).is_integer()
        control.should_save = self.due and not last_of_epoch

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save = (control.should_save or self.due) and state.global_step < state.max_steps

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.training = False

    def on_prediction_step(self, args, state, control, **kwargs):
        """Predictions can be made again from the trained weights; an evaluation amid training is waited for."""
        if not self.training and _agreed(args, self.stop())[0]:
            raise Stopped


def _agreed(args: RunArguments, *wishes: bool) -> tuple[bool, ...]:
    """Each wish that any process has."""
    if args.world_size == 1:
        return wishes
    asked = torch.tensor(wishes, dtype=torch.int32, device=args.device)
    torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
    return tuple(bool(wish) for wish in asked.tolist())


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


def is_packed(member: Member, arguments: RunArguments, model: TweetClassifier) -> bool:
    """Whether the run's encoder is computed by `smm4h.packed`; settings that change its own forward are honoured."""
    changed = arguments.fp16, arguments.gradient_checkpointing, arguments.torch_compile, arguments.neftune_noise_alpha
    alone_on_cpu = arguments.device.type == "cpu" and arguments.world_size == 1
    return member.get("packed") and alone_on_cpu and not any(changed) and can_pack(model.encoder)


def pack(model: TweetClassifier, arguments: RunArguments, tweets: Dataset) -> None:
    """Leaves out the work that changes nothing: padding, unread states, embeddings of word pieces that no tweet has."""
    model.states_of = PackedEncoder(model.encoder, torch.bfloat16 if arguments.bf16 else torch.float32)
    if arguments.optim in ADAMS and arguments.weight_decay == 0:
        embeddings = model.encoder.embeddings
        n_rows = embeddings.word_embeddings.num_embeddings
        embeddings.word_embeddings = UsedRows(embeddings.word_embeddings, used_ids(tweets, n_rows))


def training_part(run: Run, data: RunData, pseudo: PseudoLabels | None) -> Dataset:
    """Token ids and labels of the tweets that the run's fold does not hold out, and of its pseudo-labelled ones."""
    folds = data.folds(run.member.get("fold_seed"))
    part = token_table(data.token_folder, "labelled", run.member).select(np.flatnonzero(folds != run.fold))
    if pseudo is None:
        return part
    table = token_table(data.token_folder, "test", run.member).data.table.take(pa.array(pseudo.rows))
    labelled = Dataset(table.append_column("labels", pa.array(pseudo.labels, pa.int64())))
    return concatenate_datasets([part, labelled.cast(part.features)])


@dataclass
class Training:
    """What a run's training found out; the content of its TRAINED file."""

    fingerprint: str
    training_tweets: int
    steps: int
    checkpoint: Any  # the chosen evaluation, or "last"
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


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
    began = time.perf_counter()
    run.directory.mkdir(parents=True, exist_ok=True)
    pseudo = data.pseudo_labels(run)
    part = training_part(run, data, pseudo)
    trainer = _trainer(run, data, part, report, stop)
    trained = _first_says(_read_training(run))
    if trained is None:
        trained = _train(run, trainer, len(part))
        on_trained()
    elif _first_says(run.trained_model.is_dir()):
        trainer.model.load_state_dict(load_file(run.trained_model / "model.safetensors"))
        trainer.is_deepspeed_enabled = trainer.is_fsdp_enabled = False  # they wrap models for training only
    started = time.perf_counter()
    if _first_says(run.trained_model.is_dir()):  # else its model was put in place, which follows its predictions
        _predict(run, data, trainer, trained, 0 if pseudo is None else len(pseudo.rows))
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
        sweep(run)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()
    del trainer
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def sweep(run: Run) -> None:
    """Removes what a finished run needed on its way: optimizer states, and weights that are not to be kept."""
    checkpoints.remove_all(run.directory)
    for path in (run.trained_model, run.trained_file, run.running_file, *run.directory.glob(".*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def keep_best_model(runs: Sequence[Run]) -> None:
    """Of a member's finished runs keeps the weights of the fold with the highest held-out measure, the first of equals.

    A worse one than another finished one can't become the best, so that this may be done at any time, by anyone.
    """
    done = [run for run in runs if run.is_done()]
    scores = [next(iter(run.measures()["held_out"].values())) for run in done]
    for place, run in enumerate(done):
        if place != scores.index(max(scores)):
            shutil.rmtree(run.model, ignore_errors=True)


def _first_says(found: Any) -> Any:
    """What the first process found: of those that train together, none may act on another look at the files."""
    return broadcast_object_list([found])[0]


def _read_training(run: Run) -> Training | None:
    """What an earlier process found out by training the run to its end, if one did."""
    try:
        found = Training(**json.loads(run.trained_file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.fingerprint == run.fingerprint else None


def _train(run: Run, trainer: "TweetTrainer", training_tweets: int) -> Training:
    """Makes the training steps that are left, chooses the epoch, and saves its weights."""
    best, watch = trainer.best, trainer.watch
    checkpoint = _first_says(checkpoints.newest_whole(run.directory, run.fingerprint))
    if checkpoint is not None:
        best.load(checkpoint)
        watch.seconds_before = checkpoints.sealed_content(checkpoint)["training_seconds"]
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    steps, wanted = trainer.state.global_step, trainer.state.max_steps
    if steps < wanted:
        raise RuntimeError(f"{run.name} stopped after {steps} of {wanted} steps")
    if best.keep:
        if best.best is None:
            raise InputError(f"{run.name} was not scored in its {steps} steps; lower --eval_delay or --eval_steps")
        best.restore(trainer.model)
    trained = Training(
        run.fingerprint,
        training_tweets,
        steps,
        best.best if best.keep else "last",
        best.history,
        watch.training_seconds(),
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


def _predict(run: Run, data: RunData, trainer: "TweetTrainer", trained: Training, pseudo_tweets: int) -> None:
    """Writes the probabilities of the held-out fold and the test tweets, and the run's metrics."""
    maker = {"member": run.member.name, "fold": run.fold, "fingerprint": run.fingerprint}
    labelled = token_table(data.token_folder, "labelled", run.member)
    held_out_rows = np.flatnonzero(data.folds(run.member.get("fold_seed")) == run.fold)
    held_out = labelled.select(held_out_rows)
    parts = [("held_out", run.held_out_file, held_out)]
    if data.has_test:
        parts.append(("test", run.test_file, token_table(data.token_folder, "test", run.member)))
    for name, path, tweets in parts:
        if _first_says(is_whole(path, {**maker, "part": name})):
            continue
        found = probabilities(trainer, tweets)
        if trainer.args.should_save:
            rows, ids = column(tweets, "row").to_numpy(), column(tweets, "id")
            write_predictions(path, Predictions(rows, ids, found, data.task.labels, {**maker, "part": name}))
    if trainer.args.should_save:
        gold, found = column(held_out, "labels").to_numpy(), read_predictions(run.held_out_file).probabilities
        metrics = {
            **maker,
            "training_tweets": trained.training_tweets,
            "pseudo_tweets": pseudo_tweets,
            "held_out_tweets": len(held_out_rows),
            "steps": trained.steps,
            "checkpoint": trained.checkpoint,
            "evaluations": trained.evaluations,
            "held_out": data.task.score(gold, found.argmax(axis=1)),
        }
        write_json(run.metrics_file, metrics)


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
    from smm4h.measure import TaskMeasure  # by those who train: it takes seconds, which the job's own process saves

    task, member = data.task, run.member
    arguments = run_arguments(member, run.directory)
    tokens = token_table(data.token_folder, "labelled", member)
    checked = np.flatnonzero(data.folds(member.get("fold_seed")) == run.fold)
    if data.max_eval_samples is not None:
        labels = column(tokens, "labels").to_numpy()[checked]
        checked = checked[stratified_choice(labels, data.max_eval_samples, arguments.seed)]
    eval_dataset = tokens.select(checked)
    measure = TaskMeasure(task.measure, task.n_classes, task.positive_indices)

    def score(found) -> dict[str, float]:
        scores = measure.compute(predictions=found.predictions.argmax(axis=1), references=found.label_ids)
        logits, labels = torch.from_numpy(found.predictions).double(), torch.from_numpy(found.label_ids)
        return {**scores, "cross_entropy": nn.functional.cross_entropy(logits, labels).item()}

    tokenizer = load_tokenizer(member)
    model = build_model(member, task)
    if is_packed(member, arguments, model):
        pack(model, arguments, train_dataset)
    trainer = TweetTrainer(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset.select(longest_first(eval_dataset)),
        data_collator=Padding(tokenizer.pad_token_id),
        processing_class=tokenizer,
        compute_metrics=score,
        fingerprint=run.fingerprint,
        best=BestEpoch(task.measure, keep=member.get("checkpoint") == "best"),
        watch=Watch(report, stop, data.save_minutes),
    )
    trainer.remove_callback(PrinterCallback)  # the job's display speaks for all its runs
    return trainer


def probabilities(trainer: Trainer, tokens: Dataset) -> np.ndarray:
    """Softmax probabilities (n_tweets, n_classes) in the order of `tokens`, computed in batches of like lengths."""
    order = longest_first(tokens)
    logits = trainer.predict(tokens.select(order).select_columns("input_ids")).predictions
    found = torch.from_numpy(logits).double().softmax(dim=1).float().numpy()
    restored = np.empty_like(found)
    restored[order] = found
    return restored
