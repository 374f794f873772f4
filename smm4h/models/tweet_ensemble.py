"""A finished ensemble as a transformers model: all members, their cleaning, decision and ties, from one folder.

`publish.py` copies this file and the ones that it imports beside the weights, so that of all that this project needs
they import nothing but torch, numpy and transformers. What it wrote loads anywhere:

    pipeline("text-classification", NAME, trust_remote_code=True)
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, Pipeline, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from heads import TweetClassifier, TweetClassifierConfig
from smm4h.models.predictors import EncoderPredictor, EnsembleOutput, TextPredictor
from smm4h.models.voting import SMALLEST, VotingRule, mean_of_models
from smm4h.models.word_models import NETS, TERMS, HashedTfidf, WordEmbeddingClassifier

AT_ONCE = 1000  # texts that a pipeline answers together


class TweetEnsembleConfig(PretrainedConfig):
    """What the members are and how they vote.

    Args:
        members: for each its `name`; `classifier` (`encoder`, or one that reads words); `cleaning`; `variant`, equal
            for members whose tokenizers do the same; `precision` and `packed`, as in `EncoderPredictor`; `tokenizer`,
            its folder; `model`, what its folds have in common, an encoder's as a
            `TweetClassifierConfig`; `folds`, what each has of its own; and `refitted`, whether each was trained on all
            labelled tweets.
        rule: how their probabilities become a label, as `VotingRule.to_dict` has it.
        task_name: the task file's name for the task.
        columns: names of the input columns, for those who label files with it.
        submission_columns: names of id and label in what they get.
    """

    model_type = "smm4h_tweet_ensemble"

    def __init__(
        self, members=(), rule=None, task_name=None, columns=None, submission_columns=("tweet_id", "Class"), **kwargs
    ):
        self.members = list(members)
        self.rule = rule
        self.task_name = task_name
        self.columns = columns
        self.submission_columns = list(submission_columns)
        super().__init__(**kwargs)


class StoredTfidf(nn.Module):
    """The numbers of a `HashedTfidf`, as buffers of a model: 64 bits each, which no change of dtype touches."""

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__()
        self.about = about
        for name, shape in shapes_of(about).items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64))
        self.model: HashedTfidf | None = None

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """(n_tweets, n_classes)."""
        if self.model is None:
            arrays = {name: buffer.cpu().numpy() for name, buffer in self.named_buffers()}
            numbers = {n: a if n.startswith("terms_") else a.view(np.float64) for n, a in arrays.items()}
            self.model = HashedTfidf(self.about, numbers)
        return self.model.predict_proba(texts)


def shapes_of(about: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of a `HashedTfidf`, of `n_terms` of each kind and `n_rows`."""
    n_rows, n_terms = about["n_rows"], about["n_terms"]
    shapes = {f"{what}_{kind}": (n_terms[kind],) for kind in TERMS for what in ("terms", "idf")}
    return {**shapes, "coef": (n_rows, sum(n_terms.values())), "intercept": (n_rows,)}


def _fold_model(classifier: str, about: dict[str, Any]) -> nn.Module:
    if classifier == "encoder":
        return TweetClassifier(TweetClassifierConfig(**about))
    if classifier in NETS:
        return WordEmbeddingClassifier(classifier, about["n_words"], about["n_classes"])
    return StoredTfidf({**about, "classifier": classifier})


def prefix_of(name: str) -> str:
    """Under what the weights of a member stand; of its own, because a member may be called `keys` or `forward`."""
    return f"of_{name}"


