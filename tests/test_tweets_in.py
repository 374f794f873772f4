"""Each trap of the official files, on invented ones, and every other format that users have."""

import json

import numpy as np
import pandas as pd
import pytest

from smm4h.config.task import read_task
from smm4h.data.dataset import content_hash, read_tweets
from smm4h.data.duplicates import cross_findings
from smm4h.data.folds import add_folds
from smm4h.data.readers import decode, unwrap_quotes, wrap_quotes
from smm4h.utils.errors import InputError

TASK5, OWN = read_task("tasks/task5.yaml"), read_task("tasks/own_data.yaml")
HEADER = "tweet_id\tuser_id\ttweet\tclass\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def read(path, content, *, labelled=True, task=TASK5, **options):
    return read_tweets([write(path, content)], task, labelled=labelled, **options)


def told(findings, words):
    return [finding.count for finding in findings if words in finding.what]


def test_quotes_are_text_and_swallow_no_line(tmp_path):
    lines = ['1\t7\t"open quote\t3', "2\t7\tnext\t1", '3\t8\tclose" quote\t2', '4\t8\tsaid "hi" twice\t3']
    tweets, _ = read(tmp_path / "a.tsv", HEADER + "\n".join(lines))
    assert tweets["text"][:] == ['"open quote', "next", 'close" quote', 'said "hi" twice']
    assert tweets["label"][:] == [2, 0, 1, 2]


def test_a_wholly_wrapped_tweet_is_unwrapped_and_counted(tmp_path):
    lines = ['1\t7\t"he said ""push"" and I did"\t1', '2\t7\t"a" and "b"\t3']
    tweets, findings = read(tmp_path / "a.tsv", HEADER + "\n".join(lines))
    assert tweets["text"][:] == ['he said "push" and I did', '"a" and "b"']
    assert told(findings, "unwrapped") == [1]


@pytest.mark.parametrize("text", ["plain", '"', '""', '"a"', '"a ""b"" c"', '"a" and "b"', '"""x"""', ""])
def test_wrapping_is_the_inverse_of_unwrapping(text):
    assert unwrap_quotes(wrap_quotes(text)) == text


def test_a_fourth_field_of_the_test_file_is_dropped_and_counted(tmp_path):
    tweets, findings = read(
        tmp_path / "a.tsv", "tweet_id\tuser_id\ttext\n1\t7\tone\t3\n2\t7\ttwo\n3\t8\tthree\t1", labelled=False
    )
    assert tweets["text"][:] == ["one", "two", "three"]
    assert "label" not in tweets.column_names
    assert told(findings, "more fields") == [2]


def test_nameless_empty_columns_are_no_finding(tmp_path):
    tweets, findings = read(tmp_path / "a.tsv", "tweet_id\tuser_id\ttweet\tclass\t\t\r\n1\t7\tone\t3\t\t\r\n")
    assert tweets["label"][:] == [2]
    assert not told(findings, "more fields")


def test_cp1252_is_read_where_utf8_is_not_valid_and_its_ellipsis_ends_no_line(tmp_path):
    content = (HEADER + "1\t7\tit’s late… so late\t1\n2\t7\tnext\t3\n").encode("cp1252")
    assert b"\x85" in content
    tweets, findings = read(tmp_path / "a.tsv", content)
    assert tweets["text"][:] == ["it’s late… so late", "next"]
    assert told(findings, "read as cp1252")


def test_utf8_line_separators_end_no_line(tmp_path):
    tweets, _ = read(tmp_path / "a.tsv", HEADER + "1\t7\tone\u2028two\u0085three\x0bfour\t1\n")
    assert tweets["text"][:] == ["one\u2028two\u0085three\x0bfour"]


def test_the_encoding_flag_wins(tmp_path):
    content = (HEADER + "1\t7\tcafé\t1\n").encode("latin-1")
    assert decode(content, "f", "latin-1")[1] == "latin-1"
    with pytest.raises(InputError, match="line 2: not valid utf-8"):
        read(tmp_path / "a.tsv", content, encoding="utf-8")
    with pytest.raises(InputError, match="no encoding that Python knows"):
        read(tmp_path / "a.tsv", content, encoding="utf-99")


def test_bytes_of_no_encoding_name_their_line(tmp_path):
    with pytest.raises(InputError, match=r"a\.tsv, line 3: not valid UTF-8 or cp1252"):
        read(tmp_path / "a.tsv", HEADER.encode() + b"1\t7\tok\t1\n2\t7\tbad \x81\t1\n")


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    tweets, _ = read(tmp_path / "a.tsv", ("\ufeff" + HEADER + "1\t7\tone\t1\n").encode("utf-8"))
    assert tweets["id"][:] == ["1"]


def test_nineteen_digit_ids_stay_exact_and_repeated_ones_stay(tmp_path):
    ids = ["9223372036854775807", "1234567890123456789", "9223372036854775807"]
    content = "tweet_id\tuser_id\ttext\n" + "".join(f"{i}\t7\ttweet\n" for i in ids)
    tweets, findings = read(tmp_path / "a.tsv", content, labelled=False)
    assert tweets["id"][:] == ids
    assert tweets["row"][:] == [0, 1, 2]
    assert told(findings, "share their id") == [2]


@pytest.mark.parametrize("spoilt", ["1.23457E+18", "12567746120.0"])
def test_an_id_that_a_spreadsheet_has_spoilt_is_refused(tmp_path, spoilt):
    with pytest.raises(InputError, match=r"line 2: the id is written as a decimal number"):
        read(tmp_path / "a.tsv", HEADER + f"{spoilt}\t7\tone\t1\n")


