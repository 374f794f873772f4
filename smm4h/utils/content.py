"""Hashes of files' content, and private folders for what must not stay behind."""

import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

CHUNK = 1 << 20  # bytes
SETTLED = 2.0  # seconds after which a further change gets another time stamp on every common file system
PRIVATE = ".smm4h"  # beginning of the names of private folders

Hashes = dict[str, dict[str, Any]]  # by name: `sha256` of the content, and `stat`, by which it is known again


def hash_files(files: Mapping[str, Path], known: Any = None) -> Hashes:
    """Return the hash of each file's content, by name.

    A hash in `known`, which an earlier call has returned, is taken over where inode, size, and the times of the last
    change of content and of attributes are unchanged: programs can set back the former time (`cp -p`, `rsync`,
    `touch`), but not the latter.
    """
    known = known if isinstance(known, dict) else {}  # it may come from a file of an older version
    hashes: Hashes = {}
    for name, path in files.items():
        stat, before = _stat(path), known.get(name)
        is_known = stat is not None and isinstance(before, dict) and before.get("stat") == stat
        hashes[name] = {"stat": stat, "sha256": before["sha256"] if is_known else hash_file(path)}
    return hashes


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _stat(path: Path) -> list[int] | None:
    """Return what changes whenever a file does; None where that is not sure, as on Windows and of a file just written.

    Windows has no time of the last change of attributes.
    """
    status = path.stat()
    if os.name == "nt" or time.time() - status.st_ctime < SETTLED:
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


@contextmanager
def private_folder(place: Path) -> Iterator[Path]:
    """Make a folder in `place` that only this user can read, and remove it, whatever happens.

    Folders that killed processes of this host have left in `place` are removed, too.
    """
    place.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(place)
    folder = Path(tempfile.mkdtemp(prefix=f"{PRIVATE}-{_host()}-{os.getpid()}-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{PRIVATE}-{_host()}-*"):
        process = folder.name.removeprefix(f"{PRIVATE}-{_host()}-").partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _host() -> str:
    return socket.gethostname().replace("-", "_").replace("/", "_")[:40]
