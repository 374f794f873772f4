"""Complete checkpoints: Trainer writes a checkpoint file by file, and it counts only after it is marked as complete."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from smm4h.utils.files import write_json

COMPLETE_FILE = "SEALED"


def _files(folder: Path) -> dict[str, int]:
    """Return the sizes in bytes of a checkpoint's files by relative path, without the mark itself."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != COMPLETE_FILE
    }


def mark_complete(folder: Path, content: dict[str, Any]) -> None:
    """Mark a checkpoint as complete and remove the run's other checkpoints.

    Args:
        content: what a resumed run needs to know, `fingerprint` among it; see `completion_record`.
    """
    for name in _files(folder):
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)  # or a power failure may keep the mark and lose the content of the files
        os.close(descriptor)
    write_json(folder / COMPLETE_FILE, {**content, "files": _files(folder)})
    for other in folder.parent.glob("checkpoint-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def completion_record(folder: Path) -> dict[str, Any] | None:
    """Return the content given to `mark_complete`; None for an incomplete checkpoint.

    A checkpoint is incomplete without a mark, or where its files differ in name or size from those that were marked.
    """
    try:
        content = json.loads((folder / COMPLETE_FILE).read_text(encoding="utf-8"))
        return content if content["files"] == _files(folder) else None
    except (OSError, ValueError, KeyError):
        return None


def latest_complete(run_directory: Path, fingerprint: str) -> Path | None:
    """Return the complete checkpoint of this fingerprint with the most steps, or None; skip incomplete ones."""
    by_step = {int(path.name.rsplit("-", 1)[1]): path for path in run_directory.glob("checkpoint-*[0-9]")}
    for step in sorted(by_step, reverse=True):
        content = completion_record(by_step[step])
        if content is not None and content["fingerprint"] == fingerprint:
            return by_step[step]
    return None


def remove_all(run_directory: Path) -> None:
    """Remove all checkpoints of a run, complete or not."""
    for path in run_directory.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
