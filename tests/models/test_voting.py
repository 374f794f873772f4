"""Votes, their ties, and voting rules."""

import json
from dataclasses import replace

import numpy as np
import pytest
from simulated import RARE, binary, three_classes

from smm4h.ensemble.fitting import fit_rule
from smm4h.models import voting
from smm4h.models.predictors import EnsembleOutput
from smm4h.models.voting import METHODS, VotingRule, decide


def test_a_hard_vote_gives_the_label_with_most_votes():
    assert voting.hard_vote(np.array([[0, 1, 2], [0, 2, 2], [1, 2, 0]]), 3).tolist() == [0, 2, 2]


def test_a_tie_goes_to_the_higher_mean_probability_or_to_the_lowest_class():
    votes = np.array([[0, 2], [1, 2], [0, 1], [1, 1]])
    means = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])  # class 2 leads the first tweet, but has no vote there
    assert voting.hard_vote(votes, 3, means).tolist() == [1, 2]
    assert voting.hard_vote(votes, 3).tolist() == [0, 1]


def test_a_soft_vote_can_overrule_the_majority():
    probs = np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.1, 0.9]]])
    assert voting.soft_vote(probs).tolist() == [1]
    assert voting.hard_vote(probs.argmax(axis=2), 2).tolist() == [0]


def test_class_weights_of_one_give_the_most_probable_label():
    probs, _ = three_classes()
    assert np.array_equal(decide(probs, np.ones(3)), probs.argmax(axis=1))


@pytest.mark.parametrize("method", METHODS)
def test_a_voting_rule_survives_json(method):
    probs, gold = binary(n_members=3)
    rule = fit_rule(probs, gold, list("abc"), RARE, method=method, decision="tuned", n_samples=5)
    loaded = VotingRule.from_dict(json.loads(json.dumps(rule.to_dict())))
    assert np.array_equal(loaded.predict(probs), rule.predict(probs))


def test_the_mean_of_log_odds_predicts_rare_as_often_as_single_models_do():
    """The mean of probs does not: one of five models that is sure is enough to lift it over a low threshold."""
    rng = np.random.default_rng(0)
    logits = 6 * rng.normal(size=(5, 4000)) - 12 + 6 * rng.normal(size=4000)
    positive = 1 / (1 + np.exp(-logits))
    folds, weights = np.stack([1 - positive, positive], axis=2), np.array([0.03, 0.97])
    of_single_models = np.mean([decide(fold, weights).mean() for fold in folds])
    of_log_odds = decide(voting.mean_log_odds(folds), weights).mean()
    of_plain_mean = decide(voting.mean_probabilities(folds), weights).mean()
    assert abs(of_log_odds - of_single_models) < abs(of_plain_mean - of_single_models) / 2


def test_dropping_members_without_weight_changes_no_prediction():
    probs, gold = binary(n_members=4)
    rule = fit_rule(probs, gold, list("abcd"), RARE, method="weighted", decision="tuned")
    with_idle = replace(rule, weights=np.array([0.5, 0.0, 0.5, 0.0]))
    assert with_idle.drop_zero_weight().members == ["a", "c"]
    np.testing.assert_array_equal(with_idle.predict(probs), with_idle.drop_zero_weight().predict(probs[[0, 2]]))
    assert rule.drop_zero_weight() is rule


@pytest.mark.parametrize("method", ["soft", "hard"])
def test_a_groups_tweets_are_decided_by_its_own_cut_and_all_others_by_the_pooled_one(method):
    probs = np.tile([0.7, 0.3], (2, 4, 1))
    ones = np.ones((2 if method == "hard" else 1, 2))
    rule = VotingRule(method, ["a", "b"], "probability", "probability", ones, cuts={"fr": ones * [1, 4]})
    rule = VotingRule.from_dict(json.loads(json.dumps(rule.to_dict())))
    assert rule.predict(probs, ["fr", "de", "", "fr"]).tolist() == [1, 0, 0, 1]
    assert rule.predict(probs).tolist() == [0, 0, 0, 0]
    assert not rule.is_argmax
    assert "fr 0.2" in rule.describe(["no", "yes"])
    output = EnsembleOutput.from_rule(rule, probs, ["fr", "de", "", "fr"])
    assert output.votes.tolist() == [2, 2, 2, 2]
    assert (output.margin > 0).all()


def test_a_rule_without_cuts_is_stored_as_before():
    assert "cuts" not in VotingRule("soft", ["a"], "probability", "probability", np.ones((1, 2))).to_dict()
