"""Whether new tweets are like the labelled ones: by labels, lengths, and words that are unknown."""

from dataclasses import dataclass

import numpy as np

from smm4h.inference.new_tweets.profile import LENGTH_EDGES, N_SHARES, TweetProfile

LEVEL = 0.001  # of each test: of 1,000 sets of tweets like the labelled ones, it finds one different
SMALLEST_H = 0.2  # a small effect by Cohen (1988, "Statistical power analysis", section 6.2)
SMALLEST_DISTANCE = 0.1  # between two distributions: a tenth of the tweets


@dataclass(frozen=True)
class Difference:
    """How new tweets differ from the labelled ones, in words."""

    what: str
    p: float
    effect: float


def share_difference(labelled: int, n_labelled: int, new: int, n_new: int) -> tuple[float, float]:
    """Return the p-value of Fisher's exact test that two shares are equal, and Cohen's h of their difference.

    h = |2 arcsin(sqrt(a)) - 2 arcsin(sqrt(b))| (Cohen 1988, section 6.2).

    Args:
        labelled, new: numbers of tweets with a label, of `n_labelled` and `n_new`.
    """
    from scipy.stats import fisher_exact  # here, because the import takes a second

    table = [[labelled, n_labelled - labelled], [new, n_new - new]]
    angles = 2 * np.arcsin(np.sqrt([labelled / n_labelled, new / n_new]))
    return float(fisher_exact(table).pvalue), float(abs(angles[0] - angles[1]))


def distribution_difference(labelled: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test on two histograms (n_bins,), and the distance D.

    D is the largest difference of the cumulative shares, p its asymptotic probability with n m / (n + m) tweets (Hodges
    1957, as in scipy's `ks_2samp`). Values within a bin count as equal, which makes D smaller and p larger.
    """
    from scipy.stats import kstwo

    n, m = int(labelled.sum()), int(new.sum())
    distance = float(np.abs(np.cumsum(labelled) / n - np.cumsum(new) / m).max())
    return float(kstwo.sf(distance, max(1, round(n * m / (n + m))))), distance


def label_differences(labelled: TweetProfile, new: TweetProfile) -> list[Difference]:
    """Return the labels whose shares differ, by Bonferroni's rule: each is tested at `LEVEL` over their number."""
    found = []
    for label, count in labelled.labels.items():
        p, effect = share_difference(count, labelled.n_tweets, new.labels.get(label, 0), new.n_tweets)
        p = min(1.0, p * len(labelled.labels))
        if p < LEVEL and effect >= SMALLEST_H:
            shares = percent(new.labels.get(label, 0) / new.n_tweets), percent(count / labelled.n_tweets)
            words = f"{shares[0]} of them get the label {label}, of the labelled ones {shares[1]}"
            found.append(Difference(words, p, effect))
    return found


def differences(labelled: TweetProfile, new: TweetProfile) -> list[Difference]:
    """Return how new tweets differ from the labelled ones, by more than chance allows and enough to matter."""
    if not new.n_tweets:
        return []
    found = label_differences(labelled, new) if labelled.labels else []
    compared = [(labelled.lengths, new.lengths, _lengths_in_words)]
    if labelled.words is not None and new.words is not None:
        compared.append((labelled.words, new.words, _unknown_in_words))
    for name in labelled.pieces:
        if name in new.pieces:
            words = f"of a tweet's word pieces are unknown to {name} or parts of words"
            compared.append((labelled.pieces[name], new.pieces[name], _shares_in_words(words)))
    for before, now, in_words in compared:
        if not before.sum() or not now.sum():
            continue  # of an older job only the labels are known
        p, effect = distribution_difference(before, now)
        if p < LEVEL and effect >= SMALLEST_DISTANCE:
            found.append(Difference(in_words(before, now), p, effect))
    return found


def _lengths_in_words(labelled: np.ndarray, new: np.ndarray) -> str:
    edges = np.append(LENGTH_EDGES, LENGTH_EDGES[-1])
    medians = [int(edges[median_bin(counts)]) for counts in (new, labelled)]
    return f"half of them have up to {medians[0]} characters, of the labelled ones up to {medians[1]}"


def _shares_in_words(what: str):
    def in_words(labelled: np.ndarray, new: np.ndarray) -> str:
        means = [percent(_mean_share(counts)) for counts in (new, labelled)]
        return f"about {means[0]} {what}, of the labelled ones' {means[1]}"

    return in_words


def _unknown_in_words(labelled: np.ndarray, new: np.ndarray) -> str:
    words = _shares_in_words("of a tweet's words are in no labelled tweet")(labelled, new)
    are_known = _mean_share(new) < _mean_share(labelled) / 4
    return f"{words} (are these the labelled tweets themselves?)" if are_known else words


def _mean_share(counts: np.ndarray) -> float:
    """Return the mean of a histogram (N_SHARES + 1,) of shares."""
    return float(counts @ (np.arange(N_SHARES + 1) / N_SHARES)) / counts.sum()


def median_bin(counts: np.ndarray) -> int:
    """Return the bin in which a histogram (n_bins,) has its median."""
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
