"""Recipe x folds -> runs with stages and fingerprints; which are done; and whose folder this is."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.arguments import DEFAULTS, WITHOUT_EFFECT, JobSettings
from smm4h.config.job import Job, Member
from smm4h.config.task import Columns, Submission, Task
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_json

REFIT = "refit"  # the folder of the run beside those of the folds
DESCRIPTIVE = ("about", "meanings", "published")  # of a task: for people, without effect
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Run:
    """One member trained on one fold's training part, or refitted: trained on all labelled tweets."""

    member: Member
    fold: int | None  # None: refitted, which holds no tweet out
    directory: Path
    fingerprint: str

    @property
    def name(self) -> str:
        return f"{self.member.name}/{self.directory.name}"

    @property
    def is_refit(self) -> bool:
        return self.fold is None

    @property
    def part_name(self) -> str:
        """What it is of its member, in words."""
        return "refit" if self.is_refit else f"fold {self.fold}"

    def holds_out(self, folds: np.ndarray) -> np.ndarray:
        """Which tweets (n_tweets,) it must not learn from, of the fold that holds each out."""
        return np.zeros(len(folds), dtype=bool) if self.is_refit else folds == self.fold

    @property
    def stage(self) -> int:
        return self.member.stage

    @property
    def held_out_file(self) -> Path:
        return self.directory / "held_out.parquet"

    @property
    def test_file(self) -> Path:
        return self.directory / "test.parquet"

    @property
    def unlabelled_file(self) -> Path:
        """Its probabilities of the pool of unlabelled tweets, where there is one of its own."""
        return self.directory / "unlabelled.parquet"

    @property
    def metrics_file(self) -> Path:
        return self.directory / "metrics.json"

    @property
    def done_file(self) -> Path:
        return self.directory / "DONE"

    @property
    def trained_file(self) -> Path:
        """There from the last training step until `DONE`: what training found out; and `trained_model` is whole."""
        return self.directory / "TRAINED"

    @property
    def collapsed_file(self) -> Path:
        """There while a run is trained with another seed, since the first one taught it nothing."""
        return self.directory / "COLLAPSED"

    @property
    def trained_model(self) -> Path:
        return self.directory / "trained"

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def running_file(self) -> Path:
        """Where the run is trained and how far it is, while it is."""
        return self.directory / "RUNNING"

    @property
    def attempts_file(self) -> Path:
        """What has happened to the run, an event a line."""
        return self.directory / "attempts.jsonl"

    @property
    def lease_file(self) -> Path:
        """Held while the run is trained."""
        return self.directory.parent / f".{self.directory.name}.claim"

    def is_done(self) -> bool:
        return self.done_file.is_file()

    def measures(self) -> dict[str, Any]:
        return json.loads(self.metrics_file.read_text())


@dataclass(frozen=True)
class Plan:
    """All runs of a job, those asked for by --members and --folds, and where everything lies."""

    output_dir: Path
    runs: list[Run]
    wanted: list[Run]
    identity: dict[str, Any]  # what a result depends on: recipe, task, data
    baselines: list[Run] = field(default_factory=list)  # they have no vote

    @property
    def plan_file(self) -> Path:
        return self.output_dir / "plan.json"

    @property
    def folds_file(self) -> Path:
        return self.output_dir / "folds.parquet"

    @property
    def fingerprints_file(self) -> Path:
        """Hashes of what must not be published."""
        return self.output_dir / "marks.npz"

    @property
    def out_of_fold_file(self) -> Path:
        return self.output_dir / "out_of_fold.parquet"

    @property
    def ensemble_file(self) -> Path:
        """How the members' probabilities become a label."""
        return self.output_dir / "ensemble.json"

    def shared(self, name: str) -> Any:
        """A setting of the whole job that changes its results."""
        return self.identity["recipe"]["shared"].get(name, DEFAULTS[name])

    @property
    def members(self) -> list[str]:
        return list(dict.fromkeys(run.member.name for run in self.runs))

    def runs_of(self, members: Iterable[str]) -> list[Run]:
        chosen = set(members)
        return [run for run in self.runs if run.member.name in chosen]


def make_plan(job: Job, data: dict[str, str | None]) -> Plan:
    """The plan of a job on data with these content hashes (`labelled`, `test`)."""
    identity = {
        "recipe": {
            "shared": job.shared_settings,
            "members": {member.name: _with_effect(member) for member in job.members},
        },
        "task": {
            key: value for key, value in job.task.to_dict().items() if key not in ("columns", "files", *DESCRIPTIVE)
        },
        "data": data,
    }
    runs = _runs(job.output_dir, job.members, identity)
    baselines = _runs(job.output_dir / "baselines", job.baselines, identity)
    return Plan(job.output_dir, runs, wanted_of([*runs, *baselines], job.settings), identity, baselines)


