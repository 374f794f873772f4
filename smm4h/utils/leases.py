"""Who makes what: claims by which processes on any number of hosts share work through one folder.

A claim is filelock's lease: a file that names process and host, created exclusively and touched by a thread while its
holder lives. It needs no lock service of a network file system, whose locks may be missing or local to each host. One
whose process has died on this host is free at once; one that showed no sign of life for `LEASE_SECONDS`, on the
watcher's own clock, is free too, and so is one that has stayed empty as long. Should a claim be lost to a host that was
only cut off, both make the same bytes and put them in place in one move, so that time is lost and nothing else.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from filelock import SoftFileLease, Timeout

LEASE_SECONDS = 90.0  # beyond the 60 s for which an NFS client may show old attributes
POLL_SECONDS = 0.1


class Lease(SoftFileLease):
    """A claim that was taken; `with` gives it back at its end, where a lease's own would only take it once more."""

    def __enter__(self) -> "Lease":
        return self


class LeaseHolder:
    """The claims that this process holds or waits for; to be kept, since it is by watching that it sees one lapse."""

    def __init__(self) -> None:
        self._claims: dict[Path, Lease] = {}
        self._empty: dict[Path, tuple[tuple[int, int], float]] = {}  # since when which file is seen empty

    def try_acquire(self, path: Path) -> Lease | None:
        """The claim, to be held by `with`; None where someone else has it."""
        claim = self._claims.setdefault(path, Lease(path, lease_duration=LEASE_SECONDS))
        try:
            claim.acquire(timeout=0)
        except Timeout:
            self._free_if_empty(path)
            return None
        return claim

    def _free_if_empty(self, path: Path) -> None:
        """Removes a claim whose holder was killed before it wrote its name: filelock takes that for held for ever."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return
        if found.st_size:
            self._empty.pop(path, None)
            return
        file = found.st_ino, found.st_ctime_ns
        seen, since = self._empty.get(path, (None, 0.0))
        if seen != file:
            self._empty[path] = file, time.monotonic()
        elif time.monotonic() - since > LEASE_SECONDS:
            path.unlink(missing_ok=True)


def seconds_since_heartbeat(path: Path) -> float | None:
    """Seconds since a claim's last sign of life, as far as the hosts' clocks agree; None where there is no claim."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None


def make_once(path: Path, make: Callable[[], None]) -> None:
    """Has `path` made by whichever process comes first; the others wait for it.

    What a process that was killed amid it left beside it, under a name that begins with a dot and `path`'s, is removed.
    """
    lease_file, claims = path.parent / f".{path.name}.claim", LeaseHolder()
    path.parent.mkdir(parents=True, exist_ok=True)
    while not path.exists():
        claim = claims.try_acquire(lease_file)
        if claim is None:
            time.sleep(POLL_SECONDS)
            continue
        with claim:
            if not path.exists():
                for left in path.parent.glob(f".{path.name}.*"):
                    if left != lease_file:
                        shutil.rmtree(left) if left.is_dir() else left.unlink()
                make()
