"""Files that outlast a power cut: flushed, listed, and compared."""

import hashlib
import json
import os

import pytest

from smm4h.utils.durable import (
    SUMS_FILE,
    damages,
    listing,
    read_checked_json,
    read_sums,
    sync_tree,
    write_checked_json,
    write_sums,
)


@pytest.fixture
def flushed(monkeypatch) -> set[int]:
    """The inodes of all that is flushed to the disk."""
    inodes, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (inodes.add(os.fstat(descriptor).st_ino), fsync(descriptor)))
    return inodes


def test_every_file_and_folder_of_a_tree_is_flushed(tmp_path, flushed):
    (tmp_path / "model" / "inner").mkdir(parents=True)
    for name in ("model/weights", "model/inner/tokens"):
        (tmp_path / name).write_text("x")
    sync_tree(tmp_path)
    assert flushed >= {path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*"))}


def test_a_written_file_is_flushed_with_the_folder_that_names_it(tmp_path, flushed):
    write_checked_json(tmp_path / "DONE", {"seconds": 1})
    assert flushed == {tmp_path.stat().st_ino, (tmp_path / "DONE").stat().st_ino}


def test_no_damage_of_a_checked_file_passes(tmp_path):
    """But for its spaces, and for the name of the checksum: without it, the file is one of an earlier version."""
    path, content = tmp_path / "DONE", {"fingerprint": "ab", "files": {"a": {"bytes": 1, "sha256": "cd"}}}
    write_checked_json(path, content)
    assert read_checked_json(path) == content
    whole = path.read_bytes()
    for length in range(len(whole) - 2):
        path.write_bytes(whole[:length])
        assert read_checked_json(path) is None
    for position in range(len(whole)):
        for bit in (0, 6):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            read = read_checked_json(path)
            if read is not None:
                assert {**content, **{key: value for key, value in read.items() if key in content}} == content
                assert content.items() <= read.items()


def test_files_of_earlier_versions_have_no_checksum(tmp_path):
    (tmp_path / "DONE").write_text(json.dumps({"seconds": 1}))
    assert read_checked_json(tmp_path / "DONE") == {"seconds": 1}


def test_sums_are_those_of_sha256sum(tmp_path):
    (tmp_path / "members").mkdir()
    for name in ("config.json", "members/a  b"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path, ["members/a  b", "config.json"])
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("config.json", "members/a  b")}
    assert read_sums(tmp_path) == digests
    assert (tmp_path / SUMS_FILE).read_text() == "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    assert read_sums(tmp_path / "members") == {}


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    for name in ("gone", "cut", "flipped", "whole"):
        (tmp_path / name).write_text("content")
    listed = listing(tmp_path, [tmp_path])
    (tmp_path / "gone").unlink()
    (tmp_path / "cut").write_text("cont")
    (tmp_path / "flipped").write_text("Content")
    assert dict(damages(tmp_path, listed)) == {
        "gone": "is gone",
        "cut": "has 4 bytes instead of 7",
        "flipped": "has another content than was written",
    }
    assert set(dict(damages(tmp_path, listed, up_to=6))) == {"gone", "cut"}
