"""A finished ensemble as it is used: texts in, labels out, from a job's folder or as it was published."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch

from heads import TweetClassifier
from smm4h.config.plan import Plan, Run
from smm4h.config.task import Columns, Submission, Task
from smm4h.data.tokenization import VARIANT, load_saved_tokenizer
from smm4h.models.predictors import EncoderPredictor, EnsembleOutput, TextPredictor
from smm4h.models.tweet_ensemble import TweetEnsemble, TweetEnsembleConfig
from smm4h.models.voting import VotingRule, mean_of_models
from smm4h.training.baselines import load_baseline
from smm4h.utils.errors import InputError

SHARE_OF_MEMORY = 0.5  # of what is free, that models may be kept in


def load_run(run: Run, device: str) -> EncoderPredictor | TextPredictor:
    """A finished run's model, ready to predict."""
    cleaning = run.member.get("cleaning")
    if not run.member.has_encoder:
        return TextPredictor(load_baseline(run.model), cleaning)
    model = TweetClassifier.from_pretrained(run.model, dtype=torch.float32).eval().to(device)
    tokenizer = load_saved_tokenizer(run.model, model.encoder.config)
    variant = " ".join(str(run.member.get(name)) for name in VARIANT)
    return EncoderPredictor(model, tokenizer, cleaning, variant, run.member.precision, packed=run.member.get("packed"))


def runs_with_models(plan: Plan, rule: VotingRule) -> dict[str, list[Run]]:
    """The runs of a rule's members; raises `InputError` where their models were not kept."""
    runs = {name: plan.runs_of([name]) for name in rule.members}
    missing = [run for of_member in runs.values() for run in of_member if not run.model.is_dir()]
    if missing:
        raise InputError(
            f"{missing[0].model} is not there: {len(missing)} of the ensemble's models were not kept; train with "
            "--keep_models all"
        )
    return runs


def free_memory(device: str, n_processes: int) -> float:
    """Bytes that are free for each of the processes that share this machine, where `device` keeps its models."""
    if not device.startswith("cuda"):
        return psutil.virtual_memory().available / n_processes
    return torch.cuda.mem_get_info(device)[0] / math.ceil(n_processes / torch.cuda.device_count())


class EnsemblePredictor:
    """The members of a finished job. Models stay in memory where all of them find room, else they come one by one.

    Args:
        n_processes: how many share this machine.

    Raises `InputError` for a folder that has not kept them.
    """

    def __init__(self, plan: Plan, rule: VotingRule, labels: Sequence[str], device: str, n_processes: int = 1) -> None:
        self.rule, self.labels, self.device = rule.drop_zero_weight(), list(labels), device
        self.runs = runs_with_models(plan, self.rule)
        size = sum(file.stat().st_size for runs in self.runs.values() for run in runs for file in run.model.iterdir())
        self.keeps = size < free_memory(device, n_processes) * SHARE_OF_MEMORY
        self.loaded: dict[str, EncoderPredictor | TextPredictor] = {}

    def predict(self, texts: Sequence[str]) -> EnsembleOutput:
        """What the ensemble says of some texts."""
        made: dict = {}
        return EnsembleOutput.from_rule(
            self.rule, np.stack([self.predict_member(name, texts, made) for name in self.rule.members])
        )

    def predict_member(self, name: str, texts: Sequence[str], made: dict) -> np.ndarray:
        """A member's probabilities (n_tweets, n_classes): the mean over its runs, as the rule was fitted for it."""
        runs = self.runs[name]
        found = [self._load(run).predict_proba(texts, made) for run in runs]
        return mean_of_models(self.rule.mean, found, [run.is_refit for run in runs])

    def _load(self, run: Run) -> EncoderPredictor | TextPredictor:
        if run.name in self.loaded:
            return self.loaded[run.name]
        model = load_run(run, self.device)
        if self.keeps:
            self.loaded[run.name] = model
        return model


def load_published(name: str, device: str) -> TweetEnsemble:
    """A published ensemble, by its folder or its name on the Hub; raises `InputError` where that is none."""
    try:
        model = TweetEnsemble.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        kind = "no job's output folder" if Path(name).exists() else "no folder"
        raise InputError(f"{name} is {kind}, and no published ensemble either ({reason})") from None
    return model.to(device)


def task_of(config: TweetEnsembleConfig) -> Task:
    """As much of its task as a published ensemble has to know: labels, and how columns are called."""
    labels = [config.id2label[index] for index in range(config.num_labels)]
    submission = Submission("prediction.tsv", config.submission_columns)
    return Task(config.task_name, labels, labels, "f1", Columns(**config.columns), submission=submission)
