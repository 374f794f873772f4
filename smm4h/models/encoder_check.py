"""Checks that an encoder and its tokenizer can learn from texts, by a forward pass over a few of them.

Raises a ValueError with the reason, in words that can follow the encoder's name, before anything is trained.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from heads import TweetClassifier, TweetClassifierConfig
from smm4h.models.batching import PaddingCollator
from smm4h.models.cleaning import clean

LFS_MARK = b"version https://git-lfs"
TOKENIZER_PATTERNS = ("tokenizer*", "vocab*", "*.model", "merges.txt", "*.bpe", "*.tiktoken", "bpe.codes")
MOST_UNKNOWN = 0.5  # share of word pieces beyond which an encoder is refused
N_TEXTS, N_TOKENS = 4, 16  # of the forward pass
POSITION_SLACK = 8  # positions that an encoder may reserve; RoBERTa reserves 2
SAME = 1e-5  # relative difference of states below which they are float noise
LAYERS = ("num_hidden_layers", "hidden_size")  # what heads ask of an encoder's config


def check_heads(
    name: str,
    hub: dict[str, Any],
    configs: Sequence[TweetClassifierConfig],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Load an encoder once, put each head on it, and read some texts; return the encoder.

    The random numbers of torch stay as they are.

    Args:
        hub: arguments of every `from_pretrained` that locate the encoder.
        configs: of the heads, with the cleaning of the texts that each reads.
        tokenizer: its `model_max_length` is the longest input.
        dtype: of the encoder's weights here.
    """
    check_config(AutoConfig.from_pretrained(name, **hub))
    for config in configs:  # the tokenizer first: it takes a hundredth of the time
        check_tokenizer(tokenizer, [clean(text, config.cleaning) for text in texts], None)
    random_state, n_threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)  # meanwhile the workers' server imports, and a waiting thread would spin beside it
    model = TweetClassifier.from_encoder(name, configs[0], dtype=dtype, **hub)
    models = [model]
    for config in configs[1:]:
        config.encoder = configs[0].encoder
        models.append(TweetClassifier(config, encoder=model.encoder))  # raises for a head that reads too many layers
    readers = [model.config for model in models if not model.head.needs_tokens]
    for config in readers:
        check_tokenizer(tokenizer, [clean(text, config.cleaning) for text in texts], f"--head {config.head}")
    encoder = model.encoder.eval()

    def states(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        layer = encoder(**batch, return_dict=True).last_hidden_state
        return layer[:, 0] if readers else layer[:, -1]

    cleaned = [clean(text, configs[0].cleaning) for text in texts]
    check_forward(encoder, tokenizer, cleaned, states, tokenizer.model_max_length)
    torch.set_num_threads(n_threads)
    torch.set_rng_state(random_state)
    return encoder


def check_target_modules(encoder: PreTrainedModel, modules: Sequence[str]) -> None:
    """Raise ValueError for a name of no linear layer that an adapter could stand beside."""
    linear = [name for name, part in encoder.named_modules() if isinstance(part, nn.Linear | Conv1D)]
    known = sorted({name.rpartition(".")[2] for name in linear})
    for module in modules:
        if not any(f".{name}".endswith(f".{module}") for name in linear):
            raise ValueError(f"it has no linear layer {module}; the adapter's target_modules may be {', '.join(known)}")


def check_files(folder: Path) -> None:
    """Raise ValueError where a folder holds a pointer of Git LFS in place of a file, or no tokenizer."""
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.stat().st_size < 1024 and path.read_bytes().startswith(LFS_MARK):
            raise ValueError(f"{path.name} is only a pointer of Git LFS; run git lfs pull in that folder")
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZER_PATTERNS):
        raise ValueError("there is no tokenizer in that folder; save it there too (tokenizer.save_pretrained)")


def check_config(config: PretrainedConfig) -> None:
    """Raise ValueError for a model that is no encoder, or whose config lacks what heads need."""
    check_is_encoder(config)
    for name in LAYERS:
        if not isinstance(getattr(config, name, None), int):
            raise ValueError(f"its config ({config.model_type}) has no {name}; choose a BERT-like encoder")


