"""The score to expect of an ensemble on new tweets, where each member is the mean over its folds' models and refits.

Out of fold each tweet is judged by one fold's model of each member, so that the out-of-fold score is too low for the
means, most where models disagree. How means differ from single models is seen on unlabelled tweets, which all of them
predict; how single models' log odds are related to labels, on labelled tweets out of fold. Both together give each new
tweet a probability of each label, and the vote's labels are scored against labels that are drawn from these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smm4h.metrics import Objective
from smm4h.models.label_spaces import LabelSetRule, space_of
from smm4h.models.voting import VotingRule, log_odds, softmax

LEVEL = 0.95  # of the interval
N_DRAWS = 400  # of curves and labels
NEIGHBOURS = 100  # places where a labelled tweet's mean may lie; with 10 of them curves are far too flat
MOST_LABELLED, MOST_NEW = 10_000, 100_000  # tweets, or pairs of a tweet and a label; of more, a random part
FEWEST_TWEETS = 20  # unlabelled tweets, below which the means' differences from single models are not known
RISING, FALLING, STEP = range(3)  # a curve's first parameters
PRIOR_MEAN = (1.0, 1.0, 0.0)
# Precision of the normal prior: a weak one of both slopes and a pull towards each other; and of the step, a standard
# deviation of 0.7 in log odds.
PRIOR_PRECISION = ((1.1, -1.0, 0.0), (-1.0, 1.1, 0.0), (0.0, 0.0, 2.0))
BIAS_PRECISION, FIXED = 1e-2, 1e6
SMALLEST_DIFFERENCE = 1e-4  # of a parameter, for second derivatives


@dataclass(frozen=True)
class LabelledTweets:
    """Labelled tweets as the vote sees them out of fold."""

    probabilities: np.ndarray  # (n_members, n_tweets, n_labels)
    gold: np.ndarray  # (n_tweets,) classes
    groups: np.ndarray | None = None  # (n_tweets,) of strings

    def sample(self, n_tweets: int) -> "LabelledTweets":
        """Return a random part of the tweets, at most `n_tweets`, in their order."""
        rows = _random_rows(len(self.gold), n_tweets)
        groups = None if self.groups is None else self.groups[rows]
        return LabelledTweets(self.probabilities[:, rows], self.gold[rows], groups)


@dataclass(frozen=True)
class NewTweets:
    """Unlabelled tweets as single folds' models and their members' means see them."""

    folds: np.ndarray  # (n_folds, n_members, n_tweets, n_labels)
    means: np.ndarray  # (n_members, n_tweets, n_labels), refits included
    groups: np.ndarray | None = None  # (n_tweets,) of strings

    def sample(self, n_tweets: int) -> "NewTweets":
        """Return a random part of the tweets, at most `n_tweets`, in their order."""
        rows = _random_rows(self.means.shape[1], n_tweets)
        groups = None if self.groups is None else self.groups[rows]
        return NewTweets(self.folds[:, :, rows], self.means[:, rows], groups)


def _random_rows(total: int, n_rows: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(total)[:n_rows])


@dataclass(frozen=True)
class Curve:
    """The probability of each label given log odds: beta calibration with a step at the decision, and its uncertainty.

    Against the reference class, class c has the log odds

        rising * log p_c - falling * log p_reference + step * [c is the highest] + bias_c

    where p are the probabilities after class weights: both slopes meet at the decision. Without the step it is the beta
    calibration of Kull et al. 2017, with the slopes shared by all classes but the reference. The step is what no smooth
    curve can follow; its normal prior says how large it may be, and widens the interval.

    Args:
        parameters: (3 + n_classes,) rising, falling, step and biases, of which the reference's stays 0.
        covariance: of the parameters, by Laplace's approximation.
    """

    parameters: np.ndarray
    covariance: np.ndarray
    reference: int

    def probabilities(self, log_odds: np.ndarray) -> np.ndarray:
        """Return probabilities (n_tweets, n_classes) of log odds (n_tweets, n_classes)."""
        return softmax(_logits(curve_features(log_odds, self.reference), self.parameters))

    def draws(self, log_odds: np.ndarray, n_draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Return probabilities (n_tweets, n_classes) of log odds (n_tweets, n_classes), by curves like this one."""
        features = curve_features(log_odds, self.reference)
        drawn = rng.multivariate_normal(self.parameters, self.covariance, size=n_draws, check_valid="ignore")
        drawn[:, [RISING, FALLING]] = np.maximum(drawn[:, [RISING, FALLING]], 0.0)  # no curve falls
        return (softmax(_logits(features, parameters)) for parameters in drawn)


