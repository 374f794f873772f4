"""File leases that let processes on any number of hosts share work through one folder.

A lease is filelock's `SoftFileLease`: a file that names process and host, created exclusively and touched by a thread
while its holder lives. It needs no lock service of a network file system, whose locks may be missing or local to each
host. A lease is free at once if its process has died on this host; it is free after `LEASE_SECONDS`, on the clock of
the waiting process, if it was not touched or has stayed empty that long.

A process may lose its lease without a word: it was stopped, its host was suspended, or the file system hung. So a
lease is also a fence. While it is held, `smm4h.utils.files` reads the lease file anew just before each file is moved
into place or removed, and `LeaseLost` is raised where it is not this process's any more. Opening a file asks the server
on NFS (close-to-open consistency), whatever a client has cached. Between the check and the move there is a moment left
in which a process may be stopped; hence whatever is moved into place is complete, and of the same bytes from any
process.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from smm4h.utils.console import console
from smm4h.utils.errors import InputError
from smm4h.utils.files import beside, fenced

LEASE_VARIABLE = "SMM4H_LEASE_SECONDS"  # for operators: what all processes that share a folder must agree on
POLL_SECONDS = 0.1
LOOKS = 3  # at a lease file that is missing: for a moment it is, while another process tries to take it over
WAITING_SECONDS = 60.0  # after which the user is told what is waited for


def _lease_seconds() -> float:
    """Return the seconds without a touch after which a lease is free; NaN for what is no such number."""
    text = os.environ.get(LEASE_VARIABLE, "90")  # beyond the 60 s for which an NFS client may show old attributes
    try:
        return float(text) if 1 <= float(text) <= 86400 else math.nan
    except ValueError:
        return math.nan


LEASE_SECONDS = _lease_seconds()


class LeaseLost(Exception):
    """Raised where another process has taken a lease over: this one was stopped or cut off until the lease lapsed."""


class Lease(SoftFileLease):
    """A lease that is held; `with` releases it at its end, where `SoftFileLease` would acquire it a second time.

    Writes and removals within the `with` are fenced, see the module.
    """

    record = b""  # content of the lease file while this process holds it; it holds a random token

    def __enter__(self) -> "Lease":
        self._fenced = fenced(self.check)
        self._fenced.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._fenced.__exit__(None, None, None)
        super().__exit__(*exception)

    def is_held(self) -> bool:
        """Return whether this process still holds the lease, as the file system says now."""
        for look in range(LOOKS):
            try:
                return self.compromise is None and Path(self.lock_file).read_bytes() == self.record
            except FileNotFoundError:
                if look + 1 < LOOKS:
                    time.sleep(POLL_SECONDS / 2)
        return False

    def check(self) -> None:
        """Raise `LeaseLost` unless this process holds the lease."""
        if not self.is_held():
            raise LeaseLost(f"another process took {self.lock_file} over")


class LeaseHolder:
    """The leases that this process holds or waits for.

    Keep one object while waiting: a lapsed lease is recognised by watching it, not by one look.
    """

    def __init__(self) -> None:
        self._leases: dict[Path, Lease] = {}
        self._empty: dict[Path, tuple[tuple[int, int], float]] = {}  # (inode, ctime) of an empty file, and since when

    def try_acquire(self, path: Path) -> Lease | None:
        """Return the lease, to be used in a `with`, or None if another process holds it.

        Raises `InputError` for a duration that is none, and for a lease of another duration.
        """
        if math.isnan(LEASE_SECONDS):
            raise InputError(f"{LEASE_VARIABLE}={os.environ[LEASE_VARIABLE]}: give seconds, a number from 1 to 86400")
        lease = self._leases.setdefault(path, Lease(path, lease_duration=LEASE_SECONDS))
        try:
            lease.acquire(timeout=0)
            lease.record = path.read_bytes()
        except Timeout:
            self._free_if_empty(path)
            return None
        except FileNotFoundError:  # lost between the two lines above
            lease.release()
            return None
        except LeaseSettingsMismatch:
            raise InputError(
                f"{path} is held with another {LEASE_VARIABLE} than {LEASE_SECONDS:g}; set the same for all processes"
            ) from None
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


def holder_of(path: Path) -> str:
    """Return who holds a lease, in words: process, host, and when it was last touched."""
    silence = seconds_since_heartbeat(path)
    if silence is None:
        return "nobody"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    who = f"process {facts['pid']} on {facts['host']}" if {"pid", "host"} <= facts.keys() else "a process"
    return f"{who}, last heard of {silence:.0f} s ago"


class Waiting:
    """Tells the user what is waited for, once a minute has passed and then ever more rarely."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.next_notice = WAITING_SECONDS

    def over(self) -> None:
        """Begin anew: what was waited for has come."""
        self.__init__()

    def tell(self, what: Callable[[], str]) -> None:
        """Print what is waited for, if it is time to."""
        waited = time.monotonic() - self.since
        if waited >= self.next_notice:
            self.next_notice = 2 * waited
            console.print(f"waiting for {what()}, for {waited:.0f} s so far", markup=False, soft_wrap=True)


def wait_for_lease(path: Path, what: Path) -> Lease:
    """Return the lease once it is free; name its holder where that takes long.

    Args:
        what: the file that is waited for, for messages.
    """
    holder, waiting = LeaseHolder(), Waiting()
    path.parent.mkdir(parents=True, exist_ok=True)
    while (lease := holder.try_acquire(path)) is None:
        waiting.tell(lambda: f"{what}, which is held by {holder_of(path)}")
        time.sleep(POLL_SECONDS)
    return lease


def lease_file_of(path: Path) -> Path:
    """Return the file of the lease under which a file is made."""
    return path.parent / f".{path.name}.claim"


def sole_writer(output: Path) -> Lease:
    """Return the lease of an output that a command was given; raise `InputError` where another one writes it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    lease = LeaseHolder().try_acquire(beside(output, ".claim"))
    if lease is None:
        raise InputError(
            f"another command is writing {output}, or was killed on another host less than {LEASE_SECONDS:.0f} s ago; "
            "wait for it, or name another place"
        )
    return lease


def make_once(path: Path, make: Callable[[], None], is_made: Callable[[], bool] | None = None) -> None:
    """Have `path` made by the first process that asks; the others wait for it.

    A process that lost its lease on the way, and perhaps its temporary files, leaves the work to its successor.

    Args:
        make: writes `path`, atomically.
        is_made: returns whether nothing is left to do; None: whether `path` exists.
    """
    is_made = is_made or path.exists
    lease_file = lease_file_of(path)
    while not is_made():
        with wait_for_lease(lease_file, path) as lease:
            try:
                if not is_made():
                    make()
            except Exception:
                if lease.is_held():
                    raise


def free_abandoned(folder: Path) -> None:
    """Remove the lease files below a folder whose processes have died on this host, with nothing left to do."""
    for path in folder.rglob(".*.claim"):
        if lease := LeaseHolder().try_acquire(path):
            lease.release()
