"""Checkpoints that are whole or not there: Trainer writes them file by file, so one counts once it is sealed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from smm4h.utils.files import write_json

SEAL = "SEALED"


def _files(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SEAL
    }


def mark_complete(folder: Path, content: dict[str, Any]) -> None:
    """Marks a checkpoint as whole, with whatever else a resumed run has to know, and removes the run's other ones."""
    for name in _files(folder):
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)  # a machine that loses its power may keep the seal and lose what it vouches for
        os.close(descriptor)
    write_json(folder / SEAL, {**content, "files": _files(folder)})
    for other in folder.parent.glob("checkpoint-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def completion_record(folder: Path) -> dict[str, Any] | None:
    """What `mark_complete` was given; None for a checkpoint that is torn: without a seal, or not as it was sealed."""
    try:
        content = json.loads((folder / SEAL).read_text())
        return content if content["files"] == _files(folder) else None
    except (OSError, ValueError, KeyError):
        return None


def latest_complete(run_directory: Path, fingerprint: str) -> Path | None:
    """The whole checkpoint with the most steps that a run of this fingerprint left; torn ones are passed over."""
    by_step = {int(path.name.rsplit("-", 1)[1]): path for path in run_directory.glob("checkpoint-*[0-9]")}
    for step in sorted(by_step, reverse=True):
        content = completion_record(by_step[step])
        if content is not None and content["fingerprint"] == fingerprint:
            return by_step[step]
    return None


def remove_all(run_directory: Path) -> None:
    for path in run_directory.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
