"""Classification heads over any BERT-like encoder, and the transformers model that carries one of them.

Four heads of Bai & Zhou 2020 (Fig. 2), mean pooling, and the last token's state for decoders. This file is copied
beside every saved model, so it imports nothing but torch and transformers. A saved folder loads by
`AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)`.
"""

import copy
import hashlib
import inspect
import os
import textwrap
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import load_state_dict
from transformers.utils import cached_file

BIGRU_INPUTS = ("pooler", "tokens")
BASES = "bases"  # folder beside a saved adapter, in which its base model is looked for first
OF_HUB = ("token", "cache_dir", "local_files_only")  # arguments of `from_pretrained` that hold for a base model, too


class TweetClassifierConfig(PretrainedConfig):
    """Configuration of a `TweetClassifier`: encoder, head, and the preprocessing of the tweets that it was trained on.

    Args:
        encoder: the encoder's own config, as a config or as its `to_dict()`.
        head: a name in `HEADS`.
        bigru_input: `pooler`, the pooler output as a sequence of length 1 (the paper's system), or `tokens`, all token
            states. Only the head `bigru` reads it.
        bigru_hidden_size: width of the BiGRU, each direction.
        classifier_dropout: probability of dropping a feature before the last linear layer.
        cleaning: names of the cleaning steps that texts go through before the tokenizer.
        task_name: name of the task in its task file.
        context: name of the column of the second text that it was trained with, such as `claim`; None: there was none.
        truncation: which tokens of a longer text were kept: `head`, `tail`, `head_tail`, or `windows` over all of it.
        max_windows: of a text.
        window_pooling: what a text's probabilities are: `max`, those of the window in which the rare labels have the
            highest ones together, or `mean`, the mean over its windows.
        rare: indices of the rare labels.
        adapter: of a model that is saved as an adapter without its base's weights: `r`, `alpha`, `dropout` and
            `target_modules` of the adapter; `quantise` of the base, None or `4bit`; `new`, parts of the encoder that
            the base's files lack; and `base`, its `name`, whether it `is_local`, a folder, its `revision`, `sha256` (of
            `weights_checksum`) and `bytes` in memory.
    """

    # Not the encoder's model_type: a load without trust_remote_code would silently give a random classifier.
    model_type = "smm4h_tweet_classifier"

    def __init__(
        self,
        encoder=None,
        head="bigru",
        bigru_input="pooler",
        bigru_hidden_size=512,
        classifier_dropout=0.1,
        cleaning=(),
        task_name=None,
        context=None,
        truncation="head",
        max_windows=8,
        window_pooling="max",
        rare=(),
        adapter=None,
        **kwargs,
    ):
        if isinstance(encoder, PretrainedConfig):
            encoder = encoder.to_dict()
        self.encoder = encoder
        self.head = head
        self.bigru_input = bigru_input
        self.bigru_hidden_size = bigru_hidden_size
        self.classifier_dropout = classifier_dropout
        self.cleaning = list(cleaning)
        self.task_name = task_name
        self.context = context
        self.truncation = truncation
        self.max_windows = max_windows
        self.window_pooling = window_pooling
        self.rare = list(rare)
        self.adapter = adapter
        super().__init__(**kwargs)

    def encoder_config(self) -> PretrainedConfig:
        """Return the encoder's config as an object of its own class."""
        settings = dict(self.encoder)
        return AutoConfig.for_model(settings.pop("model_type"), **settings)


class Head(nn.Module):
    """Base class of all heads: a module that turns an encoder's states into one feature vector a tweet.

    An entry of `HEADS` makes a head of `(config, width)`, a `TweetClassifierConfig` and the encoder's hidden size. A
    head declares what it reads in the attributes below, on the class or, before the end of `__init__`, on the object.
    """

    width: int  # of the features; every head sets it
    n_layers = 1  # how many of the encoder's last layers `forward` reads
    needs_tokens = False  # whether it reads the states of all tokens of the last layer, or the first token's only
    needs_pooled = True  # whether it may read the pooler output, so that encoders without a pooler get one

    def forward(self, pooled, layers, mask):
        """Return features (n_tweets, width).

        Args:
            pooled: (n_tweets, hidden_size) pooler output; None where `needs_pooled` is False.
            layers: states of the encoder's layers up to the last, at least `n_layers`, (n_tweets, n_tokens,
                hidden_size) each; where `needs_tokens` is False, n_tokens may be 1, the first token.
            mask: (n_tweets, n_tokens) 1 for a token, 0 for padding.
        """
        raise NotImplementedError


