"""Files that outlast a power cut: flushed to the disk, listed with sizes and hashes, and checked when they are read."""

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from smm4h.utils.content import hash_file
from smm4h.utils.files import check_fence, sync_names, write_json, write_text

Listed = Mapping[str, Mapping[str, Any]]  # by path below a folder: `bytes` and `sha256` of a file
CHECKSUM = "checksum"  # key of a JSON file: the hash of all its other keys
SUMS_FILE = "SHA256SUMS"  # in a published folder; `sha256sum -c` reads it


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
    removed = path.with_name(f".removed-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):  # another process was faster
        path.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
