"""Folds: scikit-learn's stratified ones, and grouped ones that keep duplicates together."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from tweet_files import TASK, labelled_tweets, tweets_with_duplicates

from smm4h.data.duplicates import across_folds, leak_groups
from smm4h.data.folds import add_folds, folds_of, grouped_folds, stratified_choice, stratified_folds


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


@pytest.mark.parametrize("by_user", [False, True])
def test_grouped_folds_separate_no_duplicates_and_no_users_and_keep_the_class_shares(tmp_path, by_user):
    labelled = tweets_with_duplicates(tmp_path)
    groups = leak_groups(labelled, TASK, by_user=by_user)
    plain, grouped = add_folds(labelled, 5, [42]), add_folds(labelled, 5, [42], groups)
    n_duplicates = {}
    for dataset, is_grouped in ((plain, False), (grouped, True)):
        across = across_folds(dataset, [42])
        n_duplicates[is_grouped] = int(across["a duplicate"].sum())
        if by_user:
            assert across["a tweet of the same user"].any() != is_grouped
    assert n_duplicates[True] == 0
    assert n_duplicates[False] > 10
    for label in range(3):
        counts = np.bincount(folds_of(grouped, 42)[np.array(labelled["label"]) == label], minlength=5)
        assert counts.max() - counts.min() <= 3


def test_a_repeated_id_stays_in_one_fold(tmp_path):
    rows = [(f"1{n // 2}", "", f"words number {n}", 1 + n // 2 % 3) for n in range(60)]
    labelled = labelled_tweets(rows, tmp_path / "train.tsv")
    folds = folds_of(add_folds(labelled, 5, [42], leak_groups(labelled, TASK, by_user=False)), 42)
    assert np.array_equal(folds[::2], folds[1::2])


def test_groups_too_large_for_the_folds_are_refused():
    labels, groups = np.array([0] * 10 + [1] * 10), np.array([0] * 10 + list(range(1, 11)))
    with pytest.raises(ValueError, match="holds no tweet of a label out"):
        grouped_folds(labels, groups, 5, 42)