def test_an_unknown_label_names_file_and_line_but_not_its_text(tmp_path):
    with pytest.raises(InputError, match=r"a\.tsv, line 3: the label is none of 1, 2, 3") as caught:
        read(tmp_path / "a.tsv", HEADER + "1\t7\tone\t1\n2\t7\ttab\tprivate words\n")
    assert "private" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (HEADER, "holds no tweet"),
        (HEADER + "1\t7\n", "line 2: 2 fields where the header names 4"),
        ("tweet_id\tuser_id\ttweet\n1\t7\tone\n", "line 1: no column class"),
        ("1\t7\tmy private tweet\t3\n", "line 1: no header here"),
        (HEADER + "\t7\tone\t1\n", "line 2: no id"),
    ],
)
def test_a_malformed_file_stops_with_a_sentence(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "a.tsv", content)
    assert "private" not in str(caught.value)


def test_blank_lines_are_counted_and_texts_may_be_empty(tmp_path):
    tweets, findings = read(tmp_path / "a.tsv", HEADER + "1\t7\t\t1\n\n2\t7\ttwo\t3\n")
    assert tweets["text"][:] == ["", "two"]
    assert told(findings, "blank lines") == [1]
    assert told(findings, "have no text") == [1]


def test_twins_users_and_ids_across_files_and_folds_are_counted(tmp_path):
    labels = [1, 1, 2, 2, 3, 3, 3, 3]
    texts = ["Big NEWS @ann http://t.co/a", "big news @bob", *(f"tweet {i}" for i in range(6))]
    content = HEADER + "".join(
        f"{i}\tu{i // 4}\t{t}\t{y}\n" for i, (t, y) in enumerate(zip(texts, labels, strict=True))
    )
    labelled, _ = read(tmp_path / "a.tsv", content)
    labelled = add_folds(labelled, 2, [42])
    test, _ = read(
        tmp_path / "b.tsv", "tweet_id\tuser_id\ttext\n3\tx\tBIG news\n99\tx\t@ann http://t.co/z\n", labelled=False
    )
    findings = cross_findings(labelled, test, [42], TASK5)
    assert told(findings, "labelled tweets have a near twin (") == [2]
    assert told(findings, "test tweets have a near twin") == [1]
    assert told(findings, "id of a labelled tweet") == [1]
    twins_apart = labelled["fold_42"][0] != labelled["fold_42"][1]
    assert bool(told(findings, "a near twin in another fold")) == twins_apart
    assert told(findings, "same user in another fold")


def test_every_format_gives_the_same_tweets(tmp_path):
    rows = [
        {"id": "11", "author": "a", "text": 'comma, "quote"\nand line', "label": "none"},
        {"id": "12", "author": "b", "text": "plain", "label": "side_effect"},
    ]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame.astype({"id": int}).to_parquet(tmp_path / "a.parquet")
    hashes = set()
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        tweets, _ = read_tweets([tmp_path / name], OWN, labelled=True)
        assert tweets["text"][:] == [row["text"] for row in rows]
        hashes.add(content_hash(tweets))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'id,text,label\n1,"open,none\n', "line 2"),
        ("a.csv", "id,text,label\n1,a,b,none\n", "line 2: 4 fields"),
        ("a.jsonl", '{"id": 1, "text": "a", "label": "none"}\n{"id": 2}\n', "line 2: no key text"),
        ("a.jsonl", "not json\n", "line 1: not JSON"),
        ("a.jsonl", '{"id": 1.5e18, "text": "a", "label": "none"}\n', "line 1: the id is written as a decimal"),
        ("a.parquet", "nonsense", "not a Parquet file"),
        ("a.xlsx", "nonsense", "is none of"),
    ],
)
def test_a_malformed_file_of_another_format_stops_with_a_sentence(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, content, task=OWN)


def test_float_ids_of_a_parquet_file_are_refused(tmp_path):
    pd.DataFrame({"id": [1e18, 2e18], "text": ["a", "b"], "label": ["none"] * 2}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 0: the id is written as a decimal"):
        read_tweets([tmp_path / "a.parquet"], OWN, labelled=True)


def test_without_an_id_column_tweets_are_numbered(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("name: t\nlabels: [x, y]\ncolumns: {text: text, label: label}\n")
    tweets, _ = read(tmp_path / "a.csv", "text,label\none,x\ntwo,y\n", task=read_task(path))
    assert tweets["id"][:] == ["0", "1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: t\nlabels: [yes, no]\ncolumns: {text: t, label: l}\n", "line 2: True is not a name here"),
        (
            "name: t\nlabels: [a, b]\ncolums: {text: t}\n",
            r"line 3: a task has no key colums \(did you mean columns\?\)",
        ),
        ("name: t\nlabels: [a, b]\npositive: [c]\ncolumns: {text: t, label: l}\n", "line 3: c is none of the labels"),
        ("name: t\nlabels: [a, b]\nmeasure: f2\ncolumns: {text: t, label: l}\n", "line 4|line 3: no measure f2"),
        ("name: t\nname: u\n", "line 2: name stands here a second time"),
        ("name: [\n", "this is not YAML"),
    ],
)
def test_a_malformed_task_file_names_the_line(tmp_path, content, message):
    path = tmp_path / "task.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_task(path)


def test_the_same_tweets_in_another_encoding_are_the_same_data(tmp_path):
    text = HEADER + "1\t7\tit’s\t1\n"
    one, _ = read(tmp_path / "a.tsv", text.encode("cp1252"))
    other, _ = read(tmp_path / "b.tsv", text.replace("\n", "\r\n").encode("utf-8"))
    assert content_hash(one) == content_hash(other)
    assert np.array_equal(one["row"], [0])
