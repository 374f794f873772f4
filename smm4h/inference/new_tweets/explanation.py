"""Which words carried a label: each word of a tweet is left out, and the label's probability is predicted again."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from smm4h.config.task import Task
from smm4h.data.streaming import Block
from smm4h.models.cleaning import URL
from smm4h.models.label_spaces import LabelSpace, space_of
from smm4h.models.predictors import EnsembleOutput
from smm4h.models.voting import VotingRule
from smm4h.models.word_models import LETTER, UNSPACED

COPIES = 4  # tweets that are looked at for each one that is explained, because some have the same text
BATCH = 2048  # texts that are predicted together
# A URL, a name or tag, a character of a script without spaces, a word, a run of signs such as emoji.
PART = re.compile(
    rf"{URL.pattern}|[{UNSPACED}]|[@#]?(?:{LETTER})+(?:['’-](?:{LETTER})+)*|[^\w\s]+",
    re.IGNORECASE,
)
GAPS = re.compile(r"[ \t]{2,}")


class TextsPredictor(Protocol):
    """Whatever predicts texts: a job's ensemble, a published one, a single classifier."""

    rule: VotingRule
    labels: list[str]

    def predict(
        self, texts: Sequence[str], groups: Sequence[str] | None = None, contexts: Sequence[str] | None = None
    ) -> EnsembleOutput: ...


@dataclass(frozen=True)
class Tweet:
    """A tweet to be explained; without group and second text where the task has none."""

    id: str
    text: str
    group: str | None = None
    context: str | None = None


@dataclass(frozen=True)
class Word:
    """A word of a tweet.

    Args:
        word: as it stands first in the tweet.
        weight: by how much the probability of the tweet's label falls where the word is left out.
        keeps_label: whether the tweet has the same label without it.
        spans: begin and end of each place where it stands, in other case, too.
    """

    word: str
    weight: float
    keeps_label: bool
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Explanation:
    """A tweet's label, its probability, and the words that carried it, the heaviest first."""

    tweet: Tweet
    label: int  # class index
    probability: float
    words: list[Word]

    def segments(self) -> Iterator[tuple[str, Word | None]]:
        """Yield the tweet's text in parts, each with its word; what stands between words has none."""
        places = sorted((span, word) for word in self.words for span in word.spans)
        end = 0
        for (start, stop), word in places:
            if start > end:
                yield self.tweet.text[end:start], None
            yield self.tweet.text[start:stop], word
            end = stop
        if end < len(self.tweet.text):
            yield self.tweet.text[end:], None


def rare_indices(task: Task, counts: Sequence[int]) -> list[int]:
    """Return the labels, by index, whose tweets are explained: the task's positive ones.

    Where these are not known, or all labels are positive, they are all but the one that is predicted most often; of a
    multi-label task all of them.

    Args:
        counts: number (n_labels,) of tweets by predicted label.
    """
    if task.multi_label or len(task.positive) < task.n_classes:
        return task.positive_indices
    return [index for index in range(task.n_classes) if index != int(np.argmax(counts))]


