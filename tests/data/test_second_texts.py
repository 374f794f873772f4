"""Second texts: read with the tweets, part of what makes a duplicate, and truncated last."""

from dataclasses import replace

import numpy as np
import pytest
from tweet_files import TASK, counts_of, read

from smm4h.data.dataset import content_hash, contexts_of
from smm4h.data.duplicates import across_folds, cross_findings, leak_groups, normalized_texts
from smm4h.data.folds import add_folds
from smm4h.data.pseudo_labels import held_out_keys_by_fold, is_held_out
from smm4h.utils.errors import InputError

WITH_CLAIM = replace(TASK, columns=replace(TASK.columns, context=["claim"]))
HEADER = "tweet_id\tuser_id\ttweet\tclass\tclaim\n"


def tweets_of(path, n_tweets=12):
    """Each tweet under two claims, with another label."""
    rows = [
        f"{1000 + 2 * i + j}\t\ttweet number {i}\t{1 + (i + j) % 3}\t{claim}\n"
        for i in range(n_tweets)
        for j, claim in enumerate(("masks", "schools"))
    ]
    return read(path, HEADER + "".join(rows), task=WITH_CLAIM)[0]


def test_every_file_needs_the_column_and_the_claims_belong_to_the_hash(tmp_path):
    tweets = tweets_of(tmp_path / "a.tsv")
    assert contexts_of(tweets)[:3] == ["masks", "schools", "masks"]
    content = (tmp_path / "a.tsv").read_text()
    other, _ = read(tmp_path / "b.tsv", content.replace("schools", "bars"), task=WITH_CLAIM)
    assert content_hash(tweets) != content_hash(other)
    with pytest.raises(InputError, match=r"no column claim among .*; name it with --context_column_name"):
        read(tmp_path / "c.tsv", content.replace("\tclaim", "\tx"), task=WITH_CLAIM, labelled=False)


def test_a_tweet_under_two_claims_is_no_duplicate_with_another_label(tmp_path):
    labelled = add_folds(tweets_of(tmp_path / "a.tsv"), 2, [1])
    findings = cross_findings(labelled, None, [1], WITH_CLAIM)
    assert counts_of(findings, "duplicate") == []
    assert len(set(normalized_texts(labelled))) == 24
    across = across_folds(labelled, [1])
    assert not across["a duplicate"].any()
    assert across["the same text with another second text"].any()


def test_grouped_folds_keep_a_text_together_under_all_claims(tmp_path):
    groups = leak_groups(tweets_of(tmp_path / "a.tsv"), WITH_CLAIM, by_user=False)
    assert np.array_equal(groups[::2], groups[1::2])
    assert len(set(groups)) == 12


def test_a_pseudo_labelled_tweet_is_held_out_under_its_own_claim_only(tmp_path):
    labelled = add_folds(tweets_of(tmp_path / "a.tsv"), 2, [1])
    content = "tweet_id\tuser_id\ttext\tclaim\n1\t\tTweet number 0 https://x.y\tMasks\n2\t\ttweet number 0\tbars\n"
    pool, _ = read(tmp_path / "b.tsv", content, task=WITH_CLAIM, labelled=False)
    held_out = [is_held_out(pool, keys) for keys in held_out_keys_by_fold(labelled, WITH_CLAIM, 1, 2)]
    assert np.sum(held_out, axis=0).tolist() == [1, 0]
