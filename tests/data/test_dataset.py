"""From read tables to datasets: ids, labels, findings and the content hash."""

import numpy as np
import pandas as pd
import pytest
from tweet_files import HEADER, OWN_DATA, UNLABELLED_HEADER, counts_of, read

from smm4h.config.task_file import read_task
from smm4h.data.dataset import content_hash, read_tweets
from smm4h.utils.errors import InputError


def test_a_fourth_field_of_the_test_file_is_dropped_and_counted(tmp_path):
    tweets, findings = read(
        tmp_path / "a.tsv", UNLABELLED_HEADER + "1\t7\tone\t3\n2\t7\ttwo\n3\t8\tthree\t1", labelled=False
    )
    assert tweets["text"][:] == ["one", "two", "three"]
    assert "label" not in tweets.column_names
    assert counts_of(findings, "more fields") == [2]


def test_nineteen_digit_ids_stay_exact_and_repeated_ones_stay(tmp_path):
    ids = ["9223372036854775807", "1234567890123456789", "9223372036854775807"]
    content = UNLABELLED_HEADER + "".join(f"{i}\t7\ttweet\n" for i in ids)
    tweets, findings = read(tmp_path / "a.tsv", content, labelled=False)
    assert tweets["id"][:] == ids
    assert tweets["row"][:] == [0, 1, 2]
    assert counts_of(findings, "share their id") == [2]


@pytest.mark.parametrize("spoilt", ["1.23457E+18", "12567746120.0"])
def test_an_id_that_a_spreadsheet_has_spoilt_is_refused(tmp_path, spoilt):
    with pytest.raises(InputError, match=r"line 2: the id is written as a decimal number"):
        read(tmp_path / "a.tsv", HEADER + f"{spoilt}\t7\tone\t1\n")


def test_an_unknown_label_names_file_and_line_but_not_its_text(tmp_path):
    with pytest.raises(InputError, match=r"a\.tsv, line 3: the label is none of 1, 2, 3") as caught:
        read(tmp_path / "a.tsv", HEADER + "1\t7\tone\t1\n2\t7\ttab\tprivate words\n")
    assert "private" not in str(caught.value)


def test_float_ids_of_a_parquet_file_are_refused(tmp_path):
    pd.DataFrame({"id": [1e18, 2e18], "text": ["a", "b"], "label": ["none"] * 2}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 0: the id is written as a decimal"):
        read_tweets([tmp_path / "a.parquet"], OWN_DATA, labelled=True)


def test_without_an_id_column_tweets_are_numbered(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("name: t\nlabels: [x, y]\ncolumns: {text: text, label: label}\n")
    tweets, _ = read(tmp_path / "a.csv", "text,label\none,x\ntwo,y\n", task=read_task(path))
    assert tweets["id"][:] == ["0", "1"]


def test_the_same_tweets_in_another_encoding_are_the_same_data(tmp_path):
    text = HEADER + "1\t7\tit’s\t1\n"
    in_cp1252, _ = read(tmp_path / "a.tsv", text.encode("cp1252"))
    in_utf8, _ = read(tmp_path / "b.tsv", text.replace("\n", "\r\n").encode("utf-8"))
    assert content_hash(in_cp1252) == content_hash(in_utf8)
    assert np.array_equal(in_cp1252["row"], [0])
