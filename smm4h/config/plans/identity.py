"""What a result depends on: settings, task and data of a plan, and the fingerprints made of them."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smm4h.config.arguments import JOB_FIELDS, WITHOUT_EFFECT, JobSettings
from smm4h.config.job import Member
from smm4h.config.plans.run import checked_json
from smm4h.config.task import Task

DESCRIPTIVE = (
    "about",
    "meanings",
    "published",
    "official_test_rows",
    "costs",
    "further_measures",
)  # keys of a task without effect on runs
READING = ("header", "label_header", "spellings", "unknown_labels", "one_text_per_file")  # how files are read
WITHOUT_IDENTITY = ("columns", "files", *READING, *DESCRIPTIVE)  # keys whose effect the data's hashes hold, or none
LATER = (
    "average",
    "unscored",
    "multi_label",
)  # keys that older jobs did not know; without effect as long as they are not given


def task_identity(task: Task) -> dict[str, Any]:
    """Return what results depend on of a task."""
    content, plain = task.to_dict(), Task(task.name, task.labels, task.positive, task.measure, task.columns).to_dict()
    return {
        key: value
        for key, value in content.items()
        if key not in WITHOUT_IDENTITY and not (key in LATER and value == plain[key])
    }


def shared_settings(identity: dict[str, Any]) -> JobSettings:
    """Return the job's settings that a plan's identity holds."""
    return JobSettings(**{JOB_FIELDS[flag].name: value for flag, value in identity["recipe"]["shared"].items()})


def effective_settings(member: Member) -> dict[str, Any]:
    """Return the member's settings that differ from the defaults and change results."""
    return {name: value for name, value in sorted(member.settings.items()) if name not in WITHOUT_EFFECT}


def fingerprint_of(identity: dict[str, Any], member: Member, fold: int | None) -> str:
    """Return a SHA-256 of all that a run's result depends on; with pseudo labels, this includes all members."""
    members = identity["recipe"]["members"]
    content = {
        "shared": identity["recipe"]["shared"],
        "member": effective_settings(member),
        "teachers": members if member.args.pseudo_labels else None,
        "fold": fold,
        "task": identity["task"],
        "data": identity["data"],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def identity_hash(content: Mapping[str, Any]) -> str:
    """Return a SHA-256 of the recipe, task and data in a plan's identity, or in a plan.json."""
    identity = {part: content[part] for part in ("recipe", "task", "data")}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def identity_in(plan_file: Path) -> str | None:
    """Return the `identity_hash` of a plan.json; None where it is missing or damaged."""
    try:
        status = plan_file.stat()
    except OSError:
        return None
    content = checked_json(plan_file, (status.st_ino, status.st_size, status.st_mtime_ns))
    return None if content is None else identity_hash(content)


def code_commit() -> str | None:
    """Return the commit of this project's checkout; None where it is not in a checkout of git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
