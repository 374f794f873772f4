"""A student: a sequence classifier of transformers that learns from probabilities, and is an ordinary checkpoint."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    set_seed,
)

from smm4h.config.arguments import TrainerSettings
from smm4h.config.task import Task
from smm4h.config.versions import OWN, own_version
from smm4h.data.tokenization import loading_error, prefer_cache_without_network
from smm4h.ensemble.decisions.thresholds import match_class_shares
from smm4h.inference.distilling.examples import DistillationSet
from smm4h.models import encoder_check
from smm4h.models.batching import PaddingCollator, predict_proba
from smm4h.models.label_spaces import PROBLEM, LabelSpace, space_named
from smm4h.models.voting import SMALLEST
from smm4h.training import checkpoints
from smm4h.training.losses import LabelSetLoss, Loss
from smm4h.training.resumable import RunArguments, RunMonitor, to_run_arguments
from smm4h.training.trainer import BestEpoch, TweetTrainer
from smm4h.utils.errors import InputError, user_message
from smm4h.utils.temporaries import private_folder


def one_decision_note(by: str, groups: Iterable[str]) -> str:
    """Return what a student of an ensemble with cuts by group does otherwise, in a sentence.

    Args:
        by: what groups are, such as `language`.
        groups: those that the ensemble has cuts for.
    """
    return (
        f"the ensemble decides by {by} ({', '.join(groups)}); the student, an ordinary checkpoint, is not told "
        f"the {by} and has one decision for all"
    )


class Student:
    """A sequence classifier of transformers, with its tokenizer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def of_encoder(cls, name: str, task: Task, max_length: int, seed: int) -> "Student":
        """Return a pretrained encoder with a fresh classifier; raise `InputError` for an encoder that does not load."""
        set_seed(seed)
        if not Path(name).is_dir():
            prefer_cache_without_network()
        labels = {"id2label": dict(enumerate(task.labels)), "label2id": {n: i for i, n in enumerate(task.labels)}}
        labels |= {"problem_type": task.space.problem_type} if task.multi_label else {}
        try:
            if Path(name).is_dir():
                encoder_check.check_files(Path(name))
            encoder_check.check_is_encoder(AutoConfig.from_pretrained(name))
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32, **labels)
        except Exception as error:  # one class for each file that may be missing or broken
            if user_message(error):
                raise
            raise InputError(loading_error(name, error)) from None
        tokenizer.model_max_length = min(max_length, tokenizer.model_max_length)
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        return cls(model, tokenizer)

    def check(self, texts: Sequence[str], max_length: int) -> None:
        """Raise ValueError with the reason where nothing can be learnt, or the decision cannot be moved at the end."""
        self.model.eval()
        if self.tokenizer.pad_token_id is None:
            raise ValueError("its tokenizer has no padding token; choose a BERT-like encoder")
        encoder_check.check_tokenizer(self.tokenizer, texts, None)
        encoder_check.check_forward(
            self.model, self.tokenizer, texts, lambda batch: self.model(**batch).logits, max_length
        )
        self.last_layer()

    def last_layer(self) -> nn.Linear:
        """Return the layer whose outputs are the logits; raise ValueError where it has no bias to be moved.

        It is found by its shape, outside the encoder: XLM-RoBERTa lists its classifier before the encoder.
        """
        prefix = f"{self.model.base_model_prefix}."
        layers = [
            layer
            for name, layer in self.model.named_modules()
            if isinstance(layer, nn.Linear)
            and not name.startswith(prefix)
            and layer.out_features == self.model.config.num_labels
            and layer.bias is not None
        ]
        if not layers:
            raise ValueError(f"{type(self.model).__name__} ends in no linear layer with a bias; choose another encoder")
        return layers[-1]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts as they are."""
        longest = self.tokenizer.model_max_length
        return self.tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]

    def table(self, examples: DistillationSet) -> Dataset:
        """Return the rows that a trainer reads: input_ids, length, labels (probabilities)."""
        input_ids = self.tokenize(examples.texts)
        columns = {
            "input_ids": input_ids,
            "length": [len(ids) for ids in input_ids],
            "labels": examples.targets.tolist(),
        }
        kinds = {"input_ids": List(Value("int32")), "length": Value("int32"), "labels": List(Value("float32"))}
        return Dataset.from_dict(columns, Features(kinds))

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes) as users of the checkpoint get them: in float32."""
        self.model.eval()
        model, pad_id = self.model, self.tokenizer.pad_token_id
        rows = [{"input_ids": ids} for ids in self.tokenize(texts)]
        return predict_proba(rows, pad_id, model.device, lambda batch: model(**batch).logits, self.space.problem_type)

    @property
    def space(self) -> LabelSpace:
        """What a tweet's labels can be."""
        config = self.model.config
        return space_named(
            PROBLEM if config.problem_type == PROBLEM else None, [config.id2label[i] for i in range(config.num_labels)]
        )

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Return the classes (n_tweets,) that the probabilities speak for."""
        return self.space.most_probable(self.predict_proba(texts))

    def learn(
        self,
        examples: DistillationSet,
        arguments: RunArguments,
        fingerprint: str,
        report: Callable[[int, int], None],
        stop: Callable[[], bool],
        save_minutes: float,
    ) -> None:
        """Train on soft labels; an interrupted training resumes from its checkpoint in the arguments' folder.

        Args:
            report: called with step and number of steps.
            stop: whether to save a checkpoint and raise `Stopped`.
        """
        folder = Path(arguments.output_dir)
        own = checkpoints.make_own_folder(folder)
        arguments.output_dir = str(own)
        trainer = TweetTrainer(
            model=self.model,
            args=arguments,
            train_dataset=self.table(examples),
            data_collator=PaddingCollator(self.tokenizer.pad_token_id),
            processing_class=self.tokenizer,
            loss=LabelSetLoss() if self.space.problem_type else Loss(),
            sampling=None,
            layer_decay=1.0,
            run_directory=folder,
            facts={"fingerprint": fingerprint, OWN: own_version()},
            best=BestEpoch("", keep=False),
            watch=RunMonitor(report, stop, save_minutes),
        )
        trainer.model_accepts_loss_kwargs = False  # its loss is ours, divided by the tweets of a step
        trainer.remove_callback(PrinterCallback)
        try:
            checkpoint = checkpoints.adopt_latest(folder, own, trainer.facts)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            checkpoints.leave_own_folder(own)
        checkpoints.remove_all(folder)
        # Without the autocast that accelerate puts around the forward pass: users of the checkpoint do not have it.
        self.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)

    def match_class_shares(self, probs: np.ndarray, shares: np.ndarray) -> None:
        """Move the classifier's bias until each class gets its share (n_classes,) of the tweets.

        A class weight on a probability is its logarithm on the logit: afterwards the highest probability is the
        ensemble's decision, of label sets a probability above 0.5, and no threshold has to be published.

        Args:
            probs: (n_tweets, n_classes), this model's.
        """
        last = self.last_layer()
        with torch.no_grad():
            last.bias += torch.from_numpy(self._moves(probs, shares)).to(last.bias)

    def _moves(self, probs: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return what is added to the logits (n_classes,); see `match_class_shares`."""
        if self.space.problem_type:
            pairs = self.space.to_decide(probs).reshape(*probs.shape, 2)
            weights = [
                match_class_shares(pairs[:, label], np.ones(2), np.array([1 - share, share]))
                for label, share in enumerate(shares)
            ]
            return np.array([np.log(given / absent) for absent, given in weights])
        level = np.exp(np.log(np.clip(probs, SMALLEST, None)).mean(axis=0))
        start = np.clip(shares, SMALLEST, None) / level  # a class that is always far ahead would hide the others' cuts
        return np.log(match_class_shares(probs, start, shares))

    def save(self, folder: Path) -> None:
        """Write an ordinary checkpoint, all or nothing."""
        self.model.config._name_or_path = ""  # perhaps a local folder
        with private_folder(folder.parent) as temporary:
            partial = temporary / folder.name
            self.model.save_pretrained(partial)
            self.tokenizer.save_pretrained(partial)
            checkpoints.move_into_place(partial, folder)


@dataclass(frozen=True)
class StudentSettings:
    """How a student is trained, and where it is written."""

    model_name_or_path: str
    output_dir: Path
    learning_rate: float
    num_train_epochs: float
    per_device_train_batch_size: int
    max_seq_length: int
    seed: int
    use_cpu: bool

    def run_arguments(self, name: str) -> RunArguments:
        """Return the Trainer's arguments for a student of this name."""
        settings = TrainerSettings(
            learning_rate=self.learning_rate,
            num_train_epochs=self.num_train_epochs,
            per_device_train_batch_size=self.per_device_train_batch_size,
            seed=self.seed,
            warmup_steps=0.1,
            adam_beta2=0.98,
            eval_strategy="no",
            use_cpu=self.use_cpu,
        )
        return to_run_arguments(settings, self.output_dir / f".{name}")
