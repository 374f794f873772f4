"""Errors that a command answers with one sentence, and those that keep their traceback."""

import errno
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from conftest import ROOT
from safetensors import SafetensorError

from smm4h.utils.errors import path_message, user_message


def message_of(work) -> str | None:
    try:
        work()
    except Exception as error:
        return user_message(error) or path_message(error)
    raise AssertionError("no error")


def test_errors_about_paths_name_path_and_remedy(tmp_path):
    file, loop = tmp_path / "file", tmp_path / "loop"
    file.touch()
    loop.symlink_to(loop)
    long = tmp_path / ("x" * 400)
    assert message_of((tmp_path / "no").read_text) == f"{tmp_path}/no is not there; name an existing file or folder"
    assert "no folder; name another place" in message_of((file / "below").read_text)
    assert "is a folder, where a file is expected" in message_of(tmp_path.read_text)
    assert "is there already; name another place" in message_of(file.mkdir)
    assert "is a symbolic link that leads back to itself" in message_of(loop.read_text)
    said = message_of(long.read_text)
    assert "longer name than the file system allows" in said
    assert len(said) < 300
    assert str(tmp_path / "no") in message_of(lambda: pa.OSFile(str(tmp_path / "no")))  # an error of pyarrow


def test_a_missing_column_of_a_parquet_file_is_named(tmp_path):
    pa.parquet.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    assert "lacks a column" in message_of(lambda: pa.parquet.read_table(tmp_path / "a.parquet").column("label"))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "Permission denied (a.tsv); get the right to read and write there, then repeat"),
        (
            errno.EROFS,
            "Read-only file system (a.tsv); get the right to write, or name another place, then repeat",
        ),
        (errno.ENOSPC, "No space left on device (a.tsv); make room, then repeat"),
    ],
)
def test_missing_rights_and_space_have_their_own_remedies(number, message):
    assert user_message(OSError(number, os.strerror(number), "a.tsv")) == message


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a file on a full disk")
@pytest.mark.parametrize("size", [1, 100_000])  # fails when the file is closed, and before, so that closing fails, too
def test_a_full_disk_is_named_whichever_library_meets_it(size):
    full = "No space left on device; make room, then repeat"
    assert message_of(lambda: torch.save(torch.zeros(size), "/dev/full")) == full
    with open("/dev/full", "wb", buffering=0) as stream:
        assert message_of(lambda: stream.write(bytes(size))) == full


def test_a_limit_to_the_size_of_files_is_named_by_safetensors_text_alone():
    text = "Error while serializing: I/O error: File too large (os error 27)"
    assert user_message(SafetensorError(text)).startswith("File too large; name a place on a file system")


@pytest.mark.skipif(os.name != "posix", reason="closes what a POSIX shell can close")
def test_closed_streams_and_readers_that_leave_early_are_no_errors(tmp_path):
    command = f"{sys.executable} -m smm4h train --list --output_dir {tmp_path / 'none'}"
    for closed in (">&-", "<&-", "2>&-"):
        ended = subprocess.run(f"{command} {closed}", shell=True, cwd=ROOT, capture_output=True, text=True)
        assert (ended.returncode, "Traceback" in ended.stdout + ended.stderr) == (2, False), ended
    printing = (
        f"{sys.executable} -c 'from smm4h.utils.errors import run_main; from smm4h.utils.console import console; "
    )
    printing += 'run_main(lambda: [console.print("x" * 90) for _ in range(9000)])'
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {printing}' | true"], cwd=ROOT, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_fault_of_the_program_keeps_its_traceback():
    for error in (KeyError("label"), OSError("no errno"), OSError(errno.ENOENT, "no path"), ValueError("[Errno 2]")):
        assert user_message(error) is path_message(error) is None
