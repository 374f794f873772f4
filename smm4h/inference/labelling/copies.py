"""Near copies: tweets that differ in a word or two, whose labels would tell next to nothing new."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from smm4h.data.duplicates import normalized_text
from smm4h.models.word_models import LETTER, UNSPACED

ALIKE = 0.7  # share of common words and pairs of words from which tweets are near copies
WORD = re.compile(rf"[{UNSPACED}]|{LETTER}+")
EDGE = ""  # stands before the first word and behind the last

Phrases = frozenset[tuple[str, ...]]


def phrases_of(text: str) -> Phrases:
    """Return the words, and the pairs of neighbouring words, of a text without case, URLs and @names.

    In scripts without spaces a character counts as a word. A text without any word has none.
    """
    words = WORD.findall(normalized_text(text))
    if not words:
        return frozenset()
    return frozenset([*((word,) for word in words), *zip([EDGE, *words], [*words, EDGE], strict=True)])


class CopyIndex:
    """Tweets by their phrases, which says whether another tweet is a near copy of one of them.

    Near copies have `ALIKE` of their words and pairs of words in common (Jaccard 1901): of two tweets of 15 words, one
    word may differ, or two that stand together.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.phrases: list[Phrases] = []
        self.with_pair: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        phrases = phrases_of(text)
        for pair in _pairs(phrases):
            self.with_pair[pair].append(len(self.phrases))
        self.phrases.append(phrases)

    def has_near_copy(self, text: str) -> bool:
        """Return whether one of the tweets is a near copy of this one, or the same."""
        phrases = phrases_of(text)
        shared = Counter(number for pair in _pairs(phrases) for number in self.with_pair.get(pair, ()))
        return any(_alikeness(phrases, self.phrases[number]) >= ALIKE for number in shared)


def _pairs(phrases: Phrases) -> list[tuple[str, ...]]:
    return [phrase for phrase in phrases if len(phrase) == 2]


def _alikeness(one: Phrases, other: Phrases) -> float:
    """Return the share of the phrases of either text that both have."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)
