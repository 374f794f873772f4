"""Leases: work is done once, and a lease whose holder died lapses."""

import os
import platform
import threading
import time

import pytest
from conftest import leave_empty_lease, leave_lease_of_another_host, wait_for

from smm4h.utils import leases
from smm4h.utils.durable import remove
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_text
from smm4h.utils.leases import LeaseHolder, LeaseLost


def test_of_many_threads_only_one_makes_a_file(tmp_path):
    made = []

    def make():
        made.append(1)
        (tmp_path / "vote.tsv").write_text("x")

    threads = [threading.Thread(target=leases.make_once, args=(tmp_path / "vote.tsv", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_lease_is_free_again_at_the_end_of_its_with(tmp_path):
    """Not at the end of its process: a process that waits for the run's lease would wait for the whole job."""
    with LeaseHolder().try_acquire(tmp_path / "x"):
        assert LeaseHolder().try_acquire(tmp_path / "x") is None
    assert not (tmp_path / "x").exists()
    assert LeaseHolder().try_acquire(tmp_path / "x") is not None


@pytest.mark.parametrize("leave", [leave_lease_of_another_host, leave_empty_lease])
def test_a_lease_of_a_dead_process_lapses(tmp_path, monkeypatch, leave):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    leave(tmp_path / "a.claim")
    waiting, begun = LeaseHolder(), time.monotonic()
    assert waiting.try_acquire(tmp_path / "a.claim") is None
    assert wait_for(lambda: waiting.try_acquire(tmp_path / "a.claim"), 10)
    assert time.monotonic() - begun > 0.9
    leave(tmp_path / ".made.claim")
    leases.make_once(tmp_path / "made", (tmp_path / "made").touch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.claim", "made"]


def test_nothing_is_written_or_removed_under_a_lease_that_is_lost(tmp_path):
    """A process that was stopped beyond its lease goes on beside its successor."""
    result, lease_file, successor = tmp_path / "result", tmp_path / "a.claim", LeaseHolder()
    with LeaseHolder().try_acquire(lease_file) as lease:
        write_text(result, "whole")
        lease_file.unlink()  # as a process does that takes a lapsed lease over
        with successor.try_acquire(lease_file):
            assert not lease.is_held()
            for change in (lambda: write_text(result, "late"), lambda: remove(result)):
                with pytest.raises(LeaseLost):
                    change()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert result.read_text() == "whole"
    write_text(result, "free of the lease")


def test_a_maker_that_was_overtaken_leaves_the_work_to_its_successor(tmp_path):
    """Its temporary file may be gone, so that any error may come of it."""
    path, lease_file = tmp_path / "vote.tsv", tmp_path / ".vote.tsv.claim"

    def be_overtaken():
        lease_file.unlink()
        path.write_text("the successor's")
        raise FileNotFoundError("temporary file")

    leases.make_once(path, be_overtaken)
    assert path.read_text() == "the successor's"
    path.unlink()

    def fail():
        raise FileNotFoundError("a fault of its own")

    with pytest.raises(FileNotFoundError, match="its own"):
        leases.make_once(path, fail)


def test_what_is_waited_for_is_named_with_its_holder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(leases, "WAITING_SECONDS", 0.2)
    monkeypatch.setattr(leases.console, "file", None)  # the standard output of now
    lease = LeaseHolder().try_acquire(tmp_path / ".vote.tsv.claim")
    thread = threading.Thread(target=leases.make_once, args=(tmp_path / "vote.tsv", (tmp_path / "vote.tsv").touch))
    thread.start()
    said = []
    assert wait_for(lambda: said.append(capsys.readouterr().out) or "waiting" in said[-1], 30)
    lease.release()
    thread.join()
    holder = f"held by process {os.getpid()} on {platform.node()}, last heard of"
    assert f"waiting for {tmp_path / 'vote.tsv'}, which is {holder}" in said[-1]


@pytest.mark.parametrize(("text", "seconds"), [("20", 20), ("soon", None), ("0", None), ("inf", None), ("", None)])
def test_operators_set_how_long_a_lease_lasts(tmp_path, monkeypatch, text, seconds):
    monkeypatch.setenv(leases.LEASE_VARIABLE, text)
    monkeypatch.setattr(leases, "LEASE_SECONDS", leases._lease_seconds())
    if seconds:
        assert LeaseHolder().try_acquire(tmp_path / "a.claim").lease_duration == seconds
        return
    with pytest.raises(InputError, match="give seconds, a number from 1 to 86400"):
        LeaseHolder().try_acquire(tmp_path / "a.claim")


def test_processes_with_other_durations_are_told(tmp_path, monkeypatch):
    lease = LeaseHolder().try_acquire(tmp_path / "a.claim")
    monkeypatch.setattr(leases, "LEASE_SECONDS", 20.0)
    with pytest.raises(InputError, match="is held with another SMM4H_LEASE_SECONDS than 20"):
        LeaseHolder().try_acquire(tmp_path / "a.claim")
    lease.release()
