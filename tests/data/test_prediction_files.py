"""Label files, tidy and untidy."""

import zipfile

import pytest

from smm4h.cli.vote import main
from smm4h.data.outputs.label_files import read_labels


def test_an_untidy_label_file_is_read_and_a_broken_one_is_named(tmp_path, call):
    (tmp_path / "crlf.tsv").write_bytes(b"tweet_id\tClass\r\n10\t1\r\n\r\n11\t 2 \r\n")
    assert read_labels(tmp_path / "crlf.tsv").labels.to_pylist() == ["1", "2"]
    (tmp_path / "one.tsv").write_text("tweet_id\n10\n")
    result = call(main, tmp_path / "one.tsv", "--output", tmp_path / "v.tsv")
    assert "one.tsv, line 1: a header and two columns are expected" in result.err
    (tmp_path / "short.tsv").write_text("tweet_id\tClass\n10\t1\n11\n")
    result = call(main, tmp_path / "short.tsv", "--output", tmp_path / "v.tsv")
    assert "short.tsv, line 3: no label; every tweet needs one" in result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"tweet_id\tClass\n", "has a header and no rows"), (b"\x81\x8d\n", "line 1: not valid UTF-8")],
)
def test_a_label_file_without_labels_is_named(tmp_path, call, content, message):
    (tmp_path / "a.tsv").write_bytes(content)
    result = call(main, tmp_path / "a.tsv", "--output", tmp_path / "v.tsv")
    assert result.code == 2
    assert message in result.err


def test_a_byte_order_mark_and_a_missing_last_line_end_change_no_vote(tmp_path, call):
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbftweet_id\tClass\n7\t2\n8\t1")
    call(main, tmp_path / "a.tsv", "--output", tmp_path / "v.tsv")
    assert (tmp_path / "v.tsv").read_text() == "tweet_id\tClass\n7\t2\n8\t1\n"


def test_a_zip_with_more_than_the_submission_is_refused(tmp_path, call):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("prediction.tsv", "tweet_id\tClass\n1\t1\n")
        archive.writestr("notes.txt", "")
    result = call(main, tmp_path / "a.zip", "--output", tmp_path / "v.tsv")
    assert "holds 2 files; exactly one" in result.err
