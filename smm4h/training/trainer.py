"""Trainer with RAdam, a resumable batch sampler, and a loss that is the mean over all tweets of a step."""

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from torch.utils.data import Dataset as TorchDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from smm4h.config.arguments import TRAINER_NAMES, TrainerSettings
from smm4h.config.job import Member
from smm4h.data.dataset import column
from smm4h.models.predictors import best_precision
from smm4h.training import checkpoints
from smm4h.training.adapters import has_adapter, trained_weights
from smm4h.training.losses import IGNORED, Loss
from smm4h.training.optim import RAdam
from smm4h.training.sampler import FILLER, ClassSampling, ResumableBatchSampler
from smm4h.utils.errors import InputError, Stopped
from smm4h.utils.files import write_json
from smm4h.utils.leases import LeaseLost

INPUTS = ("input_ids", "second", "windows")  # columns of a token table, as far as it has them
HUB_SETTINGS = {"push_to_hub", "hub_model_id", "hub_token", "hub_private_repo"}  # the job uploads, Trainer does not
LAYER, EMBEDDINGS = re.compile(r"encoder\.(?:\w+\.)*?layers?\.(\d+)\."), re.compile(r"encoder\..*embeddings")


@dataclass
class RunArguments(TrainingArguments):
    """TrainingArguments that accept `optim: radam` and, by default, choose the device's `best_precision`.

    `run_arguments` makes them of a member's settings.
    """

    def __post_init__(self):
        is_radam = self.optim == "radam"
        if is_radam:
            self.optim = "adamw_torch"  # stands in, since TrainingArguments rejects unknown names
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.bf16 is None:
            device = "cpu" if self.use_cpu else torch.accelerator.current_accelerator().type
            best = "float16" if self.fp16 else best_precision(device)
            self.bf16, self.fp16 = best == "bfloat16", best == "float16"
        super().__post_init__()
        if is_radam:
            self.optim = "radam"


def to_run_arguments(settings: TrainerSettings, output_dir: Path) -> RunArguments:
    """Return the Trainer's arguments for a run that writes to `output_dir`.

    Raises ValueError for settings that contradict each other.
    """
    values = {name: getattr(settings, name) for name in TRAINER_NAMES - HUB_SETTINGS}
    given = {name: value for name, value in values.items() if name == "bf16" or value is not None}
    # Trainer would take away `second` and `windows`, which the collator turns into what the model reads.
    return RunArguments(output_dir=os.fspath(output_dir), remove_unused_columns=False, **given)


def run_arguments(member: Member, output_dir: Path) -> RunArguments:
    """Return a member's training arguments for a run that writes to `output_dir`.

    Where several processes train the run jointly, each gets its share of the recipe's batch.

    Raises `InputError` for settings that TrainingArguments rejects, and for a batch that the processes cannot share.
    """
    try:
        arguments = to_run_arguments(member.args, output_dir)
    except ValueError as error:
        raise InputError(f"member {member.name}: {' '.join(str(error).split())}") from None
    batch, n_processes = arguments.per_device_train_batch_size, arguments.world_size
    if batch % n_processes:
        raise InputError(
            f"member {member.name}: a batch of {batch} can't be shared by {n_processes} processes; launch a number "
            "that divides it, or give another --per_device_train_batch_size"
        )
    arguments.per_device_train_batch_size = batch // n_processes
    if member.args.truncation == "windows":  # so many tweets may have `max_windows` times as many windows
        size = arguments.per_device_eval_batch_size // member.args.max_windows
        arguments.per_device_eval_batch_size = max(1, size)
    return arguments


