"""The score to expect of means of models, from single folds' models: simulated tweets whose truth is known."""

import numpy as np
import pytest
from simulated import RARE, TWO_RARE

from smm4h.config.decision import parse_decision
from smm4h.ensemble.decisions.fit import adjust_for_averaging
from smm4h.ensemble.expected_score import (
    FALLING,
    FEWEST_TWEETS,
    RISING,
    STEP,
    LabelledTweets,
    NewTweets,
    expected_score,
    fit_curve,
    places_of_means,
)
from smm4h.ensemble.fitting import VotingConfig
from smm4h.models.voting import mean_log_odds, softmax

MEMBERS = ["a", "b"]
PRIORS = {2: np.array([0.9, 0.1]), 3: np.array([0.05, 0.06, 0.89])}


class Simulated:
    """Labelled and new tweets of one kind, and models of three folds that agree but for noise of their own."""

    def __init__(
        self, seed: int, n_classes: int = 2, *, noise: float = 1.5, n_labelled: int = 600, n_new: int = 1000
    ) -> None:
        rng, prior = np.random.default_rng(seed), PRIORS[n_classes]

        def tweets(n_tweets: int, n_models: int) -> tuple[np.ndarray, np.ndarray]:
            gold = rng.choice(n_classes, n_tweets, p=prior)
            signal = 2.0 * np.eye(n_classes)[gold] + rng.normal(size=(n_tweets, n_classes)) + np.log(prior)
            return softmax(signal + noise * rng.normal(size=(n_models, len(MEMBERS), n_tweets, n_classes))), gold

        (self.labelled, self.gold), (self.folds, self.new_gold) = tweets(n_labelled, 1), tweets(n_new, 3)
        self.labelled = self.labelled[0]
        self.means = np.stack([mean_log_odds(self.folds[:, member]) for member in range(len(MEMBERS))])

    def scores(self, config: VotingConfig) -> tuple[float, float, dict]:
        """Return the scores out of fold and on the new tweets, and the expected one."""
        rule, n_classes = config.fit_rule(MEMBERS, self.labelled, self.gold, n_samples=10), self.means.shape[2]
        adjusted = adjust_for_averaging(rule, self.folds, self.means)
        own = config.score(self.gold, rule.predict(self.labelled), n_classes)
        found = config.score(self.new_gold, adjusted.predict(self.means), n_classes)
        labelled, new = LabelledTweets(self.labelled, self.gold), NewTweets(self.folds, self.means)
        return own, found, expected_score(rule, adjusted, labelled, new, config.objective)


@pytest.mark.parametrize(("objective", "method", "n_classes"), [(RARE, "soft", 2), (TWO_RARE, "hard", 3)])
def test_the_expected_score_is_that_of_means_of_models_and_its_interval_holds_it(objective, method, n_classes):
    config, rows = VotingConfig(objective, method, parse_decision("tuned")), []
    for seed in range(5):
        own, found, expected = Simulated(seed, n_classes).scores(config)
        low, high = expected["interval"]
        rows.append((own - found, expected["value"] - found, low <= found <= high, high - low))
    of_folds, error, is_held, width = np.mean(rows, axis=0)
    assert of_folds < -0.05  # single models are noisier than their means
    assert abs(error) < 0.03
    assert is_held >= 4 / 5
    assert width < 0.3


def test_models_that_agree_are_expected_to_score_as_out_of_fold():
    config = VotingConfig(RARE, "soft", parse_decision("argmax"))
    own, found, expected = Simulated(2, noise=0.0, n_labelled=1500, n_new=3000).scores(config)
    assert expected["interval"][0] < own < expected["interval"][1]
    assert abs(expected["value"] - found) < 0.04


def test_an_interval_is_wider_with_fewer_new_tweets_and_there_is_none_for_a_handful():
    config = VotingConfig(RARE, "soft", parse_decision("tuned"))
    widths = [np.diff(Simulated(1, n_new=n).scores(config)[2]["interval"])[0] for n in (1000, 100)]
    assert widths[1] > 1.3 * widths[0]
    assert Simulated(1, n_new=FEWEST_TWEETS - 1).scores(config)[2] is None


def test_a_labelled_tweets_mean_lies_where_new_tweets_means_do_of_which_a_model_says_the_same():
    rng, sides = np.random.default_rng(1), np.array([-0.5, 0.5])
    truth = np.repeat([0.0, 6.0], 1500)
    noise = np.repeat([1.0, 0.1], 1500) * rng.normal(size=(2, 3000))  # models agree on what they are sure of
    folds = (truth + noise)[..., None] * sides
    places = places_of_means(np.array([[-3.0, 3.0], [0.0, 0.0]]), folds, folds.mean(axis=0))
    assert places.shape == (2, 100, 2)
    assert places.sum(axis=2) == pytest.approx(0.0, abs=1e-6)
    log_odds = places @ sides * 2
    assert log_odds.mean(axis=1) == pytest.approx([6.0, 0.0], abs=0.2)
    assert log_odds[1].std() > 3 * log_odds[0].std()


def test_a_curve_has_the_slopes_the_bias_and_the_step_of_the_labels():
    rng = np.random.default_rng(0)
    log_odds = rng.normal(-1.5, 2.0, size=60_000)[:, None] * [-0.5, 0.5]
    probabilities = softmax(log_odds)
    logits = 0.5 * np.log(probabilities[:, 1]) - 1.5 * np.log(probabilities[:, 0]) + 1.0 * (log_odds[:, 1] > 0) - 0.7
    gold = (rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(int)
    curve = fit_curve(log_odds[:, None], gold)
    found = curve.parameters[[RISING, FALLING, STEP, STEP + 2]]
    assert found == pytest.approx([0.5, 1.5, 1.0, -0.7], abs=0.15)
    assert curve.reference == 0
    errors = np.sqrt(np.diag(curve.covariance))
    assert errors[STEP + 1] < 1e-2  # the reference's bias is 0
    assert 0.01 < errors[STEP] < 0.15


def test_what_noise_of_single_models_has_flattened_is_steep_again_for_their_means():
    rng, sides = np.random.default_rng(5), np.array([-0.5, 0.5])
    gold = (rng.random(2000) < 0.3).astype(int)
    truth = np.where(gold == 1, 1.0, -1.0) + rng.normal(size=len(gold))
    folds = (truth + 1.5 * rng.normal(size=(2, len(gold))))[..., None] * sides
    means, single = folds.mean(axis=0), folds[0]
    truth, plain, through = (
        fit_curve(places, gold).probabilities(means)[:, 1]
        for places in (means[:, None], single[:, None], places_of_means(single, folds, means))
    )
    assert np.abs(through - truth).mean() < 0.4 * np.abs(plain - truth).mean()
