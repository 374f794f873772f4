"""Files that outlast a power cut: flushed to the disk, listed with sizes and hashes, and checked when they are read."""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from smm4h.utils.files import check_fence, sync_names, write_json, write_text
from smm4h.utils.temporaries import temporary_name

Listed = Mapping[str, Mapping[str, Any]]  # by path below a folder: `bytes` and `sha256` of a file
CHECKSUM = "checksum"  # key of a JSON file: the hash of all its other keys
SUMS_FILE = "SHA256SUMS"  # in a published folder; `sha256sum -c` reads it
CHUNK = 1 << 20  # bytes
SETTLED = 2.0  # seconds after which a further change gets another time stamp on every common file system

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


def sync_tree(folder: Path) -> None:
    """Flush a folder's files and their names to the disk; a power cut then takes nothing of it."""
    for path in sorted(folder.rglob("*"), reverse=True):  # files before the folder that they are in
        if path.is_dir():
            sync_names(path)
            continue
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    sync_names(folder)


def listing(folder: Path, paths: Iterable[Path], *, without: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Return size and hash of files and of all files of folders, by their path below `folder`.

    Args:
        without: names of files that are left out.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": hash_file(file)}
        for file in files
        if file.is_file() and file.name not in without
    }


def damages(folder: Path, listed: Listed, *, up_to: float = math.inf) -> Iterator[tuple[str, str]]:
    """Yield each listed file that is not as it was, by its path below `folder`, and what is wrong with it, in words.

    Args:
        up_to: bytes; of larger files sizes are compared only, and contents, which must be read, of all others.
    """
    for name, expected in listed.items():
        try:
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                yield name, f"has {size} bytes instead of {expected['bytes']}"
            elif size <= up_to and hash_file(folder / name) != expected["sha256"]:
                yield name, "has another content than was written"
        except FileNotFoundError:
            yield name, "is gone"
        except OSError as error:
            yield name, f"can't be read ({error.strerror})"


def write_checked_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of its own, atomically; see `read_checked_json`."""
    write_json(path, {**content, CHECKSUM: _checksum(content)})


def read_checked_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object without its checksum; None where the file is missing, cut or changed.

    A file of an earlier version, which has no checksum, is taken as it is.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    checksum = content.pop(CHECKSUM, None)
    return content if checksum is None or checksum == _checksum(content) else None


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the hashes of some of a folder's files in the form of `sha256sum`."""
    lines = (f"{hash_file(folder / name)}  {name}\n" for name in sorted(names))
    write_text(folder / SUMS_FILE, "".join(lines))


def read_sums(folder: Path) -> dict[str, str]:
    """Return the hashes that a folder's list names, by file; empty without a list.

    A line that is damaged gives a hash, or a file, that there is none of.
    """
    try:
        lines = (folder / SUMS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def remove(path: Path) -> None:
    """Remove a file or folder, if there is one; of a folder no reader ever sees a part."""
    check_fence()
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    removed = temporary_name(path.parent)
    with suppress(FileNotFoundError):  # another process was faster
        path.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
