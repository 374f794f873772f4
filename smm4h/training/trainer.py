"""Trainer with RAdam, our own batches, and a loss that is the mean over all tweets of a step."""

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from torch.utils.data import Dataset as TorchDataset
from transformers import Trainer, TrainerCallback

from smm4h.config.arguments import RunArguments
from smm4h.data.dataset import column
from smm4h.training import checkpoints
from smm4h.training.losses import IGNORED, Loss, targets_of
from smm4h.training.optim import RAdam
from smm4h.training.sampler import FILLER, ClassSampling, ResumableBatchSampler
from smm4h.utils.errors import Stopped
from smm4h.utils.files import write_json

LAYER, EMBEDDINGS = re.compile(r"encoder\.(?:\w+\.)*?layers?\.(\d+)\."), re.compile(r"encoder\..*embeddings")


class TweetTrainer(Trainer):
    """Trainer with RAdam, and a loss that is the mean over all tweets of a step.

    The mean over the step, not over each micro-batch: batch 4 x accumulation 4 gives the gradients of 16 x 1, also in
    the last, incomplete step of an epoch.
    """

    def __init__(
        self,
        *args,
        loss: Loss,
        sampling: ClassSampling | None,
        layer_decay: float,
        fingerprint: str,
        best: "BestEpoch",
        watch: "RunMonitor",
        **kwargs,
    ):
        super().__init__(*args, compute_loss_func=self.mean_over_step, callbacks=[best, watch], **kwargs)
        self.loss, self.sampling, self.layer_decay = loss, sampling, layer_decay
        self.fingerprint, self.best, self.watch = fingerprint, best, watch

    def mean_over_step(self, outputs, labels, num_items_in_batch=None):
        """The loss summed over the batch and divided by the size of the whole step."""
        logits = outputs["logits"].float()
        targets = targets_of(labels, logits.shape[-1])
        size = self.loss.normalizer(targets) if num_items_in_batch is None else num_items_in_batch
        return self.loss(logits, targets).sum() / size

    def _get_num_items_in_batch(self, batch_samples, device):
        """The size of a step, over its micro-batches and over all processes: tweets, or the sum of their weights."""
        labels = [batch["labels"] for batch in batch_samples if "labels" in batch]
        if not labels:
            return None
        n_classes = self.accelerator.unwrap_model(self.model).config.num_labels
        size = torch.stack([self.loss.normalizer(targets_of(each, n_classes)) for each in labels]).sum().to(device)
        if self.args.world_size > 1:
            size = self.accelerator.gather(size).sum()
        return size.clamp_min(torch.finfo(size.dtype).tiny)  # a step of nothing but weights of 0

    def create_optimizer(self, model=None):
        """Trainer's, whose parameter groups are divided by depth where deeper layers are to learn slower."""
        optimizer = super().create_optimizer(model)
        if self.layer_decay == 1.0:
            return optimizer
        model = self.model if model is None else model
        names, parameters = zip(*model.named_parameters(), strict=True)
        depths = dict(zip(map(id, parameters), layer_depths(names), strict=True))
        groups, optimizer.param_groups = optimizer.param_groups, []
        for group in groups:
            for depth in sorted({depths[id(p)] for p in group["params"]}):
                members = [p for p in group["params"] if depths[id(p)] == depth]
                lr = group["lr"] * self.layer_decay**depth
                optimizer.add_param_group({**group, "params": members, "lr": lr})
        return optimizer

    def get_train_dataloader(self) -> DataLoader:
        """Our own batches, which neither Trainer nor accelerate cuts once more."""
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
            checkpoints.mark_complete(folder, made)
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


def layer_depths(names: Sequence[str]) -> list[int]:
    """How far below the head each of a model's parameters stands: 0 for the head's and the poolers', then by layer."""
    layers = [LAYER.match(name) for name in names]
    n_layers = 1 + max((int(layer[1]) for layer in layers if layer), default=-1)
    return [
        n_layers - int(layer[1]) if layer else n_layers + 1 if EMBEDDINGS.match(name) else 0
        for name, layer in zip(names, layers, strict=True)
    ]


class TrainingRows(TorchDataset):
    """Rows of a Dataset by their places in it; a `FILLER` is some tweet without a label, so that no loss counts it."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        rows = self.rows[[max(place, 0) for place in places]]
        given = zip(places, rows["labels"], strict=True)
        labels = [self._unlabelled(label) if place == FILLER else label for place, label in given]
        return [{"input_ids": i, "labels": label} for i, label in zip(rows["input_ids"], labels, strict=True)]

    @staticmethod
    def _unlabelled(label: int | list[float]) -> int | list[float]:
        return [0.0] * len(label) if isinstance(label, list) else IGNORED


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


class RunMonitor(TrainerCallback):
    """Stands between the steps: tells the progress, and asks for a checkpoint when it is time or the process must stop.

    A checkpoint due at the last step of an epoch waits for the epoch's evaluation, which a resumed run would not make
    up for. Of several processes that train together, one that must save or stop makes all do so.
    """

    def __init__(self, report: Callable[[int, int], None], stop: Callable[[], bool], save_minutes: float) -> None:
        self.report, self.stop, self.save_seconds = report, stop, save_minutes * 60
        self.batches: ResumableBatchSampler | None = None
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
        is_time, self.stopping = any_process(args, is_time, self.stop())
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
        if not self.training and any_process(args, self.stop())[0]:
            raise Stopped


def any_process(args: RunArguments, *wishes: bool) -> tuple[bool, ...]:
    """Each wish that any process has."""
    if args.world_size == 1:
        return wishes
    asked = torch.tensor(wishes, dtype=torch.int32, device=args.device)
    torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
    return tuple(bool(wish) for wish in asked.tolist())
