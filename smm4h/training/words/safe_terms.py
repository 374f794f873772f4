"""Features that can be published: of terms that enough authors have, and of random buckets for all others.

What a classifier learns from these features depends on a term only if `SAFE` authors have it. Rarer terms count
as noise: each is put into a random bucket, drawn without a look at it. Left out, they would be missed at prediction,
where no list says which terms are known, and every unknown one falls into some bucket.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from smm4h.models.cleaning import SPACES, URL, USERNAME
from smm4h.models.word_models import SAFE, bucket_counts, hashes_of

BUCKETS_EACH = 4  # for each different term, at most
SMALLEST, LARGEST = 2**8, 2**18  # buckets


class NoSafeTerms(ValueError):
    """Raised where no term has enough authors; says how many there are."""


def first_of_duplicates(texts: Sequence[str]) -> np.ndarray:
    """Return the indices of texts but for repeated ones, which differ in case, URLs, @names and spaces at most."""
    index_of: dict[str, int] = {}
    for index, text in enumerate(texts):
        index_of.setdefault(SPACES.sub(" ", USERNAME.sub(" ", URL.sub(" ", text))).strip().lower(), index)
    return np.array(list(index_of.values()), dtype=np.int64)


@dataclass(frozen=True)
class TermRows(Sequence):
    """The terms of each text, extracted when they are asked for: those of a million tweets would take gigabytes."""

    texts: Sequence[str]
    terms_of: Callable[[str], list[str]]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> list[str]:
        return self.terms_of(self.texts[index])


@dataclass
class SafeTerms:
    """The terms of some tweets that `SAFE` authors have, and the number of buckets for them.

    Args:
        terms: that weights may depend on.
        n_buckets: a power of two, at most `BUCKETS_EACH` times the number of different terms: the noise of rare ones
            fills so many buckets that a used bucket does not tell that a term is known.
    """

    terms: frozenset[str]
    n_buckets: int

    @classmethod
    def find(cls, rows: Sequence[Sequence[str]], texts: Sequence[str], authors: Sequence[int]) -> "SafeTerms":
        """Return the safe terms among the terms of each tweet.

        Args:
            rows: the terms of each tweet.
            texts: (n_tweets,), whose copies of one tweet count once.
            authors: (n_tweets,) a number for each author.
        """
        indices = first_of_duplicates(texts)  # a copied tweet does not make its words those of many authors
        numbers = np.asarray(authors)[indices]
        last: dict[str, int] = {}  # tweets are counted author by author, so that one entry a term is enough
        counts: Counter[str] = Counter()
        for position in np.argsort(numbers, kind="stable").tolist():
            author = int(numbers[position])
            for term in set(rows[indices[position]]):
                if last.get(term) != author:
                    last[term] = author
                    counts[term] += 1
        n_buckets = 1 << (BUCKETS_EACH * max(len(counts), 1)).bit_length() - 1
        terms = frozenset(term for term, count in counts.items() if count >= SAFE)
        if not terms:
            raise NoSafeTerms(f"it has {len(set(numbers.tolist()))} authors")
        return cls(terms, min(max(n_buckets, SMALLEST), LARGEST))

    def hashes(self, terms: Sequence[str], draw: Callable[[int], np.ndarray]) -> np.ndarray:
        """Return the hashes (n_terms,) of terms, and of rare ones random numbers: `draw` returns so many, uint64."""
        is_rare = np.fromiter((term not in self.terms for term in terms), dtype=bool, count=len(terms))
        hashes = np.empty(len(terms), dtype=np.uint64)
        hashes[~is_rare] = hashes_of([term for term in terms if term in self.terms])
        hashes[is_rare] = draw(int(is_rare.sum()))
        return hashes

    def features(self, rows: Sequence[Sequence[str]], rng: np.random.Generator) -> csr_matrix:
        """Return the features (n_tweets, n_buckets) of the terms of each tweet."""

        def draw(count: int) -> np.ndarray:
            return rng.integers(2**64, size=count, dtype=np.uint64)

        indices, values, ends = [], [], [0]
        for row in rows:
            counts = Counter(row)
            numbers = np.array(list(counts.values()), dtype=np.float64)
            buckets, of_row = bucket_counts(self.hashes(list(counts), draw), numbers, self.n_buckets)
            indices.append(buckets)
            values.append(of_row)
            ends.append(ends[-1] + len(buckets))
        shape = (len(rows), self.n_buckets)
        return csr_matrix((np.concatenate(values), np.concatenate(indices), ends), shape=shape)
