"""The pool of unlabelled tweets: read as often as needed, so that no more than a block of them is in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from smm4h.data.dataset import column, contexts_of
from smm4h.data.duplicates import normalized_text
from smm4h.data.streaming import Block
from smm4h.inference.labelling.gain import Signals
from smm4h.inference.predictor import EnsemblePredictor
from smm4h.models.label_spaces import space_of
from smm4h.models.predictors import EnsembleOutput
from smm4h.models.voting import VotingRule
from smm4h.models.word_models import hash_of


@dataclass(frozen=True)
class PoolTweet:
    """A tweet of the pool, as it is written for those who label it."""

    id: str
    text: str
    context: str | None = None
    group: str | None = None
    user: str | None = None

    @property
    def all_text(self) -> str:
        """The second text, if there is one, and the tweet's: what tells it from others."""
        return all_text(self.text, self.context)


def all_text(text: str, context: str | None) -> str:
    return text if context is None else f"{context}\n{text}"


def key_of(text: str, context: str | None) -> int:
    """Return the number of a normalised text with its second text, equal for twins; 0 for a tweet without words."""
    own = normalized_text(text)
    return (own and hash_of(all_text(own, context and normalized_text(context)))) or 0


def labelled_texts(tables: Iterable[Dataset]) -> tuple[list[str], set[int]]:
    """Return the texts of tables of labelled tweets, and the keys by which their twins are known."""
    texts: list[str] = []
    keys: set[int] = set()
    for table in tables:
        pairs = _pairs(column(table, "text").to_pylist(), contexts_of(table))
        texts += [all_text(*pair) for pair in pairs]
        keys.update(key_of(*pair) for pair in pairs)
    return texts, keys


def _pairs(texts: Sequence[str], contexts: Sequence[str] | None) -> list[tuple[str, str | None]]:
    return list(zip(texts, contexts or [None] * len(texts), strict=True))


@dataclass(frozen=True)
class JudgedPool:
    """A pool with what a job says of each tweet: `signals`, class indices, probabilities of these, and keys."""

    signals: Signals
    predicted: np.ndarray  # (n_tweets,) class indices
    probability: np.ndarray  # (n_tweets,) of the predicted class
    keys: np.ndarray  # (n_tweets,) see `key_of`


def judge(
    blocks: Iterable[Block],
    predictor: EnsemblePredictor,
    rule: VotingRule,
    positive: Sequence[int],
    on_block: Callable[[Block], None],
) -> JudgedPool:
    """Predict all tweets of a pool; keep 28 bytes of each.

    Args:
        rule: of the predictor's members, whose decision the gain is measured to; labels are by the predictor's own.
        positive: indices of the rare labels.
    """
    signals, predicted, probability, keys = [], [], [], []
    for block in blocks:
        members = predictor.predict_members(block.texts, block.contexts)
        output = EnsembleOutput.from_rule(predictor.rule, members, block.groups)
        at_boundary = output if rule is predictor.rule else EnsembleOutput.from_rule(rule, members, block.groups)
        space = space_of(predictor.rule, predictor.labels)
        signals.append(Signals.of_predictions(members, at_boundary, positive, space))
        predicted.append(output.predicted)
        probability.append(output.probability.astype(np.float32))
        keys.append(np.array([key_of(*pair) for pair in _pairs(block.texts, block.contexts)], dtype=np.int64))
        on_block(block)
    if not keys:
        return JudgedPool(Signals(*[np.zeros(0)] * 3), *[np.zeros(0, dtype=np.int64)] * 3)
    return JudgedPool(Signals.joined(signals), *(np.concatenate(parts) for parts in (predicted, probability, keys)))


def tweets_at(blocks: Iterable[Block], rows: np.ndarray) -> dict[int, PoolTweet]:
    """Return the tweets of some rows of a pool, by row."""
    wanted, found = set(rows.tolist()), {}
    for row, tweet in enumerate(_tweets(blocks)):
        if row in wanted:
            found[row] = tweet
            if len(found) == len(wanted):
                break
    return found


def _tweets(blocks: Iterable[Block]) -> Iterator[PoolTweet]:
    for block in blocks:
        n_tweets = len(block.ids)
        further = (values or [None] * n_tweets for values in (block.contexts, block.groups, block.users))
        for fields in zip(block.ids, block.texts, *further, strict=True):
            yield PoolTweet(*fields)
