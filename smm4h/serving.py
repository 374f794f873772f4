"""A finished job's ensemble as it is used: texts in, labels out, by all members, with their own cleaning."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from transformers import PreTrainedTokenizerBase

from heads import TweetClassifier
from smm4h.baselines import load_baseline
from smm4h.batches import Padding
from smm4h.cleaning import clean
from smm4h.combining import Rule
from smm4h.errors import InputError
from smm4h.packed import PackedEncoder, can_pack
from smm4h.plan import Plan, Run
from smm4h.recipe import machine_has_bf16
from smm4h.tokens import load_saved_tokenizer
from smm4h.voting import MEANS

BATCH = 128  # tweets computed at once
SHARE_OF_MEMORY = 0.5  # of what is free, that models may be kept in


@dataclass(frozen=True)
class Answers:
    """What an ensemble says of some tweets, (n_tweets,) each."""

    choices: np.ndarray  # class indices
    probability: np.ndarray  # of the label
    margin: np.ndarray  # by how much its weighted probability is ahead of the next one's
    votes: np.ndarray  # how many members choose it, each by its own highest weighted probability


class EncoderRun:
    """A run's model on a device, ready to predict."""

    def __init__(self, run: Run, device: str) -> None:
        self.cleaning = run.member.get("cleaning")
        self.variant = tuple(str(run.member.get(n)) for n in ("model_name_or_path", "model_revision", "max_seq_length"))
        self.model = TweetClassifier.from_pretrained(run.model, dtype=torch.float32).eval().to(device)
        self.tokenizer = load_saved_tokenizer(run.model, self.model.encoder.config)
        self.device = device
        if device == "cpu" and run.member.get("packed") and can_pack(self.model.encoder):
            self.model.states_of = PackedEncoder(
                self.model.encoder, torch.bfloat16 if machine_has_bf16() else torch.float32
            )

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str], made: dict) -> np.ndarray:
        """(n_tweets, n_classes); `made` keeps the word pieces for members that read the same."""
        key = (*self.variant, *self.cleaning)
        if key not in made:
            made[key] = _pieces(self.tokenizer, [clean(text, self.cleaning) for text in texts])
        pieces = made[key]
        order = np.argsort([-len(ids) for ids in pieces], kind="stable")
        collate, found = Padding(self.tokenizer.pad_token_id), []
        for start in range(0, len(order), BATCH):
            batch = collate([{"input_ids": pieces[place]} for place in order[start : start + BATCH]])
            batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
            with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=machine_has_bf16()):
                logits = self.model(**batch).logits
            found.append(logits.double().softmax(dim=1).float().cpu().numpy())
        restored = np.empty((len(pieces), self.model.config.num_labels), dtype=np.float32)
        restored[order] = np.concatenate(found)
        return restored


class BaselineRun:
    """A run without an encoder."""

    def __init__(self, run: Run) -> None:
        self.cleaning = run.member.get("cleaning")
        self.model = load_baseline(run.model)

    def probabilities(self, texts: Sequence[str], made: dict) -> np.ndarray:
        """(n_tweets, n_classes)."""
        key = ("text", *self.cleaning)
        if key not in made:
            made[key] = [clean(text, self.cleaning) for text in texts]
        return self.model.probabilities(made[key]).astype(np.float32)


def _pieces(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, truncation=True, max_length=tokenizer.model_max_length)["input_ids"]


class Service:
    """All members of a finished job. Models stay in memory where all of them find room, else they come one by one.

    Args:
        n_processes: how many share this machine's memory.

    Raises `InputError` for a folder that has not kept them.
    """

    def __init__(self, plan: Plan, rule: Rule, labels: Sequence[str], device: str, n_processes: int = 1) -> None:
        self.rule, self.labels, self.device = rule, list(labels), device
        self.runs = {name: plan.runs_of([name]) for name in rule.members}
        missing = [run for runs in self.runs.values() for run in runs if not run.model.is_dir()]
        if missing:
            raise InputError(
                f"{missing[0].model} is not there: {len(missing)} of the ensemble's models were not kept; train with "
                "--keep_models all"
            )
        size = sum(file.stat().st_size for runs in self.runs.values() for run in runs for file in run.model.iterdir())
        self.keeps = size < psutil.virtual_memory().available * SHARE_OF_MEMORY / n_processes
        self.loaded: dict[str, EncoderRun | BaselineRun] = {}

    def answer(self, texts: Sequence[str]) -> Answers:
        """What the ensemble says of some texts."""
        made: dict = {}
        probabilities = np.stack([self._of_member(name, texts, made) for name in self.rule.members])
        choices, combined = self.rule.choose(probabilities), self.rule.combine(probabilities)
        decision = self.rule.decision
        weighted = combined * (decision[0] if len(decision) == 1 else decision.mean(axis=0))
        weighted /= weighted.sum(axis=1, keepdims=True)
        rows = np.arange(len(choices))
        rest = weighted.copy()
        rest[rows, choices] = -np.inf
        own = (probabilities * decision[:, None, :]).argmax(axis=2)
        return Answers(
            choices,
            combined[rows, choices],
            weighted[rows, choices] - rest.max(axis=1),
            (own == choices).sum(axis=0),
        )

    def _of_member(self, name: str, texts: Sequence[str], made: dict) -> np.ndarray:
        """A member's probabilities (n_tweets, n_classes): the mean over its folds, as the rule was fitted for it."""
        return MEANS[self.rule.mean](np.stack([self._load(run).probabilities(texts, made) for run in self.runs[name]]))

    def _load(self, run: Run) -> EncoderRun | BaselineRun:
        if run.name in self.loaded:
            return self.loaded[run.name]
        model = EncoderRun(run, self.device) if run.member.has_encoder else BaselineRun(run)
        if self.keeps:
            self.loaded[run.name] = model
        return model
