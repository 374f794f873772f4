"""Paths: which lead to one file, which may be written, and files that appear whole."""

from pathlib import Path

import pytest

from smm4h.utils.errors import InputError
from smm4h.utils.files import check_is_file, check_output, check_output_folder, is_below, is_same_file, write_text


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