def check_is_encoder(config: PretrainedConfig) -> None:
    """Raise ValueError for an encoder-decoder."""
    if config.is_encoder_decoder:
        raise ValueError(f"it is an encoder-decoder ({config.model_type}); choose a BERT-like encoder")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], reader: str | None) -> None:
    """Raise ValueError for a tokenizer without a vocabulary for these texts, or without a first token of its own.

    Args:
        reader: what reads the first token, such as `--head bigru`; None: nothing.
    """
    encoded = tokenizer(list(texts))["input_ids"]
    special, unknown_id = set(tokenizer.all_special_ids), tokenizer.unk_token_id
    pieces = np.array([piece for ids in encoded for piece in ids if piece not in special or piece == unknown_id])
    is_unknown = pieces == (-1 if unknown_id is None else unknown_id)
    if any(text.strip() for text in texts) and is_unknown.all():
        raise ValueError("its tokenizer knows no word piece of the tweets; save the encoder's own tokenizer beside it")
    if len(pieces) and is_unknown.mean() > MOST_UNKNOWN:
        raise ValueError(
            f"its tokenizer does not know {is_unknown.mean():.0%} of the tweets' word pieces; choose an encoder for "
            "their language and script"
        )
    first = {ids[0] if ids else None for ids in encoded}
    if reader and (len(first) > 1 or not first <= special - {unknown_id}):
        raise ValueError(
            f"its tokenizer puts no token of its own, such as [CLS], before a text, and {reader} reads the first "
            "token; choose another encoder, or --head mean, or last_token for a decoder"
        )


@torch.no_grad()
def check_forward(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    states: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    longest: int,
) -> None:
    """Raise ValueError where a model cannot read the tokenizer's ids, or `longest` of them, or reads nothing of them.

    Args:
        states: a batch -> what decides about each tweet, (n_tweets, width).
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    positions = positions if isinstance(positions, int) else longest + POSITION_SLACK
    n_tokens = max(4, min(N_TOKENS, longest, positions - POSITION_SLACK))
    encoded = tokenizer(list(texts), truncation=True, max_length=n_tokens)["input_ids"]
    rows = list(dict.fromkeys(tuple(ids) for ids in encoded if ids))
    _check_embeddings(model, tokenizer, rows)
    rows = sorted(rows, key=len)[-N_TEXTS:]
    if not rows:
        return
    collate = PaddingCollator(tokenizer.pad_token_id or 0)
    decisive = states(collate([{"input_ids": ids} for ids in rows])).float()
    if not decisive.isfinite().all():
        raise ValueError("its states are not numbers (NaN); its weights are broken, so load them anew")
    if len(rows) > 1 and (decisive - decisive[0]).abs().max() <= SAME * decisive.abs().max():
        raise ValueError(
            "it gives all tweets the same states: the first token decides, and in a decoder (a causal model) that "
            "token sees nothing of the rest; choose --head last_token, or a BERT-like encoder"
        )
    if longest > positions - POSITION_SLACK:
        long_row = (rows[-1] * (longest // len(rows[-1]) + 1))[:longest]
        try:
            states(collate([{"input_ids": long_row}]))
        except (IndexError, RuntimeError, ValueError):
            raise ValueError(
                f"it reads {n_positions(model)} tokens at most, and --max_seq_length is {longest}; lower it"
            ) from None


def _check_embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]
) -> None:
    """Raise ValueError where the tokenizer has ids beyond the embeddings; added tokens that are not used may be."""
    n_embedded, added = model.get_input_embeddings().weight.shape[0], tokenizer.get_added_vocab()
    vocabulary = tokenizer.get_vocab() if len(tokenizer) > n_embedded else {}
    ids = {index for token, index in vocabulary.items() if token not in added} | {i for row in rows for i in row}
    if max(ids, default=0) >= n_embedded:
        raise ValueError(
            f"its tokenizer has {max(ids) + 1} tokens, and its weights embed {n_embedded}: they are of "
            "different models; save the encoder's own tokenizer beside it"
        )


def n_positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model's position embeddings allow; its config's number, where it has none."""
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    positions = getattr(model.config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) else None
