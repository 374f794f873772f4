"""A finished ensemble as a transformers model: all members, their cleaning, decision and ties, in one folder.

`publish.py` copies this file and the project's modules that it imports beside the weights; these modules may therefore
import nothing but torch, numpy, transformers and each other. A published ensemble loads anywhere:

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

from heads import TweetClassifier, TweetClassifierConfig, load_base
from smm4h.models.label_spaces import rule_from_dict, space_of
from smm4h.models.predictors import EncoderPredictor, EnsembleOutput, TextPredictor
from smm4h.models.voting import SMALLEST
from smm4h.models.word_models import (
    NETS,
    SAFE_TERMS,
    TERMS,
    BucketEmbeddingClassifier,
    BucketLinear,
    HashedTfidf,
    WordEmbeddingClassifier,
)

BATCH_SIZE = 1000  # texts that a pipeline predicts together


class TweetEnsembleConfig(PretrainedConfig):
    """Configuration of a `TweetEnsemble`: its members and their voting rule.

    Args:
        members: a dict for each: `name`; `classifier` (`encoder`, or a word model); `cleaning`; `variant`, equal for
            members whose tokenizers give equal token ids; `precision` and `packed`, as in `EncoderPredictor`;
            `tokenizer`, its folder; `model`, what its folds have in common, for an encoder the arguments of a
            `TweetClassifierConfig` (an `adapter` in it has the `shapes` of its weights, too); `folds`, a dict for each
            of its models with what differs; and `refitted`, for each whether it was trained on all labelled tweets.
        rule: the voting rule, from `VotingRule.to_dict`.
        task_name: name of the task in its task file.
        columns: names of the input columns, for labelling files with the ensemble.
        submission_columns: names of the id and label columns in labelled files.
        positive_labels: the rare labels, which the task is about; None: not known.
        profile: what the labelled tweets were like, in counts and histograms, for a comparison with new ones.
    """

    model_type = "smm4h_tweet_ensemble"

    def __init__(
        self,
        members=(),
        rule=None,
        task_name=None,
        columns=None,
        submission_columns=("tweet_id", "Class"),
        positive_labels=None,
        profile=None,
        **kwargs,
    ):
        self.members = list(members)
        self.rule = rule
        self.task_name = task_name
        self.columns = columns
        self.submission_columns = list(submission_columns)
        self.positive_labels = positive_labels
        self.profile = profile
        super().__init__(**kwargs)


class StoredTfidf(nn.Module):
    """The arrays of a `BucketLinear`, or of an older version's `HashedTfidf`, as buffers of a model.

    Buffers are int64, floats by their bits, because a change of the model's dtype leaves integers alone.
    """

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__()
        self.about = about
        for name, shape in tfidf_shapes(about).items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64))
        self.model: BucketLinear | HashedTfidf | None = None

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes)."""
        if self.model is None:
            arrays = {name: buffer.cpu().numpy() for name, buffer in self.named_buffers()}
            numbers = {n: a if n.startswith("terms_") else a.view(np.float64) for n, a in arrays.items()}
            self.model = (BucketLinear if "n_buckets" in self.about else HashedTfidf)(self.about, numbers)
        return self.model.predict_proba(texts)


