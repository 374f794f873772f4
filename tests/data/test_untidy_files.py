"""Files as R, spreadsheets, pandas and other programs leave them: read right, or refused in one sentence."""

import codecs
import datetime
import gzip
import json
import os
import re
import zipfile
from contextlib import nullcontext
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from tweet_files import HEADER, OWN_DATA, TASK, UNLABELLED_HEADER, counts_of, read

from smm4h.config.task import Columns
from smm4h.data.dataset import content_hash, read_labelled_tweets, read_tweets
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.readers.formats import read_table, read_tables
from smm4h.data.readers.tables import Findings
from smm4h.data.streaming import inputs_of, read_blocks
from smm4h.utils.errors import InputError
from smm4h.utils.files import check_is_input

ROWS = [("11", "ann", "it’s plain, so plain", "none"), ("12", "bob", 'they "said" a\\b', "side_effect")]
NAMES = ("id", "author", "text", "label")
NUMBERS = replace(OWN_DATA, labels=["0", "1"], positive=["1"])
TRUTHS = replace(OWN_DATA, labels=["false", "true"], positive=["true"])


def check_rows(tweets) -> None:
    assert tweets["id"][:] == [row[0] for row in ROWS]
    assert tweets["user"][:] == [row[1] for row in ROWS]
    assert tweets["text"][:] == [row[2] for row in ROWS]
    assert tweets["label"][:] == [0, 1]


def refusal(path, content: str | bytes | None = None, task=OWN_DATA, **options) -> str:
    """Return the sentence that refuses a file; it shows no tweet."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_tweets([path], task, **{"labelled": True, **options})
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(path, content: str):
    path.write_text(content, encoding="utf-8")
    return path


def write_parquet(path, **columns):
    pa.parquet.write_table(pa.table(columns), path)
    return path


# R


def as_r(separator: str = "\t", quoted: bool = True, doubled: bool = False) -> str:
    """Return the rows as write.table writes them: row names, for which the header has no name."""

    def cell(value: str) -> str:
        return '"' + value.replace('"', '""' if doubled else '\\"') + '"' if quoted else value

    lines = [separator.join(map(cell, NAMES))]
    lines += [separator.join(map(cell, (str(n), *row))) for n, row in enumerate(ROWS, start=1)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("doubled", [False, True])
def test_r_row_names_are_dropped_with_a_finding(tmp_path, quoted, doubled):
    tweets, findings = read(tmp_path / "a.tsv", as_r(quoted=quoted, doubled=doubled), task=OWN_DATA)
    check_rows(tweets)
    assert counts_of(findings, "R's name of the row") == [2]


def test_r_row_names_of_a_csv_are_dropped_too(tmp_path):
    tweets, findings = read(tmp_path / "a.csv", as_r(",", doubled=True), task=OWN_DATA)
    check_rows(tweets)
    assert counts_of(findings, "R's name of the row") == [2]


def test_r_row_names_need_no_tweets_with_words(tmp_path):
    tweets, _ = read(tmp_path / "a.tsv", "id\tauthor\ttext\n1\t11\tann\tone\n", labelled=False, task=OWN_DATA)
    assert (tweets["id"][:], tweets["user"][:], tweets["text"][:]) == (["11"], ["ann"], ["one"])


def test_r_row_names_are_dropped_in_every_block(tmp_path):
    (tmp_path / "a.tsv").write_text(as_r())
    findings = Findings()
    blocks = list(read_blocks([tmp_path / "a.tsv"], OWN_DATA, 1, findings=findings))
    assert [block.ids for block in blocks] == [["11"], ["12"]]
    assert counts_of(findings.summed(), "R's name of the row") == [2]


def test_a_label_behind_every_line_is_no_tweet(tmp_path):
    lines = "900000000001\t7\tone\t3\n900000000002\t7\ttwo\t1\n"
    tweets, findings = read(tmp_path / "a.tsv", UNLABELLED_HEADER + lines, labelled=False)
    assert tweets["text"][:] == ["one", "two"]
    assert counts_of(findings, "more fields") == [2]


@pytest.mark.parametrize("lines", ["1\tann\thalf a\tsecret half\n", "1\tann\tone\n2\tbob\thalf a\tsecret half\n"])
def test_half_a_tweet_behind_a_tab_is_not_dropped(tmp_path, lines):
    message = refusal(tmp_path / "a.tsv", "id\tauthor\ttext\n" + lines, labelled=False)
    assert f"line {1 + lines.count(chr(10))}: 4 fields where the header names 3" in message


def test_a_comment_behind_the_label_is_dropped(tmp_path):
    tweets, findings = read(tmp_path / "a.tsv", "id\ttext\tlabel\n1\ta b\tnone\tsure\n2\tc\tnone\n", task=OWN_DATA)
    assert tweets["text"][:] == ["a b", "c"]
    assert counts_of(findings, "more fields") == [1]


def test_a_quoted_header_means_quoted_cells(tmp_path):
    content = '"id"\t"text"\t"label"\n"1"\t"a ""b"""\t"none"\n'
    tweets, findings = read(tmp_path / "a.tsv", content, task=OWN_DATA)
    assert (tweets["id"][:], tweets["text"][:], tweets["label"][:]) == (["1"], ['a "b"'], [0])
    assert counts_of(findings, "quoted")


