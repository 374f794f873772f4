"""Predictions of many tweets, block by block: kept beside the output, shared by processes, resumed after a kill."""

import functools
import hashlib
import heapq
import json
import operator
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from smm4h import __version__
from smm4h.config.task import Task
from smm4h.data.outputs.predictions import PROBABILITY
from smm4h.data.readers.files import kind_of, name_of
from smm4h.data.streaming import Block, Writer
from smm4h.inference.new_tweets.explanation import certainty
from smm4h.inference.new_tweets.output_columns import PASSED
from smm4h.inference.new_tweets.profile import TweetProfile, profile_of
from smm4h.inference.new_tweets.reference import Reference
from smm4h.inference.predictor import Predictor, cut_tweets
from smm4h.models.encoding import CutTweets
from smm4h.models.label_spaces import LabelSpace, space_of
from smm4h.models.voting import VotingRule
from smm4h.utils.durable import Hashes, hash_files
from smm4h.utils.errors import InputError
from smm4h.utils.files import PIPE, beside, private_mode, sync, sync_names, write_atomically, write_json
from smm4h.utils.leases import LeaseHolder
from smm4h.utils.wording import of_one

ABOUT = "about.json"
CUT_KEY = b"cut"  # of a block's metadata: the tweets that were cut, by member
PROFILE_KEY = b"profile"  # of a block's metadata: counts and histograms of its tweets
GROUP_KEY = b"pooled"  # of a block's metadata: how many tweets of each group got the cut for all groups
MOST_LISTED = 20  # groups in a notice
HASH_KEY = b"sha256"  # of a block's metadata: see `_signed`
SOURCE_KEY = b"source"  # of a block's metadata: what its predictions depend on
# What predictions depend on, in words, by its key in about.json.
SOURCES = {
    "version": "by another version of this project",
    "ensemble": "with another ensemble, or other weights",
    "inputs": "on other tweets",
    "reading": "with other columns, another --encoding, or another --block",
}


