"""Duplicates after normalisation, and groups of tweets that must share a fold."""

from dataclasses import replace

import numpy as np
from tweet_files import HEADER, TASK, UNLABELLED_HEADER, counts_of, labelled_tweets, read

from smm4h.data import pseudo_labels
from smm4h.data.duplicates import connected_groups, cross_findings, leak_groups, normalized_text
from smm4h.data.folds import add_folds


def test_duplicates_share_their_normalised_text_and_others_do_not():
    assert (
        normalized_text("Big NEWS @ann  http://t.co/a")
        == normalized_text("big news")
        == normalized_text("@bob big\tnews")
    )
    assert normalized_text("a &amp; b") == normalized_text("A & B")
    assert normalized_text("big news") != normalized_text("big new")


def test_groups_join_through_any_chain_of_keys():
    texts = np.array(["a", "a", "b", "b", "", "", "c"], dtype=object)
    users = np.array(["u", "v", "v", "w", "", "", "x"], dtype=object)
    groups = connected_groups(texts, users)
    assert len(set(groups[:4])) == 1
    assert len(set(groups[3:])) == 4  # without words or user a tweet has no duplicates
    assert len(set(connected_groups(texts))) == 5


def test_tweets_without_ids_are_no_duplicates_by_their_row_number(tmp_path):
    """Own data without a column of ids: each file is numbered from 0."""
    numbered = replace(TASK, columns=replace(TASK.columns, id=[]))
    rows = [(n, "", f"words number {n}", 1 + n % 3) for n in range(30)]
    labelled = labelled_tweets(rows + rows[:5], tmp_path / "train.tsv")
    groups = leak_groups(labelled.select(range(30)), numbered, by_user=False)
    assert len(set(groups)) == 30
    labelled = add_folds(labelled, 5, [42])
    other = labelled_tweets([(3, "", "nothing of the sort", 1)], tmp_path / "other.tsv")
    for task, is_kept in ((numbered, True), (TASK, False)):
        held_out = pseudo_labels.held_out_keys_by_fold(labelled, task, 42, 5)
        assert all(not pseudo_labels.is_held_out(other, fold).any() for fold in held_out) == is_kept
    findings = cross_findings(labelled, other, [42], numbered)
    assert not any("have the id" in finding.what for finding in findings)


def test_duplicates_users_and_ids_across_files_and_folds_are_counted(tmp_path):
    labels = [1, 1, 2, 2, 3, 3, 3, 3]
    texts = ["Big NEWS @ann http://t.co/a", "big news @bob", *(f"tweet {i}" for i in range(6))]
    content = HEADER + "".join(
        f"{i}\tu{i // 4}\t{t}\t{y}\n" for i, (t, y) in enumerate(zip(texts, labels, strict=True))
    )
    labelled, _ = read(tmp_path / "a.tsv", content)
    labelled = add_folds(labelled, 2, [42])
    test, _ = read(
        tmp_path / "b.tsv", UNLABELLED_HEADER + "3\tx\tBIG news\n99\tx\t@ann http://t.co/z\n", labelled=False
    )
    findings = cross_findings(labelled, test, [42], TASK)
    assert counts_of(findings, "labelled tweets have a duplicate (") == [2]
    assert counts_of(findings, "test tweets have a duplicate") == [1]
    assert counts_of(findings, "id of a labelled tweet") == [1]
    are_separated = labelled["fold_42"][0] != labelled["fold_42"][1]
    assert bool(counts_of(findings, "a duplicate in another fold")) == are_separated
    assert counts_of(findings, "same user in another fold")