class BiGRU(Head):
    """Bidirectional GRU of one layer; features are both directions' final states, (n_tweets, 2 * bigru_hidden_size)."""

    def __init__(self, config, width):
        super().__init__()
        self.needs_tokens = config.bigru_input == "tokens"
        self.width = 2 * config.bigru_hidden_size
        self.gru = nn.GRU(width, config.bigru_hidden_size, batch_first=True, bidirectional=True)

    def forward(self, pooled, layers, mask):
        if not self.needs_tokens:
            _, final = self.gru(pooled.unsqueeze(1))  # (2, n_tweets, bigru_hidden_size)
        else:  # a packed sequence, because a step over padding would change the final state
            lengths = mask.sum(dim=1).cpu()
            packed = nn.utils.rnn.pack_padded_sequence(layers[-1], lengths, batch_first=True, enforce_sorted=False)
            _, final = self.gru(packed)
        return torch.cat([final[0], final[1]], dim=-1)


class Concatenation(Head):
    """CLS states of the last `n_layers` layers, the last layer first, after the pooler output if `with_pooler`."""

    def __init__(self, config, width, n_layers, with_pooler):
        super().__init__()
        self.n_layers, self.with_pooler = n_layers, with_pooler
        self.width = width * (n_layers + with_pooler)

    def forward(self, pooled, layers, mask):
        states = [layer[:, 0] for layer in layers[: -self.n_layers - 1 : -1]]
        return torch.cat([pooled, *states] if self.with_pooler else states, dim=-1)


class Mean(Head):
    """Mean over the last layer's token states without padding, the pooling that sentence encoders are trained for."""

    needs_tokens = True

    def __init__(self, config, width):
        super().__init__()
        self.width = width

    def forward(self, pooled, layers, mask):
        is_token = mask.unsqueeze(-1).to(layers[-1].dtype)
        return (layers[-1] * is_token).sum(dim=1) / is_token.sum(dim=1)


def padded_right(mask, input_ids, token_type_ids):
    """Return input ids, mask and token types (n_tweets, n_tokens) with each tweet's padding moved behind its tokens.

    Decoders' tokenizers pad on the left, and most models count positions from there.
    """
    order = mask.argsort(dim=1, descending=True, stable=True)
    types = None if token_type_ids is None else token_type_ids.gather(1, order)
    return input_ids.gather(1, order), mask.gather(1, order), types


class LastToken(Head):
    """State of the last token, the only one that has read the whole text where each token sees those before it."""

    needs_tokens, needs_pooled = True, False

    def __init__(self, config, width):
        super().__init__()
        self.width = width

    def forward(self, pooled, layers, mask):
        rows = torch.arange(len(mask), device=mask.device)
        return layers[-1][rows, mask.sum(dim=1) - 1]


HEADS = {
    "bigru": BiGRU,  # Fig. 2(a)
    "last2_pooler": lambda config, width: Concatenation(config, width, n_layers=2, with_pooler=True),  # Fig. 2(b)
    "last3": lambda config, width: Concatenation(config, width, n_layers=3, with_pooler=False),  # Fig. 2(c)
    "last3_pooler": lambda config, width: Concatenation(config, width, n_layers=3, with_pooler=True),  # Fig. 2(d)
    "mean": Mean,
    "last_token": LastToken,
}


class AdapterError(ValueError):
    """A saved adapter, or a quantised base model, can't be used here; the text says why, and what to do."""

    for_user = True