class TweetEnsemble(PreTrainedModel):
    """All models of all members. `answer` takes texts; so does `forward`, since its members read them differently."""

    config_class = TweetEnsembleConfig
    base_model_prefix = ""
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: TweetEnsembleConfig) -> None:
        super().__init__(config)
        self.rule = VotingRule.from_dict(config.rule)
        self.labels = [config.id2label[index] for index in range(config.num_labels)]
        self.members = nn.ModuleDict(
            {
                prefix_of(member["name"]): nn.ModuleList(
                    _fold_model(member["classifier"], {**member["model"], **fold}) for fold in member["folds"]
                )
                for member in config.members
            }
        )
        self.tokenizers: dict[str, Any] = {}  # by the members' names
        self.predictors: dict[str, list[EncoderPredictor | TextPredictor]] = {}
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, subfolder="", **kwargs):
        """As every model; in float32 unless another dtype is asked for, and with its members' tokenizers."""
        if kwargs.get("dtype") in (None, "auto"):
            kwargs["dtype"] = torch.float32
        found = super().from_pretrained(pretrained_model_name_or_path, *args, subfolder=subfolder, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        hub = {n: kwargs[n] for n in ("revision", "token", "cache_dir", "local_files_only") if n in kwargs}
        loaded: dict[str, Any] = {}
        for member in model.config.members:
            if member["classifier"] != "encoder":
                continue
            if member["variant"] not in loaded:
                place = str(PurePosixPath(subfolder, member["tokenizer"]))
                encoder_config = model.members[prefix_of(member["name"])][0].encoder.config
                loaded[member["variant"]] = AutoTokenizer.from_pretrained(
                    pretrained_model_name_or_path,
                    subfolder="" if place == "." else place,
                    config=encoder_config,
                    **hub,
                )
            model.tokenizers[member["name"]] = loaded[member["variant"]]
        return found

    @property
    def device(self) -> torch.device:
        """Of its weights; members that count words have none, but buffers."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        return next((weights.dtype for weights in self.parameters()), torch.float32)

    def _predictors(self) -> dict[str, list[EncoderPredictor | TextPredictor]]:
        """Made when first asked, by when the models are on the device where they stay."""
        if not self.predictors:
            self.eval()
            for member in self.config.members:
                models, cleaning = self.members[prefix_of(member["name"])], member["cleaning"]
                if member["classifier"] != "encoder":
                    self.predictors[member["name"]] = [TextPredictor(model, cleaning) for model in models]
                    continue
                how = self.tokenizers[member["name"]], cleaning, member["variant"], member["precision"]
                self.predictors[member["name"]] = [
                    EncoderPredictor(model, *how, packed=member["packed"]) for model in models
                ]
        return self.predictors

    def predict(self, texts: Sequence[str]) -> EnsembleOutput:
        """What the ensemble says of some texts."""
        made: dict = {}
        predictors = self._predictors()
        refitted = {member["name"]: member.get("refitted", []) for member in self.config.members}
        means = [
            mean_of_models(
                self.rule.mean, [predictor.predict_proba(texts, made) for predictor in predictors[name]], refitted[name]
            )
            for name in self.rule.members
        ]
        return EnsembleOutput.from_rule(self.rule, np.stack(means))

    def forward(self, texts: Sequence[str]) -> SequenceClassifierOutput:
        """Logits (n_tweets, n_labels) whose softmax is the ensemble's probabilities; `answer` has its decisions too."""
        probabilities = np.clip(self.predict(texts).probabilities, SMALLEST, None)
        return SequenceClassifierOutput(logits=torch.from_numpy(np.log(probabilities)))


class TweetPipeline(Pipeline):
    """`pipeline("text-classification", ...)`: texts to labels with the ensemble's own decision.

    `score` is the label's probability. It need not be the highest one where the decision was tuned: with `top_k` the
    label comes first, the others follow by their probability.
    """

    _load_tokenizer = False
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __call__(self, inputs, top_k="", batch_size=AT_ONCE, **kwargs):
        """As transformers' own: of a text a list, of a list of texts a list of dicts, with `top_k` of lists.

        A text may be `{"text": ...}`. Of a generator or data set comes a generator.
        """
        if isinstance(inputs, str | dict):
            found = self._of([inputs], top_k)
            return found if top_k == "" else found[0]
        if isinstance(inputs, list | tuple):
            parts = (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))
            return [answer for part in parts for answer in self._of(part, top_k)]
        return self._stream(iter(inputs), top_k, batch_size)

    def _stream(self, inputs: Iterator, top_k, batch_size: int) -> Iterable:
        while part := list(islice(inputs, batch_size)):
            yield from self._of(part, top_k)

    def _of(self, inputs: Sequence[str | dict[str, str]], top_k) -> list:
        texts = [one["text"] if isinstance(one, dict) else one for one in inputs]
        answers, labels = self.model.predict(texts), self.model.labels
        found = []
        for choice, shares in zip(answers.predicted.tolist(), answers.probabilities, strict=True):
            order = [choice, *(label for label in np.argsort(-shares, kind="stable").tolist() if label != choice)]
            ranked = [{"label": labels[label], "score": float(shares[label])} for label in order]
            found.append(ranked[0] if top_k == "" else ranked[:top_k])
        return found

    def _sanitize_parameters(self, **kwargs):
        return {}, {}, {}

    def preprocess(self, text):
        return {"texts": [text]}

    def _forward(self, inputs):
        return self.model(**inputs)

    def postprocess(self, outputs):
        return outputs
