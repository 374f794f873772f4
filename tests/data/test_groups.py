"""Groups of tweets: read with them, or refused."""

from dataclasses import replace

import pytest
from tweet_files import TASK, counts_of, read

from smm4h.config.job import TweetFile
from smm4h.data.dataset import check_groups, content_hash, group_names, read_tweets
from smm4h.utils.errors import InputError

BY_LANGUAGE = replace(TASK, columns=replace(TASK.columns, group=["lang"]))
BY_SOURCE = replace(TASK, columns=replace(TASK.columns, group=["source"]))
ROWS = "tweet_id\tuser_id\ttweet\tclass\tlang\n11\tu\tone\t1\tde\n12\tu\ttwo\t2\t fr \n13\tu\tthree\t3\t\n"


def test_groups_are_read_with_the_tweets_and_belong_to_their_hash(tmp_path):
    tweets, findings = read(tmp_path / "a.tsv", ROWS, task=BY_LANGUAGE)
    assert group_names(tweets).tolist() == ["de", "fr", ""]
    assert counts_of(findings, "tweets have no lang") == [1]
    other, _ = read(tmp_path / "b.tsv", ROWS.replace("de", "en"), task=BY_LANGUAGE)
    assert content_hash(tweets) != content_hash(other)
    plain, _ = read(tmp_path / "c.tsv", ROWS)
    assert group_names(plain) is None


def test_labelled_tweets_need_the_column_and_new_ones_may_lack_it(tmp_path):
    content = ROWS.replace("\tlang", "\tl")
    with pytest.raises(InputError, match="line 1: no column lang among"):
        read(tmp_path / "a.tsv", content, task=BY_LANGUAGE)
    tweets, findings = read(tmp_path / "a.tsv", content, task=BY_LANGUAGE, labelled=False)
    assert group_names(tweets).tolist() == ["", "", ""]
    assert counts_of(findings, "the file has no column lang: its tweets have no group") == [0]


def test_a_source_is_no_language(tmp_path):
    task = replace(BY_LANGUAGE, columns=replace(BY_LANGUAGE.columns, source=["origin"]))
    content = ROWS.replace("\tlang", "\torigin")
    tweets, _ = read(tmp_path / "a.tsv", content, task=task, labelled=False)
    assert group_names(tweets).tolist() == ["", "", ""]


def test_a_text_is_no_group_and_neither_are_a_hundred_and_one_names(tmp_path):
    with pytest.raises(InputError, match="line 2: column lang holds 41 characters") as refused:
        read(tmp_path / "a.tsv", ROWS.replace("de", "d" * 41), task=BY_LANGUAGE)
    assert "ddd" not in str(refused.value)
    rows = ROWS + "".join(f"2{i}\tu\ttext {i}\t1\tg{i}\n" for i in range(100))
    many, _ = read(tmp_path / "b.tsv", rows, task=BY_LANGUAGE)
    with pytest.raises(InputError, match="102 different values of lang, and at most 100 groups"):
        check_groups(many, BY_LANGUAGE)
    empty, _ = read(tmp_path / "c.tsv", ROWS.replace("\tde", "\t").replace("\t fr ", "\t"), task=BY_LANGUAGE)
    with pytest.raises(InputError, match="no labelled tweet has a lang"):
        check_groups(empty, BY_LANGUAGE)
    few, _ = read(tmp_path / "d.tsv", ROWS, task=BY_LANGUAGE)
    with pytest.raises(InputError, match=r"`unscored: d\*, fr` leaves all groups out of the score \(de, fr\)"):
        check_groups(few, replace(BY_LANGUAGE, unscored=["d*", "fr"]))


def test_a_source_may_be_named_by_the_file_or_by_a_column(tmp_path):
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_text(ROWS)
    (tmp_path / "c.tsv").write_text(ROWS.replace("\tlang", "\tsource"))
    files = [TweetFile(tmp_path / "a.tsv", "twitter"), TweetFile(tmp_path / "b.tsv", "reddit"), tmp_path / "c.tsv"]
    tweets, _ = read_tweets(files, BY_SOURCE, labelled=True)
    assert group_names(tweets).tolist() == ["twitter"] * 3 + ["reddit"] * 3 + ["de", "fr", ""]
