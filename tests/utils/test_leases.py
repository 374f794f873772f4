"""Leases: work is done once, and a lease whose holder died lapses."""

import threading
import time

import pytest
from conftest import leave_empty_lease, leave_lease_of_another_host, wait_for

from smm4h.utils import leases
from smm4h.utils.leases import LeaseHolder


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
    (tmp_path / ".made.partial").touch()
    leases.make_once(tmp_path / "made", (tmp_path / "made").touch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.claim", "made"]
