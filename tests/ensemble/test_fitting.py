"""Fitted votes: what they gain, and that no estimate profits from its own tuning."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import RARE, TWO_RARE, binary, noisy_folds, two_groups

from smm4h.config.decision import Argmax, Tuned, parse_decision
from smm4h.ensemble.decisions.fit import adjust_for_averaging
from smm4h.ensemble.fitting import (
    VotingConfig,
    cross_fitted_predictions,
    fit_rule,
    greedy_weights,
)
from smm4h.models import voting
from smm4h.models.voting import METHODS, decide


@pytest.mark.parametrize("decision", ["argmax", "tuned"])
@pytest.mark.parametrize("method", METHODS)
def test_an_estimate_does_not_profit_from_its_own_tuning(method, decision):
    """Labels that the probabilities do not show: cross-fitted, every rule scores as guessing does, however it fits."""
    probs, gold = binary(shift=0.0, share=0.3, n_tweets=600, n_members=12)
    config = VotingConfig(RARE, method, parse_decision(decision))
    members = [f"m{i}" for i in range(12)]
    honest = RARE.score(gold, config.predict_out_of_fold(members, probs, gold), 2)
    always = RARE.score(gold, np.ones_like(gold), 2)  # the best guess
    assert honest < always + 0.03
    fitted = RARE.score(gold, config.fit_rule(members, probs, gold).predict(probs), 2)
    if config.learns:
        assert fitted >= honest - 0.02


def test_no_tweet_is_predicted_by_a_rule_that_was_fitted_on_it():
    _, gold = binary(n_tweets=200, share=0.2)
    number = np.arange(200.0)
    probs = np.stack([number, number], axis=1)[None]  # a tweet's probability is its number
    seen = []

    class Spy:
        def __init__(self, fitted_on):
            self.fitted_on = set(fitted_on)

        def predict(self, part):
            assert not self.fitted_on & set(part[0, :, 0])
            seen.extend(part[0, :, 0])
            return np.zeros(part.shape[1], dtype=int)

    cross_fitted_predictions(probs, gold, lambda part, truth: Spy(part[0, :, 0]))
    assert sorted(seen) == number.tolist()


def test_greedy_selection_drops_members_that_guess():
    known, gold = binary(n_members=2, shift=2.0)
    noise, _ = binary(seed=9, n_members=4, shift=0.0)
    weights = greedy_weights(np.concatenate([known, noise]), gold, [1])
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:2].sum() > 0.8


@pytest.mark.parametrize("method", ["soft", "weighted", "greedy", "stacked"])
def test_a_fitted_vote_of_unlike_members_beats_each_of_them(method):
    probs, gold = binary(n_members=6, shift=1.5, n_tweets=6000)
    probs[3:] = voting.softmax(4 * np.log(probs[3:]))  # overconfident, as encoders are
    members, config = list("abcdef"), VotingConfig(RARE, method, Tuned())
    vote = RARE.score(gold, config.predict_out_of_fold(members, probs, gold), 2)
    alone = [
        RARE.score(gold, config.for_one.predict_out_of_fold([m], probs[[i]], gold), 2) for i, m in enumerate(members)
    ]
    assert vote > max(alone) + 0.1


def test_an_untuned_vote_is_the_papers():
    probs, gold = binary(n_members=4)
    hard = fit_rule(probs, gold, list("abcd"), RARE, method="hard", decision="argmax")
    means = voting.mean_probabilities(probs)
    expected = voting.hard_vote(probs.argmax(axis=2), 2, means)
    assert np.array_equal(hard.predict(probs), expected)
    soft = fit_rule(probs, gold, list("abcd"), RARE, method="soft", decision="argmax")
    assert np.array_equal(soft.predict(probs), voting.soft_vote(probs))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_mean_over_folds_finds_as_many_rare_tweets_as_single_folds_do(method, n_classes):
    """A threshold that was tuned on single models finds fewer, or more, on the mean of models that disagree."""
    folds, gold = noisy_folds(n_classes)
    objective = RARE if n_classes == 2 else TWO_RARE
    rule = fit_rule(folds[0], gold, ["a", "b"], objective, method=method, decision="tuned")
    means = np.stack([voting.MEANS[rule.mean](folds[:, member]) for member in range(2)])
    adjusted = adjust_for_averaging(rule, folds, means)
    if method == "hard":  # each member's votes, which are then counted
        of_mean = decide(means[0], adjusted.decision[0])
        of_folds = [decide(fold[0], rule.decision[0]) for fold in folds]
    else:
        of_mean = adjusted.predict(means)
        of_folds = [rule.predict(fold) for fold in folds]
        not_adjusted = np.isin(rule.predict(means), objective.positive).mean()
        of_single_models = np.mean([np.isin(predicted, objective.positive).mean() for predicted in of_folds])
        assert abs(not_adjusted - of_single_models) > 0.3 * of_single_models
    expected = np.mean([np.bincount(predicted, minlength=n_classes) for predicted in of_folds], axis=0)
    np.testing.assert_allclose(np.bincount(of_mean, minlength=n_classes), expected, atol=2)
    adjusted_score = objective.score(gold, adjusted.predict(means), n_classes)
    assert adjusted_score > objective.score(gold, rule.predict(means), n_classes)


@pytest.mark.parametrize("averages_groups", [False, True])
def test_cuts_by_group_gain_where_groups_differ_and_their_estimate_is_honest(averages_groups):
    probs, gold, groups = two_groups()
    objective = replace(RARE, averages_groups=averages_groups)
    one = VotingConfig(objective, "soft", Tuned())
    each = replace(one, group_cuts=30)
    scores = [
        objective.score(gold, config.predict_out_of_fold(["m"], probs, gold, groups), 2, groups)
        for config in (one, each)
    ]
    assert scores[1] > scores[0] + 0.05
    rule = each.fit_rule(["m"], probs, gold, groups)
    assert set(rule.cuts) == {"a", "b"}
    assert objective.score(gold, rule.predict(probs, groups), 2, groups) == pytest.approx(scores[1], abs=0.04)
    mixed = np.random.default_rng(0).permutation(gold)
    honest = objective.score(mixed, each.predict_out_of_fold(["m"], probs, mixed, groups), 2, groups)
    assert honest < objective.score(mixed, np.ones_like(mixed), 2, groups) + 0.03


def test_only_groups_that_are_scored_and_have_enough_rare_tweets_get_a_cut():
    gold = np.array([1] * 10 + [0] * 10 + [1] * 3 + [0] * 30 + [1] * 10)
    groups = np.array(["de"] * 20 + ["fr"] * 33 + ["en_cadec"] * 10)
    config = VotingConfig(replace(RARE, unscored=("*_cadec",)), "soft", Tuned(), group_cuts=5)
    assert config.cut_groups(gold, groups) == ["de"]
    assert replace(config, group_cuts=3).cut_groups(gold, groups) == ["de", "fr"]
    assert replace(config, decision=Argmax()).cut_groups(gold, groups) == []


def test_a_groups_cut_is_adjusted_on_its_tweets_and_moves_with_the_pooled_one_where_they_are_few():
    folds, gold = noisy_folds(2)
    groups = np.array(["a", "b", "b"])[np.arange(len(gold)) % 3]
    config = VotingConfig(RARE, "soft", Tuned(), group_cuts=5)
    rule = config.fit_rule(["m", "n"], folds[0], gold, groups)
    means = np.stack([voting.MEANS[rule.mean](folds[:, member]) for member in range(2)])
    adjusted = adjust_for_averaging(rule, folds, means, groups)
    for name in ("a", "b"):
        own = groups == name
        of_folds = [decide(rule.combine(fold[:, own]), rule.cuts[name][0]).mean() for fold in folds]
        assert adjusted.predict(means, groups)[own].mean() == pytest.approx(np.mean(of_folds), abs=0.01)
    elsewhere = adjust_for_averaging(rule, folds, means, np.full(len(gold), "c"))
    np.testing.assert_allclose(elsewhere.cuts["a"] / rule.cuts["a"], adjusted.decision / rule.decision)