class TweetTrainer(Trainer):
    """Trainer with RAdam, and a loss that is the mean over all tweets of a step.

    The mean over the step, not over each micro-batch: batch 4 x accumulation 4 gives the gradients of 16 x 1, also in
    the last, incomplete step of an epoch.

    Args:
        loss: loss of each tweet.
        sampling: which tweets an epoch contains; None: each tweet once.
        layer_decay: factor by which each layer learns slower than the layer above it; 1.0: none.
        run_directory: the run's folder, to which complete checkpoints are moved.
        facts: written into the checkpoints, such as the run's fingerprint.
        best: keeps the best epoch's weights.
        watch: reports progress and asks for checkpoints.
    """

    def __init__(
        self,
        *args,
        loss: Loss,
        sampling: ClassSampling | None,
        layer_decay: float,
        run_directory: Path,
        facts: dict[str, Any],
        best: "BestEpoch",
        watch: "RunMonitor",
        **kwargs,
    ):
        super().__init__(*args, compute_loss_func=self.mean_over_step, callbacks=[best, watch], **kwargs)
        self.loss, self.sampling, self.layer_decay = loss, sampling, layer_decay
        self.loss_on_device = loss.to(self.args.device)
        self.run_directory, self.facts, self.best, self.watch = run_directory, facts, best, watch

    def mean_over_step(self, outputs, labels, num_items_in_batch=None):
        """Return the summed loss of a micro-batch, divided by the normalizer of the whole step."""
        logits = outputs["logits"].float()
        targets = self.loss.targets(labels, logits.shape[-1])
        divisor = self.loss_on_device.normalizer(targets) if num_items_in_batch is None else num_items_in_batch
        return self.loss_on_device(logits, targets).sum() / divisor

    def _get_num_items_in_batch(self, batch_samples, device):
        """Return the loss normalizer of a step: the number, or summed weight, of all its tweets in all processes."""
        labels = [batch["labels"] for batch in batch_samples if "labels" in batch]
        if not labels:
            return None
        n_classes = self.accelerator.unwrap_model(self.model).config.num_labels
        by_batch = [self.loss.normalizer(self.loss.targets(each, n_classes)) for each in labels]
        divisor = self._prepare_input(torch.stack(by_batch).sum())
        if self.args.world_size > 1:
            divisor = self.accelerator.gather(divisor).sum()
        return divisor.clamp_min(torch.finfo(divisor.dtype).tiny)  # not 0 / 0 in a step where all weights are 0

    def _prepare_input(self, data):
        """Return data on the run's device; a GPU is not waited for, which copies from pinned memory allow."""
        if not isinstance(data, torch.Tensor) or self.args.device.type != "cuda" or self.is_deepspeed_enabled:
            return super()._prepare_input(data)
        if data.device.type == "cpu" and not data.is_pinned():
            data = data.pin_memory()
        return data.to(self.args.device, non_blocking=True)

    def _prepare_inputs(self, inputs):
        """Return a batch on the run's device, but for a padding-free encoder's mask, so that it waits for no GPU."""
        if getattr(self.model, "encoder_override", None) is None or "attention_mask" not in inputs:
            return super()._prepare_inputs(inputs)
        mask = inputs["attention_mask"]
        return {**super()._prepare_inputs({**inputs, "attention_mask": None}), "attention_mask": mask}

    def create_optimizer(self, model=None):
        """Return Trainer's optimizer; with layer decay, its parameter groups are split by depth."""
        optimizer = super().create_optimizer(model)
        if self.layer_decay == 1.0:
            return optimizer
        model = self.model if model is None else model
        names, parameters = zip(*model.named_parameters(), strict=True)
        depths = dict(zip(map(id, parameters), layer_depths(names), strict=True))
        groups, optimizer.param_groups = optimizer.param_groups, []
        for group in groups:
            for depth in sorted({depths[id(p)] for p in group["params"]}):
                same_depth = [p for p in group["params"] if depths[id(p)] == depth]
                lr = group["lr"] * self.layer_decay**depth
                optimizer.add_param_group({**group, "params": same_depth, "lr": lr})
        return optimizer

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of this process's shares of batches.

        The sampler already splits batches among processes, so accelerate must not shard the loader once more.
        """
        args = self.args
        batches = ResumableBatchSampler(
            column(self.train_dataset, "length").to_pylist(),
            args.per_device_train_batch_size * args.world_size,
            accumulation=args.gradient_accumulation_steps,
            strategy=str(args.train_sampling_strategy),
            seed=args.seed if args.data_seed is None else args.data_seed,
            drop_last=args.dataloader_drop_last,
            sampling=self.sampling,
            rank=args.process_index,
            n_processes=args.world_size,
        )
        self.watch.batches = batches
        return DataLoader(
            TrainingRows(input_columns(self.train_dataset, "labels")),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # or the loader would draw its base seed from dropout's generator
        )

    def _clip_grad_norm(self, model):
        """Return the gradient norm before clipping.

        On a single CPU process, RAdam applies the clip factor within its step, which saves a pass through memory.
        Reading the norm's value would stall a GPU, so there Trainer clips.
        """
        optimizer = getattr(self.optimizer, "optimizer", None)
        if not isinstance(optimizer, RAdam) or self.args.world_size > 1 or self.args.device.type != "cpu":
            return super()._clip_grad_norm(model)
        grads = [p.grad.view(-1) for p in model.parameters() if p.grad is not None]
        norm = torch.stack([grad.dot(grad) for grad in grads]).sum().sqrt()  # takes half the time of torch's norm
        optimizer.clip = min(1.0, self.args.max_grad_norm / (norm.item() + 1e-6))
        return norm

    def floating_point_ops(self, inputs):
        return 0  # unused, and counting would visit all weights at every step

    def _save_checkpoint(self, model, trial):
        """Save a complete checkpoint with the best epoch so far, then raise `Stopped` if the process must stop."""
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.accelerator.wait_for_everyone()  # each process writes its part

        def complete() -> None:
            self.best.save(folder)
            checkpoints.mark_complete(folder, {**self.facts, "training_seconds": self.watch.training_seconds()})
            checkpoints.publish(folder, self.run_directory)

        checkpoints.on_main_process(complete)
        if self.watch.stopping:
            raise Stopped

    def _get_eval_sampler(self, eval_dataset):
        """Return a sampler that keeps the given order.

        With length-grouped training, Trainer's own sampler would return predictions in another, random order.
        """
        return SequentialSampler(eval_dataset)

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        """Return the optimizer class and its arguments; adds RAdam to Trainer's."""
        if args.optim == "radam":
            betas = (args.adam_beta1, args.adam_beta2)
            return RAdam, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
        return Trainer.get_optimizer_cls_and_kwargs(args, model)