def certainty(space: LabelSpace, classes: np.ndarray, probabilities: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Return the probability (n_tweets,) of the most probable of some labels that a tweet is given; -inf without any.

    Args:
        classes: (n_tweets,) as predicted.
        probabilities: (n_tweets, n_labels).
        labels: by index.
    """
    of_labels = [np.where(space.has_any(classes, [label]), probabilities[:, label], -np.inf) for label in labels]
    return np.max(of_labels, axis=0) if of_labels else np.full(len(classes), -np.inf)


def pick_tweets(blocks: Iterable[Block], rows: Sequence[int], count: int) -> list[Tweet]:
    """Return the first tweets with different texts, of a word or more, of some rows of an input; at most `count`.

    Args:
        rows: numbers of tweets from 0, the most wanted first.
    """
    found, first, wanted = {}, 0, set(rows)
    for block in blocks:
        for index in range(len(block.ids)) if wanted else ():
            if first + index in wanted:
                further = (values[index] if values else None for values in (block.groups, block.contexts))
                found[first + index] = Tweet(block.ids[index], block.texts[index], *further)
        first += len(block.ids)
    distinct: dict[str, Tweet] = {}
    for row in rows:
        if PART.search(found[row].text):  # else there is nothing to leave out
            distinct.setdefault(found[row].text, found[row])
    return list(distinct.values())[:count]


def places_of_words(text: str) -> dict[str, list[tuple[int, int]]]:
    """Return where each word of a text stands, by the word without regard to case.

    A word that stands twice is one: with the other one left in, it would seem to carry nothing.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for match in PART.finditer(text):
        places.setdefault(match[0].casefold(), []).append(match.span())
    return places


def without_places(text: str, places: Sequence[tuple[int, int]]) -> str:
    """Return a text without what stands at some places, in their order."""
    kept, end = [], 0
    for start, stop in places:
        kept.append(text[end:start])
        end = stop
    return GAPS.sub(" ", "".join([*kept, text[end:]])).strip(" \t")


def count_variants(tweets: Sequence[Tweet]) -> int:
    """Return how many texts an explanation of some tweets predicts: each one, and it without each of its words."""
    return sum(1 + len(places_of_words(tweet.text)) for tweet in tweets)


def explain(predictor: TextsPredictor, tweets: Sequence[Tweet], rare: Sequence[int]) -> list[Explanation]:
    """Return which words carried each tweet's label; of a set of labels, the most probable rare one.

    A word's weight is p(label | tweet) - p(label | tweet without the word), the importance by erasure of Li, Monroe &
    Jurafsky 2016, "Understanding neural networks through representation erasure". Of two words that each suffice,
    neither gets much weight. The second text stays as it is.

    Args:
        rare: the rare labels, by index.
    """
    space = space_of(predictor.rule, predictor.labels)
    places = [places_of_words(tweet.text) for tweet in tweets]
    texts = [
        text
        for tweet, own in zip(tweets, places, strict=True)
        for text in (tweet.text, *(without_places(tweet.text, spans) for spans in own.values()))
    ]
    sizes = [1 + len(own) for own in places]
    origins = [tweet for tweet, size in zip(tweets, sizes, strict=True) for _ in range(size)]
    predicted, probabilities = _predict(predictor, texts, origins)
    explanations, start = [], 0
    for tweet, own, size in zip(tweets, places, sizes, strict=True):
        part = slice(start, start + size)
        label = explained_label(space, predicted[start], probabilities[start], rare)
        keeps = space.has_any(predicted[part], [label])
        explanations.append(_explanation(tweet, own, label, probabilities[part, label], keeps))
        start += size
    return explanations


def explained_label(space: LabelSpace, predicted: int, probabilities: np.ndarray, rare: Sequence[int]) -> int:
    """Return the label, by index, that is explained of a tweet's class: of several the most probable, rare ones first.

    Args:
        probabilities: (n_labels,) of the tweet.
    """
    given = [index for index in range(len(space.labels)) if space.has_any(np.array([predicted]), [index])[0]]
    among = [index for index in given if index in rare] or given or range(len(space.labels))
    return max(among, key=lambda index: probabilities[index])


def _predict(
    predictor: TextsPredictor, texts: Sequence[str], origins: Sequence[Tweet]
) -> tuple[np.ndarray, np.ndarray]:
    """Return classes (n_texts,) and probabilities (n_texts, n_classes), predicted `BATCH` texts at a time."""
    outputs = []
    for start in range(0, len(texts), BATCH):
        batch = origins[start : start + BATCH]
        groups = [tweet.group for tweet in batch] if batch[0].group is not None else None
        contexts = [tweet.context for tweet in batch] if batch[0].context is not None else None
        outputs.append(predictor.predict(texts[start : start + BATCH], groups, contexts))
    return (
        np.concatenate([output.predicted for output in outputs]),
        np.concatenate([output.probabilities for output in outputs]),
    )


def _explanation(
    tweet: Tweet, places: dict[str, list[tuple[int, int]]], label: int, probabilities: np.ndarray, keeps: np.ndarray
) -> Explanation:
    """Return a tweet's explanation.

    Args:
        probabilities, keeps: the label's probability (n_texts,), and whether it is given (n_texts,), of the tweet and,
            in the order of `places`, of the tweet without each word.
    """
    words = [
        Word(tweet.text[slice(*spans[0])], float(probabilities[0] - without), bool(kept), tuple(spans))
        for spans, without, kept in zip(places.values(), probabilities[1:], keeps[1:], strict=True)
    ]
    words.sort(key=lambda word: (-word.weight, word.spans))
    return Explanation(tweet, label, float(probabilities[0]), words)