def curve_features(log_odds: np.ndarray, reference: int) -> np.ndarray:
    """Return what a curve's first parameters are multiplied by, (..., n_classes, 3), of log odds (..., n_classes)."""
    logs = log_odds - log_odds.max(axis=-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(axis=-1, keepdims=True))
    classes = np.arange(logs.shape[-1])
    is_highest = (classes == logs.argmax(axis=-1)[..., None]).astype(float)
    falling = np.broadcast_to(-logs[..., [reference]], logs.shape)
    return np.where((classes == reference)[:, None], 0.0, np.stack([logs, falling, is_highest], axis=-1))


def _logits(features: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    return features @ parameters[: STEP + 1] + parameters[STEP + 1 :]


def places_of_means(
    labelled: np.ndarray, folds: np.ndarray, means: np.ndarray, n_neighbours: int = NEIGHBOURS
) -> np.ndarray:
    """Return where the means' log odds of labelled tweets may lie, (n_labelled, n_neighbours, n_classes).

    A linear regression of the means on single folds' models, plus what is left over on the unlabelled tweets of which
    single models say about the same. There are fewer neighbours where tweets are few, since distant ones tell little.

    Args:
        labelled: (n_labelled, n_classes) log odds, out of fold.
        folds: (n_folds, n_tweets, n_classes) log odds of unlabelled tweets.
        means: (n_tweets, n_classes) of the same tweets.
    """
    from scipy.spatial import KDTree  # here, because few commands need it

    n_classes = labelled.shape[1]
    singles, pairs = folds.reshape(-1, n_classes), np.broadcast_to(means, folds.shape).reshape(-1, n_classes)
    n_neighbours = max(1, min(n_neighbours, len(pairs) // 4))
    coefficients = np.linalg.lstsq(_with_constant(singles), pairs, rcond=None)[0]
    left_over = pairs - _with_constant(singles) @ coefficients
    nearest = KDTree(singles).query(labelled, n_neighbours)[1].reshape(len(labelled), -1)
    return (_with_constant(labelled) @ coefficients)[:, None] + left_over[nearest]


def _with_constant(columns: np.ndarray) -> np.ndarray:
    return np.column_stack([columns, np.ones(len(columns))])


def fit_curve(places: np.ndarray, gold: np.ndarray) -> Curve:
    """Return the curve under which gold classes (n_tweets,) are likeliest, by places (n_tweets, n_places, n_classes).

    Of each tweet it is only known that its log odds are one of its places, so that the likelihood of its label is the
    mean over them.
    """
    from scipy.optimize import minimize  # here, because few commands need it

    n_classes = places.shape[2]
    reference = int(np.bincount(gold, minlength=n_classes).argmax())
    features, own = curve_features(places, reference), gold[:, None, None]
    mean, precision = _prior(n_classes, reference)
    is_gold = np.arange(n_classes) == own

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log posterior and its gradient."""
        probabilities = softmax(_logits(features, parameters))
        likelihoods = np.take_along_axis(probabilities, own, axis=2)  # (n_tweets, n_places, 1)
        share = likelihoods / likelihoods.sum(axis=1, keepdims=True)
        errors = (is_gold - probabilities) * share
        gradient = np.concatenate([np.einsum("tpc,tpcf->f", errors, features), errors.sum(axis=(0, 1))])
        gradient[STEP + 1 + reference] = 0.0
        pull = precision @ (parameters - mean)
        return -np.log(likelihoods.mean(axis=1)).sum() + (parameters - mean) @ pull / 2, pull - gradient

    parameters = minimize(loss, mean, jac=True, method="BFGS", options={"gtol": 1e-3, "maxiter": 200}).x
    return Curve(parameters, _covariance(lambda at: loss(at)[1], parameters), reference)


def _prior(n_classes: int, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (3 + n_classes,) and precision of the parameters' normal prior; the reference's bias is 0."""
    precision = BIAS_PRECISION * np.eye(STEP + 1 + n_classes)
    precision[: STEP + 1, : STEP + 1] = PRIOR_PRECISION
    precision[STEP + 1 + reference, STEP + 1 + reference] = FIXED
    return np.array([*PRIOR_MEAN, *np.zeros(n_classes)]), precision


def _covariance(gradient: Any, parameters: np.ndarray) -> np.ndarray:
    """Return the inverse of the second derivatives, by differences of the gradient; directions that rise are flat."""
    steps = SMALLEST_DIFFERENCE * np.eye(len(parameters))
    rows = [(gradient(parameters + step) - gradient(parameters - step)) / (2 * SMALLEST_DIFFERENCE) for step in steps]
    values, vectors = np.linalg.eigh((np.array(rows) + np.array(rows).T) / 2)
    return (vectors / np.maximum(values, BIAS_PRECISION)) @ vectors.T


def expected_score(
    fitted: VotingRule, adjusted: VotingRule, labelled: LabelledTweets, new: NewTweets, objective: Objective
) -> dict[str, Any] | None:
    """Return the score to expect on new tweets like the labelled ones; None for fewer than `FEWEST_TWEETS` of them.

    Args:
        fitted: the rule as it was fitted out of fold.
        adjusted: the rule as it is used on means; see `adjust_for_averaging`.
        objective: of what is decided, see `LabelSpace.decided`.

    Returns `value`, the mean, and `interval`, which holds the score on these tweets at `level`; it has the chance of
    the labelled and of the new tweets in it, and how far the curve may be wrong. `tweets` is their number.
    """
    n_tweets = new.means.shape[1]
    if n_tweets < FEWEST_TWEETS:
        return None
    each = new.means.shape[2] if isinstance(fitted, LabelSetRule) else 1  # decisions
    labelled, new = labelled.sample(MOST_LABELLED // each), new.sample(MOST_NEW // each)
    scores = _drawn_scores(_Decisions.of(fitted, adjusted, labelled, new), objective)
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # Rounded, because sums differ in their last digits from machine to machine.
    rounded = [round(float(number), 4) for number in (np.mean(scores), low, high)]
    return {"value": rounded[0], "interval": rounded[1:], "level": LEVEL, "tweets": n_tweets}


@dataclass(frozen=True)
class _Decisions:
    """What is decided, tweets or pairs of a tweet and a label: log odds at the decision, gold and predicted classes."""

    places: np.ndarray  # (n_labelled, n_places, n_classes)
    gold: np.ndarray  # (n_labelled,)
    means: np.ndarray  # (n_new, n_classes)
    predicted: np.ndarray  # (n_new,)
    groups: np.ndarray | None  # (n_new,) of strings
    parts: Sequence[tuple[np.ndarray, np.ndarray]]  # labelled and new rows that share a curve: all, or a label's

    @classmethod
    def of(cls, fitted: VotingRule, adjusted: VotingRule, labelled: LabelledTweets, new: NewTweets) -> "_Decisions":
        space, rule = space_of(fitted, ()), fitted
        groups = [space.decided_groups(part.shape[1], own) for part, own in _sizes(labelled, new)]
        used, parts = adjusted, [(slice(None), slice(None))]
        if isinstance(fitted, LabelSetRule):
            rule, used = fitted.over_pairs, adjusted.over_pairs
            parts = [tuple(np.flatnonzero(own == label) for own in groups) for label in fitted.labels]

        def seen(probabilities: np.ndarray) -> np.ndarray:
            return log_odds(rule.combine(space.to_decide(probabilities)))

        means = seen(new.means)
        places = places_of_means(seen(labelled.probabilities), np.stack([seen(fold) for fold in new.folds]), means)
        weights = [np.log(used.weights_of(own)).mean(axis=0) for own in groups]  # of a hard vote, the members' mean
        predicted = space.decided_classes(adjusted.predict(new.means, new.groups))
        gold = space.decided_classes(labelled.gold)
        return cls(places + weights[0][:, None], gold, means + weights[1], predicted, groups[1], parts)


def _sizes(*tweets: LabelledTweets | NewTweets) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Return members' probabilities and groups of each kind of tweets."""
    return [(part.probabilities if isinstance(part, LabelledTweets) else part.means, part.groups) for part in tweets]


def _drawn_scores(decisions: _Decisions, objective: Objective) -> list[float]:
    """Return scores (N_DRAWS,) of the predicted classes against classes drawn from drawn curves."""
    rng, n_classes = np.random.default_rng(42), decisions.means.shape[1]
    curves = [(new, fit_curve(decisions.places[own], decisions.gold[own])) for own, new in decisions.parts]
    draws = [(new, curve.draws(decisions.means[new], N_DRAWS, rng)) for new, curve in curves]
    scores, probabilities = [], np.empty_like(decisions.means)
    for _ in range(N_DRAWS):
        for new, of_part in draws:
            probabilities[new] = next(of_part)
        reached = probabilities.cumsum(axis=1)[:, :-1]
        gold = (rng.random((len(probabilities), 1)) > reached).sum(axis=1)
        scores.append(objective.score(gold, decisions.predicted, n_classes, decisions.groups))
    return scores
