"""Token tables: tweets cleaned and tokenized once for each preprocessing variant, on disk and memory-mapped."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from smm4h.config.job import Member
from smm4h.data.dataset import column
from smm4h.models.cleaning import clean
from smm4h.utils.errors import InputError
from smm4h.utils.leases import make_once

# settings that token ids depend on, besides cleaning
VARIANT = ("model_name_or_path", "model_revision", "max_seq_length")


def load_tokenizer(member: Member) -> PreTrainedTokenizerBase:
    """Return the encoder's tokenizer, truncating at the member's length and padding right: heads read the first token.

    Raises:
        InputError: where it cannot be loaded, cannot read `max_seq_length` tokens, or has no padding token.
    """
    name, longest = member.args.model_name_or_path, member.args.max_seq_length
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **hub_arguments(member))
    except (OSError, ValueError) as error:
        raise InputError(loading_error(name, error)) from None
    if longest > tokenizer.model_max_length:
        raise InputError(
            f"--max_seq_length {longest} is more than {name} can read; {tokenizer.model_max_length} is its longest"
        )
    if tokenizer.pad_token_id is None:
        raise InputError(f"--model_name_or_path {name}: its tokenizer has no padding token; choose a BERT-like encoder")
    tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side = longest, "right", "right"
    return tokenizer


def load_saved_tokenizer(folder: Path, encoder_config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer beside a saved model; given a config, it does not ask to run the code in the folder."""
    return AutoTokenizer.from_pretrained(folder, config=encoder_config)


def hub_arguments(member: Member) -> dict:
    """Return the arguments of every `from_pretrained` that locate the encoder."""
    return {
        "revision": member.args.model_revision,
        "cache_dir": member.args.cache_dir,
        "token": member.args.token,
        "trust_remote_code": member.args.trust_remote_code,
    }


def fetch_encoders(members: Iterable[Member]) -> list[str]:
    """Load each encoder and its tokenizer once, so that this machine has all their files; return the encoders' names.

    Raises:
        InputError: where an encoder or a tokenizer cannot be loaded.
    """
    names = []
    for member in members:
        name = member.args.model_name_or_path
        if member.has_encoder and name not in names:
            load_tokenizer(member)
            try:
                AutoModel.from_pretrained(name, **hub_arguments(member))
            except (OSError, ValueError) as error:
                raise InputError(loading_error(name, error)) from None
            names.append(name)
    return names


def encoder_size(member: Member) -> float:
    """Return about how many weights each token is multiplied with, for estimates of cost; 1,000 without an encoder.

    Raises:
        InputError: where the encoder's config cannot be loaded.
    """
    if not member.has_encoder:
        return 1e3
    name = member.args.model_name_or_path
    try:
        config = AutoConfig.from_pretrained(name, **hub_arguments(member))
    except (OSError, ValueError) as error:
        raise InputError(loading_error(name, error)) from None
    return 12.0 * getattr(config, "num_hidden_layers", 1) * getattr(config, "hidden_size", 1) ** 2


def loading_error(name: str, error: Exception) -> str:
    """Return the message for an encoder that cannot be loaded, in one sentence."""
    reason = " ".join(str(error).split())
    return f"--model_name_or_path {name} can't be loaded: {reason[:300]}"


def _table_path(folder: Path, part: str, member: Member) -> Path:
    """Return the path of a part's table; its name holds a hash of the member's preprocessing variant."""
    variant = {name: getattr(member.args, name) for name in (*(VARIANT if member.has_encoder else ()), "cleaning")}
    key = hashlib.sha256(json.dumps(variant, sort_keys=True).encode()).hexdigest()[:8]
    return folder / f"{part}-{key}.arrow"


def tokenise(folder: Path, part: str, tweets: Dataset, members: Iterable[Member]) -> None:
    """Write the token table of each preprocessing variant of the members, in the first process that asks."""
    for member in members:
        path = _table_path(folder, part, member)
        write = _write_token_table if member.has_encoder else _write_text_table
        make_once(path, lambda path=path, member=member, write=write: write(path, tweets, member))


def token_table(folder: Path, part: str, member: Member) -> Dataset:
    """Return columns row, id, input_ids, length (tokens) and, of labelled tweets, labels; memory-mapped from disk.

    A member without an encoder has `text` (cleaned) in place of `input_ids`, and the length is in characters.
    """
    return Dataset.from_file(str(_table_path(folder, part, member)))


def _write_token_table(path: Path, tweets: Dataset, member: Member) -> None:
    tokenizer, steps = load_tokenizer(member), member.args.cleaning

    def to_tokens(texts: list[str]) -> dict[str, list]:
        cleaned = [clean(text, steps) for text in texts]
        input_ids = tokenizer(cleaned, truncation=True, max_length=member.args.max_seq_length)["input_ids"]
        return {"input_ids": input_ids, "length": [len(ids) for ids in input_ids]}

    _write_table(path, tweets, to_tokens, {"input_ids": List(Value("int32"))})


def _write_text_table(path: Path, tweets: Dataset, member: Member) -> None:
    steps = member.args.cleaning

    def to_texts(texts: list[str]) -> dict[str, list]:
        cleaned = [clean(text, steps) for text in texts]
        return {"text": cleaned, "length": [len(text) for text in cleaned]}

    _write_table(path, tweets, to_texts, {"text": Value("string")})


def _write_table(path: Path, tweets: Dataset, convert: Callable[[list[str]], dict[str, list]], columns: dict) -> None:
    """Write a table of tweets with converted texts, atomically, without holding it in memory."""

    def to_rows(batch: dict) -> dict:
        rows = {"row": batch["row"], "id": batch["id"], **convert(batch["text"])}
        return {**rows, "labels": batch["label"]} if "label" in batch else rows

    features = Features({"row": Value("int64"), "id": Value("string"), **columns, "length": Value("int32")})
    if "label" in tweets.column_names:
        features["labels"] = Value("int64")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as partial:
        partial_path = Path(partial) / path.name
        tweets.map(
            to_rows,
            batched=True,
            remove_columns=tweets.column_names,
            features=features,
            cache_file_name=str(partial_path),
        )
        partial_path.replace(path)


def longest_first(table: Dataset) -> np.ndarray:
    """Return an order (n_tweets,) by falling length, so that neighbours in a batch need little padding."""
    return np.argsort(-column(table, "length").to_numpy(), kind="stable")


def used_ids(table: Dataset, n_ids: int) -> torch.Tensor:
    """Return the token ids (n_used,) that occur in a table, ascending; reads the table in batches."""
    is_used = np.zeros(n_ids, dtype=bool)
    for batch in table.select_columns("input_ids").with_format("arrow").iter(batch_size=10_000):
        is_used[batch["input_ids"].combine_chunks().flatten().to_numpy()] = True
    return torch.from_numpy(np.flatnonzero(is_used))
