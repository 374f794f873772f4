"""Metrics and their bootstrap intervals against scikit-learn and plain resampling."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import RARE, TWO_RARE, binary, gold_and_predictions
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import average_precision_score, f1_score

from smm4h import metrics
from smm4h.metrics import calibration, calibration_error, f1_of, precision_recall


def test_macro_f1_and_accuracy_equal_scikit_learns():
    gold, predicted = gold_and_predictions(1, 4)
    gold[gold == 3], predicted[predicted == 3] = 0, 1  # a class that nobody uses
    confusion = metrics.confusion_matrix(gold, predicted, 4)
    macro = sklearn_metrics.f1_score(gold, predicted, labels=range(4), average="macro", zero_division=0)
    assert metrics.macro_f1(confusion, []) == pytest.approx(macro)
    assert metrics.accuracy(confusion, []) == pytest.approx(sklearn_metrics.accuracy_score(gold, predicted))


def test_task5_is_scored_by_neither_accuracy_nor_macro_f1():
    gold, predicted = np.array([0, 1, 2, 2, 2, 2]), np.array([0, 2, 2, 2, 2, 0])
    confusion = metrics.confusion_matrix(gold, predicted, 3)
    assert metrics.f1(confusion, [0, 1]) == pytest.approx(0.5)
    assert metrics.accuracy(confusion, [0, 1]) == pytest.approx(4 / 6)
    assert metrics.macro_f1(confusion, [0, 1]) not in (pytest.approx(0.5), pytest.approx(4 / 6))


@pytest.mark.parametrize("metric", metrics.MEASURES.values())
def test_every_metric_is_defined_where_no_rare_class_is_predicted(metric):
    confusion = metrics.confusion_matrix(np.array([0, 1, 2]), np.array([2, 2, 2]), 3)
    assert 0.0 <= metric(confusion, [0, 1]) < 1.0
    assert metrics.f1(confusion, [0, 1]) == 0.0
    assert metrics.precision(confusion, [0, 1]) == 0.0
    assert metrics.recall(confusion, [0, 1]) == 0.0


def test_the_bootstrap_interval_is_that_of_resampling_tweets():
    gold, predicted = gold_and_predictions(3, 2)
    confusion = metrics.confusion_matrix(gold, predicted, 2)
    low, high = metrics.bootstrap_interval(confusion, metrics.f1, [1], n_samples=4000)
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(1500):
        rows = rng.integers(0, len(gold), len(gold))
        scores.append(sklearn_metrics.f1_score(gold[rows], predicted[rows]))
    assert (low, high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.01)


def test_precision_and_recall_are_scikit_learns_at_every_threshold():
    rng = np.random.default_rng(0)
    scores, hits = rng.random(300).round(2), rng.random(300) < 0.2
    thresholds, precision, recall = precision_recall(scores, hits)
    expected = sklearn_metrics.precision_recall_curve(hits, scores)
    np.testing.assert_allclose(precision[::-1], expected[0][:-1])
    np.testing.assert_allclose(recall[::-1], expected[1][:-1])
    np.testing.assert_allclose(thresholds[::-1], expected[2])
    index = 17
    predicted = scores >= thresholds[index]
    assert f1_of(precision, recall)[index] == pytest.approx(sklearn_metrics.f1_score(hits, predicted))


def test_the_calibration_error_is_small_for_calibrated_and_large_for_overconfident_scores():
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    hits = rng.random(20_000) < scores
    means, right, counts = calibration(scores, hits)
    assert counts.sum() == 20_000
    np.testing.assert_allclose(means, right, atol=0.03)
    assert calibration_error(scores, hits) < 0.02
    assert calibration_error(scores**0.2, hits) > 0.2
    assert len(calibration(np.full(50, 0.3), hits[:50])[0]) == 1


def test_average_precision_is_scikit_learns():
    probs, gold = binary()
    expected = average_precision_score(gold, probs[0][:, 1])
    assert metrics.average_precision(probs[0][:, 1], gold == 1) == pytest.approx(expected)


def test_the_paired_bootstrap_tells_equal_from_unequal_predictions():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 2, 800)
    good, bad = (np.where(rng.random(800) < share, gold, 1 - gold) for share in (0.9, 0.75))
    same = metrics.paired_bootstrap(gold, good, good, 2, metrics.f1, [1])
    assert (same["difference"], same["p"]) == (0.0, 1.0)
    comparison = metrics.paired_bootstrap(gold, good, bad, 2, metrics.f1, [1])
    assert comparison["difference"] == pytest.approx(RARE.score(gold, good, 2) - RARE.score(gold, bad, 2))
    assert comparison["interval"][0] > 0
    assert comparison["p"] < 0.01
    reverse = metrics.paired_bootstrap(gold, bad, good, 2, metrics.f1, [1])
    assert reverse["p"] == pytest.approx(comparison["p"], abs=0.01)


def test_the_paired_interval_is_that_of_resampling_tweets():
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 3, 300)
    left, right = (np.where(rng.random(300) < 0.7, gold, rng.integers(0, 3, 300)) for _ in range(2))
    comparison = metrics.paired_bootstrap(gold, left, right, 3, metrics.f1, [0, 1], n_samples=4000)
    differences = []
    for _ in range(1500):
        rows = rng.integers(0, 300, 300)
        differences.append(TWO_RARE.score(gold[rows], left[rows], 3) - TWO_RARE.score(gold[rows], right[rows], 3))
    assert comparison["interval"] == pytest.approx(np.quantile(differences, [0.025, 0.975]).tolist(), abs=0.012)


@pytest.mark.parametrize("measure", ["f1", "macro_f1", "macro_f1_positive"])
def test_a_mean_over_groups_is_the_mean_of_scikit_learns_scores_without_the_unscored_groups(measure):
    gold, predicted = gold_and_predictions(3, 3)
    groups = np.random.default_rng(4).choice(["masks", "schools", "masks_old", ""], len(gold))
    options = {"f1": ([0, 2], "micro"), "macro_f1": ([0, 1, 2], "macro"), "macro_f1_positive": ([0, 2], "macro")}
    labels, average = options[measure]
    kinds = {"labels": labels, "average": average, "zero_division": 0}
    objective = metrics.Objective(metrics.MEASURES[measure], (0, 2), averages_groups=True, unscored=("*_old",))
    expected = [f1_score(gold[groups == g], predicted[groups == g], **kinds) for g in ("masks", "schools")]
    assert objective.score(gold, predicted, 3, groups) == pytest.approx(np.mean(expected))
    pooled = replace(objective, averages_groups=False)
    kept = groups != "masks_old"
    assert pooled.score(gold, predicted, 3, groups) == pytest.approx(f1_score(gold[kept], predicted[kept], **kinds))