def add_lora(encoder, r, alpha, dropout, target_modules):
    """Freeze an encoder, and put new LoRA matrices beside the linear layers that `target_modules` names.

    They are drawn from torch's random numbers, in float32 whatever the encoder's own dtype is.

    Raises:
        AdapterError: without the package peft.
    """
    try:  # in a try statement, or transformers would ask for the package wherever a saved model is loaded
        from peft import LoraConfig
    except ImportError:
        raise AdapterError("an adapter needs the package peft: pip install peft") from None
    modules = target_modules if isinstance(target_modules, str) else list(target_modules)
    encoder.add_adapter(LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules))
    for weights in encoder.parameters():
        if weights.requires_grad:
            weights.data = weights.data.float()


def quantisation(kind, device):
    """Return the arguments of `from_pretrained` for a base model of this kind on a device.

    `4bit` is NF4 with quantised scales (Dettmers et al. 2023, "QLoRA"); None is no quantisation, without arguments. A
    pooler stays as it is, since the base's files may lack it.

    Raises:
        AdapterError: without the package bitsandbytes.
    """
    if kind is None:
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise AdapterError("a base model in 4 bits needs the package bitsandbytes: pip install bitsandbytes") from None
    device = torch.device(device)
    products = torch.float32  # of the matrix products
    if device.type != "cpu":
        has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        products = torch.bfloat16 if has_bf16 else torch.float16
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=products,
        llm_int8_skip_modules=["pooler"],
    )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_gradients(encoder):
    """Have an encoder's quantised layers on a CPU compute in evaluation as they do in training.

    Where a CPU multiplies in bfloat16, bitsandbytes 0.50 else packs the weights anew when they are first evaluated, and
    computes with them from then on, in training too, by an operator that passes no gradient on.
    """
    for part in encoder.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False


@torch.no_grad()
def weights_checksum(encoder, new=()):
    """Return a SHA-256 of all weights of an encoder that are not quantised, but for those of its `new` parts.

    It depends neither on the weights' names nor on the files that they came from, and is that of the weights in
    bfloat16, so that a base model may be held in it.
    """
    hashes = []
    for name, weights in encoder.named_parameters():
        if weights.is_floating_point() and not name.startswith(tuple(new)):
            content = weights.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy()
            hashes.append(hashlib.sha256(content).hexdigest())
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def is_own(name, new=()):
    """Return whether a weight of a classifier, by its name, is none of the base model's: an adapter's or a head's."""
    return ".lora_" in name or not name.startswith("encoder.") or name.startswith(tuple(f"encoder.{n}" for n in new))


def shared_copy(encoder):
    """Return a copy of an encoder that has modules of its own, and the same weights in memory."""
    weights = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
    return copy.deepcopy(encoder, weights)


_bases = WeakValueDictionary()  # loaded base models, as long as a classifier uses them


def load_base(adapter, near=None, dtype=None, device=None, **hub):
    """Return the base model that an adapter was trained on, which classifiers share; it must not be changed.

    Args:
        adapter: what the classifier's config says of it.
        near: the adapter's folder; a folder of the base's name is looked for in `bases` there, or two levels above.
        device: of a quantised base; None: a GPU where there is one.
        hub: arguments of `from_pretrained`.

    Raises:
        AdapterError: for a base that can't be loaded, and for other weights than the adapter was trained on.
    """
    about, dtype = adapter["base"], dtype or torch.float32
    name, device = about["name"], device or ("cuda" if torch.cuda.is_available() else "cpu")
    folders = [Path(near), *Path(near).absolute().parents[1:2]] if near and os.path.isdir(near) else []
    found = [path for folder in folders if (path := folder / BASES / Path(name).name).is_dir()]
    place = str(found[0]) if found else name
    remedy = f"put that model's folder at {Path(near or '.') / BASES / Path(name).name}"
    if about["is_local"] and not os.path.isdir(place):
        raise AdapterError(f"it is an adapter of {name}, a folder that is not here; {remedy}")
    key = place, about["revision"], about["sha256"], adapter["quantise"], dtype, str(device)
    if (base := _bases.get(key)) is not None:
        return base
    try:
        given = {"revision": about["revision"], **quantisation(adapter["quantise"], device), **hub}
        base = AutoModel.from_pretrained(place, dtype=dtype, **given)
    except AdapterError:
        raise
    except Exception as error:  # one class for each file that may be missing or broken
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise AdapterError(f"it is an adapter of {name}, which can't be loaded here ({reason}); {remedy}") from None
    if weights_checksum(base, adapter["new"]) != about["sha256"]:
        raise AdapterError(
            f"it is an adapter of {name}, revision {about['revision']}, and the model at {place} has other weights "
            f"than those that it was trained on; {remedy}, with the weights of that time"
        )
    keep_gradients(base)
    _bases[key] = base.eval()
    return base