def layer_depths(names: Sequence[str]) -> list[int]:
    """Return the depth below the head of each named parameter, one int a name.

    The head and the poolers have depth 0, the encoder's last layer 1, its first layer n_layers, embeddings n_layers +
    1.
    """
    layers = [LAYER.match(name) for name in names]
    n_layers = 1 + max((int(layer[1]) for layer in layers if layer), default=-1)
    return [
        n_layers - int(layer[1]) if layer else n_layers + 1 if EMBEDDINGS.match(name) else 0
        for name, layer in zip(names, layers, strict=True)
    ]


def input_columns(tokens: Dataset, *more: str) -> Dataset:
    """Return the columns of a token table that a model reads, and some more."""
    return tokens.select_columns([*(name for name in INPUTS if name in tokens.column_names), *more])


class TrainingRows(TorchDataset):
    """Rows of a Dataset by index; `FILLER` gives an arbitrary row without a label, which no loss counts."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        rows = self.rows[[max(index, 0) for index in indices]]
        labelled = zip(indices, rows["labels"], strict=True)
        labels = [self._unlabelled(label) if index == FILLER else label for index, label in labelled]
        columns = {**rows, "labels": labels}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @staticmethod
    def _unlabelled(label: int | list[float]) -> int | list[float]:
        return [float(IGNORED)] * len(label) if isinstance(label, list) else IGNORED


def copied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a copy of a model's weights: where they are if there is room for twice their size, else on the CPU."""
    device = next(iter(weights.values())).device
    size = sum(tensor.nbytes for tensor in weights.values())
    stays = device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > 2 * size
    return {name: tensor.detach().to(device if stays else "cpu", copy=True) for name, tensor in weights.items()}


