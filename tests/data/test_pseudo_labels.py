"""Pseudo labels: which are accepted, and that held-out tweets are none."""

from dataclasses import replace

import numpy as np
import pytest
from tweet_files import TASK, labelled_tweets

from smm4h.data import pseudo_labels
from smm4h.data.dataset import column
from smm4h.utils.errors import InputError


def test_filters_accept_confident_and_agreed_labels():
    sure, split = [[0.9, 0.1], [0.95, 0.05]], [[0.9, 0.1], [0.4, 0.6]]
    probs = np.array([sure, split]).transpose(1, 0, 2)  # (2 teachers, 2 tweets, 2 classes)
    labels = pseudo_labels.Filters().labels(probs)
    assert labels.tolist() == [0, 0]
    assert pseudo_labels.Filters(confidence=0.7).believed(probs, labels).tolist() == [True, False]
    assert pseudo_labels.Filters(agreement=0.8).believed(probs, labels).tolist() == [True, False]
    assert pseudo_labels.Filters(confidence=0.6, agreement=0.5).believed(probs, labels).tolist() == [True, True]


def test_labels_by_prior_come_in_the_classes_shares_the_most_probable_first():
    rng = np.random.default_rng(0)
    rare = rng.random(100) * 0.3  # argmax would name none
    probs = np.stack([rare, 1 - rare], axis=1)[None]
    labels = pseudo_labels.Filters(prior=np.array([0.1, 0.9])).labels(probs)
    assert np.flatnonzero(labels == 0).tolist() == sorted(np.argsort(-rare)[:10])


def test_a_tweet_with_the_id_or_the_words_of_a_held_out_tweet_is_held_out(tmp_path):
    held_out = pseudo_labels.HeldOutKeys(keys={"my son"}, ids={"7"})
    rows = [("7", "u", "else", 1), ("8", "u", "@a MY  son", 1), ("9", "u", "mine", 1)]
    tweets = labelled_tweets(rows, tmp_path / "t.tsv")
    assert pseudo_labels.is_held_out(tweets, held_out).tolist() == [True, True, False]
    assert pseudo_labels.is_held_out(tweets, replace(held_out, keys={""})).tolist() == [True, False, False]


def test_parts_are_random_disjoint_and_of_the_asked_size():
    parts = pseudo_labels.cut_disjoint_parts(4602, 0.1, 5, 42)
    assert [len(part) for part in parts] == [460, 460, 461, 460, 460]
    assert len(np.unique(np.concatenate(parts))) == 2301
    assert all((np.diff(part) > 0).all() for part in parts)
    assert not np.array_equal(parts[0], pseudo_labels.cut_disjoint_parts(4602, 0.1, 5, 24)[0])
    assert np.concatenate(pseudo_labels.cut_disjoint_parts(7, 0.2, 5, 1)).size == 7


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("row\t", "line\t", "was changed after it was made; remove its folder"),
        ("0\t7\t", "x\t7\t", "was changed after it was made; remove its folder"),
        ("0\t7\t", "5\t7\t", "was changed after it was made; remove its folder"),
        ("\t2\n", "\t9\n", "was changed after it was made; remove its folder"),
        ("0\t7\t", "1\t7\t", "was made from other tweets; remove its folder"),
    ],
)
def test_a_part_that_somebody_changed_is_refused(tmp_path, old, new, message):
    tweets = labelled_tweets([("7", "u", "one", 2), ("8", "u", "two", 1)], tmp_path / "t.tsv")
    part = pseudo_labels.PseudoLabels(np.array([0]), np.array([1]))
    pseudo_labels.write_part(tmp_path / "fold-0.tsv", tweets, part, TASK)
    ids = column(tweets, "id")
    assert pseudo_labels.read_part(tmp_path / "fold-0.tsv", ids, TASK).rows.tolist() == [0]
    text = (tmp_path / "fold-0.tsv").read_text()
    assert old in text
    (tmp_path / "fold-0.tsv").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        pseudo_labels.read_part(tmp_path / "fold-0.tsv", ids, TASK)
