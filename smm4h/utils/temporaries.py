"""Temporary files and folders, named after the process that made them, so that others know when nobody needs them.

What a killed process has left is removed by the next one that writes in the same folder, and by the next job in a job's
folder. Nothing is removed that belongs to a process of this host that lives, be it stopped. Whether a process of
another host lives can't be seen; what is its is removed once nothing of it was changed for `LEASES` times the duration
of a lease, by the clock of the file system, which all hosts share.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

MARK = ".smm4h-"  # beginning of the names
NAME = re.compile(re.escape(MARK) + r"(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<birth>\d+)-.*", re.DOTALL)
LEASES = 5
BEAT_SECONDS = 20.0  # between two touches of a folder that is kept
_looked_into: set[Path] = set()  # folders from which this process has removed what was left


def temporary_file(place: Path, suffix: str = "") -> Path:
    """Return a new, empty file in `place` that only this user can read."""
    descriptor, name = tempfile.mkstemp(dir=_cleared(place), prefix=_prefix(), suffix=suffix)
    os.close(descriptor)
    return Path(name)


def temporary_folder(place: Path) -> Path:
    """Return a new folder in `place` that only this user can read."""
    return Path(tempfile.mkdtemp(dir=_cleared(place), prefix=_prefix()))


def temporary_name(place: Path) -> Path:
    """Return a path in `place` to which something can be moved that is removed next."""
    return place / f"{_prefix()}{secrets.token_hex(4)}"


@contextmanager
def private_folder(place: Path) -> Iterator[Path]:
    """Make a folder in `place` that only this user can read, and remove it, whatever happens."""
    place.mkdir(parents=True, exist_ok=True)
    folder, ended = temporary_folder(place), threading.Event()
    threading.Thread(target=_touch, args=(folder, ended), daemon=True).start()
    try:
        yield folder
    finally:
        ended.set()
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left in a folder and in all folders below it."""
    for place, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(MARK)]
        _looked_into.discard(Path(place))
        _cleared(Path(place))


def _cleared(place: Path) -> Path:
    """Return a folder, once nothing is in it that a killed process has left; one look for each process is enough."""
    if place not in _looked_into:
        _looked_into.add(place)
        for path in place.glob(f"{MARK}*") if place.is_dir() else ():
            with suppress(OSError):  # another process was faster, or it is others' to remove
                if _is_abandoned(path):
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return place


def _is_abandoned(path: Path) -> bool:
    name = NAME.fullmatch(path.name)
    if name is None:
        return False
    if name["host"] == _host():
        return _birth(int(name["pid"])) != int(name["birth"])
    from smm4h.utils.leases import LEASE_SECONDS  # which needs this module

    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_prefix()) as new:
        now = os.stat(new.name).st_mtime
    changes = [file.lstat().st_mtime for file in (path, *path.rglob("*"))]
    return now - max(changes) > LEASES * LEASE_SECONDS


def _touch(folder: Path, ended: threading.Event) -> None:
    """Touch a folder from time to time, so that other hosts see that its process lives."""
    with suppress(OSError):  # it was removed
        while not ended.wait(BEAT_SECONDS):
            os.utime(folder)


def _prefix() -> str:
    pid = os.getpid()
    return f"{MARK}{_host()}-{pid}-{_birth(pid)}-"


@cache
def _host() -> str:
    """Return eight digits for what process ids are unique in: this host or, of a container, its namespace."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]


def _birth(pid: int) -> int | None:
    """Return when a process began, in ticks since the host's start; None if it has ended.

    By it a process is told from a later one of the same id. 0 where the system does not say.
    """
    try:
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = content.rpartition(")")[2].split()  # proc(5)
    except OSError:
        return 0 if not os.path.exists("/proc/self/stat") and psutil.pid_exists(pid) else None
    state, began = fields[0], int(fields[19])
    return None if state in "ZX" else began
