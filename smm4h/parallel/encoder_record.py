"""The encoders that a job's runs began with: its later runs, on whatever day and host, must begin with the same."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from smm4h.config.job import Member
from smm4h.config.output_paths import ENCODERS_FILE
from smm4h.config.plans.plan import Plan
from smm4h.data.tokenization import hub_arguments
from smm4h.models.encoder_check import TOKENIZER_PATTERNS
from smm4h.utils.console import console
from smm4h.utils.durable import hash_files, read_checked_json, write_checked_json
from smm4h.utils.errors import InputError
from smm4h.utils.leases import lease_file_of, wait_for_lease

WEIGHTS = ("*.safetensors", "*.bin")  # the first that a folder has are those that are loaded


def record_encoders(plan: Plan, members: Iterable[Member]) -> None:
    """Record the members' encoders where no run of the job has begun with them yet; raises as `check_same_encoders`.

    A damaged record is made again, of all members.
    """
    file = plan.output_dir / ENCODERS_FILE
    with wait_for_lease(lease_file_of(file), file):
        is_damaged = file.exists() and read_checked_json(file) is None
        if is_damaged:
            console.print(f"note: {file} is damaged; it is made again", markup=False, soft_wrap=True)
            members = [run.member for run in plan.wanted]
        new = check_same_encoders(plan, members)
        if new or is_damaged:
            write_checked_json(file, {**(read_checked_json(file) or {}), **new})


def check_same_encoders(plan: Plan, members: Iterable[Member]) -> dict[str, dict[str, Any]]:
    """Return what is to be recorded of the members' encoders that the job has not used yet.

    The files of a folder are hashed once, and known again by their times; of a model of the Hub its commit is compared.

    Raises `InputError` for an encoder that is not what it was when the job's first run with it began.
    """
    file, new = plan.output_dir / ENCODERS_FILE, {}
    known = read_checked_json(file) or {}
    used = {(m.args.model_name_or_path, m.args.model_revision): m for m in members if m.has_encoder}
    for (name, revision), member in used.items():
        before = known.get(key := f"{name} {revision}")
        content = _content(member, (before or {}).get("files"))
        if before is None and content:
            new[key] = content
        elif content and _told(before) != _told(content):
            raise InputError(_refusal(name, before, content, file))
    return new


def _content(member: Member, known: Any) -> dict[str, Any]:
    """Return what tells an encoder from others: the hashes of its files, or its commit on the Hub.

    Nothing where it can't be read: runs that need it name it, and those of an adapted encoder do without it.

    Args:
        known: the hashes of its files that an earlier call has returned.
    """
    name = member.args.model_name_or_path
    if not Path(name).is_dir():
        try:
            commit = getattr(AutoConfig.from_pretrained(name, **hub_arguments(member)), "_commit_hash", None)
        except (OSError, ValueError):
            commit = None
        return {"commit": commit} if commit else {}
    weights = next((found for pattern in WEIGHTS if (found := sorted(Path(name).glob(pattern)))), [])
    others = {path for pattern in ("config.json", *TOKENIZER_PATTERNS) for path in Path(name).glob(pattern)}
    return {"files": hash_files({path.name: path for path in sorted({*weights, *others})}, known)}


def _told(content: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a record that is the same on every host."""
    return {**content, "files": {name: one["sha256"] for name, one in content.get("files", {}).items()}}


def _refusal(name: str, before: dict[str, Any], content: dict[str, Any], file: Path) -> str:
    if content.get("files") and before.get("files"):
        left, right = _told(before)["files"], _told(content)["files"]
        changed = sorted(key for key in {*left, *right} if left.get(key) != right.get(key))
        what = f"{', '.join(str(Path(name) / one) for one in changed)} changed"
    else:
        what = f"the encoder {name} changed (commit {before.get('commit')}, and {content.get('commit')} now)"
    return (
        f"{what} since the job's first run with it, which {file} records; bring back what was there, or choose another "
        "--output_dir"
    )
