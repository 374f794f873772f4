"""A single sequence classifier of transformers in use: a student, one run's model, or any other with its own labels."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from heads import AdapterError, TweetClassifier, TweetClassifierConfig
from smm4h.config.plans.plan import read_plan
from smm4h.config.task import Columns, MultiLabel, Submission, Task
from smm4h.data.tokenization import load_saved_tokenizer
from smm4h.inference.finished_job import STUDENT_FILE, read_student
from smm4h.models.batching import predict_proba, without_unknown_types
from smm4h.models.encoder_check import n_positions
from smm4h.models.encoding import CutTweets, TextEncoder
from smm4h.models.label_spaces import PROBLEM, space_named
from smm4h.models.predictors import EnsembleOutput, cleaned_pair
from smm4h.models.voting import VotingRule
from smm4h.utils.errors import InputError, user_message
from smm4h.utils.tracebacks import reason_of

# where nothing is known of the job: names that many files of tweets have
COMMON_COLUMNS = Columns(text=["text", "tweet"], label=["label", "class"], id=["tweet_id", "id"])
ARCHITECTURE = "ForSequenceClassification"


class ClassifierPredictor:
    """A sequence classifier that predicts as an ensemble of one member does.

    Its highest probability decides, or of label sets each probability above 0.5.
    """

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        self.labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        self.cleaning = getattr(model.config, "cleaning", [])
        self.problem_type = PROBLEM if model.config.problem_type == PROBLEM else None
        space = space_named(self.problem_type, self.labels)
        alone = VotingRule("soft", [name], "probability", "probability", np.ones((1, len(space.decided))))
        self.rule = space.rule(alone)
        encoder = getattr(model, model.base_model_prefix, model)
        self.max_length = min(tokenizer.model_max_length, n_positions(encoder) or tokenizer.model_max_length)
        self.cut: CutTweets | None = None  # of the texts that were predicted last

    def predict(
        self, texts: Sequence[str], groups: Sequence[str] | None = None, contexts: Sequence[str] | None = None
    ) -> EnsembleOutput:
        """Return the predictions for some texts, with their second texts where there are any; no group has a cut."""
        config = self.model.config
        reading = getattr(config, "truncation", "head"), getattr(config, "max_windows", 1)
        encoder = TextEncoder(self.tokenizer, self.max_length, *reading)
        rows, self.cut = encoder.encode(*cleaned_pair(texts, contexts, self.cleaning))
        model, pad_id = self.model, self.tokenizer.pad_token_id
        probs = predict_proba(
            rows,
            pad_id,
            model.device,
            lambda batch: model(**without_unknown_types(model, batch)).logits,
            self.problem_type,
        )
        return EnsembleOutput.from_rule(self.rule, probs[np.newaxis])


def classifier_folder(name: str) -> str:
    """Return where a classifier's files are: of a student's folder, or a finished run's, the folder `model` in it."""
    folder = Path(name)
    holds_model = (folder / STUDENT_FILE).is_file() or (folder / "DONE").is_file()
    return str(folder / "model") if holds_model and (folder / "model").is_dir() else name


def load_classifier(name: str, config: dict, device: str) -> ClassifierPredictor:
    """Return a classifier by its folder or its name on the Hub; raise `InputError` where it has no labels of its own.

    Args:
        config: the content of its config.json.
    """
    kind, architectures = config.get("model_type"), config.get("architectures") or ["no architecture"]
    is_ours = kind == TweetClassifierConfig.model_type
    if not is_ours and not any(architecture.endswith(ARCHITECTURE) for architecture in architectures):
        raise InputError(
            f"{name} holds a model without labels ({architectures[0]}); name a job's output folder, a published "
            "ensemble, a student, or another sequence classifier"
        )
    if config.get("problem_type") == "regression" or len(config.get("id2label", "..")) < 2:
        raise InputError(f"{name} does not choose one of several labels; name a classifier that does")
    loader = TweetClassifier if is_ours else AutoModelForSequenceClassification
    try:
        model, report = loader.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        tokenizer = load_saved_tokenizer(name, model.encoder.config) if is_ours else AutoTokenizer.from_pretrained(name)
    except Exception as error:  # one class for each file that may be missing or broken
        if isinstance(error, AdapterError):
            raise InputError(f"{name}: {error}") from None
        if user_message(error):
            raise
        reason = reason_of(error, 200)
        raise InputError(f"{name} can't be loaded ({reason}); save model and tokenizer there anew") from None
    missing = sorted(key for key in report["missing_keys"] if "position_ids" not in key)
    if missing:
        raise InputError(f"{name} lacks {len(missing)} weights ({missing[0]}, ...); save the model there anew")
    if tokenizer.pad_token_id is None:
        raise InputError(f"{name}: its tokenizer has no padding token; save one with it")
    return ClassifierPredictor(os.path.basename(os.path.normpath(name)), model.to(device), tokenizer)


def classifier_task(name: str, predictor: ClassifierPredictor) -> Task:
    """Return what is known of a classifier's task: labels, and names of columns.

    The columns are those of its own config or of the job that it comes from, else common ones.
    """
    config, labels = predictor.model.config, predictor.labels
    columns, names = getattr(config, "columns", None), getattr(config, "submission_columns", ["tweet_id", "label"])
    known, positive = COMMON_COLUMNS, getattr(config, "positive_labels", None) or labels
    if isinstance(columns, dict):
        known = Columns(**columns)
    elif (task := _task_of_job(Path(name))) is not None and set(task.labels) == set(labels):
        known, names, positive = task.columns, task.output_names, task.positive
    if context := getattr(config, "context", None):
        known = replace(known, context=[context])
    task_name = getattr(config, "task_name", None) or predictor.name
    of_sets = {"multi_label": MultiLabel() if predictor.problem_type else None}
    return Task(task_name, labels, positive, "f1", known, submission=Submission("", names), **of_sets)


def _task_of_job(folder: Path) -> Task | None:
    """Return the task of the job that a student or a run's model comes from; None for a model from elsewhere."""
    for place in (folder, folder.parent):
        if (place / STUDENT_FILE).is_file():
            job = Path(os.path.normpath(place / read_student(place)["job"]))
            return read_plan(job)[1] if (job / "plan.json").is_file() else None
    if folder.name != "model":
        return None
    jobs = (place for place in folder.resolve().parents if (place / "plan.json").is_file())
    return next((read_plan(job)[1] for job in jobs), None)
