"""Tweets -> cleaned -> word pieces, once for each text variant; the tables stay on disk and are mapped into memory."""

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value
from filelock import FileLock
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from smm4h.arrow import column
from smm4h.cleaning import clean
from smm4h.errors import InputError
from smm4h.recipe import Member


def load_tokenizer(member: Member) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer, cutting at the member's length, padding on the right: heads read the first token."""
    name, longest = member.get("model_name_or_path"), member.get("max_seq_length")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **hub_arguments(member))
    except (OSError, ValueError) as error:
        raise InputError(encoder_trouble(name, error)) from None
    if longest > tokenizer.model_max_length:
        raise InputError(
            f"--max_seq_length {longest} is more than {name} can read; {tokenizer.model_max_length} is its longest"
        )
    tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side = longest, "right", "right"
    return tokenizer


def hub_arguments(member: Member) -> dict:
    """What every `from_pretrained` is told about where the encoder lies."""
    return {
        "revision": member.get("model_revision"),
        "cache_dir": member.get("cache_dir"),
        "token": member.get("token"),
        "trust_remote_code": member.get("trust_remote_code"),
    }


def encoder_trouble(name: str, error: Exception) -> str:
    """One sentence on an encoder that does not load."""
    reason = " ".join(str(error).split())
    return f"--model_name_or_path {name} can't be loaded: {reason[:300]}"


def token_table(folder: Path, part: str, tweets: Dataset, member: Member) -> Dataset:
    """Columns row, input_ids, length and, of labelled tweets, labels; made by whichever worker asks first."""
    names = ("model_name_or_path", "model_revision", "max_seq_length", "cleaning")
    variant = {name: member.get(name) for name in names}
    key = hashlib.sha256(json.dumps(variant, sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"{part}-{key}.arrow"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{part}-{key}.lock"):
            if not path.exists():
                _write_token_table(path, tweets, member)
    return Dataset.from_file(str(path))


def _write_token_table(path: Path, tweets: Dataset, member: Member) -> None:
    tokenizer, steps = load_tokenizer(member), member.get("cleaning")

    def tokenise(batch: dict) -> dict:
        texts = [clean(text, steps) for text in batch["text"]]
        input_ids = tokenizer(texts, truncation=True, max_length=member.get("max_seq_length"))["input_ids"]
        tokens = {"row": batch["row"], "input_ids": input_ids, "length": [len(ids) for ids in input_ids]}
        return {**tokens, "labels": batch["label"]} if "label" in batch else tokens

    features = Features({"row": Value("int64"), "input_ids": List(Value("int32")), "length": Value("int32")})
    if "label" in tweets.column_names:
        features["labels"] = Value("int64")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tokens-") as partial:
        made = Path(partial) / path.name
        tweets.map(
            tokenise,
            batched=True,
            remove_columns=tweets.column_names,
            features=features,
            cache_file_name=str(made),
        )
        made.replace(path)


def longest_first(table: Dataset) -> np.ndarray:
    """An order (n_tweets,) in which neighbours have like lengths, so that a batch holds hardly any padding."""
    return np.argsort(-column(table, "length").to_numpy(), kind="stable")
