"""The official measures against scikit-learn, as evaluate.Metric, and their intervals; votes and ties; folds."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.model_selection import StratifiedKFold

from smm4h import metrics
from smm4h.config.task import read_task
from smm4h.data.folds import stratified_choice, stratified_folds
from smm4h.metrics import calibration, calibration_error, f1_of, precision_recall
from smm4h.models import voting
from smm4h.training.task_metric import TaskMeasure


def drawn(seed, n_classes, n_tweets=300):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, n_classes, n_tweets)
    return gold, np.where(rng.random(n_tweets) < 0.6, gold, rng.integers(0, n_classes, n_tweets))


@pytest.mark.parametrize("task", ["task1", "task2_en", "task5"])
@pytest.mark.parametrize("seed", range(5))
def test_the_official_measure_equals_scikit_learns(task, seed):
    task = read_task(f"tasks/{task}.yaml")
    gold, predicted = drawn(seed, task.n_classes)
    measure = TaskMeasure(task.measure, task.n_classes, task.positive_indices)
    found = measure.compute(predictions=predicted, references=gold)
    options = {"labels": task.positive_indices, "average": "micro", "zero_division": 0}
    assert found["f1"] == pytest.approx(sklearn_metrics.f1_score(gold, predicted, **options), abs=1e-12)
    assert found["precision"] == pytest.approx(sklearn_metrics.precision_score(gold, predicted, **options), abs=1e-12)
    assert found["recall"] == pytest.approx(sklearn_metrics.recall_score(gold, predicted, **options), abs=1e-12)


def test_the_other_measures_equal_scikit_learns():
    gold, predicted = drawn(1, 4)
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


@pytest.mark.parametrize("measure", metrics.MEASURES.values())
def test_where_no_rare_class_is_predicted_the_measure_is_defined(measure):
    confusion = metrics.confusion_matrix(np.array([0, 1, 2]), np.array([2, 2, 2]), 3)
    assert 0.0 <= measure(confusion, [0, 1]) < 1.0
    assert (
        metrics.f1(confusion, [0, 1])
        == metrics.precision(confusion, [0, 1])
        == metrics.recall(confusion, [0, 1])
        == 0.0
    )


def test_the_bootstrap_interval_is_that_of_drawing_tweets():
    gold, predicted = drawn(3, 2)
    confusion = metrics.confusion_matrix(gold, predicted, 2)
    low, high = metrics.bootstrap_interval(confusion, metrics.f1, [1], n_samples=4000)
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(1500):
        rows = rng.integers(0, len(gold), len(gold))
        scores.append(sklearn_metrics.f1_score(gold[rows], predicted[rows]))
    assert (low, high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.01)


def test_the_most_ballots_win():
    assert voting.hard_vote(np.array([[0, 1, 2], [0, 2, 2], [1, 2, 0]]), 3).tolist() == [0, 2, 2]


def test_a_tie_goes_to_the_higher_mean_probability_or_to_the_lowest_class():
    ballots = np.array([[0, 2], [1, 2], [0, 1], [1, 1]])
    means = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])  # class 2 leads the first tweet, but has no ballot there
    assert voting.hard_vote(ballots, 3, means).tolist() == [1, 2]
    assert voting.hard_vote(ballots, 3).tolist() == [0, 1]


def test_a_soft_vote_can_overrule_the_majority():
    probabilities = np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.1, 0.9]]])
    assert voting.soft_vote(probabilities).tolist() == [1]
    assert voting.hard_vote(probabilities.argmax(axis=2), 2).tolist() == [0]


@pytest.mark.parametrize("seed", [42, 24])
def test_folds_are_scikit_learns_row_for_row(seed):
    labels = np.random.default_rng(0).choice(3, 500, p=[0.05, 0.06, 0.89])
    folds = stratified_folds(labels, 5, seed)
    expected = StratifiedKFold(5, shuffle=True, random_state=seed).split(labels, labels)
    for fold, (_, held_out) in enumerate(expected):
        assert np.flatnonzero(folds == fold).tolist() == held_out.tolist()
        assert abs((labels[held_out] == 0).sum() - (labels == 0).sum() / 5) <= 1


def test_a_stratified_choice_keeps_the_shares_of_the_classes():
    labels = np.array([0] * 10 + [1] * 89 + [2])
    kept = stratified_choice(labels, 50, seed=1)
    assert np.bincount(labels[kept], minlength=3).tolist() in ([5, 44, 1], [5, 45, 0])
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert stratified_choice(labels, 1000, seed=1).tolist() == list(range(100))
    assert len(stratified_choice(labels, 1, seed=1)) == 1
    assert kept.tolist() != stratified_choice(labels, 50, seed=2).tolist()


def test_precision_and_recall_are_scikit_learns_at_every_cut():
    rng = np.random.default_rng(0)
    scores, hits = rng.random(300).round(2), rng.random(300) < 0.2
    cuts, precision, recall = precision_recall(scores, hits)
    expected = sklearn_metrics.precision_recall_curve(hits, scores)
    np.testing.assert_allclose(precision[::-1], expected[0][:-1])
    np.testing.assert_allclose(recall[::-1], expected[1][:-1])
    np.testing.assert_allclose(cuts[::-1], expected[2])
    place = 17
    chosen = scores >= cuts[place]
    assert f1_of(precision, recall)[place] == pytest.approx(sklearn_metrics.f1_score(hits, chosen))


def test_calibration_tells_the_honest_from_the_overconfident():
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    hits = rng.random(20_000) < scores
    means, right, counts = calibration(scores, hits)
    assert counts.sum() == 20_000
    np.testing.assert_allclose(means, right, atol=0.03)
    assert calibration_error(scores, hits) < 0.02
    assert calibration_error(scores**0.2, hits) > 0.2
    assert len(calibration(np.full(50, 0.3), hits[:50])[0]) == 1
