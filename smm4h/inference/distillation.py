"""Distillation: one small model trained on a finished ensemble's probabilities, saved as an ordinary checkpoint.

Labelled tweets have the probabilities that the ensemble gave them out of fold, others those of the whole ensemble, so
that no target is what a model remembers of a tweet (Hinton et al. 2015, section 2).
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from smm4h.config.job import Job
from smm4h.config.recipe import read_command_line
from smm4h.config.task import Task
from smm4h.config.versions import LIBRARIES, OWN, own_version
from smm4h.data.dataset import column, group_names, read_tweets
from smm4h.data.folds import folds_of
from smm4h.data.outputs.label_files import write_labels
from smm4h.data.pseudo_labels import held_out_keys_by_fold, is_held_out
from smm4h.data.readers.tables import Finding
from smm4h.data.splits import Splits, load_splits
from smm4h.data.tokenization import CHECKED_TWEETS, loading_error, prefer_cache_without_network
from smm4h.ensemble.decisions.thresholds import class_shares, match_class_shares
from smm4h.ensemble.fitted_ensemble import fit_ensemble, voting_config
from smm4h.ensemble.member_predictions import mean_predictions, out_of_fold_predictions
from smm4h.inference.finished_job import STUDENT_FILE, FinishedJob
from smm4h.inference.new_tweets.profile import TweetProfile, WordPieces, profile_of
from smm4h.inference.new_tweets.reference import with_predicted_labels
from smm4h.inference.predictor import EnsemblePredictor
from smm4h.models import encoder_check
from smm4h.models.batching import PaddingCollator, predict_proba
from smm4h.models.label_spaces import PROBLEM, LabelSpace, space_named
from smm4h.models.voting import SMALLEST
from smm4h.training import checkpoints
from smm4h.training.losses import LabelSetLoss, Loss
from smm4h.training.resumable import RunArguments, RunMonitor, to_run_arguments
from smm4h.training.trainer import BestEpoch, TweetTrainer
from smm4h.utils.devices import default_device
from smm4h.utils.durable import listing, write_checked_json
from smm4h.utils.errors import InputError, user_message
from smm4h.utils.files import read_json
from smm4h.utils.temporaries import private_folder

SHAPING = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed", "optim")
SAVE_MINUTES = 5.0
SPEED_TWEETS, REPEATS = 512, 3


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


@dataclass(frozen=True)
class DistillationSet:
    """Texts, and the ensemble's probabilities (n_tweets, n_classes) for them."""

    texts: list[str]
    targets: np.ndarray

    def select(self, kept: np.ndarray) -> "DistillationSet":
        """Return the tweets under a mask (n_tweets,)."""
        return DistillationSet([text for text, keep in zip(self.texts, kept, strict=True) if keep], self.targets[kept])

    def __add__(self, other: "DistillationSet") -> "DistillationSet":
        return DistillationSet(self.texts + other.texts, np.concatenate([self.targets, other.targets]))

    def fingerprint(self, encoder: str, max_length: int, arguments: RunArguments) -> str:
        """Return a hash of all that a student's weights depend on, so that only its own checkpoint is resumed."""
        settings = {name: getattr(arguments, name) for name in SHAPING}
        content = [encoder, max_length, settings, self.texts, np.round(self.targets, 6).tolist()]
        return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


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


@dataclass(frozen=True)
class UnlabelledTweets:
    """Tweets whose labels no member has seen, with the whole ensemble's predictions."""

    examples: DistillationSet
    tables: list[Dataset]  # in the order of the examples
    predicted: np.ndarray  # (n_tweets,) class indices
    findings: Sequence[Finding] = ()  # about files that are not the job's


def command_of_job(job: FinishedJob, moved: Sequence[str]) -> Job:
    """Return the job as it was commanded, with flags for files that have moved.

    Raises `InputError` for a plan without a command.
    """
    if not job.command:
        raise InputError(f"{job.plan.plan_file} does not say how the job was commanded; it is an older one's")
    return read_command_line([*job.command, *moved])


def load_job_splits(job: FinishedJob, command: Job) -> Splits:
    """Read the job's tweets; raise `InputError` where the files hold others by now."""
    splits = load_splits(command)
    for part, content in splits.content_hashes().items():
        if content != job.plan.identity["data"].get(part):
            raise InputError(
                f"the {part} tweets are not those that {job.plan.output_dir} was made with; name the files by "
                "--data_dir, or --train_file, --validation_file and --test_file"
            )
    return splits


