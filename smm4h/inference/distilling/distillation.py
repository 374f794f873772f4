"""Distillation: one small model trained on a finished ensemble's probabilities, saved as an ordinary checkpoint.

Labelled tweets have the probabilities that the ensemble gave them out of fold, others those of the whole ensemble, so
that no target is what a model remembers of a tweet (Hinton et al. 2015, section 2).
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smm4h.config.versions import LIBRARIES
from smm4h.data.dataset import column, group_names, read_tweets
from smm4h.data.folds import folds_of
from smm4h.data.outputs.label_files import write_labels
from smm4h.data.pseudo_labels import held_out_keys_by_fold, is_held_out
from smm4h.data.splits import Splits
from smm4h.data.tokenization import CHECKED_TWEETS, loading_error
from smm4h.ensemble.decisions.thresholds import class_shares
from smm4h.ensemble.fitted_ensemble import fit_ensemble, voting_config
from smm4h.ensemble.member_predictions import out_of_fold_predictions
from smm4h.inference.distilling.examples import DistillationSet, UnlabelledTweets
from smm4h.inference.distilling.student import Student, StudentSettings
from smm4h.inference.finished_job import STUDENT_FILE, FinishedJob
from smm4h.inference.new_tweets.profile import TweetProfile, WordPieces, profile_of
from smm4h.inference.new_tweets.reference import with_predicted_labels
from smm4h.inference.predictor import EnsemblePredictor
from smm4h.utils.devices import default_device
from smm4h.utils.durable import listing, write_checked_json
from smm4h.utils.errors import InputError, user_message
from smm4h.utils.files import read_json

SAVE_MINUTES = 5.0
SPEED_TWEETS, REPEATS = 512, 3


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
            predictions = job.ensemble.mean_predictions(job.plan.runs)
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
            "ensemble": job.ensemble.predict(job.ensemble.mean_predictions(job.plan.runs)),
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
