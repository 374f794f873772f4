"""Temporary files: removed once their process is dead, and never before."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smm4h.utils import temporaries
from smm4h.utils.files import write_text
from smm4h.utils.leases import LEASE_SECONDS
from smm4h.utils.temporaries import private_folder, remove_abandoned

MAKER = """
import sys, time
from pathlib import Path
from smm4h.utils.temporaries import temporary_file, temporary_folder
place = Path(sys.argv[1])
temporary_file(place, ".json")
(temporary_folder(place) / "tweets.tsv").write_text("I took my pills")
print("made", flush=True)
time.sleep(600)
"""


@pytest.fixture
def maker(tmp_path) -> Iterator[subprocess.Popen]:
    """A process that has made a temporary file and a folder."""
    process = subprocess.Popen([sys.executable, "-c", MAKER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "made\n"
    yield process
    process.kill()
    process.wait(10)
    process.stdout.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_what_a_killed_process_left_is_removed_by_the_next_write_in_the_folder(tmp_path, maker):
    left = names_in(tmp_path)
    assert len(left) == 3
    maker.send_signal(signal.SIGSTOP)  # which is no death
    write_text(tmp_path / "scores.json", "{}")
    remove_abandoned(tmp_path)
    assert names_in(tmp_path) == sorted([*left, "scores.json"])
    maker.kill()
    os.waitid(os.P_PID, maker.pid, os.WEXITED | os.WNOWAIT)  # dead, and not waited for, as in containers without init
    temporaries._looked_into.clear()  # as in a new process
    write_text(tmp_path / "scores.json", "{}")
    assert names_in(tmp_path) == ["scores.json"]


def test_a_job_looks_into_all_folders_below_its_own(tmp_path, maker):
    maker.kill()
    maker.wait(10)
    below = tmp_path / "votes" / "deep"
    below.mkdir(parents=True)
    for path in tmp_path.glob(".*"):
        path.rename(below / path.name)
    remove_abandoned(tmp_path)
    assert names_in(tmp_path) == ["deep", "votes"]


def test_a_later_process_of_the_same_id_keeps_nothing_alive(tmp_path):
    pid, began = os.getpid(), temporaries._birth(os.getpid())
    with private_folder(tmp_path) as folder:
        (tmp_path / folder.name.replace(f"-{pid}-{began}-", f"-{pid}-{began + 1}-")).mkdir()
        remove_abandoned(tmp_path)
        assert names_in(tmp_path) == [folder.name]


def test_what_another_host_has_is_removed_when_it_is_long_unchanged(tmp_path):
    host, silence = temporaries._host(), LEASE_SECONDS * temporaries.LEASES
    with private_folder(tmp_path) as folder:
        others = [tmp_path / folder.name.replace(host, number * 8) for number in "12"]
    for other in others:
        other.mkdir()
        (other / "tweets.tsv").touch()
    now = others[0].stat().st_mtime
    for path in (others[0], others[1], others[1] / "tweets.tsv"):  # something in the first one was written just now
        os.utime(path, (now - silence - 60, now - silence - 60))
    remove_abandoned(tmp_path)
    assert names_in(tmp_path) == [others[0].name, "tweets.tsv"]


def test_a_folder_in_use_is_touched_for_other_hosts_to_see(tmp_path, monkeypatch):
    monkeypatch.setattr(temporaries, "BEAT_SECONDS", 0.05)
    with private_folder(tmp_path) as folder:
        os.utime(folder, (1, 1))
        for _ in range(400):
            if folder.stat().st_mtime > 1:
                break
            signal.sigtimedwait([], 0.05)
        assert folder.stat().st_mtime > 1
    assert not folder.exists()