def tfidf_shapes(about: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's arrays, from `n_rows` and, by kind, `n_buckets`; of a `HashedTfidf` `n_terms`."""
    n_rows = about["n_rows"]
    if "n_buckets" in about:
        return {"coef": (n_rows, sum(about["n_buckets"][kind] for kind in SAFE_TERMS)), "intercept": (n_rows,)}
    n_terms = about["n_terms"]
    shapes = {f"{array}_{kind}": (n_terms[kind],) for kind in TERMS for array in ("terms", "idf")}
    return {**shapes, "coef": (n_rows, sum(n_terms.values())), "intercept": (n_rows,)}


class StoredWeights(nn.Module):
    """Weights by their dotted names, which load as any model's: an adapter's and its head's, without the base's.

    Args:
        shapes: of the weights, by name.
    """

    def __init__(self, shapes: dict[str, Sequence[int]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *parents, own = name.split(".")
            place: nn.Module = self
            for parent in parents:
                if parent not in place._modules:
                    place.add_module(parent, nn.Module())
                place = place._modules[parent]
            place.register_parameter(own, nn.Parameter(torch.zeros(*shape), requires_grad=False))


def _fold_model(classifier: str, about: dict[str, Any]) -> nn.Module:
    if classifier == "encoder" and about.get("adapter"):
        return StoredWeights(about["adapter"]["shapes"])
    if classifier == "encoder":
        return TweetClassifier(TweetClassifierConfig(**about))
    labels = about["n_classes"], about.get("problem_type")
    if classifier in NETS and "n_buckets" in about:
        return BucketEmbeddingClassifier(classifier, about["n_buckets"], *labels)
    if classifier in NETS:
        return WordEmbeddingClassifier(classifier, about["n_words"], *labels)
    return StoredTfidf({**about, "classifier": classifier})


def prefix_of(name: str) -> str:
    """Return the key of a member's weights; prefixed, because a member may be called `keys` or `forward`."""
    return f"of_{name}"


class TweetEnsemble(PreTrainedModel):
    """All models of all members. `predict` and `forward` take texts, since members clean and tokenize differently."""

    config_class = TweetEnsembleConfig
    base_model_prefix = ""
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: TweetEnsembleConfig) -> None:
        super().__init__(config)
        self.rule = rule_from_dict(config.rule)
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
        """Load as any model does; in float32 unless another dtype is asked for, and with the members' tokenizers."""
        if kwargs.get("dtype") in (None, "auto"):
            kwargs["dtype"] = torch.float32
        result = super().from_pretrained(pretrained_model_name_or_path, *args, subfolder=subfolder, **kwargs)
        model = result[0] if isinstance(result, tuple) else result
        hub = {n: kwargs[n] for n in ("revision", "token", "cache_dir", "local_files_only") if n in kwargs}
        options = {name: value for name, value in hub.items() if name != "revision"}  # of a base model, too
        model._add_bases(pretrained_model_name_or_path, kwargs["dtype"], options)
        tokenizers: dict[str, Any] = {}
        for member in model.config.members:
            if member["classifier"] != "encoder":
                continue
            if member["variant"] not in tokenizers:
                folder = str(PurePosixPath(subfolder, member["tokenizer"]))
                encoder_config = model.members[prefix_of(member["name"])][0].encoder.config
                tokenizers[member["variant"]] = AutoTokenizer.from_pretrained(
                    pretrained_model_name_or_path,
                    subfolder="" if folder == "." else folder,
                    config=encoder_config,
                    **hub,
                )
            model.tokenizers[member["name"]] = tokenizers[member["variant"]]
        return result

    def _add_bases(self, near, dtype: torch.dtype, hub: dict[str, Any]) -> None:
        """Turn stored adapters into classifiers, beside base models that the folds of all members share."""
        for member in self.config.members:
            if not member["model"].get("adapter"):
                continue
            models = self.members[prefix_of(member["name"])]
            base = load_base(member["model"]["adapter"], near=near, dtype=dtype, **hub)
            for number, fold in enumerate(member["folds"]):
                config = TweetClassifierConfig(**{**member["model"], **fold})
                models[number] = TweetClassifier.from_adapter(config, models[number].state_dict(), base)

    @property
    def device(self) -> torch.device:
        """The device of the weights, or of the buffers where no member has weights."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; float32 where no member has weights."""
        return next((weights.dtype for weights in self.parameters()), torch.float32)

    def _predictors(self) -> dict[str, list[EncoderPredictor | TextPredictor]]:
        """Return predictors by member; made at the first call, because they keep the device that the models are on."""
        if not self.predictors:
            self.eval()
            for member in self.config.members:
                models, cleaning = self.members[prefix_of(member["name"])], member["cleaning"]
                if member["classifier"] != "encoder":
                    self.predictors[member["name"]] = [TextPredictor(model, cleaning) for model in models]
                    continue
                options = self.tokenizers[member["name"]], cleaning, member["variant"], member["precision"]
                self.predictors[member["name"]] = [
                    EncoderPredictor(model, *options, packed=member["packed"]) for model in models
                ]
        return self.predictors

    def predict(
        self, texts: Sequence[str], groups: Sequence[str] | None = None, contexts: Sequence[str] | None = None
    ) -> EnsembleOutput:
        """Return the ensemble's predictions for some texts.

        Args:
            contexts: (n_tweets,) second texts; an ensemble that was trained with such raises ValueError without them.
            groups: (n_tweets,) the texts' groups, such as languages, where some groups have a cut of their own; a text
                of an unknown group, or of none, gets the cut that was tuned for all.
        """
        context = (self.config.columns or {}).get("context")
        if context and contexts is None:
            raise ValueError(f'the model reads pairs of texts: {{"text": ..., "text_pair": the {context[0]}}}')
        cache: dict = {}
        predictors, contexts = self._predictors(), contexts if context else None
        space = space_of(self.rule, self.labels)
        refitted = {member["name"]: member.get("refitted", []) for member in self.config.members}
        means = [
            space.mean_of_models(
                self.rule.mean,
                [predictor.predict_proba(texts, cache, contexts) for predictor in predictors[name]],
                refitted[name],
            )
            for name in self.rule.members
        ]
        return EnsembleOutput.from_rule(self.rule, np.stack(means), groups)

    def forward(self, texts: Sequence[str]) -> SequenceClassifierOutput:
        """Return logits (n_tweets, n_labels) of the ensemble's probabilities; `predict` gives labels.

        The probabilities are the logits' softmax; of label sets their sigmoid.
        """
        probabilities = np.clip(self.predict(texts).probabilities, SMALLEST, None)
        logits = np.log(probabilities)
        if space_of(self.rule, self.labels).problem_type is not None:
            logits -= np.log(np.clip(1 - probabilities, SMALLEST, None))
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))