class BestEpoch(TrainerCallback):
    """Callback that keeps, in memory, the weights of the evaluation with the highest metric.

    Of equal scores the later one counts: a rare class often scores 0.0 for several epochs, and of these the longest
    trained model is best.

    Args:
        measure: the metric's name.
        keep: False records the evaluations and keeps no weights.
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
            self.weights = copied(trained_weights(model))

    def restore(self, model: nn.Module) -> None:
        """Load the best weights into the model, and free them here."""
        model.load_state_dict(self.weights, strict=not has_adapter(model))
        self.weights = {}

    def save(self, checkpoint: Path) -> None:
        """Add the best weights and the history to a checkpoint's folder."""
        if self.weights:
            save_file({name: tensor.contiguous() for name, tensor in self.weights.items()}, checkpoint / self.WEIGHTS)
        write_json(checkpoint / self.HISTORY, {"history": self.history, "best": self.best})

    def load(self, checkpoint: Path) -> None:
        """Read what `save` added to a checkpoint's folder."""
        content = json.loads((checkpoint / self.HISTORY).read_text(encoding="utf-8"))
        self.history, self.best = content["history"], content["best"]
        if self.best is not None:
            self.weights = load_file(checkpoint / self.WEIGHTS)


class RunMonitor(TrainerCallback):
    """Callback that reports progress after each step, and requests a checkpoint when due or before a stop.

    A checkpoint due at the last step of an epoch waits for the epoch's evaluation, since a resumed run would skip the
    evaluation. Where several processes train jointly, all save or stop as soon as one of them must.

    Args:
        report: called with the step and the total number of steps.
        stop: returns True once the process must stop.
        save_minutes: minutes between checkpoints; 0: no timed checkpoints.
    """

    def __init__(self, report: Callable[[int, int], None], stop: Callable[[], bool], save_minutes: float) -> None:
        self.report, self.stop, self.save_seconds = report, stop, save_minutes * 60
        self.batches: ResumableBatchSampler | None = None
        self.saved = self.started = time.perf_counter()
        self.seconds_before = 0.0  # of training, in processes that were interrupted
        self.first_step: float | None = None
        self.training = self.stopping = self.due = False

    def training_seconds(self) -> float:
        """Return the seconds of training so far, interrupted processes included."""
        return self.seconds_before + time.perf_counter() - self.started

    def on_train_begin(self, args, state, control, **kwargs):
        self.training = True
        checkpoints.on_main_process(lambda: self.report(state.global_step, state.max_steps))

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.batches.epoch = int(state.epoch or 0)

    def on_step_begin(self, args, state, control, **kwargs):
        if self.first_step is None:
            self.first_step = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        is_lost = self._report_and_see(state)
        is_time = self.save_seconds > 0 and time.perf_counter() - self.saved > self.save_seconds
        is_time, self.stopping, is_lost = any_process(args, is_time, self.stop(), is_lost)
        if is_lost:  # to one process, which alone holds it: all must end at the same step
            raise LeaseLost("another process took the run over")
        self.due = control.should_save or is_time or self.stopping
        last_of_epoch = state.global_step >= state.max_steps or float(state.epoch).is_integer()
        control.should_save = self.due and not last_of_epoch

    def _report_and_see(self, state) -> bool:
        """Report the step; return whether this process has lost the run's lease."""
        try:
            self.report(state.global_step, state.max_steps)
        except LeaseLost:
            return True
        return False

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save = (control.should_save or self.due) and state.global_step < state.max_steps

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.training = False

    def on_prediction_step(self, args, state, control, **kwargs):
        """Raise `Stopped` during predictions after training, which a resumed process repeats from the trained weights.

        An evaluation during training runs to its end, so that the checkpoint can include it.
        """
        if not self.training and any_process(args, self.stop())[0]:
            raise Stopped


def any_process(args: RunArguments, *flags: bool) -> tuple[bool, ...]:
    """Return the logical OR of each flag over all processes."""
    if args.world_size == 1:
        return flags
    combined = torch.tensor(flags, dtype=torch.int32, device=args.device)
    torch.distributed.all_reduce(combined, torch.distributed.ReduceOp.MAX)
    return tuple(bool(flag) for flag in combined.tolist())