@dataclass(frozen=True)
class PartialPredictions:
    """The predictions so far, a Parquet file a block, in a folder beside the output; shared by several processes.

    A block counts if its metadata name all that its predictions depend on and its ids are those of the tweets.
    """

    folder: Path
    source: str  # hash of what predictions depend on
    tweets: dict[str, Path] = field(default_factory=dict)  # the input's files, by number and kind
    hashes: Hashes = field(default_factory=dict)  # of these files
    reference: Reference | None = None  # the labelled tweets, with which the profile is compared
    checked: set[int] = field(default_factory=set)  # numbers of blocks that were found complete

    @classmethod
    def open(
        cls,
        folder: Path,
        inputs: Sequence[Path],
        ensemble: Hashes,
        reading: dict[str, Any],
        reference: Reference | None = None,
        *,
        is_main_process: bool,
    ) -> tuple["PartialPredictions", list[str]]:
        """Begin or resume; return the predictions so far and notices.

        What was predicted of other tweets, or with other weights or columns, is removed by the main process.

        Args:
            ensemble: of all files of the ensemble.
            reading: how the inputs are read.
            reference: what the tweets are compared with.
        """
        before = _read_about(folder)
        kinds = [kind_of(path) for path in inputs]
        tweets = {f"{number}{kind}": path for number, (kind, path) in enumerate(zip(kinds, inputs, strict=True))}
        about = {
            "version": __version__,
            "ensemble": ensemble,
            "inputs": hash_files(tweets, before.get("inputs")),
            "reading": reading,
        }
        content = {name: _without_stat(value) for name, value in about.items()}
        source = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        parts = cls(folder, source, tweets, about["inputs"], reference)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        notices = []
        if is_main_process:
            differing = [what for name, what in SOURCES.items() if _without_stat(before.get(name)) != content[name]]
            if (folder / ABOUT).exists() and differing:
                parts.remove_foreign_blocks()
                notices.append(f"{folder} was begun {differing[0]}; it is begun anew")
            write_json(folder / ABOUT, about)
        return parts, notices

    def remove_foreign_blocks(self) -> None:
        """Remove the blocks of another source; other processes of this launch may have written some of this one."""
        for path in self.folder.glob("[0-9]*.parquet"):
            if _source_of(path) != self.source:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, which nothing is left to do with."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove the folder where no block was predicted, as of an input that is refused at once."""
        if not any(self.folder.glob("[0-9]*.parquet")):
            self.remove()

    def check_unchanged(self) -> None:
        """Raise `InputError` where a file of the input was changed while it was read."""
        for name, now in hash_files(self.tweets, self.hashes).items():
            if now["sha256"] != self.hashes[name]["sha256"]:
                raise InputError(f"{name_of(self.tweets[name])} was changed while its tweets were predicted; repeat")

    def path(self, number: int) -> Path:
        """Return the file of a block."""
        return self.folder / f"{number:08}.parquet"

    def predict_missing(
        self,
        blocks: Iterable[Block],
        predictor: Predictor,
        leases: LeaseHolder,
        on_block: Callable[[Block], None],
    ) -> tuple[int, int]:
        """Predict the blocks that no process has predicted or holds; return how many there are and how many miss."""
        n_blocks = n_missing = 0
        for block in blocks:
            n_blocks += 1
            n_missing += not self._predict(block, predictor, leases)
            on_block(block)
        return n_blocks, n_missing

    def _predict(self, block: Block, predictor: Predictor, leases: LeaseHolder) -> bool:
        """Return whether the block's predictions are there, made by this process or another."""
        if self._is_complete(block):
            return True
        path = self.path(block.number)
        lease = leases.try_acquire(path.with_suffix(".claim"))
        if lease is None:
            return False
        with lease:
            if not self._is_complete(block):
                table = _table_of(block, predictor)  # before the predictor is asked what it cut
                space = space_of(predictor.rule, predictor.labels)
                labels = list(chain.from_iterable(map(space.split, table["label"].to_pylist())))
                metadata = {
                    SOURCE_KEY: self.source.encode(),
                    CUT_KEY: _cut_metadata(predictor).encode(),
                    GROUP_KEY: json.dumps(pooled_groups(predictor.rule, block.groups)).encode(),
                    PROFILE_KEY: json.dumps(self._profile_of(block, labels).to_dict()).encode(),
                }
                table = _signed(table.replace_schema_metadata(metadata))
                write_atomically(path, lambda partial: pa.parquet.write_table(table, partial))
                self.checked.add(block.number)
        return True

    def _profile_of(self, block: Block, labels: Sequence[str]) -> TweetProfile:
        return self.reference.profile(block.texts, labels) if self.reference else profile_of(block.texts, labels)

    def profile(self, n_blocks: int) -> TweetProfile:
        """Return the profile of all tweets."""
        contents = filter(None, self._metadata(n_blocks, PROFILE_KEY))
        profiles = [TweetProfile.from_dict(content) for content in contents]
        return functools.reduce(operator.add, profiles) if profiles else profile_of([])

    def most_certain(self, n_blocks: int, space: LabelSpace, labels: Sequence[int], count: int) -> list[int]:
        """Return the numbers of the tweets that are given some labels most certainly, at most `count`.

        A tweet's number is its place in the input, from 0.

        Args:
            labels: by index; see `explanation.certainty`.
        """
        found, first = [], 0
        for number in range(n_blocks if count else 0):
            table = pa.parquet.read_table(self.path(number), partitioning=None)
            probabilities = [table[f"{PROBABILITY}{label}"].to_numpy() for label in space.labels]
            certain = certainty(
                space, space.classes(table["label"].to_pylist()), np.stack(probabilities, axis=1), labels
            )
            own = ((-float(certain[row]), int(row) + first) for row in np.flatnonzero(np.isfinite(certain)))
            found = heapq.nsmallest(count, chain(found, own))
            first += table.num_rows
        return [row for _, row in found]

    def _is_complete(self, block: Block) -> bool:
        """Return whether a block's file is whole and holds predictions of these tweets from this source."""
        if block.number in self.checked:
            return True
        try:
            table = pa.parquet.read_table(self.path(block.number), partitioning=None)
        except (OSError, pa.ArrowException):  # not there, or damaged
            return False
        if not _is_signed(table) or table.schema.metadata[SOURCE_KEY].decode() != self.source:
            return False
        if table.column("id").to_pylist() != block.ids:
            return False
        self.checked.add(block.number)
        return True

    def join(
        self, output: str, n_blocks: int, names: dict[str, str], foreign: Collection[str] = (), *, private: bool = False
    ) -> list[str]:
        """Write all blocks, in order, to the output, and remove the folder; return notices on the blocks' tweets.

        Args:
            output: a file's name, or `PIPE`.
            names: what each column of the output is called, by its name in the blocks.
            foreign: output names of the columns that are passed on.
            private: whether the output holds tweets.
        """
        block_schema = pa.parquet.read_schema(self.path(0))
        notices = [*self._cut_notices(n_blocks), *self._group_notices(n_blocks)]
        schema = pa.schema([(new, block_schema.field(name).type) for name, new in names.items()])

        def write(path: Path | None) -> int:
            with Writer(path, schema, foreign) as writer:
                for number in range(n_blocks):
                    table = pa.parquet.read_table(self.path(number), columns=list(names), partitioning=None)
                    writer.write(table.rename_columns(list(names.values())))
            return writer.n_flattened

        if output == PIPE:
            n_flattened = write(None)
        else:
            partial = self.folder / f"joined{''.join(Path(output).suffixes[-2:])[-20:]}"
            n_flattened = write(partial)
            sync(partial)
            if private:
                partial.chmod(private_mode())
            partial.replace(output)
            sync_names(Path(output).parent)  # before the blocks are removed
        self.remove()
        if n_flattened:
            notices.append(
                f"{n_flattened} cells held tabs or line ends, which are spaces in a .tsv; .csv, .jsonl and .parquet "
                "keep them"
            )
        return notices

    def _metadata(self, n_blocks: int, key: bytes) -> Iterator[dict[str, Any]]:
        """Yield what the blocks' metadata holds under a key."""
        for number in range(n_blocks):
            metadata = pa.parquet.read_schema(self.path(number)).metadata or {}
            yield json.loads(metadata.get(key, b"{}"))

    def _group_notices(self, n_blocks: int) -> list[str]:
        """Return a line on the tweets whose groups have no cut of their own, if there are such tweets."""
        total: Counter[str] = Counter()
        for counted in self._metadata(n_blocks, GROUP_KEY):
            total.update(counted)
        listed = ", ".join(f"{group or 'no group'}: {count}" for group, count in total.most_common(MOST_LISTED))
        more = f" and {len(total) - MOST_LISTED} more groups" if len(total) > MOST_LISTED else ""
        return [f"the cut for all groups decides where a group has none of its own ({listed}{more})"] if total else []

    def _cut_notices(self, n_blocks: int) -> list[str]:
        """Return a line for each tokenizer that cut tweets of the blocks."""
        total: dict[str, CutTweets] = {}
        for cuts in self._metadata(n_blocks, CUT_KEY):
            for member, counted in cuts.items():
                cut = CutTweets(**counted)
                total[member] = total[member] + cut if member in total else cut
        notes = []
        for member, cut in total.items():
            what = f"tweets are longer than the {cut.max_length} tokens that {member} reads and were cut"
            notes.append(f"{cut.count} {of_one(what) if cut.count == 1 else what}; the longest has {cut.longest}")
        return notes


