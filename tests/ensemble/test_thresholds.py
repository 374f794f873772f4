"""Class weights on probs, tuned for a metric or matched to class shares."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from simulated import RARE, TWO_RARE, binary, three_classes, two_groups

from smm4h import metrics
from smm4h.config.decision import Pulled, Tuned
from smm4h.ensemble.decisions.thresholds import class_shares, match_class_shares, pulled_to_gold, tune_class_weights
from smm4h.ensemble.fitting import VotingConfig, fit_rule
from smm4h.models.voting import METHODS, binary_threshold, decide


def test_a_tuned_threshold_scores_as_well_as_the_best_of_all_thresholds():
    probs, gold = binary()
    weights = tune_class_weights(probs[0], gold, RARE.measure, RARE.positive)
    thresholds = np.linspace(0, 1, 2001)
    best = max(RARE.score(gold, (probs[0][:, 1] >= cut).astype(int), 2) for cut in thresholds)
    predicted = decide(probs[0], weights)
    assert RARE.score(gold, predicted, 2) > 0.97 * best
    assert RARE.score(gold, probs[0].argmax(axis=1), 2) < 0.5 * best
    assert np.array_equal(predicted, (probs[0][:, 1] >= binary_threshold(weights)).astype(int))


def test_tuned_class_weights_score_as_well_as_the_best_of_a_grid():
    probs, gold = three_classes()
    weights = tune_class_weights(probs, gold, TWO_RARE.measure, TWO_RARE.positive)
    grid = np.exp(np.linspace(-2, 8, 41))
    best = max(TWO_RARE.score(gold, decide(probs, np.array([a, b, 1.0])), 3) for a, b in itertools.product(grid, grid))
    assert TWO_RARE.score(gold, decide(probs, weights), 3) > 0.97 * best
    assert np.log(weights).mean() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("metric", metrics.MEASURES.values())
def test_class_weights_can_be_tuned_for_any_metric(metric):
    probs, gold = three_classes()
    objective = metrics.Objective(metric, (0, 1))
    weights = tune_class_weights(probs, gold, objective.measure, objective.positive, n_samples=10)
    tuned = objective.score(gold, decide(probs, weights), 3)
    assert tuned >= objective.score(gold, probs.argmax(axis=1), 3)


def test_a_tuned_cut_is_pulled_half_way_to_as_many_positive_tweets_as_there_are():
    probs, gold = three_classes()
    weights = np.array([4.0, 2.0, 1.0]) / 2
    pulled = pulled_to_gold(probs, weights, gold, (0, 1))
    shares = [class_shares(labels, 3) for labels in (decide(probs, weights), gold, decide(probs, pulled))]
    assert shares[2][:2] == pytest.approx(np.sqrt(shares[0] * shares[1])[:2], abs=0.002)
    assert np.log(pulled).mean() == pytest.approx(0.0, abs=1e-9)
    nobody = np.array([1e-5, 1e-5, 1e10])
    assert np.array_equal(pulled_to_gold(probs, nobody, gold, (0, 1)), nobody)


@pytest.mark.parametrize("rare", [0, 1])
def test_a_cut_is_not_pulled_among_tweets_of_equal_probabilities(rare):
    of_rare = np.repeat([0.9, 0.5, 0.1], [8, 30, 62])
    probs = np.stack([of_rare, 1 - of_rare], axis=1)[:, :: 1 if rare == 0 else -1]
    gold = np.where(np.arange(100) < 13, rare, 1 - rare)
    tuned = np.exp([0.5, -0.5])[:: -1 if rare == 0 else 1]
    assert (decide(probs, tuned) == rare).sum() == 8
    assert np.array_equal(pulled_to_gold(probs, tuned, gold, (rare,)), tuned)


@pytest.mark.parametrize("method", ["soft", "hard"])
def test_each_groups_cut_is_pulled_to_its_own_tweets(method):
    probs, gold, groups = two_groups(n_tweets=1000)
    config = VotingConfig(replace(RARE, averages_groups=True), method, Tuned(), group_cuts=30)
    tuned, pulled = (config.with_decision(kind).fit_rule(["m"], probs, gold, groups) for kind in (Tuned(), Pulled()))
    for name in ("a", "b"):
        own = groups == name
        given = [(rule.predict(probs, groups)[own] == 1).sum() for rule in (tuned, pulled)]
        assert given[1] == round(np.sqrt(given[0] * gold[own].sum())) != given[0]


@pytest.mark.parametrize("method", ["soft", "hard"])
def test_a_pulled_decision_by_few_rare_tweets_is_better_on_other_tweets_than_a_tuned_one(method):
    new, new_gold = binary(seed=1000, n_tweets=20_000, share=0.1)

    def score_of(seed: int, decision) -> float:
        probs, gold = binary(seed=seed, n_tweets=300, share=0.1)
        rule = fit_rule(probs, gold, ["a"], RARE, method=method, decision=decision)
        return RARE.score(new_gold, rule.predict(new), 2)

    tuned, pulled = (np.array([score_of(seed, kind) for seed in range(30)]) for kind in (Tuned(), Pulled()))
    assert pulled.mean() > tuned.mean() + 0.002
    assert pulled.min() > tuned.min()


def test_a_class_without_tweets_breaks_no_tuning():
    probs, gold = three_classes()
    gold[gold == 0] = 2
    weights = tune_class_weights(probs, gold, TWO_RARE.measure, TWO_RARE.positive, n_samples=5)
    assert np.isfinite(weights).all()
    for method in METHODS:
        rule = fit_rule(probs[None], gold, ["a"], TWO_RARE, method=method, decision="tuned", n_samples=3)
        assert set(rule.predict(probs[None])) <= {0, 1, 2}


def test_class_shares_are_matched_for_any_number_of_classes():
    probs, _ = three_classes()
    shares = np.array([0.1, 0.2, 0.7])
    weights = match_class_shares(probs, np.ones(3), shares)
    np.testing.assert_allclose(np.bincount(decide(probs, weights)) / 1500, shares, atol=0.002)
    without_class_0 = match_class_shares(probs, np.ones(3), np.array([0.0, 0.1, 0.9]))
    assert 0 not in decide(probs, without_class_0)


def test_a_class_that_no_tweet_or_every_tweet_is_to_get_keeps_its_weight_where_it_can():
    """Weights far away would outweigh all others in a hard vote's ties."""
    probs, _ = three_classes()
    two = probs[:, [0, 2]] / probs[:, [0, 2]].sum(axis=1, keepdims=True)
    for shares in ([0.0, 1.0], [1.0, 0.0]):
        weights = match_class_shares(two, np.array([1.0, 1.0]), np.array(shares))
        assert (np.bincount(decide(two, weights), minlength=2) / len(two)).tolist() == shares
        extreme = np.log(two[:, 0] / two[:, 1])
        assert abs(np.log(weights[1] / weights[0])) <= np.abs(extreme).max() + 0.2
    kept = match_class_shares(two, np.array([1e-5, 1.0]), np.array([0.0, 1.0]))
    assert kept[0] / kept[1] == pytest.approx(1e-5)
