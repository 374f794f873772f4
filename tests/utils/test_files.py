"""Paths: which lead to one file, which may be written, and files that appear whole."""

import os
import threading
from pathlib import Path

import pytest

from smm4h.utils.errors import InputError
from smm4h.utils.files import (
    check_is_file,
    check_output,
    check_output_folder,
    is_below,
    is_same_file,
    read_yaml,
    write_text,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "folder" / "a.tsv"
    write_text(path, "x\n")
    return path


def test_one_file_has_many_names(file, tmp_path, monkeypatch):
    (tmp_path / "symbolic").symlink_to(file.parent)
    (tmp_path / "hard").hardlink_to(file)
    monkeypatch.chdir(tmp_path)
    for name in ("folder/a.tsv", "./folder/../folder/a.tsv", "symbolic/a.tsv", "hard", tmp_path / "symbolic" / "a.tsv"):
        assert is_same_file(name, file)
        with pytest.raises(InputError, match="which this command reads; name another file"):
            check_output(name, [None, file])
    assert is_same_file("symbolic/new.tsv", "folder/new.tsv")  # neither is there
    assert not is_same_file("folder/b.tsv", file)
    check_output("folder/b.tsv", [None, file, "nothing.tsv", "me/model"])


def test_a_place_in_an_input_folder_is_no_output(file, tmp_path):
    (tmp_path / "symbolic").symlink_to(file.parent)
    for output in (file.parent / "new.tsv", file.parent / "a" / "b" / "new.tsv", tmp_path / "symbolic" / "new.tsv"):
        assert is_below(output, file.parent)
        with pytest.raises(InputError, match="name a place outside it"):
            check_output(output, [file.parent])
        with pytest.raises(InputError, match="name a place outside it"):
            check_output_folder(output, [file.parent])
    assert not is_below(tmp_path / "folder2" / "new.tsv", file.parent)
    check_output(tmp_path / "folder2" / "new.tsv", [file.parent])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "folder is a folder, where a file is expected; name a file in it"),
        ("folder/a.tsv/b", "a.tsv/b can't be read, because .*a.tsv is a file and no folder"),
        ("folder/b.tsv", "b.tsv is not there; name an existing file$"),
    ],
)
def test_a_missing_input_is_named_with_what_is_wrong(file, tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        check_is_file(tmp_path / name)
    check_is_file(file)


def test_a_file_keeps_its_kind_while_it_is_written(tmp_path):
    """Writers know the format by the name of the temporary file."""
    from smm4h.utils.files import write_atomically

    for name in ("a.tsv", "a.csv.gz", f"{'a' * 240}.jsonl", f"{'é' * 100}.parquet"):
        seen = []
        write_atomically(tmp_path / name, lambda partial, seen=seen: (seen.append(partial), partial.touch()))
        assert seen[0].name.endswith("".join(Path(name).suffixes))
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_files_with_tweets_are_private_unless_a_umask_says_otherwise(tmp_path, monkeypatch):
    def modes() -> list[int]:
        for name, private in (("a", False), ("b", True)):
            write_text(tmp_path / name, "x", private=private)
        return [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b")]

    before = os.umask(0o022)
    try:
        assert modes() == [0o644, 0o600]
        monkeypatch.setenv("SMM4H_UMASK", "027")
        assert modes() == [0o644, 0o640]
        os.umask(0o002)
        assert modes() == [0o664, 0o640]
        monkeypatch.setenv("SMM4H_UMASK", "999")
        with pytest.raises(InputError, match="SMM4H_UMASK=999 is no umask"):
            modes()
    finally:
        os.umask(before)


def test_writing_does_not_open_the_umask_of_other_threads_for_a_moment(tmp_path):
    before, ends = os.umask(0o077), threading.Event()

    def write_files() -> None:
        while not ends.is_set():
            write_text(tmp_path / "a", "x")

    thread = threading.Thread(target=write_files)
    thread.start()
    try:
        for number in range(300):
            path = tmp_path / str(number)
            path.touch()
            assert path.stat().st_mode & 0o077 == 0
    finally:
        ends.set()
        thread.join()
        os.umask(before)


BILLION = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a\n  b: *a\n", "line 1: this value refers to itself; write it out without aliases"),
        ("a: 1\nb: &b [*b]\n", "line 2: this value refers to itself"),
        (BILLION, "this value unfolds to more than 100000 values"),
        ("a: " + "[" * 5000, "not YAML .nested too deeply."),
        ("a: !!int x\n", "invalid literal for .*; put such values in quotes"),
        ("a: 1\nb: [{c: 1, c: 2}]\n", "line 2: c stands here a second time .first on line 2."),
        ('a: "\\ud83d"\n', "line 1: half a character, such as half an emoji"),
    ],
)
def test_yaml_that_never_ends_or_means_nothing_is_one_sentence(tmp_path, content, message):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_aliases_are_allowed(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, z: 3}\nc: [*a, *a]\n")
    assert read_yaml(tmp_path / "a.yaml")[0]["b"] == {"x": 1, "y": 2, "z": 3}