@dataclass(frozen=True)
class Distillation:
    """Students of one finished job.

    Args:
        stop: whether to save a checkpoint and raise `Stopped`.
        report: called with a student's name, step and number of steps.
    """

    job: FinishedJob
    splits: Splits
    settings: StudentSettings
    stop: Callable[[], bool]
    report: Callable[[str, int, int], None]

    def check_encoder(self) -> None:
        """Raise `InputError` for an encoder that cannot become a student, before anything is predicted or trained."""
        settings, name = self.settings, self.settings.model_name_or_path
        texts = self.splits.labelled.select(range(min(CHECKED_TWEETS, len(self.splits.labelled))))["text"]
        try:
            student = Student.of_encoder(name, self.job.task, settings.max_seq_length, settings.seed)
            student.check(texts, min(settings.max_seq_length, student.tokenizer.model_max_length))
        except InputError:
            raise
        except Exception as error:
            if user_message(error):
                raise
            raise InputError(loading_error(name, error)) from None

    def labelled(self) -> DistillationSet:
        """Return the labelled tweets with the ensemble's out-of-fold probabilities."""
        return DistillationSet(column(self.splits.labelled, "text").to_pylist(), self.job.combined)

    def unlabelled(self, files: Sequence[str]) -> UnlabelledTweets:
        """Return the test tweets as the job predicted them, and those of other files as the ensemble does now."""
        job, splits = self.job, self.splits
        n_classes = job.task.n_classes
        examples, predicted = DistillationSet([], np.zeros((0, n_classes))), np.zeros(0, dtype=np.int64)
        tables, findings = [], []
        if splits.test is not None:
            predictions = mean_predictions(job.plan.runs, mean=job.rule.mean)
            tables.append(splits.test)
            texts = column(splits.test, "text").to_pylist()
            examples += DistillationSet(texts, job.rule.combine(predictions.probabilities))
            predicted = job.ensemble.predict(predictions)
        if files:
            table, findings = read_tweets(files, job.task, labelled=False, encoding_flag=None)
            texts = column(table, "text").to_pylist()
            groups = group_names(table)
            output = self.predictor().predict(texts, groups)
            tables.append(table)
            examples += DistillationSet(texts, output.probabilities)
            predicted = np.concatenate([predicted, output.predicted])
        return UnlabelledTweets(examples, tables, predicted, findings)

    def predictor(self) -> EnsemblePredictor:
        """Return the job's ensemble; raise `InputError` where its models were not kept."""
        device = default_device(use_cpu=bool(self.settings.use_cpu))
        return EnsemblePredictor(self.job.plan, self.job.with_models.rule, self.job.task.labels, device)

    def train(
        self, name: str, labelled: DistillationSet, shown: DistillationSet, unlabelled: UnlabelledTweets
    ) -> Student:
        """Return a student of labelled tweets and of those unlabelled ones that are `shown` to it.

        Its decision is moved until each class has the ensemble's share: of all unlabelled tweets where there are some,
        or else of the labelled ones.
        """
        settings = self.settings
        examples, arguments = labelled + shown, settings.run_arguments(name)
        encoder, longest = settings.model_name_or_path, settings.max_seq_length
        student = Student.of_encoder(encoder, self.job.task, longest, settings.seed)
        fingerprint = examples.fingerprint(encoder, longest, arguments)
        student.learn(
            examples, arguments, fingerprint, lambda *steps: self.report(name, *steps), self.stop, SAVE_MINUTES
        )
        if len(unlabelled.predicted):
            texts, predicted = unlabelled.examples.texts, unlabelled.predicted
            shares = student.space.counts(predicted) / len(predicted)
        else:
            texts, shares = labelled.texts, self._shares_of(labelled)
        student.match_class_shares(student.predict_proba(texts), shares)
        return student

    def _shares_of(self, labelled: DistillationSet) -> np.ndarray:
        """Return the share (n_classes,) of labelled tweets that the ensemble gives each label, out of fold."""
        job = self.job
        if job.task.multi_label:
            given = job.task.given(job.final["out_of_fold"])
            return np.array([given[label] for label in job.task.labels]) / len(job.gold)
        predicted = (labelled.targets * job.fitted_decision.mean(axis=0)).argmax(axis=1)
        return class_shares(predicted, job.task.n_classes)

    def check(
        self, fold: int, rivals: dict[str, np.ndarray], labelled: DistillationSet, unlabelled: UnlabelledTweets
    ) -> dict[str, Any]:
        """Score a student that was trained without a fold and without duplicates of its tweets, beside its rivals.

        Args:
            rivals: predicted class indices (n_tweets,) of all labelled tweets, by name.
        """
        job, labelled_table = self.job, self.splits.labelled
        seed, n_folds = job.plan.runs[0].member.args.fold_seed, job.plan.settings.n_folds
        held_out = folds_of(labelled_table, seed) == fold
        keys = held_out_keys_by_fold(labelled_table, job.task, seed, n_folds)[fold]
        kept = ~is_held_out(labelled_table, keys) & ~held_out
        free = np.concatenate([*(~is_held_out(table, keys) for table in unlabelled.tables), np.zeros(0, dtype=bool)])
        student = self.train(f"check-{fold}", labelled.select(kept), unlabelled.examples.select(free), unlabelled)
        contenders = {
            "student": student.predict(labelled.select(held_out).texts),
            **{name: predicted[held_out] for name, predicted in rivals.items()},
        }
        groups = group_names(labelled_table.select(np.flatnonzero(held_out)))
        return compare(f"held-out fold {fold}", contenders, job.gold[held_out], job, groups)

    def rivals(self) -> dict[str, np.ndarray]:
        """Return classes (n_tweets,) of the labelled tweets by ensemble and best member, with out-of-fold rules."""
        job, config = self.job, voting_config(self.job.plan, self.job.task)
        predictions, best = out_of_fold_predictions(job.plan.runs), job.best_member
        alone = predictions.probabilities[[predictions.members.index(best)]]
        return {
            "ensemble": config.predict_out_of_fold(
                predictions.members, predictions.probabilities, job.gold, predictions.groups
            ),
            best: config.for_one.predict_out_of_fold([best], alone, job.gold, predictions.groups),
        }

    def score_on_test(self, student: Student, gold: np.ndarray) -> dict[str, Any]:
        """Score the student on the test tweets, beside ensemble and best member."""
        job, best = self.job, self.job.best_member
        runs = job.plan.runs_of([best])
        config = voting_config(job.plan, job.task).for_one
        fitted, _ = fit_ensemble(out_of_fold_predictions(runs), job.gold, config, job.task)
        alone, predictions = fitted.for_new_tweets(runs)
        contenders = {
            "student": student.predict(column(self.splits.test, "text").to_pylist()),
            "ensemble": job.ensemble.predict(mean_predictions(job.plan.runs, mean=job.rule.mean)),
            best: alone.predict(predictions),
        }
        return compare("test", contenders, gold, job, group_names(self.splits.test))

    def measure_speed(
        self, student: Student, texts: Sequence[str], predictor: EnsemblePredictor | None
    ) -> dict[str, float]:
        """Return tweets a second of student, best member and ensemble on the same texts, medians of `REPEATS`.

        The contenders take turns, so that a machine that slows down slows down all. Without a `predictor` the student
        is alone.
        """
        texts, best = list(texts[:SPEED_TWEETS]), self.job.best_member
        contenders: dict[str, Callable[[], Any]] = {"student": lambda: student.predict_proba(texts)}
        if predictor is not None:
            contenders[best] = lambda: predictor.predict_member(best, texts, {})
            contenders["ensemble"] = lambda: predictor.predict(texts)
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for repeat in range(REPEATS + 1):
            for name, predict in contenders.items():
                started = time.perf_counter()
                predict()
                if repeat:  # the first one loads models
                    taken[name].append(time.perf_counter() - started)
        return {name: len(texts) / float(np.median(seconds)) for name, seconds in taken.items()}

    def profile(self, student: Student) -> TweetProfile:
        """Return what the labelled tweets are like, by the student's tokenizer; its label shares are the ensemble's."""
        job, texts = self.job, column(self.splits.labelled, "text").to_pylist()
        counted = profile_of(texts, tokenizers={"student": WordPieces(student.tokenizer)})
        return with_predicted_labels(counted, job.ensemble.out_of_fold, job.task.space)

    def save(self, student: Student, scores: list[dict[str, Any]], speeds: dict[str, float], n_unlabelled: int) -> None:
        """Write the student's model, its labels of the test tweets, and student.json."""
        folder, task, settings = self.settings.output_dir, self.job.task, self.settings
        student.model.config.update(
            {
                "task_name": task.name,
                "columns": asdict(task.columns),
                "submission_columns": task.output_names,
                "positive_labels": task.positive,
                "profile": self.profile(student).to_dict(),
            }
        )
        (folder / STUDENT_FILE).unlink(
            missing_ok=True
        )  # of a student that is replaced: written last, it says all is here
        student.save(folder / "model")
        if self.splits.test is not None:
            predicted = student.predict(column(self.splits.test, "text").to_pylist())
            write_labels(folder / "test.tsv", column(self.splits.test, "id"), task.space.names(predicted))
        versions = read_json(self.job.plan.plan_file)["versions"]
        shown = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "max_seq_length", "seed")
        content = {
            "task": task.name,
            "job": os.path.relpath(self.job.plan.output_dir, folder),
            "encoder": settings.model_name_or_path,
            "settings": {name: getattr(settings, name) for name in shown},
            "unlabelled_tweets": n_unlabelled,
            "parameters": sum(parameter.numel() for parameter in student.model.parameters()),
            "versions": {name: versions[name] for name in ("python", *LIBRARIES)},
            "scores": scores,
            "tweets_per_second": speeds,
        }
        files = listing(folder, [folder / "model", folder / "marks.npz"])
        write_checked_json(folder / STUDENT_FILE, {**content, "files": files})
        for path in folder.glob(".*"):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def compare(
    where: str,
    contenders: dict[str, np.ndarray],
    gold: np.ndarray,
    job: FinishedJob,
    groups: np.ndarray | None,
) -> dict[str, Any]:
    """Return the scores of predicted class indices (n_tweets,) by name, and the student's paired differences."""
    task = job.task
    student = contenders["student"]
    return {
        "where": where,
        "tweets": len(gold),
        "scores": {name: task.score(gold, predicted, groups) for name, predicted in contenders.items()},
        "student_against": {
            name: task.compare(gold, student, predicted, groups)
            for name, predicted in contenders.items()
            if name != "student"
        },
        "agrees_with_ensemble": float((student == contenders["ensemble"]).mean()),
    }
