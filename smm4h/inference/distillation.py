"""One small model that has learnt from a finished ensemble: an ordinary checkpoint, and what it scores.

Labelled tweets come with the probabilities that the ensemble gave them out of fold, others with those of the whole
ensemble, so that no tweet teaches what a model remembers of it (Hinton et al. 2015, section 2).
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    set_seed,
)

from smm4h.config.arguments import RunArguments
from smm4h.config.task import Task
from smm4h.data.tokenization import loading_error
from smm4h.ensemble.thresholds import match_class_shares
from smm4h.models.batching import PaddingCollator, predict_proba
from smm4h.models.voting import SMALLEST
from smm4h.training import checkpoints
from smm4h.training.losses import Loss
from smm4h.training.trainer import BestEpoch, RunMonitor, TweetTrainer
from smm4h.utils.errors import InputError

STUDENT_FILE = "student.json"
SHAPING = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed", "optim")


@dataclass(frozen=True)
class DistillationSet:
    """What a student learns from: texts, and the teachers' probabilities (n_tweets, n_classes) of them."""

    texts: list[str]
    targets: np.ndarray

    def select(self, kept: np.ndarray) -> "DistillationSet":
        """The tweets under a mask (n_tweets,)."""
        return DistillationSet([text for text, keep in zip(self.texts, kept, strict=True) if keep], self.targets[kept])

    def __add__(self, other: "DistillationSet") -> "DistillationSet":
        return DistillationSet(self.texts + other.texts, np.concatenate([self.targets, other.targets]))

    def fingerprint(self, encoder: str, max_length: int, arguments: RunArguments) -> str:
        """Of all that a student's weights depend on, so that no other student's state is taken up."""
        settings = {name: getattr(arguments, name) for name in SHAPING}
        content = [encoder, max_length, settings, self.texts, np.round(self.targets, 6).tolist()]
        return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


class Student:
    """A sequence classifier as transformers has them, with its tokenizer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def of_encoder(cls, name: str, task: Task, max_length: int, seed: int) -> "Student":
        """Pretrained, with a fresh classifier; raises `InputError` for an encoder that does not load."""
        set_seed(seed)
        labels = {"id2label": dict(enumerate(task.labels)), "label2id": {n: i for i, n in enumerate(task.labels)}}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32, **labels)
        except (OSError, ValueError) as error:
            raise InputError(loading_error(name, error)) from None
        tokenizer.model_max_length = min(max_length, tokenizer.model_max_length)
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        return cls(model, tokenizer)

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Word pieces of texts as they are."""
        longest = self.tokenizer.model_max_length
        return self.tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]

    def table(self, lesson: DistillationSet) -> Dataset:
        """Rows that a trainer reads."""
        pieces = self.pieces(lesson.texts)
        columns = {"input_ids": pieces, "length": [len(ids) for ids in pieces], "labels": lesson.targets.tolist()}
        kinds = {"input_ids": List(Value("int32")), "length": Value("int32"), "labels": List(Value("float32"))}
        return Dataset.from_dict(columns, Features(kinds))

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """(n_tweets, n_classes), computed as its users will: in float32, in batches of like lengths."""
        self.model.eval()
        model, pad_id = self.model, self.tokenizer.pad_token_id
        return predict_proba(self.pieces(texts), pad_id, model.device, lambda batch: model(**batch).logits)

    def learn(
        self,
        lesson: DistillationSet,
        arguments: RunArguments,
        fingerprint: str,
        report: Callable[[int, int], None],
        stop: Callable[[], bool],
        save_minutes: float,
    ) -> None:
        """Trains on soft labels; a killed training goes on from its last checkpoint in the arguments' folder."""
        trainer = TweetTrainer(
            model=self.model,
            args=arguments,
            train_dataset=self.table(lesson),
            data_collator=PaddingCollator(self.tokenizer.pad_token_id),
            processing_class=self.tokenizer,
            loss=Loss(),
            sampling=None,
            layer_decay=1.0,
            fingerprint=fingerprint,
            best=BestEpoch("", keep=False),
            watch=RunMonitor(report, stop, save_minutes),
        )
        trainer.model_accepts_loss_kwargs = False  # its loss is ours, divided by the tweets of a step
        trainer.remove_callback(PrinterCallback)
        folder = Path(arguments.output_dir)
        checkpoint = checkpoints.latest_complete(folder, fingerprint)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        checkpoints.remove_all(folder)
        # Without the autocast that accelerate has put around its forward: its users will not have that.
        self.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)

    def match_class_shares(self, found: np.ndarray, shares: np.ndarray) -> None:
        """Moves the classifier's bias until each class gets its share (n_classes,) of the tweets whose probabilities
        (n_tweets, n_classes) were `found`.

        A class weight on a probability is its logarithm on the logit, so that the highest probability then is the
        ensemble's decision, and nobody needs to know of a threshold.
        """
        level = np.exp(np.log(np.clip(found, SMALLEST, None)).mean(axis=0))
        start = np.clip(shares, SMALLEST, None) / level  # a class that is always far ahead would hide the others' cuts
        moved = np.log(match_class_shares(found, start, shares))
        last = [part for part in self.model.modules() if isinstance(part, nn.Linear) and part.bias is not None][-1]
        if last.out_features != len(shares):
            raise InputError(f"{type(self.model).__name__} has no linear layer with a bias at its end; choose another")
        with torch.no_grad():
            last.bias += torch.from_numpy(moved).to(last.bias)

    def save(self, folder: Path) -> None:
        """Writes an ordinary checkpoint, all or nothing."""
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        self.model.config._name_or_path = ""  # perhaps a folder of this machine
        self.model.save_pretrained(partial)
        self.tokenizer.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