def wanted_of(runs: Iterable[Run], settings: JobSettings) -> list[Run]:
    """The runs that --members and --folds ask for."""
    members, folds = settings.members, settings.folds
    return [r for r in runs if (not members or r.member.name in members) and (not folds or r.fold in folds)]


def read_plan(output_dir: Path) -> tuple[Plan, Task]:
    """The plan and the task of a job's folder; raises `InputError` for a folder that is none."""
    try:
        made = json.loads((output_dir / "plan.json").read_text())
        identity = {part: made[part] for part in ("recipe", "task", "data")}
        submission, columns = Submission(**made["task"]["submission"]), Columns(**made["columns"])
        told = made.get("told", {})
        task = Task(**{**made["task"], **told, "submission": submission, "columns": columns})
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{output_dir} is not a job's output folder: it has no readable plan.json") from None
    members = [Member(name, settings) for name, settings in identity["recipe"]["members"].items()]
    runs = _runs(output_dir, members, identity)
    return Plan(output_dir, runs, runs, identity), task


def _runs(output_dir: Path, members: Iterable[Member], identity: dict[str, Any]) -> list[Run]:
    n_folds = identity["recipe"]["shared"].get("n_folds", DEFAULTS["n_folds"])
    return [
        Run(member, fold, output_dir / member.name / _folder_of(fold), _fingerprint(identity, member, fold))
        for member in members
        for fold in [*range(n_folds), *([None] if member.get("refit") else [])]
    ]


def _folder_of(fold: int | None) -> str:
    return REFIT if fold is None else f"fold-{fold}"


def fold_runs(runs: Iterable[Run]) -> list[Run]:
    """Those that hold tweets out."""
    return [run for run in runs if not run.is_refit]


def _with_effect(member: Member) -> dict[str, Any]:
    return {name: value for name, value in sorted(member.settings.items()) if name not in WITHOUT_EFFECT}


def _fingerprint(identity: dict[str, Any], member: Member, fold: int | None) -> str:
    """SHA-256 of all that a run's result depends on; a pseudo-labelled run depends on its teachers too."""
    members = identity["recipe"]["members"]
    content = {
        "shared": identity["recipe"]["shared"],
        "member": _with_effect(member),
        "teachers": members if member.get("pseudo_labels") else None,
        "fold": fold,
        "task": identity["task"],
        "data": identity["data"],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _provenance(path: Path, n_tweets: int) -> dict[str, Any]:
    """Where unlabelled tweets came from: the file's name, the hash of its bytes, when it was written."""
    written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"file": path.name, "sha256": digest, "written": written, "tweets": n_tweets}


def lock_output_dir(plan: Plan, job: Job, n_unlabelled: int) -> list[str]:
    """Makes the output folder this job's, or sees that it is; returns notices on what differs without effect.

    Raises `InputError` where the folder was made by another recipe, task or data, with the first difference named.
    """
    try:
        plan.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {plan.output_dir} can't be made ({error.strerror})") from None
    versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    if not plan.plan_file.exists():
        content = {
            **plan.identity,
            "recipe_file": job.recipe,
            "command": job.words,
            "versions": versions,
            "columns": dataclasses.asdict(job.task)["columns"],
            "told": {name: getattr(job.task, name) for name in DESCRIPTIVE},
        }
        if job.settings.unlabelled_file:
            content["unlabelled"] = _provenance(Path(job.settings.unlabelled_file), n_unlabelled)
        write_json(plan.plan_file, content)
        return []
    made = json.loads(plan.plan_file.read_text())
    for part, remedy in (("task", "task"), ("data", "data"), ("recipe", "recipe or flags")):
        if difference := _difference(made[part], plan.identity[part], part):
            raise InputError(
                f"{plan.output_dir} was made with another {part}: {difference}; "
                f"choose another --output_dir, or the {remedy} that it was made with"
            )
    return [
        f"{name} {made['versions'].get(name)} made the runs that are done, the others get {now}"
        for name, now in versions.items()
        if made["versions"].get(name) != now
    ]


def _difference(made: Any, now: Any, path: str) -> str | None:
    """The first difference between what a folder was made with and what is asked of it now, in words."""
    if isinstance(made, dict) and isinstance(now, dict):
        for key in [*made, *(k for k in now if k not in made)]:
            if found := _difference(made.get(key), now.get(key), f"{path} {key}"):
                return found
        return None
    if json.loads(json.dumps(now)) == made:
        return None
    default = DEFAULTS.get(path.rsplit(" ", 1)[-1])
    return f"{path} was {_shown(made, default)} and is {_shown(now, default)} now"


def _shown(value: Any, default: Any) -> str:
    if value is None:
        return "not there" if default is None else str(default)
    if isinstance(value, dict):
        return "another one" if len(value) > 3 else json.dumps(value)
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