def pooled_groups(rule: VotingRule, groups: Sequence[str] | None) -> dict[str, int]:
    """Return how many tweets of each group got the decision for all tweets, under a rule with cuts by group."""
    if not rule.cuts or groups is None:
        return {}
    return dict(Counter(group for group in groups if group not in rule.cuts))


def parts_folder(output: str) -> Path:
    """Return the folder of an output's predictions so far."""
    return beside(Path(output), ".parts")


def reading_of(task: Task, encoding: str | None, block_size: int, passed: Sequence[str] = ()) -> dict[str, Any]:
    """Return how tweets are read, for the comparison of a resume.

    Args:
        passed: names of the input's columns that are passed on.
    """
    reading = {"columns": asdict(task.columns), "labels": task.labels, "encoding": encoding, "block": block_size}
    return reading | ({"passed": list(passed)} if passed else {})


def _table_of(block: Block, predictor: Predictor) -> pa.Table:
    """Return a block's predictions; label sets have no single probability."""
    output = predictor.predict(block.texts, block.groups, block.contexts)
    space = space_of(predictor.rule, predictor.labels)
    columns = {"id": pa.array(block.ids, pa.string()), "label": pa.array(space.names(output.predicted), pa.string())}
    columns |= {"margin": pa.array(output.margin, pa.float64()), "votes": pa.array(output.votes, pa.int64())}
    if space.problem_type is None:
        columns["probability"] = pa.array(output.probability, pa.float64())
    for label, probabilities in zip(predictor.labels, output.probabilities.T, strict=True):
        columns[f"{PROBABILITY}{label}"] = pa.array(probabilities, pa.float64())
    return pa.table(columns | {f"{PASSED}{name}": pa.array(own, pa.string()) for name, own in block.passed.items()})


def _signed(table: pa.Table) -> pa.Table:
    """Return a block with a hash of its rows and metadata: Parquet would not notice a changed bit in most of them."""
    return table.replace_schema_metadata({**table.schema.metadata, HASH_KEY: _hash_of(table).encode()})


def _is_signed(table: pa.Table) -> bool:
    metadata = table.schema.metadata or {}
    return metadata.get(HASH_KEY, b"").decode(errors="replace") == _hash_of(table)


def _hash_of(table: pa.Table) -> str:
    known = {key: value for key, value in (table.schema.metadata or {}).items() if key != HASH_KEY}
    return hashlib.sha256(repr([table.to_pydict(), sorted(known.items())]).encode("utf-8", "replace")).hexdigest()


def _cut_metadata(predictor: Predictor) -> str:
    return json.dumps({member: asdict(found) for member, found in cut_tweets(predictor).items()})


def _read_about(folder: Path) -> dict[str, Any]:
    """Return what the predictions so far depend on; nothing where that can't be read."""
    try:
        content = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _without_stat(value: Any) -> Any:
    """Return hashes without the files' states, as which another copy of the files has others."""
    if isinstance(value, dict) and all(isinstance(one, dict) and "sha256" in one for one in value.values()):
        return {name: one["sha256"] for name, one in value.items()}
    return value


def _source_of(block_file: Path) -> str | None:
    """Return what a block's predictions depend on, as its metadata say; None for a file that says nothing."""
    try:
        metadata = pa.parquet.read_schema(block_file).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return metadata.get(SOURCE_KEY, b"").decode(errors="replace")
