"""Choosing what to label next: signals and gain, near copies, the random share."""

import numpy as np
import pytest
from conftest import standard_errors

from smm4h.inference.labelling.choice import GAIN, RANDOM, choose, first_of_each
from smm4h.inference.labelling.copies import CopyIndex
from smm4h.inference.labelling.gain import Signals, disagreement, expected_gain
from smm4h.inference.labelling.pool import key_of
from smm4h.models.predictors import EnsembleOutput
from smm4h.models.voting import VotingRule

SENTENCE = "the doctor said that my son needs another surgery on his heart before he turns one"


def test_members_who_are_certain_of_different_labels_disagree_most_and_equal_ones_not_at_all():
    certain = np.array([[[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]], [[0.0, 1.0], [0.5, 0.5], [0.6, 0.4]]])
    values = disagreement(certain)
    assert values[0] == pytest.approx(1.0)
    assert values[1] == pytest.approx(0.0)
    assert 0.0 < values[2] < 0.2
    assert disagreement(certain[:1]).tolist() == [0.0, 0.0, 0.0]


def test_disagreement_is_the_mutual_information_of_label_and_member():
    members = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], size=(4, 6))
    joint = members / 4  # (member, tweet, label)
    of_label, of_member = joint.sum(axis=0, keepdims=True), joint.sum(axis=2, keepdims=True)
    information = (joint * np.log(joint / (of_label * of_member))).sum(axis=(0, 2))
    np.testing.assert_allclose(disagreement(members), information / np.log(3), rtol=1e-9)


def test_the_margin_is_that_at_the_jobs_own_decision():
    """With a threshold of 0.2, a rare probability of 0.2 is undecided, and 0.5 is not."""
    rule = VotingRule("soft", ["a"], "probability", "probability", np.array([[0.2, 0.8]]))
    members = np.array([[[0.8, 0.2], [0.5, 0.5], [0.99, 0.01]]])
    signals = Signals.of_predictions(members, EnsembleOutput.from_rule(rule, members), [1])
    assert signals.margin[0] == pytest.approx(0.0)
    assert (signals.margin[1:] > 0.5).all()
    np.testing.assert_allclose(signals.rare, [0.2, 0.5, 0.01])


def test_each_signal_raises_the_gain_whatever_its_scale():
    base = np.full(4, 0.5)
    for name, best in (("disagreement", 2e-9), ("margin", -2e-9), ("rare", 2e-9)):
        values = {"disagreement": base, "margin": base, "rare": base}
        values[name] = base + np.array([0, 0, best, 0])
        gain = expected_gain(Signals(**values))
        assert gain.argmax() == 2
        assert gain.min() >= 0
        assert gain.max() <= 1


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE.upper() + " https://t.co/abc",
        "@ann " + SENTENCE.replace("surgery", "operation"),
        SENTENCE + " today",
        SENTENCE.removeprefix("the doctor "),
    ],
)
def test_a_word_more_less_or_other_makes_a_near_copy(text):
    assert CopyIndex([SENTENCE]).has_near_copy(text)


@pytest.mark.parametrize("text", ["my son needs another surgery", " ".join(reversed(SENTENCE.split())), "https://t.co"])
def test_a_part_other_order_or_no_words_are_no_near_copy(text):
    assert not CopyIndex([SENTENCE]).has_near_copy(text)


def test_near_copies_are_known_in_scripts_without_spaces():
    text = "医者は息子の心臓にもう一度手術が必要だと言った"
    assert CopyIndex([text]).has_near_copy(text.replace("医者", "医師"))
    assert not CopyIndex([text]).has_near_copy("今日はとても良い天気だったので公園に行きました")


def test_twins_have_one_key_and_another_second_text_makes_another_tweet():
    assert key_of("Same WORDS @ann https://t.co/a", None) == key_of("same words", None)
    assert key_of("same words", "claim a") != key_of("same words", "claim b")
    assert key_of("@ann https://t.co/a", None) == 0
    keys = np.array([5, 7, 5, 0, 9, 7])
    assert first_of_each(keys, {9}).tolist() == [True, True, False, False, False, False]


def chosen_of(gain, texts, n_tweets, n_random, seed=0, labelled=()):
    def texts_of(rows):
        return {row: texts[row] for row in rows.tolist()}

    return choose(gain, np.ones(len(gain), bool), CopyIndex(labelled), texts_of, n_tweets, n_random, seed)


def test_the_highest_gain_is_chosen_without_near_copies_of_labelled_and_of_chosen_tweets():
    texts = [f"{SENTENCE} {number}" for number in range(3)] + [f"word{i} other{i} thing{i} end{i}" for i in range(6)]
    gain = np.linspace(1, 0, len(texts))
    choice = chosen_of(gain, texts, 4, 0)
    assert choice.rows.tolist() == [0, 3, 4, 5]
    assert choice.n_near_copies == 2
    assert chosen_of(gain, texts, 4, 0, labelled=[SENTENCE]).rows.tolist() == [3, 4, 5, 6]


def test_more_tweets_than_there_are_give_all_of_them_once():
    texts = [f"word{i} other{i} thing{i}" for i in range(7)]
    choice = chosen_of(np.arange(7.0), texts, 50, 5)
    assert sorted(choice.rows.tolist()) == list(range(7))
    assert choice.by.count(RANDOM) == 5


def test_the_random_share_is_drawn_evenly_so_that_its_rare_tweets_estimate_the_pools():
    """Rare tweets have the highest gain, and half of them are near copies of each other."""
    n_all, n_random, n_draws = 200, 20, 150
    is_rare = np.arange(n_all) < 20
    texts = [f"{SENTENCE} {i}" if i < 10 else f"word{i} other{i} thing{i} end{i}" for i in range(n_all)]
    shares = []
    for seed in range(n_draws):
        choice = chosen_of(is_rare * 1.0, texts, 40, n_random, seed)
        random = choice.rows[[by == RANDOM for by in choice.by]]
        assert len(set(choice.rows.tolist())) == 40
        shares.append(is_rare[random].mean())
    spread = np.sqrt(0.1 * 0.9 / n_random)
    assert abs(np.mean(shares) - 0.1) < standard_errors(5, spread, n_draws)
    assert choice.by.count(GAIN) == 20
