"""File leases that let processes on any number of hosts share work through one folder.

A lease is filelock's `SoftFileLease`: a file that names process and host, created exclusively and touched by a thread
while its holder lives. It needs no lock service of a network file system, whose locks may be missing or local to each
host. A lease is free at once if its process has died on this host; it is free after `LEASE_SECONDS`, on the clock of
the waiting process, if it was not touched or has stayed empty that long. If a host is only cut off from the file system
and so loses a lease, two processes write the same bytes and move them into place atomically: time is lost, no data.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from filelock import SoftFileLease, Timeout

LEASE_SECONDS = 90.0  # beyond the 60 s for which an NFS client may show old attributes
POLL_SECONDS = 0.1


class Lease(SoftFileLease):
    """A lease that is held; `with` releases it at its end, where `SoftFileLease` would acquire it a second time."""

    def __enter__(self) -> "Lease":
        return self


class LeaseHolder:
    """The leases that this process holds or waits for.

    Keep one object while waiting: a lapsed lease is recognised by watching it, not by one look.
    """

    def __init__(self) -> None:
        self._leases: dict[Path, Lease] = {}
        self._empty: dict[Path, tuple[tuple[int, int], float]] = {}  # (inode, ctime) of an empty file, and since when

    def try_acquire(self, path: Path) -> Lease | None:
        """Return the lease, to be used in a `with`, or None if another process holds it."""
        lease = self._leases.setdefault(path, Lease(path, lease_duration=LEASE_SECONDS))
        try:
            lease.acquire(timeout=0)
        except Timeout:
            self._free_if_empty(path)
            return None
        return lease

    def _free_if_empty(self, path: Path) -> None:
        """Remove a lease whose holder was killed before it wrote its name; filelock would never let it lapse."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return
        if status.st_size:
            self._empty.pop(path, None)
            return
        file = status.st_ino, status.st_ctime_ns
        last_seen, empty_since = self._empty.get(path, (None, 0.0))
        if last_seen != file:
            self._empty[path] = file, time.monotonic()
        elif time.monotonic() - empty_since > LEASE_SECONDS:
            path.unlink(missing_ok=True)


def seconds_since_heartbeat(path: Path) -> float | None:
    """Return the seconds since a lease was last touched, as far as the hosts' clocks agree; None without a lease."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None


def make_once(path: Path, make: Callable[[], None]) -> None:
    """Have `path` made by the first process that asks; the others wait for it.

    Temporary files of a killed process, whose names begin with a dot and the name of `path`, are removed.

    Args:
        make: writes `path`, atomically.
    """
    lease_file, holder = path.parent / f".{path.name}.claim", LeaseHolder()
    path.parent.mkdir(parents=True, exist_ok=True)
    while not path.exists():
        lease = holder.try_acquire(lease_file)
        if lease is None:
            time.sleep(POLL_SECONDS)
            continue
        with lease:
            if not path.exists():
                for leftover in path.parent.glob(f".{path.name}.*"):
                    if leftover != lease_file:
                        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                make()
