"""Scores of label sets against scikit-learn's on indicator matrices."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.preprocessing import MultiLabelBinarizer

from smm4h.ensemble.scoring import group_rows
from smm4h.models.label_spaces import LabelSetSpace
from smm4h.set_metrics import compare_label_sets, score_label_sets

LABELS = ("pain", "sleep", "mood", "never given")
SPACE = LabelSetSpace(LABELS)


def drawn(seed: int, n_tweets: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return gold and predicted label sets; the last label is in neither."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 8, n_tweets)
    predicted = np.where(rng.random(n_tweets) < 0.6, gold, rng.integers(0, 8, n_tweets))
    return SPACE.indicators(gold), SPACE.indicators(predicted)


def test_scores_are_scikit_learns_on_binarized_sets():
    gold, predicted = drawn(1)
    names = [
        [[name for name, has in zip(LABELS, row, strict=True) if has] for row in sets] for sets in (gold, predicted)
    ]
    matrices = [MultiLabelBinarizer(classes=list(LABELS)).fit_transform(of_tweets) for of_tweets in names]
    score = score_label_sets(LABELS, gold, predicted, "f1", ["macro_f1"])
    for name, average in (("f1", "micro"), ("macro_f1", "macro")):
        assert score[name] == pytest.approx(f1_score(*matrices, average=average, zero_division=0))
    assert score["pooled"]["f1"] == score["f1"]
    assert score["mean_over_groups"]["f1"] == pytest.approx(score["macro_f1"])
    assert score["precision"] == pytest.approx(precision_score(*matrices, average="micro"))
    for name, function in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        by_label = function(*matrices, average=None, zero_division=0)
        assert [score["groups"][label][name] for label in LABELS] == pytest.approx(by_label)
    assert score["groups"]["never given"]["tweets"] == 0
    macro = score_label_sets(LABELS, gold, predicted, "macro_f1")
    assert macro["macro_f1"] == pytest.approx(score["macro_f1"])
    assert macro["interval"] != score["interval"]


def test_the_row_of_means_has_means_of_precision_and_recall_too():
    gold, predicted = drawn(1)
    name, (row,) = group_rows(score_label_sets(LABELS, gold, predicted, "f1"), of="labels")[-1]
    assert name == "mean over labels"
    for measure, function in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert row[measure] == pytest.approx(function(gold, predicted, average="macro", zero_division=0))


def test_an_interval_is_over_tweets_whose_labels_are_drawn_together():
    """Four copies of a label tell no more than one; drawn pair by pair, the interval would be half as wide."""
    copied = [sets[:, :1].repeat(4, axis=1) for sets in drawn(2)]
    score = score_label_sets(LABELS, *copied, "f1")
    low, high = score["interval"]
    assert (low, high) == pytest.approx(tuple(score["groups"]["pain"]["interval"]))
    assert low < score["f1"] < high
    assert high - low > 0.05


def test_a_comparison_is_of_the_same_sampled_tweets():
    gold, worse = drawn(3)
    better = np.where(np.arange(len(gold))[:, np.newaxis] % 3 == 0, gold, worse)
    found = compare_label_sets(gold, better, worse, "macro_f1")
    scores = [score_label_sets(LABELS, gold, sets, "macro_f1")["macro_f1"] for sets in (better, worse)]
    assert found["difference"] == pytest.approx(scores[0] - scores[1])
    assert found["interval"][0] < found["difference"] < found["interval"][1]
    assert found["p"] < 0.05
    assert compare_label_sets(gold, gold, gold, "f1")["interval"] == [0.0, 0.0]
