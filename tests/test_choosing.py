"""What is chosen out of fold: decisions, votes, and that no estimate profits from its own tuning."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from smm4h import metrics
from smm4h.ensemble.fitting import VotingConfig, adjust_for_averaging, cross_fitted_predictions, fit, greedy_weights
from smm4h.ensemble.scoring import by_ensemble_size, leave_one_out
from smm4h.ensemble.thresholds import match_class_shares, tune_class_weights
from smm4h.models import voting
from smm4h.models.voting import METHODS, VotingRule, binary_threshold, decide

RARE = metrics.Objective(metrics.f1, (1,))
TWO_RARE = metrics.Objective(metrics.f1, (0, 1))


def binary(seed=0, n_tweets=2000, share=0.05, shift=1.5, n_members=1):
    """Members that see the same rare class through noise of their own; probabilities far too low for argmax."""
    rng = np.random.default_rng(seed)
    gold = (rng.random(n_tweets) < share).astype(int)
    logits = shift * gold + rng.normal(size=(n_members, n_tweets)) - 4
    positive = 1 / (1 + np.exp(-logits))
    return np.stack([1 - positive, positive], axis=2), gold


def three_classes(seed=0, n_tweets=1500):
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, n_tweets, p=[0.05, 0.06, 0.89])
    logits = 2.0 * np.eye(3)[gold] + rng.normal(size=(n_tweets, 3)) + np.array([-3.0, -2.0, 2.0])
    return voting.softmax(logits), gold


def test_weights_of_one_are_argmax():
    probabilities, _ = three_classes()
    assert np.array_equal(decide(probabilities, np.ones(3)), probabilities.argmax(axis=1))


def test_a_tuned_threshold_scores_as_well_as_the_best_of_all_cuts():
    probabilities, gold = binary()
    weights = tune_class_weights(probabilities[0], gold, RARE.measure, RARE.positive)
    cuts = np.linspace(0, 1, 2001)
    best = max(RARE.score(gold, (probabilities[0][:, 1] >= cut).astype(int), 2) for cut in cuts)
    found = decide(probabilities[0], weights)
    assert RARE.score(gold, found, 2) > 0.97 * best
    assert RARE.score(gold, probabilities[0].argmax(axis=1), 2) < 0.5 * best
    assert np.array_equal(found, (probabilities[0][:, 1] >= binary_threshold(weights)).astype(int))


def test_tuned_class_weights_score_as_well_as_the_best_of_a_grid():
    probabilities, gold = three_classes()
    weights = tune_class_weights(probabilities, gold, TWO_RARE.measure, TWO_RARE.positive)
    grid = np.exp(np.linspace(-2, 8, 41))
    best = max(
        TWO_RARE.score(gold, decide(probabilities, np.array([a, b, 1.0])), 3) for a, b in itertools.product(grid, grid)
    )
    assert TWO_RARE.score(gold, decide(probabilities, weights), 3) > 0.97 * best
    assert np.log(weights).mean() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("measure", metrics.MEASURES.values())
def test_any_measure_of_the_tasks_can_be_tuned_for(measure):
    probabilities, gold = three_classes()
    objective = metrics.Objective(measure, (0, 1))
    weights = tune_class_weights(probabilities, gold, objective.measure, objective.positive, n_samples=10)
    assert objective.score(gold, decide(probabilities, weights), 3) >= objective.score(
        gold, probabilities.argmax(axis=1), 3
    )


def test_a_class_that_no_tweet_has_is_no_trouble():
    probabilities, gold = three_classes()
    gold[gold == 0] = 2
    weights = tune_class_weights(probabilities, gold, TWO_RARE.measure, TWO_RARE.positive, n_samples=5)
    assert np.isfinite(weights).all()
    for method in METHODS:
        rule = fit(probabilities[None], gold, ["a"], TWO_RARE, method=method, decision="tuned", n_samples=3)
        assert set(rule.predict(probabilities[None])) <= {0, 1, 2}


def test_average_precision_is_scikit_learns():
    probabilities, gold = binary()
    expected = average_precision_score(gold, probabilities[0][:, 1])
    assert metrics.average_precision(probabilities[0][:, 1], gold == 1) == pytest.approx(expected)


@pytest.mark.parametrize("decision", ["argmax", "tuned"])
@pytest.mark.parametrize("method", METHODS)
def test_an_estimate_does_not_profit_from_its_own_tuning(method, decision):
    """Labels that nobody can know: nested, every rule scores as guessing does, however well it fits."""
    probabilities, gold = binary(shift=0.0, share=0.3, n_tweets=600, n_members=12)
    fitting = VotingConfig(RARE, method, decision)
    members = [f"m{i}" for i in range(12)]
    honest = RARE.score(gold, fitting.choices(members, probabilities, gold), 2)
    always = RARE.score(gold, np.ones_like(gold), 2)  # the best that can be had without knowledge
    assert honest < always + 0.03
    fitted = RARE.score(gold, fitting.rule(members, probabilities, gold).predict(probabilities), 2)
    if fitting.learns:
        assert fitted >= honest - 0.02


def test_no_tweet_is_decided_by_a_rule_that_was_fitted_on_it():
    _, gold = binary(n_tweets=200, share=0.2)
    number = np.arange(200.0)
    probabilities = np.stack([number, number], axis=1)[None]  # a tweet's probability is its number
    seen = []

    class Spy:
        def __init__(self, fitted_on):
            self.fitted_on = set(fitted_on)

        def predict(self, part):
            assert not self.fitted_on & set(part[0, :, 0])
            seen.extend(part[0, :, 0])
            return np.zeros(part.shape[1], dtype=int)

    cross_fitted_predictions(probabilities, gold, lambda part, truth: Spy(part[0, :, 0]))
    assert sorted(seen) == number.tolist()


def test_greedy_selection_leaves_members_out_that_know_nothing():
    known, gold = binary(n_members=2, shift=2.0)
    noise, _ = binary(seed=9, n_members=4, shift=0.0)
    weights = greedy_weights(np.concatenate([known, noise]), gold, [1])
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:2].sum() > 0.8


@pytest.mark.parametrize("method", ["soft", "weighted", "greedy", "stacked"])
def test_a_fitted_vote_of_unlike_members_beats_each_of_them(method):
    probabilities, gold = binary(n_members=6, shift=1.5, n_tweets=6000)
    probabilities[3:] = voting.softmax(4 * np.log(probabilities[3:]))  # overconfident, as encoders are
    members, fitting = list("abcdef"), VotingConfig(RARE, method, "tuned")
    vote = RARE.score(gold, fitting.choices(members, probabilities, gold), 2)
    alone = [RARE.score(gold, fitting.for_one.choices([m], probabilities[[i]], gold), 2) for i, m in enumerate(members)]
    assert vote > max(alone) + 0.1


def test_an_untuned_vote_is_the_papers():
    probabilities, gold = binary(n_members=4)
    hard = fit(probabilities, gold, list("abcd"), RARE, method="hard", decision="argmax")
    means = voting.mean_probabilities(probabilities)
    expected = voting.hard_vote(probabilities.argmax(axis=2), 2, means)
    assert np.array_equal(hard.predict(probabilities), expected)
    soft = fit(probabilities, gold, list("abcd"), RARE, method="soft", decision="argmax")
    assert np.array_equal(soft.predict(probabilities), voting.soft_vote(probabilities))


@pytest.mark.parametrize("method", METHODS)
def test_a_rule_comes_back_from_json_as_it_was(method):
    probabilities, gold = binary(n_members=3)
    rule = fit(probabilities, gold, list("abc"), RARE, method=method, decision="tuned", n_samples=5)
    back = VotingRule.from_dict(json.loads(json.dumps(rule.to_dict())))
    assert np.array_equal(back.predict(probabilities), rule.predict(probabilities))


def test_the_mean_of_log_odds_says_rare_as_often_as_single_models_do():
    """The mean of probabilities does not: one of five models that is sure is enough to lift it over a low cut."""
    rng = np.random.default_rng(0)
    logits = 6 * rng.normal(size=(5, 4000)) - 12 + 6 * rng.normal(size=4000)
    positive = 1 / (1 + np.exp(-logits))
    folds, weights = np.stack([1 - positive, positive], axis=2), np.array([0.03, 0.97])
    single = np.mean([decide(fold, weights).mean() for fold in folds])
    odds = decide(voting.mean_log_odds(folds), weights).mean()
    plain = decide(voting.mean_probabilities(folds), weights).mean()
    assert abs(odds - single) < abs(plain - single) / 2


def noisy_folds(n_classes, n_folds=5, n_members=2, n_tweets=3000):
    """Models of a few folds that agree but for much noise of their own; and the gold labels."""
    rng = np.random.default_rng(0)
    prior = np.array([0.95, 0.05]) if n_classes == 2 else np.array([0.05, 0.06, 0.89])
    gold = rng.choice(n_classes, n_tweets, p=prior)
    noise = 2.0 * rng.normal(size=(n_folds, n_members, n_tweets, n_classes))
    return voting.softmax(1.5 * np.eye(n_classes)[gold] + noise + 3 * np.log(prior)), gold


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_mean_over_folds_finds_as_many_rare_tweets_as_single_folds_do(method, n_classes):
    """A cut that was tuned on single models would find fewer, or more, on the mean of models that disagree."""
    folds, gold = noisy_folds(n_classes)
    objective = RARE if n_classes == 2 else TWO_RARE
    rule = fit(folds[0], gold, ["a", "b"], objective, method=method, decision="tuned")
    means = np.stack([voting.MEANS[rule.mean](folds[:, member]) for member in range(2)])
    moved = adjust_for_averaging(rule, folds, means)
    if method == "hard":  # each member's ballots, which are then counted
        pairs = [(decide(means[0], moved.decision[0]), [decide(fold[0], rule.decision[0]) for fold in folds])]
    else:
        pairs = [(moved.predict(means), [rule.predict(fold) for fold in folds])]
        plain = np.isin(rule.predict(means), objective.positive).mean()
        singles = np.mean([np.isin(rule.predict(fold), objective.positive).mean() for fold in folds])
        assert abs(plain - singles) > 0.3 * singles
    for found, singles in pairs:
        expected = np.mean([np.bincount(one, minlength=n_classes) for one in singles], axis=0)
        np.testing.assert_allclose(np.bincount(found, minlength=n_classes), expected, atol=2)
    assert objective.score(gold, moved.predict(means), n_classes) > objective.score(
        gold, rule.predict(means), n_classes
    )


def test_weights_for_given_shares_are_found_for_any_number_of_classes():
    probabilities, _ = three_classes()
    shares = np.array([0.1, 0.2, 0.7])
    weights = match_class_shares(probabilities, np.ones(3), shares)
    np.testing.assert_allclose(np.bincount(decide(probabilities, weights)) / 1500, shares, atol=0.002)
    none = match_class_shares(probabilities, np.ones(3), np.array([0.0, 0.1, 0.9]))
    assert 0 not in decide(probabilities, none)


def test_leave_one_out_and_the_number_of_members_say_who_is_needed():
    probabilities, gold = binary(n_members=5, shift=1.5, n_tweets=5000)
    probabilities[4] = binary(seed=9, shift=0.0, n_tweets=5000)[0][0]
    members, fitting = list("abcde"), VotingConfig(RARE, "soft", "tuned")
    without = leave_one_out(fitting, members, probabilities, gold)
    assert max(without, key=without.get) == "e"
    number = by_ensemble_size(fitting, members, probabilities, gold)
    assert [row["members"] for row in number] == [1, 2, 3, 4, 5]
    assert number[3]["highest"] == pytest.approx(without["e"])
    assert number[0]["mean"] < number[2]["mean"]


def test_the_paired_bootstrap_knows_equals_from_unequals():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 2, 800)
    good, bad = (np.where(rng.random(800) < share, gold, 1 - gold) for share in (0.9, 0.75))
    same = metrics.paired_bootstrap(gold, good, good, 2, metrics.f1, [1])
    assert (same["difference"], same["p"]) == (0.0, 1.0)
    found = metrics.paired_bootstrap(gold, good, bad, 2, metrics.f1, [1])
    assert found["difference"] == pytest.approx(RARE.score(gold, good, 2) - RARE.score(gold, bad, 2))
    assert found["interval"][0] > 0
    assert found["p"] < 0.01
    assert metrics.paired_bootstrap(gold, bad, good, 2, metrics.f1, [1])["p"] == pytest.approx(found["p"], abs=0.01)


def test_the_paired_interval_is_that_of_drawing_tweets():
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 3, 300)
    one, other = (np.where(rng.random(300) < 0.7, gold, rng.integers(0, 3, 300)) for _ in range(2))
    found = metrics.paired_bootstrap(gold, one, other, 3, metrics.f1, [0, 1], n_samples=4000)
    drawn = []
    for _ in range(1500):
        rows = rng.integers(0, 300, 300)
        drawn.append(TWO_RARE.score(gold[rows], one[rows], 3) - TWO_RARE.score(gold[rows], other[rows], 3))
    assert found["interval"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist(), abs=0.012)


def test_a_member_that_counts_nothing_can_be_left_out():
    probabilities, gold = binary(n_members=4)
    rule = fit(probabilities, gold, list("abcd"), RARE, method="weighted", decision="tuned")
    idle = replace(rule, weights=np.array([0.5, 0.0, 0.5, 0.0]))
    assert idle.drop_zero_weight().members == ["a", "c"]
    np.testing.assert_array_equal(idle.predict(probabilities), idle.drop_zero_weight().predict(probabilities[[0, 2]]))
    assert rule.drop_zero_weight() is rule
