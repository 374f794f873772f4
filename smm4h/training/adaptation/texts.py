"""Texts that an encoder is adapted to: a job's own tweets and those of a file, as token tables without labels."""

from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from torch.utils.data import Dataset as TorchDataset

from smm4h.config.job import Adaptation, Member
from smm4h.data.tokenization import has_token_table, token_table, tokenise
from smm4h.utils.derived import DerivedFiles
from smm4h.utils.errors import InputError


def part_names(adaptation: Adaptation) -> list[str]:
    """Return the names of the token tables that an adaptation of a plan reads, as far as there are such tweets."""
    own = [part for part in ("labelled", "test") if getattr(adaptation, part)]
    return [*own, file_part(adaptation.unlabelled)] if adaptation.unlabelled else own


def file_part(content: str) -> str:
    """Return the name of the token tables of a file with texts, by the hash of its content."""
    return f"adapt-{content[:8]}"


def prepare_texts(folder: Path, member: Member, tweets: Mapping[str, Dataset | None], derived: DerivedFiles) -> None:
    """Write the token tables that an adaptation reads.

    Args:
        tweets: by part, see `part_names`; None: there are none.

    Raises `InputError` where there is no text at all.
    """
    tables = {part: tweets.get(part) for part in part_names(member.adaptation)}
    if all(table is None for table in tables.values()):
        raise InputError("adapt: there are no texts; name a file (unlabelled), or leave the labelled tweets in")
    for part, table in tables.items():
        if table is not None:
            tokenise(folder, part, table, [member], derived)


def tables_of(member: Member, token_folder: Path) -> list[Dataset]:
    """Return the token tables that an adaptation reads."""
    parts = [part for part in part_names(member.adaptation) if has_token_table(token_folder, part, member)]
    return [token_table(token_folder, part, member) for part in parts]


def texts_of(member: Member, token_folder: Path) -> Dataset:
    """Return the texts that an encoder is adapted to: columns input_ids and length, memory-mapped; no label is read."""
    return concatenate_datasets(
        [table.select_columns(["input_ids", "length"]) for table in tables_of(member, token_folder)]
    )


class TextRows(TorchDataset):
    """Token ids of texts by index; the index of a filler, which several processes need, gives the first text."""

    def __init__(self, texts: Dataset) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitems__(self, indices: list[int]) -> list[dict[str, list[int]]]:
        rows = self.texts[[max(index, 0) for index in indices]]
        return [{"input_ids": ids} for ids in rows["input_ids"]]
