"""Trainer with RAdam, a resumable batch sampler, and a loss that is the mean over all tweets of a step."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback

from smm4h.data.tokenization import longest_first
from smm4h.models.batching import probabilities_of
from smm4h.training.adapters import has_adapter, is_saved_alone, trained_weights
from smm4h.training.losses import IGNORED, Loss
from smm4h.training.resumable import ResumableTrainer
from smm4h.training.sampler import FILLER
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_json

INPUTS = ("input_ids", "second", "windows")  # columns of a token table, as far as it has them
# GPT-2 and its like name layers `h` and embeddings `wte`, most decoders embeddings `embed_tokens`.
LAYER = re.compile(r"encoder\.(?:\w+\.)*?(?:layers?|h|blocks?)\.(\d+)\.")
EMBEDDINGS = re.compile(r"encoder\..*(?:embed|wte|wpe)")


class TweetTrainer(ResumableTrainer):
    """Trainer of a classifier, with a loss that is the mean over all tweets of a step.

    The mean over the step, not over each micro-batch: batch 4 x accumulation 4 gives the gradients of 16 x 1, also in
    the last, incomplete step of an epoch.

    Args:
        loss: loss of each tweet.
        layer_decay: factor by which each layer learns slower than the layer above it; 1.0: none.
    """

    def __init__(self, *args, loss: Loss, layer_decay: float, **kwargs):
        super().__init__(*args, compute_loss_func=self.mean_over_step, **kwargs)
        self.loss, self.layer_decay = loss, layer_decay
        self.loss_on_device = loss.to(self.args.device)

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

    def _issue_warnings_after_load(self, load_result):
        """Warn of what a checkpoint lacks, but for the frozen weights beside an adapter that is saved alone."""
        if not is_saved_alone(self.model):
            super()._issue_warnings_after_load(load_result)

    def create_optimizer(self, model=None):
        """Return Trainer's optimizer; with layer decay, its parameter groups are split by depth."""
        optimizer = super().create_optimizer(model)
        if self.layer_decay == 1.0:
            return optimizer
        model = self.model if model is None else model
        names, parameters = zip(*model.named_parameters(), strict=True)
        if not any(map(LAYER.match, names)):
            raise InputError(
                f"--layer_decay {self.layer_decay:g}: the encoder has no numbered layers that could learn at different "
                "rates; leave layer_decay out of its members' rows"
            )
        depths = dict(zip(map(id, parameters), layer_depths(names), strict=True))
        groups, optimizer.param_groups = optimizer.param_groups, []
        for group in groups:
            for depth in sorted({depths[id(p)] for p in group["params"]}):
                same_depth = [p for p in group["params"] if depths[id(p)] == depth]
                lr = group["lr"] * self.layer_decay**depth
                optimizer.add_param_group({**group, "params": same_depth, "lr": lr})
        return optimizer

    def training_rows(self) -> TorchDataset:
        return TrainingRows(input_columns(self.train_dataset, "labels"))

    def _get_eval_sampler(self, eval_dataset):
        """Return a sampler that keeps the given order.

        With length-grouped training, Trainer's own sampler would return predictions in another, random order.
        """
        return SequentialSampler(eval_dataset)


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

    Attributes:
        latest: logits of an evaluation, set before its scores are known; None where they may not be used again.
        logits: those of the best evaluation, if this process made it: the kept weights' predictions.
    """

    WEIGHTS, HISTORY = "best.safetensors", "best.json"

    def __init__(self, measure: str, *, keep: bool = True) -> None:
        self.measure, self.keep = measure, keep
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.weights: dict[str, torch.Tensor] = {}
        self.latest: np.ndarray | None = None
        self.logits: np.ndarray | None = None

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs):
        names = (self.measure, "precision", "recall")
        scores = {"epoch": state.epoch, "step": state.global_step, **{n: metrics[f"eval_{n}"] for n in names}}
        scores["loss"] = metrics["eval_cross_entropy"]  # eval_loss counts a tweet twice where processes share a batch
        self.history.append(scores)
        if self.keep and (self.best is None or scores[self.measure] >= self.best[self.measure]):
            self.best = scores
            self.weights, self.logits = copied(trained_weights(model)), self.latest

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
        self.history, self.best, self.logits = content["history"], content["best"], None
        if self.best is not None:
            self.weights = load_file(checkpoint / self.WEIGHTS)


def predict_proba(trainer: Trainer, tokens: Dataset, logits: np.ndarray | None = None) -> np.ndarray:
    """Return the model's probabilities (n_tweets, n_classes) in the order of `tokens`.

    Batches contain tweets of similar length, which saves padding.

    Args:
        logits: (n_tweets, n_classes) of the tweets, the longest first; None: they are computed.
    """
    order = longest_first(tokens)
    if logits is None:
        logits = trainer.predict(input_columns(tokens.select(order))).predictions
    problem_type = trainer.accelerator.unwrap_model(trainer.model).config.problem_type
    probs = probabilities_of(torch.from_numpy(logits).double(), problem_type).float().numpy()
    restored = np.empty_like(probs)
    restored[order] = probs
    return restored
