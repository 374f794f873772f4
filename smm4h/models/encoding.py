"""From texts, alone or with a second text, to token ids: truncation, and windows over long texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

TRUNCATIONS = ("head", "tail", "head_tail", "windows")
HEAD_SHARE = 4  # head_tail keeps a quarter of its tokens from the head: Sun et al. 2019, section 5.3.1, 128 of 510
OVERLAP_SHARE = 4  # neighbouring windows have a quarter of their tokens in common
Row = dict[str, list[int]]
Parts = tuple[list[list[int]], list[list[int]]]  # special tokens before, between and after; tokens of both texts


@dataclass(frozen=True)
class CutTweets:
    """How many tweets are longer than a model reads, and the longest of them, in tokens."""

    count: int
    longest: int
    max_length: int

    def __add__(self, other: "CutTweets") -> "CutTweets":
        return CutTweets(self.count + other.count, max(self.longest, other.longest), self.max_length)


@dataclass(frozen=True)
class TextEncoder:
    """Turns texts into rows of token ids.

    A row has `input_ids`; with second texts also `second`, where the second segment begins. Of windows, `input_ids`
    holds one after the other, `windows` the length of each, and `second` an index into each.

    Args:
        max_length: tokens of a row, or of each window.
        truncation: which tokens of a longer text are kept, one of `TRUNCATIONS`.
        max_windows: of a text; of a longer text they are spread over it evenly and leave gaps.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    truncation: str = "head"
    max_windows: int = 8

    def encode(self, texts: Sequence[str], contexts: Sequence[str] | None = None) -> tuple[list[Row], CutTweets]:
        """Return the row of each text, and how many texts were cut.

        Args:
            contexts: a second text for each. Where both are too long together the first is cut, to no less than half of
                the tokens; only then is the second cut, too.
        """
        if contexts is None and self.truncation == "head":
            return self._heads(texts)
        if not texts:
            return [], CutTweets(0, 0, self.max_length)
        parts = self._parts(texts, contexts)
        rows = [self._row(*part, has_context=contexts is not None) for part in parts]
        lengths = [sum(map(len, special)) + sum(map(len, tokens)) for special, tokens in parts]
        cut = [length for length, (_, is_cut) in zip(lengths, rows, strict=True) if is_cut]
        return [row for row, _ in rows], CutTweets(len(cut), max(cut, default=0), self.max_length)

    def _heads(self, texts: Sequence[str]) -> tuple[list[Row], CutTweets]:
        """Return rows of the first tokens; only texts that fill their row are tokenized again, to be counted."""
        token_ids = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
        full = [text for text, ids in zip(texts, token_ids, strict=True) if len(ids) >= self.max_length]
        lengths = full_lengths(self.tokenizer, full)
        too_long = [length for length in lengths if length > self.max_length]
        cut = CutTweets(len(too_long), max(too_long, default=0), self.max_length)
        return [{"input_ids": ids} for ids in token_ids], cut

    def _parts(self, texts: Sequence[str], contexts: Sequence[str] | None) -> list[Parts]:
        """Return what `_split` does of each text, not truncated.

        Where the tokenizer has nothing of its own between two texts, as those of Qwen and GPT-2 have not, a line break
        stands there: nobody could else tell where the first one ends.
        """
        if contexts is not None and self._pair_template[1] == 0:
            tokens, (separator,) = self._without_special(contexts), self._without_special(["\n"])
            return [
                ([before, separator, after], [text, second])
                for ((before, _, after), (text, _)), second in zip(self._parts(texts, None), tokens, strict=True)
            ]
        pair = () if contexts is None else (list(contexts),)
        encoded = self.tokenizer(list(texts), *pair, truncation=False, return_special_tokens_mask=True, verbose=False)
        return [
            self._split(ids, mask, contexts is not None)
            for ids, mask in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
        ]

    def _without_special(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts without any that the tokenizer adds."""
        return self.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]

    def _split(self, ids: list[int], is_special: list[int], has_context: bool) -> Parts:
        """Return the special tokens before, between and after the texts, and the tokens of both texts.

        Args:
            is_special: of each token, 1 where the tokenizer has added it.
        """
        before, between, after = self._pair_template if has_context else self._text_template
        end = next((i for i in range(before, len(ids)) if is_special[i]), len(ids))
        start, stop = end + between, len(ids) - after
        texts = [ids[before:end], ids[start:stop] if has_context else []]
        return [ids[:before], ids[end:start], ids[stop:]], texts

    @cached_property
    def _text_template(self) -> tuple[int, int, int]:
        """How many special tokens stand before a text, between it and no other, and after it."""
        mask = self.tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        return mask.index(0), 0, mask[::-1].index(0)

    @cached_property
    def _has_types(self) -> bool:
        """Whether the tokenizer gives second texts a segment of their own; RoBERTa's does not."""
        return any(self.tokenizer("a", "a", return_token_type_ids=True)["token_type_ids"])

    @cached_property
    def _pair_template(self) -> tuple[int, int, int]:
        """How many special tokens stand before, between and after two texts."""
        mask = self.tokenizer("a", "a", return_special_tokens_mask=True)["special_tokens_mask"]
        before, after = mask.index(0), mask[::-1].index(0)
        return before, sum(mask) - before - after, after

    def _row(self, special: list[list[int]], texts: list[list[int]], *, has_context: bool) -> tuple[Row, bool]:
        """Return a text's row, and whether any of its tokens were left out."""
        before, between, after = special
        text, context = texts
        room = max(1, self.max_length - sum(map(len, special)))
        kept = context[: max(room // 2, room - len(text))] if has_context else []
        pieces, is_cut = self._pieces(text, room - len(kept))
        windows = [before + piece + between + kept + after for piece in pieces]
        row: Row = {"input_ids": [token for window in windows for token in window]}
        if has_context:
            row["second"] = [
                len(before) + len(piece) + len(between) if self._has_types else len(window)
                for piece, window in zip(pieces, windows, strict=True)
            ]
        if self.truncation == "windows":
            row["windows"] = [len(window) for window in windows]
        return row, is_cut or len(kept) < len(context)

    def _pieces(self, text: list[int], room: int) -> tuple[list[list[int]], bool]:
        """Return the parts of a text's tokens that are read, and whether others are not."""
        if len(text) <= room:
            return [text], False
        if self.truncation == "windows":
            step = max(1, room - room // OVERLAP_SHARE)
            n_needed = -(-(len(text) - room) // step) + 1
            n_windows = min(n_needed, self.max_windows)
            starts = np.linspace(0, len(text) - room, n_windows).round().astype(int)
            has_gaps = n_windows == 1 or int(np.diff(starts).max()) > room
            return [text[start : start + room] for start in starts.tolist()], has_gaps
        n_head = {"head": room, "tail": 0, "head_tail": room // HEAD_SHARE}[self.truncation]
        return [text[:n_head] + text[len(text) - (room - n_head) :]], True


def full_lengths(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Return the tokens of texts as if the tokenizer had no longest input."""
    return [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]] if texts else []


def joined_texts(texts: Sequence[str], contexts: Sequence[str] | None) -> list[str]:
    """Return texts for models without second texts: the second one first, because some read the first words only."""
    if contexts is None:
        return list(texts)
    return [f"{context} | {text}" for text, context in zip(texts, contexts, strict=True)]


def token_columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return rows as columns, with their length in tokens."""
    names = rows[0] if rows else ["input_ids"]
    return {name: [row[name] for row in rows] for name in names} | {"length": [len(row["input_ids"]) for row in rows]}