# Parquet


def test_bytes_of_parquet_are_utf8(tmp_path):
    columns = {name: pa.array([row[i].encode() for row in ROWS], pa.binary()) for i, name in enumerate(NAMES)}
    check_rows(read_tweets([write_parquet(tmp_path / "a.parquet", **columns)], OWN_DATA, labelled=True)[0])


def test_bytes_of_parquet_that_are_not_utf8_name_their_row(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", id=["1", "2"], text=[b"a", b"secret \xff"], label=["none"] * 2)
    assert "a.parquet, row 1: column text holds bytes that are not valid UTF-8" in refusal(path)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (pa.array([["secret"]]), "lists"),
        (pa.array([{"secret": 1}]), "structs"),
        (pa.array([[("secret", 1)]], pa.map_(pa.string(), pa.int64())), "maps"),
        (pa.array([datetime.date(2020, 1, 1)]), "dates"),
        (pa.array([datetime.datetime(2020, 1, 1)]), "dates"),
    ],
)
def test_cells_that_are_no_text_are_refused_where_they_are_read(tmp_path, cells, words):
    path = write_parquet(tmp_path / "a.parquet", id=["1"], text=cells, label=["none"])
    assert f"column text holds {words}; text is expected" in refusal(path)
    path = write_parquet(tmp_path / "a.parquet", id=["1"], text=["one"], label=["none"], other=cells)
    assert read_tweets([path], OWN_DATA, labelled=True)[0]["text"][:] == ["one"]


@pytest.mark.parametrize("value", [["secret"], {"secret": 1}])
def test_json_values_that_are_no_text_are_refused(tmp_path, value):
    message = refusal(tmp_path / "a.jsonl", json.dumps({"id": 1, "text": value, "label": "none"}))
    assert "line 1: column text holds" in message


def test_a_date_that_python_cannot_hold_does_not_matter_where_nobody_reads_it(tmp_path):
    when = pa.array([2**62], pa.timestamp("us"))
    path = write_parquet(tmp_path / "a.parquet", id=["1"], text=["one"], label=["none"], created_at=when)
    assert read_tweets([path], OWN_DATA, labelled=True)[0]["text"][:] == ["one"]
    assert [block.texts for block in read_blocks([path], OWN_DATA, 1)] == [["one"]]
    assert list(read_table(path).columns[1]) == ["one"]


def test_dictionaries_decimals_and_numbers_of_parquet_are_text(tmp_path):
    path = write_parquet(
        tmp_path / "a.parquet",
        id=pa.array([1234567890123456789]).cast(pa.decimal128(19)),
        text=pa.array(["one"]).dictionary_encode(),
        label=pa.array([1.0]),
    )
    tweets, _ = read_tweets([path], NUMBERS, labelled=True)
    assert (tweets["id"][:], tweets["text"][:], tweets["label"][:]) == (["1234567890123456789"], ["one"], [1])


# Encodings and line ends


def test_a_line_that_is_not_utf8_among_others_that_are_is_refused(tmp_path):
    content = (HEADER + "1\t7\tcafé\t1\n").encode() + b"2\t7\tsecret caf\xe9\t1\n"
    message = refusal(tmp_path / "a.tsv", content, TASK)
    assert "a.tsv, line 3: not valid UTF-8" in message
    assert "line 2 is" in message
    assert "--encoding" in message
    (tmp_path / "b.csv").write_bytes(content.replace(b"\t", b","))
    with pytest.raises(InputError, match="line 3: not valid UTF-8"):
        list(read_blocks([tmp_path / "b.csv"], TASK, 1))


def test_the_finding_on_cp1252_names_the_first_line(tmp_path):
    _, findings = read(tmp_path / "a.tsv", HEADER.encode() + b"1\t7\tone\t1\n2\t7\tcaf\xe9\t1\n")
    assert counts_of(findings, "read as cp1252, because line 3 is not valid UTF-8")


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
@pytest.mark.parametrize("content", [b"\x81\x8d", b"id,text\n1,secret \x81\n", b"id,text\n1,\xc3\xa9\n2,\xe9\n"])
def test_bytes_of_no_code_page_are_a_sentence_in_blocks(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"line \d: not valid UTF-8"):
        list(read_blocks([tmp_path / name], OWN_DATA, 1))


