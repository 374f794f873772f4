"""Tweets read batch by batch from any number of files."""

from dataclasses import replace

import pytest
from tweet_files import OWN_DATA, TASK, UNLABELLED_HEADER

from smm4h.config.task import Columns
from smm4h.data.streaming import read_blocks


def test_one_block_is_read_at_once_and_lines_keep_their_numbers(tmp_path):
    path = tmp_path / "t.tsv"
    lines = [f"{n}\tu\ttweet \x85 {n}" for n in range(2, 27)]
    path.write_text(UNLABELLED_HEADER + "\n".join(lines) + "\n7 no tabs at all\n", encoding="utf-8")
    blocks = read_blocks([path], TASK, 10)
    assert next(blocks).ids == [str(n) for n in range(2, 12)]
    assert next(blocks).number == 1
    with pytest.raises(ValueError, match=r"t\.tsv, line 27: 1 fields where the header names 3"):
        next(blocks)


def test_the_encoding_is_that_of_the_whole_file(tmp_path):
    """The first block alone would pass for UTF-8."""
    path = tmp_path / "t.tsv"
    path.write_bytes(b"tweet_id\tuser_id\ttext\n1\tu\tplain\n2\tu\tcaf\xe9\n")
    assert [block.texts for block in read_blocks([path], TASK, 1)] == [["plain"], ["café"]]


def test_tweets_without_ids_are_numbered_over_all_files(tmp_path):
    numbered = replace(OWN_DATA, columns=Columns(text=["text"], label=["label"]))
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text('text\n"two\nlines"\nmore\nlast\n')
    blocks = list(read_blocks([tmp_path / "a.csv", tmp_path / "b.csv"], numbered, 2))
    assert [block.ids for block in blocks] == [["0", "1"], ["2"], ["3", "4"], ["5"]]
    assert blocks[0].texts == ["two\nlines", "more"]


def test_a_key_that_only_some_objects_have_is_passed_on(tmp_path):
    """The keys of the first object were taken for those of all, and the others' values lost without a word."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"tweet_id": "1", "text": "a"}\n{"tweet_id": "2", "text": "b", "author": "ann", "tweet": "no"}\n')
    task = replace(TASK, columns=replace(TASK.columns, text=["tweet", "text"]))
    (block,) = read_blocks([path], task, 10, passed=["author", "tweet"])
    assert (block.texts, block.passed["author"]) == (["a", "b"], ["", "ann"])
