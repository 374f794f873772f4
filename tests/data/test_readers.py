"""Reading tweets: the traps of the official files, on invented ones, and every other format."""

import io
import json

import pandas as pd
import pytest
from tweet_files import HEADER, OWN_DATA, counts_of, read

from smm4h.data.dataset import content_hash, read_tweets
from smm4h.data.readers.tables import unwrap_quotes, wrap_quotes
from smm4h.utils.errors import InputError


def test_quotes_are_text_and_swallow_no_line(tmp_path):
    lines = ['1\t7\t"open quote\t3', "2\t7\tnext\t1", '3\t8\tclose" quote\t2', '4\t8\tsaid "hi" twice\t3']
    tweets, _ = read(tmp_path / "a.tsv", HEADER + "\n".join(lines))
    assert tweets["text"][:] == ['"open quote', "next", 'close" quote', 'said "hi" twice']
    assert tweets["label"][:] == [2, 0, 1, 2]


def test_a_wholly_wrapped_tweet_is_unwrapped_and_counted(tmp_path):
    lines = ['1\t7\t"he said ""push"" and I did"\t1', '2\t7\t"a" and "b"\t3']
    tweets, findings = read(tmp_path / "a.tsv", HEADER + "\n".join(lines))
    assert tweets["text"][:] == ['he said "push" and I did', '"a" and "b"']
    assert counts_of(findings, "unwrapped") == [1]


@pytest.mark.parametrize("text", ["plain", '"', '""', '"a"', '"a ""b"" c"', '"a" and "b"', '"""x"""', ""])
def test_wrapping_is_the_inverse_of_unwrapping(text):
    assert unwrap_quotes(wrap_quotes(text)) == text
    table = f"id\ttext\n1\t{wrap_quotes(text)}\n2\tthe next one\n"
    assert pd.read_csv(io.StringIO(table), sep="\t", keep_default_na=False)["text"].tolist() == [text, "the next one"]


def test_nameless_empty_columns_are_no_finding(tmp_path):
    tweets, findings = read(tmp_path / "a.tsv", "tweet_id\tuser_id\ttweet\tclass\t\t\r\n1\t7\tone\t3\t\t\r\n")
    assert tweets["label"][:] == [2]
    assert not counts_of(findings, "more fields")


def test_cp1252_is_read_where_utf8_is_not_valid_and_its_ellipsis_ends_no_line(tmp_path):
    content = (HEADER + "1\t7\tit’s late… so late\t1\n2\t7\tnext\t3\n").encode("cp1252")
    assert b"\x85" in content
    tweets, findings = read(tmp_path / "a.tsv", content)
    assert tweets["text"][:] == ["it’s late… so late", "next"]
    assert counts_of(findings, "read as cp1252")


def test_utf8_line_separators_end_no_line(tmp_path):
    tweets, _ = read(tmp_path / "a.tsv", HEADER + "1\t7\tone\u2028two\u0085three\x0bfour\t1\n")
    assert tweets["text"][:] == ["one\u2028two\u0085three\x0bfour"]


def test_the_encoding_flag_wins(tmp_path):
    content = (HEADER + "1\t7\tcafé\t1\n").encode("latin-1")
    tweets, findings = read(tmp_path / "a.tsv", content, encoding="latin-1")
    assert tweets["text"][:] == ["café"]
    assert counts_of(findings, "read as latin-1")
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (HEADER, "holds no tweet"),
        (HEADER + "1\t7\n", "line 2: 2 fields where the header names 4"),
        ("tweet_id\tuser_id\ttweet\n1\t7\tone\n", "line 1: no column class"),
        ("1\t7\tmy private tweet\t3\n", "line 1: no header here"),
        ("none\tso private\n", "line 1: no header here"),
        ("none\tprivate!\n", "line 1: no header here"),
        ("none\tI took my private pills and text id user\n", "line 1: no header here"),
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
    assert counts_of(findings, "empty lines") == [1]
    assert counts_of(findings, "have no text") == [1]


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
        tweets, _ = read_tweets([tmp_path / name], OWN_DATA, labelled=True)
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
        ("a.docx", "nonsense", "is none of"),
    ],
)
def test_a_malformed_file_of_another_format_stops_with_a_sentence(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, content, task=OWN_DATA)