class TweetPipeline(Pipeline):
    """`pipeline("text-classification", ...)`: texts to labels with the ensemble's own decision.

    `score` is the label's probability, which need not be the highest where the decision was tuned: with `top_k` the
    predicted label comes first, the rest follow by probability.

    An ensemble for label sets gives a list for each text, of all labels that are over their cuts, the most probable
    first; with `top_k` the other labels follow.
    """

    _load_tokenizer = False
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __call__(self, inputs, top_k="", batch_size=BATCH_SIZE, **kwargs):
        """Return a dict of label and score for each text, with `top_k` a list of dicts, as transformers' pipeline does.

        Args:
            inputs: a text, a list of texts, or an iterable such as a generator or data set; a text may be
                `{"text": ...}`, with its `"text_pair"` where the model was trained with second texts, and its
                `"group"` where groups have cuts of their own. A text without `top_k` gives a list of one dict, an
                iterable gives a generator.
            top_k: how many labels to return; None: all; empty: the predicted label only.
            batch_size: how many texts are predicted together.
        """
        if isinstance(inputs, str | dict):
            labelled = self._label([inputs], top_k)
            return labelled if isinstance(labelled[0], dict) else labelled[0]
        if isinstance(inputs, list | tuple):
            batches = (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))
            return [result for batch in batches for result in self._label(batch, top_k)]
        return self._stream(iter(inputs), top_k, batch_size)

    def _stream(self, inputs: Iterator, top_k, batch_size: int) -> Iterable:
        while batch := list(islice(inputs, batch_size)):
            yield from self._label(batch, top_k)

    def _label(self, inputs: Sequence[str | dict[str, str]], top_k) -> list:
        items = [item if isinstance(item, dict) else {"text": item} for item in inputs]
        texts, groups = [item["text"] for item in items], [item.get("group", "") for item in items]
        pairs = [item.get("text_pair") for item in items]
        contexts = None if any(pair is None for pair in pairs) else pairs
        output, labels = self.model.predict(texts, groups, contexts), self.model.labels
        space, results = space_of(self.model.rule, labels), []
        are_sets = space.problem_type is not None
        for is_given, probs in zip(space.targets(output.predicted) > 0, output.probabilities, strict=True):
            order = np.lexsort((-probs, ~is_given)).tolist()  # the given labels, then the rest, by probability
            ranked = [{"label": labels[label], "score": float(probs[label])} for label in order]
            if top_k == "":
                results.append(ranked[: int(is_given.sum())] if are_sets else ranked[0])
            else:
                results.append(ranked[:top_k])
        return results

    def _sanitize_parameters(self, **kwargs):
        return {}, {}, {}

    def preprocess(self, text):
        return {"texts": [text]}

    def _forward(self, inputs):
        return self.model(**inputs)

    def postprocess(self, outputs):
        return outputs