class Pooler(nn.Module):
    """BERT's pooler, tanh of a linear layer over the CLS state, for encoders without a pooler."""

    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, cls_state):
        return torch.tanh(self.dense(cls_state))


class TweetClassifier(PreTrainedModel):
    """Encoder, head, dropout and one linear layer.

    Raises:
        ValueError: for a head that is not in `HEADS` or is no `Head`, for an unknown `bigru_input`, and for an encoder
            with fewer layers than its head reads.
    """

    config_class = TweetClassifierConfig
    base_model_prefix = "encoder"
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # None, or a callable (input_ids, attention_mask, n_layers, needs_tokens, token_type_ids) -> states of the last
    # layers, see `Head`.
    encoder_override = None

    def __init__(self, config, encoder=None):
        super().__init__(config)
        self.new_parts = []  # of the encoder, whose weights its files lacked
        if config.head not in HEADS:
            raise ValueError(f"no head {config.head}; there are {', '.join(HEADS)}")
        if config.bigru_input not in BIGRU_INPUTS:
            raise ValueError(f"no bigru_input {config.bigru_input}; there are {', '.join(BIGRU_INPUTS)}")
        loaded = encoder is not None
        if not loaded:  # in the dtype that from_pretrained asks for, not in the dtype of the encoder's checkpoint
            encoder = AutoModel.from_config(config.encoder_config(), dtype=torch.get_default_dtype())
        self.encoder = encoder
        encoder_config = self.encoder.config
        width = encoder_config.hidden_size
        self.head = HEADS[config.head](config, width)
        if not isinstance(self.head, Head):
            raise ValueError(f"head {config.head} is a {type(self.head).__name__}; make it a subclass of Head")
        has_pooler = getattr(self.encoder, "pooler", None) is not None
        self.pooler = Pooler(width) if self.head.needs_pooled and not has_pooler else None
        n_layers = encoder_config.num_hidden_layers
        if self.head.n_layers > n_layers:
            raise ValueError(f"head {config.head} reads {self.head.n_layers} layers, the encoder has {n_layers}")
        self.reads_layers = self.head.n_layers > 1
        known_inputs = inspect.signature(self.encoder.forward).parameters
        knows_types = "token_type_ids" in known_inputs
        # A decoder keeps keys and values of each token, to write on.
        self.keeps_keys = isinstance(self.head, LastToken) and "use_cache" in known_inputs
        # A decoder without types of its own, as GPT-2, would add the embeddings of its first two word pieces instead.
        n_types = getattr(encoder_config, "type_vocab_size", 0 if isinstance(self.head, LastToken) else 2)
        self.takes_token_types = knows_types and n_types > 1
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(self.head.width, config.num_labels)
        if loaded:  # the pretrained weights must stay: initialise the other parts only
            for part in (self.pooler, self.head, self.classifier):
                if part is not None:
                    part.apply(self._init_weights)
            self._mark_initialised(self.encoder)
        self.post_init()

    @staticmethod
    def _mark_initialised(module):
        """Keep `post_init` from drawing the module's weights anew."""
        for part in module.modules():
            part._is_hf_initialized = True

    @torch.no_grad()
    def _init_weights(self, module):
        """Draw weights as BERT's classifier does, N(0, 0.02) with zero biases; a GRU's as torch does."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GRU):
            module.reset_parameters()

    @classmethod
    def from_encoder(cls, name_or_path, config, **kwargs):
        """Return a classifier with a fresh head over a pretrained encoder.

        Args:
            name_or_path: the encoder's name on the Hub, or its folder.
            config: a `TweetClassifierConfig`; its `encoder` and `pad_token_id` are filled in here.
            kwargs: for `AutoModel.from_pretrained` (revision, token, cache_dir, trust_remote_code, and those of
                `quantisation`).

        Raises:
            ValueError: where the checkpoint lacks weights of the encoder, which would stay random.
        """
        encoder, report = AutoModel.from_pretrained(name_or_path, output_loading_info=True, **kwargs)
        missing = sorted(key for key in report["missing_keys"] if "pooler" not in key and "position_ids" not in key)
        if missing:
            raise ValueError(
                f"{name_or_path} lacks {len(missing)} weights of its encoder ({missing[0]}, …); they would stay random"
            )
        keep_gradients(encoder)
        config.encoder = {k: value for k, value in encoder.config.to_dict().items() if k != "quantization_config"}
        config.pad_token_id = encoder.config.pad_token_id
        if os.path.isdir(name_or_path):  # do not publish local paths
            config.encoder.pop("_name_or_path", None)
        model = cls(config, encoder=encoder)
        model.new_parts = sorted({key[: key.index("pooler") + 6] for key in report["missing_keys"] if "pooler" in key})
        return model

    @classmethod
    def from_adapter(cls, config, weights, base):
        """Return the classifier that was saved as an adapter.

        Args:
            weights: the saved ones, by name.
            base: from `load_base`.

        Raises:
            AdapterError: without the package peft, and for other weights than the adapter's and the head's.
        """
        model = cls(config, encoder=shared_copy(base))
        model.base = (base,)  # in a tuple, so that it is no part of this model; it lives as long
        settings = {name: config.adapter[name] for name in ("r", "alpha", "dropout", "target_modules")}
        add_lora(model.encoder, **settings)
        model.load_own(weights)
        return model.eval()

    def load_own(self, weights):
        """Load the weights of an adapter and its head, by name; raise `AdapterError` for others."""
        missing, unexpected = self.load_state_dict(weights, strict=False)
        wrong = [*(name for name in missing if is_own(name, self.config.adapter["new"])), *unexpected]
        if wrong:
            raise AdapterError(f"{len(wrong)} of its weights ({wrong[0]}, ...) don't fit the adapter; save it anew")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, base_options=None, **kwargs):
        """Load as any model does; of one that was saved as an adapter, first the base model.

        Args:
            base_options: further arguments of `load_base`.
        """
        hub = {name: value for name, value in kwargs.items() if name in OF_HUB}
        place = {**hub, **{name: kwargs[name] for name in ("revision", "subfolder") if name in kwargs}}
        config = kwargs.get("config") or cls.config_class.from_pretrained(pretrained_model_name_or_path, **place)
        if getattr(config, "adapter", None) is None:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        dtype = kwargs.get("dtype")
        options = {"dtype": dtype if isinstance(dtype, torch.dtype) else None, **hub, **(base_options or {})}
        weights = load_state_dict(cached_file(pretrained_model_name_or_path, "model.safetensors", **place))
        base = load_base(config.adapter, near=pretrained_model_name_or_path, **options)
        model = cls.from_adapter(config, weights, base)
        nothing = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, nothing) if kwargs.get("output_loading_info") else model

    def save_pretrained(self, save_directory, state_dict=None, **kwargs):
        """Save as any model does; of one whose config has an `adapter`, without the base's weights."""
        if self.config.adapter is not None:
            weights = self.state_dict() if state_dict is None else state_dict
            new = self.config.adapter["new"]
            state_dict = {name: tensor for name, tensor in weights.items() if is_own(name, new)}
        super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        labels=None,
        return_dict=None,
        window_counts=None,
    ):
        """Return logits (n_tweets, n_labels) of token ids (n_tweets, n_tokens); with `labels`, mean cross-entropy too.

        With `window_counts` (n_tweets,) the token ids are those of windows, each tweet's one below the other.

        The arguments are spelt out: with **kwargs, Trainer would take the loss to be normalised over a whole step.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if isinstance(self.head, LastToken):
            input_ids, attention_mask, token_type_ids = padded_right(attention_mask, input_ids, token_type_ids)
        pooled, layers = self._encode(input_ids, attention_mask, token_type_ids)
        # The head is under 1 % of the FLOPs, so keep it in fp32.
        with torch.autocast(input_ids.device.type, enabled=False):
            weights = self.classifier.weight.dtype
            pooled = None if pooled is None else pooled.to(weights)
            mask = attention_mask.to(input_ids.device, non_blocking=True)  # an override may have read it on the CPU
            features = self.head(pooled, [layer.to(weights) for layer in layers], mask)
            logits = self.classifier(self.dropout(features))
            if window_counts is not None:
                logits = self._pool_windows(logits, window_counts)
        loss = None if labels is None else self._loss(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _loss(self, logits, labels):
        """Return the mean cross-entropy, of label sets the binary one over labels (n_tweets, n_labels)."""
        if self.config.problem_type != "multi_label_classification":
            return nn.functional.cross_entropy(logits, labels)
        if labels.dim() == 1:  # of `LabelSetSpace`: bit i says whether the tweet has label i
            labels = labels.unsqueeze(1) >> torch.arange(logits.shape[1], device=labels.device) & 1
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits))

    def _pool_windows(self, logits, counts):
        """Return logits (n_tweets, n_labels) of windows' (n_windows, n_labels), as `window_pooling` says."""
        n_tweets, n_windows = len(counts), len(logits)
        tweet_of = torch.repeat_interleave(torch.arange(n_tweets, device=logits.device), counts)
        if self.config.problem_type == "multi_label_classification":
            return self._pool_label_sets(logits, tweet_of, counts)
        probabilities = logits.softmax(dim=-1)
        if self.config.window_pooling == "mean":
            total = logits.new_zeros(n_tweets, logits.shape[1]).index_add(0, tweet_of, probabilities)
            return (total / counts.unsqueeze(1)).clamp_min(1e-9).log()
        rare = probabilities[:, self.config.rare].sum(dim=1).detach()
        highest = rare.new_full((n_tweets,), -1.0).scatter_reduce(0, tweet_of, rare, "amax")
        numbers = torch.arange(n_windows, device=logits.device)
        candidates = numbers.where(rare == highest[tweet_of], n_windows)
        first = numbers.new_full((n_tweets,), n_windows).scatter_reduce(0, tweet_of, candidates, "amin")
        return logits[first]

    def _pool_label_sets(self, logits, tweet_of, counts):
        """Return each label's logit (n_tweets, n_labels) of windows', for itself: the highest, or that of the mean."""
        if self.config.window_pooling == "mean":
            total = logits.new_zeros(len(counts), logits.shape[1]).index_add(0, tweet_of, logits.sigmoid())
            return (total / counts.unsqueeze(1)).logit(eps=1e-6)
        lowest = torch.full_like(logits[: len(counts)], -torch.inf)
        return lowest.scatter_reduce(0, tweet_of.unsqueeze(1).expand_as(logits), logits, "amax")

    def _encode(self, input_ids, attention_mask, token_type_ids):
        """Return the pooler output (n_tweets, hidden_size) or None, and layers as `Head.forward` reads them."""
        types = token_type_ids if self.takes_token_types else None
        if self.encoder_override is not None:
            layers = self.encoder_override(input_ids, attention_mask, self.head.n_layers, self.head.needs_tokens, types)
            return self._pooled(layers[-1].to(self.classifier.weight.dtype)), layers
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if types is not None:
            inputs["token_type_ids"] = types
        if self.keeps_keys:
            inputs["use_cache"] = False
        outputs = self.encoder(**inputs, output_hidden_states=self.reads_layers, return_dict=True)
        last = outputs.last_hidden_state
        # Not hidden_states[-1]: some encoders apply their final norm only after they list the hidden states.
        layers = (*outputs.hidden_states[:-1], last) if self.reads_layers else (last,)
        if self.pooler is None and self.head.needs_pooled:
            return outputs.pooler_output, layers
        return self._pooled(last), layers

    def _pooled(self, last):
        """Return the pooler output (n_tweets, hidden_size) of the last layer, or None where no head reads it."""
        if not self.head.needs_pooled:
            return None
        return self.encoder.pooler(last) if self.pooler is None else self.pooler(last[:, 0])


TweetClassifierConfig.register_for_auto_class()
TweetClassifier.register_for_auto_class("AutoModelForSequenceClassification")