@pytest.mark.parametrize("encoding", ["utf-99", "hex", "rot13", "a\0b", "ü"])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_an_unknown_encoding_is_a_sentence(tmp_path, name, encoding):
    assert "is no encoding that Python knows" in refusal(tmp_path / name, "id\ttext", encoding=encoding)
    with pytest.raises(InputError, match="is no encoding that Python knows"):
        list(read_blocks([tmp_path / name], OWN_DATA, 1, encoding))


def test_the_encoding_flag_is_a_remedy_only_where_there_is_one(tmp_path):
    content = HEADER.encode() + b"1\t7\t\x81\t1\n"
    assert "--encoding" in refusal(tmp_path / "a.tsv", content, TASK)
    assert "save the file as UTF-8" in refusal(tmp_path / "a.tsv", content, TASK, encoding_flag=None)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_utf16_is_known_by_its_mark(tmp_path, codec, name):
    text = {
        "a.tsv": "id\ttext\tlabel\r\n1\tcafé 😀\tnone\r\n",
        "a.csv": "id,text,label\r\n1,café 😀,none\r\n",
        "a.jsonl": '{"id": "1", "text": "café 😀", "label": "none"}\n',
    }[name]
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE}
    tweets, findings = read(tmp_path / name, mark[codec] + text.encode(codec), task=OWN_DATA)
    assert tweets["text"][:] == ["café 😀"]
    assert counts_of(findings, "byte order mark")
    assert [block.texts for block in read_blocks([tmp_path / name], OWN_DATA, 1)] == [["café 😀"]]


def test_utf16_without_its_mark_is_named(tmp_path):
    assert "zero bytes" in refusal(tmp_path / "a.tsv", "id\ttext\tlabel\n1\tsecret\tnone\n".encode("utf-16-le"))


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_carriage_returns_alone_end_lines(tmp_path, name):
    text = {
        "a.tsv": "id\ttext\tlabel\r1\tone\tnone\r2\ttwo\tnone\r",
        "a.csv": "id,text,label\r1,one,none\r2,two,none\r",
        "a.jsonl": '{"id": 1, "text": "one", "label": "none"}\r{"id": 2, "text": "two", "label": "none"}',
    }[name]
    tweets, findings = read(tmp_path / name, text, task=OWN_DATA)
    assert tweets["text"][:] == ["one", "two"]
    assert counts_of(findings, "carriage returns")


def test_a_carriage_return_within_a_json_object_is_white_space(tmp_path):
    tweets, _ = read(tmp_path / "a.jsonl", '{"id": 1,\r"text": "one", "label": "none"}', task=OWN_DATA)
    assert tweets["text"][:] == ["one"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_half_an_emoji_becomes_the_replacement_character(tmp_path, name):
    line = '{"id": "1", "text": "so \\ud83d", "label": "none"}'
    tweets, findings = read(tmp_path / name, line, task=OWN_DATA)
    assert tweets["text"][:] == ["so \ufffd"]
    assert counts_of(findings, "half an emoji") == [1]


# Columns, separators, names


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,text,label,label\n1,a,none,side_effect\n"),
        ("a.tsv", "id\ttext\tlabel\tlabel\n1\ta\tnone\tside_effect\n"),
        ("a.jsonl", '{"id": 1, "text": "a", "label": "none", "label": "side_effect"}\n'),
    ],
)
def test_a_column_that_stands_twice_is_refused(tmp_path, name, content):
    assert "label" in (message := refusal(tmp_path / name, content)) or "twice" in message


