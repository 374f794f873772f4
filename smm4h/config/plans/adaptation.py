"""Adaptation of encoders in a job's plan: one for all members with the same encoder and the same reading of texts."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from smm4h.config.arguments import DEFAULTS
from smm4h.config.job import Adaptation, Member
from smm4h.config.plans.identity import effective_settings
from smm4h.config.plans.run import Run

FOLDER = "encoders"  # of adapted encoders, in a job's folder
SHARED = (
    *("model_name_or_path", "model_revision", "cache_dir", "token", "trust_remote_code", "cleaning", "max_seq_length"),
    *("bf16", "fp16", "tf32", "use_cpu", "gradient_checkpointing", "full_determinism"),
)  # settings that an adaptation takes over from its members
WEIGHT_DECAY, WARM_UP = 0.01, 0.06  # as RoBERTa was pretrained (Liu et al. 2019, table 9)


def adaptation_member(member: Member) -> Member:
    """Return the settings under which a member's encoder is adapted, as those of a member that only adapts."""
    adaptation = member.adaptation
    values = {name: getattr(member.args, name) for name in SHARED} | training_settings(adaptation)
    settings = {name: value for name, value in values.items() if value != DEFAULTS[name]}
    unnamed = Member("", settings)
    digest = hashlib.sha256(json.dumps(effective_settings(unnamed), sort_keys=True).encode()).hexdigest()
    return Member(f"{short_name(member.args.model_name_or_path)}-{digest[:8]}", settings)


def training_settings(adaptation: Adaptation) -> dict[str, Any]:
    """Return the settings of an adaptation's training."""
    return {
        "adapt": str(adaptation),
        "num_train_epochs": adaptation.epochs,
        "learning_rate": adaptation.learning_rate,
        "per_device_train_batch_size": adaptation.batch_size,
        "seed": adaptation.seed,
        "optim": "adamw_torch",
        "weight_decay": WEIGHT_DECAY,
        "warmup_steps": WARM_UP,
        "train_sampling_strategy": "group_by_length",
        "eval_strategy": "no",
        "checkpoint": "last",
        "retrain_collapsed": False,
    }


def short_name(encoder: str) -> str:
    """Return the last part of an encoder's name or path, as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", Path(encoder).name)[:60].strip(".") or "encoder"


def with_content(member: Member, hashes: Mapping[str, str]) -> Member:
    """Return the member with the hash of the texts that it is adapted to in place of their file's name.

    Files may be moved. A member that is not adapted does not depend on what the recipe says for all.

    Args:
        hashes: of files' content by name; a file that is not among them keeps its name.
    """
    if member.args.adapt is None:
        return member
    if member.adaptation is None:
        return replace(member, settings={name: value for name, value in member.settings.items() if name != "adapt"})
    adaptation = member.adaptation
    file = adaptation.unlabelled
    return member.with_settings(adapt=str(replace(adaptation, unlabelled=hashes.get(file, file))))


def adaptation_run(folder: Path, member: Member, data: Mapping[str, str | None]) -> Run | None:
    """Return the run that adapts a member's encoder, in a folder below `folder`; None for one that is not adapted.

    Args:
        data: content hashes of the job's tweets by part.
    """
    if member.adaptation is None:
        return None
    own = adaptation_member(member)
    texts = {part: data.get(part) for part in ("labelled", "test") if getattr(member.adaptation, part)}
    content = json.dumps({"adaptation": effective_settings(own), "texts": texts}, sort_keys=True)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return Run(own, None, folder / own.name, fingerprint, is_adaptation=True)


def adaptations_of(runs: Iterable[Run]) -> list[Run]:
    """Return the adaptations that some runs wait for, each once."""
    return list({run.adaptation.directory: run.adaptation for run in runs if run.adaptation}.values())


def without_removed(runs: Iterable[Run]) -> list[Run]:
    """Return the runs but for adaptations that were removed when all runs that need them were done."""
    runs = list(runs)
    needed = {run.adaptation.directory for run in runs if run.adaptation and not run.is_done()}
    return [run for run in runs if not run.is_adaptation or run.directory in needed or run.directory.exists()]
