"""Derived files are made once, and again where they are damaged or their inputs are others."""

import pytest

from smm4h.utils.console import console
from smm4h.utils.derived import DerivedFiles
from smm4h.utils.errors import InputError


@pytest.fixture(autouse=True)
def standard_output(monkeypatch):
    """Messages go to the standard output of now, whatever a test before has put in its place."""
    monkeypatch.setattr(console, "file", None)


@pytest.fixture
def vote(tmp_path):
    """Make the vote with some inputs; return whether it was made just now."""
    path, made = tmp_path / "votes" / "final.tsv", []

    def write():
        made.append(1)
        path.write_text("1\t2\n")

    def make(inputs="a", **options) -> bool:
        before = len(made)
        DerivedFiles(tmp_path, **options).make(path, write, inputs)
        return len(made) > before

    make.path = path
    return make


def test_a_whole_file_is_made_once(vote):
    assert [vote(), vote(), vote()] == [True, False, False]


@pytest.mark.parametrize("content", ["", "1", "1\t3\n", None])
def test_a_damaged_file_is_named_and_made_again(vote, tmp_path, capsys, content):
    vote()
    vote.path.unlink() if content is None else vote.path.write_text(content)
    with pytest.raises(InputError, match="give the job's command, which makes it again"):
        DerivedFiles(tmp_path).check(vote.path)
    assert [name for name, _ in DerivedFiles(tmp_path).damaged()] == ["votes/final.tsv"]
    assert vote()
    assert vote.path.read_text() == "1\t2\n"
    assert not list(DerivedFiles(tmp_path).damaged())


def test_a_file_of_other_inputs_is_made_again(vote):
    assert [vote("a"), vote("b"), vote("b")] == [True, True, False]


def test_a_file_without_a_record_counts_in_old_folders_only(vote):
    vote.path.parent.mkdir()
    vote.path.write_text("of an earlier version")
    assert not vote(accepts_unrecorded=True)
    assert vote()


def test_with_its_records_damaged_everything_is_made_again(vote, tmp_path):
    vote()
    (tmp_path / "made.json").write_text("{")
    assert [name for name, _ in DerivedFiles(tmp_path).damaged()] == ["made.json"]
    assert vote()
    assert not list(DerivedFiles(tmp_path).damaged())


def test_a_folder_is_damaged_with_any_of_its_files(tmp_path):
    derived, folder, made = DerivedFiles(tmp_path), tmp_path / "pseudo_labels" / "seed-42", []

    def write():
        made.append(1)
        folder.mkdir(parents=True)
        for name in ("fold-0.tsv", "counts.json"):
            (folder / name).write_text("x")

    derived.make(folder, write)
    derived.make(folder, write)
    (folder / "fold-0.tsv").write_text("y")
    with pytest.raises(InputError, match=r"is damaged: pseudo_labels/seed-42/fold-0\.tsv has another content"):
        derived.check(folder / "fold-0.tsv")
    derived.make(folder, write)
    assert len(made) == 2
