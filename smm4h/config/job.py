"""A job and its members: what the command line and the recipe ask for."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smm4h.config.arguments import (
    BASELINE_CLEANING,
    DEFAULTS,
    OF_PUSHING,
    RUN_NAMES,
    WITHOUT_EFFECT,
    JobSettings,
    RunArguments,
)
from smm4h.config.task import Task
from smm4h.utils.errors import InputError


@dataclass
class Member:
    """One row of the recipe: its name and all its settings that differ from the defaults."""

    name: str
    settings: dict[str, Any]

    def get(self, name: str) -> Any:
        """A setting's value: the member's, or the default."""
        return self.settings.get(name, DEFAULTS[name])

    @property
    def has_encoder(self) -> bool:
        return self.get("classifier") == "encoder"

    @property
    def precision(self) -> str | None:
        """The number format of its matrix products; None: bf16 where the machine has it."""
        if self.get("fp16"):
            return "float16"
        return {None: None, True: "bfloat16", False: "float32"}[self.get("bf16")]

    @property
    def stage(self) -> int:
        """When its runs are trained: 1, or after the vote that makes its pseudo labels."""
        return 1 + self.get("pseudo_round") if self.get("pseudo_labels") else 1


@dataclass
class Job:
    """The command: what to do, with which members, on which task."""

    recipe: str
    settings: JobSettings
    task: Task
    output_dir: Path
    members: list[Member]
    notices: list[str]  # what a user may not expect of the flags given
    words: list[str]  # of the command line, without secrets

    @property
    def baselines(self) -> list[Member]:
        """What the ensemble is to beat; on the first member's folds."""
        shared = {name: self.members[0].get(name) for name in ("fold_seed", "seed")}
        return [
            Member(name, {"classifier": name, "cleaning": BASELINE_CLEANING, **shared})
            for name in self.settings.baselines
            if name != "none"
        ]

    @property
    def stages(self) -> list[int]:
        return sorted({1, *(member.stage for member in self.members)})

    @property
    def shared_settings(self) -> dict[str, Any]:
        """The job's settings that change a result and differ from the defaults."""
        return {
            f.name: getattr(self.settings, f.name)
            for f in dataclasses.fields(JobSettings)
            if f.name not in WITHOUT_EFFECT and getattr(self.settings, f.name) != DEFAULTS[f.name]
        }


def teachers_of(settings: JobSettings, members: Sequence[Member], stage: int) -> list[Member]:
    """Whose vote labels the pseudo tweets of a stage: the members of the stage before, of the first one a choice."""
    chosen = settings.pseudo_teachers if stage == 2 else []
    return [m for m in members if (m.name in chosen if chosen else m.stage == stage - 1)]


def with_columns(task: Task, settings: Any) -> Task:
    """The task with the columns that `settings` name by id_column_name, text_column_name and label_column_name."""
    given = {
        name: [value]
        for name in ("id", "text", "label")
        if (value := getattr(settings, f"{name}_column_name", None)) is not None
    }
    return dataclasses.replace(task, columns=dataclasses.replace(task.columns, **given))


def class_weights(member: Member) -> str | dict[str, float] | None:
    """`balanced`, or a weight for some labels by their names; raises ValueError for anything else."""
    value = member.get("class_weights")
    if value is None or value == "balanced":
        return value
    weights = yaml.safe_load(value)
    if not isinstance(weights, dict) or not all(isinstance(w, int | float) and w >= 0 for w in weights.values()):
        raise ValueError(value)
    return {str(label): float(weight) for label, weight in weights.items()}


def run_arguments(member: Member, output_dir: Path) -> RunArguments:
    """The member's training arguments for a run that writes to `output_dir`.

    Where several processes train the run together, each gets its part of the recipe's batch.
    """
    settings = {name: value for name, value in member.settings.items() if name in RUN_NAMES - OF_PUSHING}
    settings["output_dir"] = os.fspath(output_dir)
    try:
        arguments = RunArguments(**settings)
    except ValueError as error:
        raise InputError(f"member {member.name}: {' '.join(str(error).split())}") from None
    batch, n_processes = arguments.per_device_train_batch_size, arguments.world_size
    if batch % n_processes:
        raise InputError(
            f"member {member.name}: a batch of {batch} can't be shared by {n_processes} processes; launch a number "
            "that divides it, or give another --per_device_train_batch_size"
        )
    arguments.per_device_train_batch_size = batch // n_processes
    return arguments