def test_a_column_of_parquet_that_stands_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["1"])] * 4, names=["id", "text", "label", "label"])
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    assert "2 columns are named label" in refusal(tmp_path / "a.parquet")
    pa.parquet.write_table(table.rename_columns(["id", "text", "text", "x"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="2 columns are named text"):
        list(read_blocks([tmp_path / "a.parquet"], OWN_DATA, 1))


def test_other_columns_may_stand_twice(tmp_path):
    tweets, _ = read(tmp_path / "a.csv", "id,text,label,x,x\n1,a,none,,\n", task=OWN_DATA)
    assert tweets["text"][:] == ["a"]


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_csv_with_another_separator_is_read(tmp_path, separator, name):
    content = "id,text,label\n1,a b,none\n".replace(",", separator)
    tweets, findings = read(tmp_path / "a.csv", content, task=OWN_DATA)
    assert tweets["text"][:] == ["a b"]
    assert counts_of(findings, f"separated by {name}")
    assert [block.texts for block in read_blocks([tmp_path / "a.csv"], OWN_DATA, 1)] == [["a b"]]


def test_a_tsv_with_commas_is_named(tmp_path):
    assert "separated by commas, as in .csv; name the file so" in refusal(
        tmp_path / "a.tsv", "id,text,label\n1,a,none\n"
    )
    assert "separated by |; write tabs" in refusal(tmp_path / "a.csv", "id|text|label\n1|a|none\n")


@pytest.mark.parametrize("content", ["a secret tweet\tnone\n", "secret,none\n", f"{'secret ' * 9}\tx\n"])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_a_file_without_header_shows_no_tweet(tmp_path, name, content):
    refusal(tmp_path / name, content.replace("\t", "," if name == "a.csv" else "\t"))


def test_rows_may_end_before_what_is_not_read(tmp_path):
    tweets, findings = read(tmp_path / "a.csv", "id,text,label\n1,one\n2,two,\n", labelled=False, task=OWN_DATA)
    assert tweets["text"][:] == ["one", "two"]
    assert counts_of(findings, "end before columns that are not read") == [1]
    assert "line 2: 2 fields" in refusal(tmp_path / "a.csv", "id,text,label\n1,one\n")


@pytest.mark.parametrize(
    "rows", ["1,one,x\n2,half a\nsecret half,x\n3,c,x\n", "1,half a\nsecret, half,x\n", "1,half a\n7 secret,half,x\n"]
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_tweet_that_its_line_end_breaks_is_refused(tmp_path, name, rows):
    content = f"id,text,label\n{rows}".replace(",", "," if name == "a.csv" else "\t")
    assert "may be the rest of a tweet with a line end" in refusal(tmp_path / name, content, labelled=False)
    with pytest.raises(InputError, match="may be the rest"):
        list(read_blocks([tmp_path / name], OWN_DATA, 1))
    numbered = replace(OWN_DATA, columns=Columns(text=["text"], label=["label"]))
    without_ids = "\n".join(line.partition("," if name == "a.csv" else "\t")[2] or line for line in content.split("\n"))
    refusal(tmp_path / name, without_ids, numbered, labelled=False)


def test_empty_rows_are_left_out(tmp_path):
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        content = "id,text,label\n1,one,none\n,,\n2,two,none\n,,\n , ,\n".replace(",", separator)
        tweets, findings = read(tmp_path / name, content, task=OWN_DATA)
        assert tweets["text"][:] == ["one", "two"]
        assert counts_of(findings, "empty lines were left out") == [3]
        assert [block.ids for block in read_blocks([tmp_path / name], OWN_DATA, 1)] == [["1"], ["2"]]
    assert "line 2: no id" in refusal(tmp_path / "a.csv", "id,text,label\n,secret,\n1,one,none\n")


def test_a_key_that_nobody_reads_may_lack(tmp_path):
    lines = ['{"id": 1, "text": "a", "label": "none", "lang": "en"}', '{"label": "none", "id": 2, "text": "b"}']
    tweets, _ = read(tmp_path / "a.jsonl", "\n".join(lines), task=OWN_DATA)
    assert (tweets["id"][:], tweets["text"][:]) == (["1", "2"], ["a", "b"])


def test_a_key_that_an_object_lacks_is_an_empty_cell_where_none_is_needed(tmp_path):
    lines = ['{"id": 1, "author": "ann", "text": "a", "label": "none"}', '{"id": 2, "text": "b"}']
    tweets, unlabelled, findings = read_labelled_tweets(
        [written(tmp_path / "a.jsonl", "\n".join(lines))], OWN_DATA, encoding=None
    )
    assert (tweets["id"][:], unlabelled["id"][:], unlabelled["user"][:]) == (["1"], ["2"], [""])
    assert counts_of(findings, "no label") == [1]
    message = refusal(tmp_path / "a.jsonl", "\n".join(reversed(lines)), labelled=False)
    assert "line 2: a key author, which line 1 lacks" in message
    task = replace(OWN_DATA, columns=replace(OWN_DATA.columns, source=["parent_id"], group=["lang"]))
    for key in ("parent_id", "lang"):  # without the parent a paraphrase of a held-out tweet would be trained on
        later = lines[0].replace("author", key)
        message = refusal(tmp_path / "b.jsonl", f"{lines[1]}\n{later}", labelled=False, task=task)
        assert f"line 2: a key {key}, which line 1 lacks" in message


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_read(tmp_path, indent):
    content = json.dumps([dict(zip(NAMES, row, strict=True)) for row in ROWS], indent=indent)
    check_rows(read(tmp_path / "a.json", content, task=OWN_DATA)[0])
    assert [block.ids for block in read_blocks([tmp_path / "a.json"], OWN_DATA, 1)] == [["11"], ["12"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": 1, "text": "secret", "label": "none"}', "line 1: not JSON"),
        ('[\n{"id": 1, "text": "secret", "label": "none"}\n{}]', "line 3: not JSON"),
        ('[{"id": 1, "text": "secret", "label": "none"},\n"secret"]', "line 2: an object"),
        ("[" * 100_000, "line 1"),
        ('{"id": ' + "1" * 5000 + "}", "line 1"),
        ("[]", "is empty"),
    ],
)
def test_a_damaged_json_array_is_a_sentence(tmp_path, content, message):
    assert message in refusal(tmp_path / "a.json", content)


def test_missing_ids_are_numbered_where_the_caller_asks(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text\none\ntwo\nthree\n")
    paths, findings = [tmp_path / "a.csv", tmp_path / "b.csv"], Findings()
    blocks = list(read_blocks(paths, OWN_DATA, 2, number_missing_ids=True, findings=findings))
    assert [block.ids for block in blocks] == [["0", "1"], ["2"], ["3", "4"], ["5"]]
    assert counts_of(findings.summed(), "numbered from 0") == [3, 3]
    with pytest.raises(InputError, match="no column id among text"):
        list(read_blocks(paths, OWN_DATA, 2))


# Labels and ids


@pytest.mark.parametrize(
    ("task", "cells", "classes"),
    [
        (NUMBERS, ["1.0", " 0 ", "01"], [1, 0, 1]),
        (NUMBERS, ["1", "0.0", "+1"], [1, 0, 1]),
        (TRUTHS, ["true", "False", "TRUE"], [1, 0, 1]),
    ],
)
def test_labels_are_compared_as_numbers_and_truth_values(tmp_path, task, cells, classes):
    content = "id,text,label\n" + "".join(f"{n},a,{cell}\n" for n, cell in enumerate(cells))
    assert read(tmp_path / "a.csv", content, task=task)[0]["label"][:] == classes


@pytest.mark.parametrize("task", [NUMBERS, TRUTHS, replace(TRUTHS, labels=["False", "True"])])
def test_truth_values_of_json_and_parquet_are_labels(tmp_path, task):
    rows = [{"id": "1", "text": "a", "label": True}, {"id": "2", "text": "b", "label": False}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    assert read(tmp_path / "a.jsonl", content, task=task)[0]["label"][:] == [1, 0]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert read_tweets([tmp_path / "a.parquet"], task, labelled=True)[0]["label"][:] == [1, 0]


def test_unknown_labels_are_counted_and_shown_where_they_are_short(tmp_path):
    labels = ["none", "side effect", "side effect", "a secret told", "a much longer secret than any label", "x"]
    content = "id\ttext\tlabel\n" + "".join(f"{n}\ta\t{label}\n" for n, label in enumerate(labels))
    message = refusal(tmp_path / "a.tsv", content)
    assert "line 3: the label is none of none, side_effect" in message
    assert "side effect 2 times (did you mean side_effect?)" in message
    assert "x once" in message
    assert "(long values) 2 times" in message


def test_rows_without_a_label_are_left_out_and_counted(tmp_path):
    tweets, findings = read(tmp_path / "a.csv", "id,text,label\n1,a,none\n2,b,\n3,c,none\n", task=OWN_DATA)
    assert tweets["text"][:] == ["a", "c"]
    assert tweets["row"][:] == [0, 1]
    assert counts_of(findings, "no label") == [1]
    assert "no label in any row" in refusal(tmp_path / "a.csv", "id,text,label\n1,a,\n")


def test_ids_that_were_protected_from_a_spreadsheet_are_unwrapped(tmp_path):
    cells = ['="900001"', "'900002", '"900003"', "900004"]
    content = "id\ttext\tlabel\n" + "".join(f"{cell}\tone\tnone\n" for cell in cells)
    tweets, findings = read(tmp_path / "a.tsv", content, task=OWN_DATA)
    assert tweets["id"][:] == ["900001", "900002", "900003", "900004"]
    assert counts_of(findings, "ids were wrapped in quotes") == [3]
    assert "line 2: no id" in refusal(tmp_path / "a.tsv", 'id\ttext\tlabel\n=""\tsecret\tnone\n')


@pytest.mark.parametrize(
    ("tweet_id", "is_spoilt"),
    [("1.23E+18", True), ("1,23E+18", True), ("1e+18", True), ("1.5E18", True), ("11.0", True), ("12e5", False)],
)
def test_an_id_in_decimal_notation_is_refused_in_files_of_tweets_and_of_labels(tmp_path, tweet_id, is_spoilt):
    tweets = written(tmp_path / "a.tsv", f"id\ttext\tlabel\n{tweet_id}\tone\tnone\n")
    labels = written(tmp_path / "b.tsv", f"tweet_id\tClass\n{tweet_id}\t1\n")
    for read_it in (lambda: read_tweets([tweets], OWN_DATA, labelled=True), lambda: read_labels(labels)):
        with pytest.raises(InputError, match="line 2: the id is written") if is_spoilt else nullcontext():
            read_it()


def test_halves_of_characters_in_utf8_are_joined_or_replaced(tmp_path):
    half, pair = b"\xed\xa0\xbd", b"\xed\xa0\xbd\xed\xb8\x80"
    for name, tab in (("a.tsv", b"\t"), ("a.csv", b",")):
        content = b"id\ttext\tlabel\n1\tcaf\xc3\xa9 " + half + b"\tnone\n2\t" + pair + b"\tnone\n3\tc\tnone\n"
        tweets, findings = read(tmp_path / name, content.replace(b"\t", tab), task=OWN_DATA)
        assert tweets["text"][:] == ["caf\u00e9 \ufffd", "\U0001f600", "c"]
        assert counts_of(findings, "half a character") == [2]
        blocks = list(read_blocks([tmp_path / name], OWN_DATA, 1))
        assert [block.texts[0] for block in blocks] == tweets["text"][:]
    message = refusal(tmp_path / "a.tsv", b"id\ttext\tlabel\n1\t\xc3\xa9" + half + b"\tnone\n2\tsecret\xe9\tnone\n")
    assert "line 3: not valid UTF-8" in message


def test_an_empty_first_line_is_named(tmp_path):
    assert "line 1: this line is empty, but must name the columns" in refusal(tmp_path / "a.tsv", "\nid\ttext\tlabel\n")


@pytest.mark.parametrize("name", ["b.zip", "b.tsv.bz2", "b.xls"])
def test_a_file_that_would_be_missing_from_a_folder_is_refused(tmp_path, name):
    for content, file in (("id\ttext\tlabel\n1\tone\tnone\n", "a.tsv"), ("secret", name), ("", ".hidden.zip")):
        written(tmp_path / file, content)
    assert f"{name} can't be read with the other files of {tmp_path}; " in refusal(tmp_path)


def test_tweets_that_a_spreadsheet_turned_into_errors_are_a_finding(tmp_path):
    content = "id,text,label\n1,#NAME?,none\n2,#nofilter,none\n3,#VALUE!,none\n"
    _, findings = read(tmp_path / "a.csv", content, task=OWN_DATA)
    assert counts_of(findings, "errors of a spreadsheet") == [2]


def test_ids_that_a_spreadsheet_cut_are_a_finding(tmp_path):
    for ids, expected in (
        (["1234567890123456000", "1234567890123457000"], [2]),
        (["123456789012345600", "1" * 19], []),
    ):
        content = "id,text\n" + "".join(f"{i},a\n" for i in ids)
        _, findings = read(tmp_path / "a.csv", content, labelled=False, task=OWN_DATA)
        assert counts_of(findings, "end in 000") == expected
        found = Findings()
        list(read_blocks([tmp_path / "a.csv"], OWN_DATA, 1, findings=found))
        assert counts_of(found.summed(), "end in 000") == expected


# Compressed files, folders, spreadsheets, pipes, paths


def write_all_kinds(folder) -> list[str]:
    frame = pd.DataFrame(ROWS, columns=NAMES)
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_json(folder / "a.jsonl", orient="records", lines=True)
    frame.to_json(folder / "a.json", orient="records")
    frame.to_parquet(folder / "a.parquet")
    (folder / "a.tsv").write_text("\n".join("\t".join(row) for row in [NAMES, *ROWS]), encoding="utf-8")
    return ["a.csv", "a.jsonl", "a.json", "a.parquet", "a.tsv"]


def test_every_format_may_be_compressed(tmp_path):
    for name in write_all_kinds(tmp_path):
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        check_rows(read_tweets([path], OWN_DATA, labelled=True)[0])
        blocks = list(read_blocks([path], OWN_DATA, 1))
        assert [block.texts[0] for block in blocks] == [row[2] for row in ROWS]


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:20] + b"xx" + b[22:], lambda b: b"nonsense"])
@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv.gz", "a.jsonl.gz", "a.parquet.gz", "a.xlsx.gz"])
def test_a_damaged_compressed_file_is_a_sentence(tmp_path, name, damage):
    (tmp_path / name).write_bytes(damage(gzip.compress(b"id,text,label\n" + b"1,secret,none\n" * 20)))
    refusal(tmp_path / name)
    with pytest.raises(InputError, match=r"can't be read|is not a"):
        list(read_blocks([tmp_path / name], OWN_DATA, 1))


def test_a_folder_of_parts_is_read_by_name(tmp_path):
    frame = pd.DataFrame(ROWS, columns=NAMES)
    frame[1:].to_json(tmp_path / "part-1.jsonl", orient="records", lines=True)
    frame[:1].to_parquet(tmp_path / "part-0.parquet")
    (tmp_path / "_SUCCESS").touch()
    check_rows(read_tweets([tmp_path], OWN_DATA, labelled=True)[0])


def test_tweets_of_a_folder_without_ids_are_numbered_on(tmp_path):
    numbered = replace(OWN_DATA, columns=Columns(text=["text"], label=["label"]))
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text\none\ntwo\n")
    assert read_tweets([tmp_path], numbered, labelled=False)[0]["id"][:] == ["0", "1", "2", "3"]


def test_a_spreadsheet_is_read(tmp_path):
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame(ROWS, columns=NAMES)
    frame.astype({"id": int}).to_excel(tmp_path / "a.xlsx", index=False)
    check_rows(read_tweets([tmp_path / "a.xlsx"], OWN_DATA, labelled=True)[0])
    assert [block.ids for block in read_blocks([tmp_path / "a.xlsx"], OWN_DATA, 1)] == [["11"], ["12"]]
    frame.assign(id=[1.5e18, 2.5e18]).to_excel(tmp_path / "a.xlsx", index=False)
    assert "row 2: the id is written as a decimal number" in refusal(tmp_path / "a.xlsx")
    frame.assign(text=pd.Timestamp("2020-01-01")).to_excel(tmp_path / "a.xlsx", index=False)
    assert "row 2: column text holds dates" in refusal(tmp_path / "a.xlsx")
    assert "is not a .xlsx file" in refusal(tmp_path / "a.xlsx", "nonsense")


def test_a_formula_without_its_value_is_refused_where_it_is_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (("id", "text", "label", "note"), ("1", "one", "none", "=1+1"), ("2", "=) so secret", "none", None)):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert "row 3: column text holds formulas without values (save the file" in refusal(tmp_path / "a.xlsx")
    book.active["B3"] = "two"
    book.save(tmp_path / "a.xlsx")
    assert read_tweets([tmp_path / "a.xlsx"], OWN_DATA, labelled=True)[0]["text"][:] == ["one", "two"]


def test_a_formula_that_was_computed_has_its_value_and_may_be_empty(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (("id", "text", "label"), ("1", "=A2", "none"), ("2", "two", "=A1")):
        book.active.append(row)
    book.save(tmp_path / "computed.xlsx")
    sheet = "xl/worksheets/sheet1.xml"
    with zipfile.ZipFile(tmp_path / "computed.xlsx") as old, zipfile.ZipFile(tmp_path / "a.xlsx", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == sheet:  # as a spreadsheet program saves it; nothing here computes formulas
                content = re.sub(rb"<f>A2</f><v ?/>|<f>A2</f><v></v>", b"<f>A2</f><v>11</v>", content)
            new.writestr(name, content)
    tweets, findings = read_tweets([tmp_path / "a.xlsx"], OWN_DATA, labelled=True)
    assert tweets["text"][:] == ["11"]
    assert counts_of(findings, "no label") == [1]


def test_empty_rows_below_a_spreadsheet_are_left_out(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["id", "text", "label"], [11, "one", 1.0], [None, " ", None], [None, None, None]):
        book.active.append(row)
    book.active.cell(9, 3).number_format = "0.0"
    book.save(tmp_path / "a.xlsx")
    tweets, findings = read_tweets([tmp_path / "a.xlsx"], NUMBERS, labelled=True)
    assert (tweets["text"][:], tweets["label"][:]) == (["one"], [1])
    assert counts_of(findings, "empty rows were left out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.tsv", "is not there"),
        ("a.tsv/b.tsv", "is a file and no folder"),
        ("x" * 300 + ".tsv", "longer name"),
        ("empty", "holds no file of .tsv"),
        ("a.gz", "name it after what is compressed in it"),
        ("a.xls", "save it as .xlsx"),
        ("a\0b.tsv", "can't be read"),
    ],
)
def test_a_path_that_is_no_file_is_a_sentence(tmp_path, name, message):
    (tmp_path / "a.tsv").write_text(HEADER)
    (tmp_path / "empty").mkdir()
    for file in ("a.gz", "a.xls"):
        (tmp_path / file).touch()
    assert message in refusal(tmp_path / name)


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tsv")
    for read_it in (
        lambda: read_tweets([tmp_path / "a.tsv"], OWN_DATA, labelled=True),
        lambda: inputs_of(str(tmp_path / "a.tsv"), tmp_path),
        lambda: read_labels(tmp_path / "a.tsv"),
        lambda: check_is_input(tmp_path / "a.tsv"),
    ):
        with pytest.raises(InputError, match=r"a\.tsv is a pipe or a device, which can be read only once; write it to"):
            read_it()


def test_a_folder_named_like_a_file_is_a_folder(tmp_path):
    (tmp_path / "a.parquet").mkdir()
    write_parquet(tmp_path / "a.parquet" / "part-0.parquet", id=["1"], text=["one"], label=["none"])
    assert read_tweets([tmp_path / "a.parquet"], OWN_DATA, labelled=True)[0]["text"][:] == ["one"]
    with pytest.raises(InputError, match="is a folder, where a file is expected"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,secret\n", "standard input, line 1: no column text; its columns are separated by commas"),
        ("id\ttext\n1\n", "standard input, line 2: 1 fields where the header names 2"),
        ('{"id": 1, "text": "secret"}\n', "standard input, line 1"),
        (gzip.compress(b"id\ttext\n", mtime=0), "standard input is no text"),
        ("", "standard input is empty"),
    ],
)
def test_errors_of_a_pipe_name_standard_input(tmp_path, monkeypatch, content, message):
    from smm4h.data.streaming import PIPE, inputs_of

    (tmp_path / "piped").write_bytes(content if isinstance(content, bytes) else content.encode())
    with (tmp_path / "piped").open() as piped:
        monkeypatch.setattr("sys.stdin", piped)
        inputs = inputs_of(PIPE, tmp_path)
    with pytest.raises(InputError) as caught:
        list(read_blocks(inputs, OWN_DATA, 10))
    inputs[0].unlink()
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert str(inputs[0]) not in str(caught.value)


def test_findings_of_blocks_are_those_of_the_whole_file(tmp_path):
    content = UNLABELLED_HEADER + '1\t7\t"one"\t3\n\n2\t7\t\t1\n3\t7\t"three"\n\t\t\n'
    _, findings = read(tmp_path / "a.tsv", content, labelled=False)
    for size in (1, 2, 100):
        found = Findings()
        list(read_blocks([tmp_path / "a.tsv"], TASK, size, findings=found))
        assert sorted(found.summed()) == sorted(findings)


def test_all_formats_of_the_same_tweets_have_one_hash(tmp_path):
    names = write_all_kinds(tmp_path)
    hashes = {content_hash(read_tweets([tmp_path / name], OWN_DATA, labelled=True)[0]) for name in names}
    assert len(hashes) == 1


def test_bytes_that_nobody_reads_may_be_anything(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", id=["1"], text=["one"], label=["none"], image=[b"\xff"])
    assert read_tweets([path], OWN_DATA, labelled=True)[0]["text"][:] == ["one"]
    table = read_table(path)
    columns = dict(zip(table.names, table.columns, strict=True))
    assert pa.array(columns["text"], pa.string()).to_pylist() == ["one"]
    with pytest.raises(InputError, match="row 0: column image holds bytes that are not valid UTF-8"):
        list(columns["image"])


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize(
    "content",
    [
        'sep=;\nid;text\n1;"a;b"\n2;c\n',
        "sep=,\r\nid,text\r\n1,a;b\r\n2,c\r\n",
        '"sep=;"\nid;text\n1;"a;b"\n2;c\n',
        "sep=\t\nid\ttext\n1\ta;b\n2\tc\n",
        '\ufeffsep=;\n"id";"text"\n"1";"a;b"\n"2";"c"\n',
    ],
)
def test_the_separator_that_a_csv_declares_for_excel_is_no_header(tmp_path, content, size):
    written(tmp_path / "a.csv", content)
    tables = list(read_tables(tmp_path / "a.csv", size=size))
    assert {tuple(table.names) for table in tables} == {("id", "text")}
    rows = [row for table in tables for row in zip(table.lines, *table.columns, strict=True)]
    assert rows == [(3, "1", "a;b"), (4, "2", "c")]


def test_the_line_of_an_error_behind_a_declaration_is_the_files(tmp_path):
    assert "a.csv, line 2: no column text among id, body" in refusal(tmp_path / "a.csv", "sep=;\nid;body\n1;a\n")
    assert "a.csv, line 4" in refusal(tmp_path / "a.csv", 'sep=,\nid,text,label\n1,a,none\n2,"secret\n')


def test_empty_rows_of_parquet_are_left_out(tmp_path):
    frame = pd.DataFrame(
        {"id": ["1", None, "2", None, ""], "text": ["a", None, "b", None, " "], "n": [1.0, 2, 3, 4, 5]}
    )
    frame.to_parquet(tmp_path / "a.parquet")
    tweets, findings = read_tweets([tmp_path / "a.parquet"], OWN_DATA, labelled=False)
    assert tweets["id"][:] == ["1", "2"]
    assert counts_of(findings, "empty rows were left out") == [3]
    for size in (1, 2, 9):
        blocks = list(read_blocks([tmp_path / "a.parquet"], OWN_DATA, size))
        assert [row for block in blocks for row in zip(block.ids, block.texts, strict=True)] == [("1", "a"), ("2", "b")]
    frame.loc[1, "text"] = "secret"
    frame.to_parquet(tmp_path / "a.parquet")
    assert "a.parquet, row 1: no id" in refusal(tmp_path / "a.parquet", labelled=False)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_an_id_with_a_tab_or_an_end_of_line_is_refused(tmp_path, name):
    frame = pd.DataFrame({"id": ["1", "2\t3"], "text": ["secret", "secret"]})
    for content in ("2\t3", "2\n3", "2\x853"):
        frame.loc[1, "id"] = content
        if name == "a.jsonl":
            frame.to_json(tmp_path / name, orient="records", lines=True)
        else:
            (frame.to_csv if name == "a.csv" else frame.to_parquet)(tmp_path / name, index=False)
        message = refusal(tmp_path / name, labelled=False)
        assert re.search(rf"{name}, (line|row) \d: the id holds a tab, an end of line", message)
