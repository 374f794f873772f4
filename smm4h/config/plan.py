"""Plan of a job: its runs (members x folds) with stages and fingerprints, the paths of all files, and plan.json."""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.arguments import DEFAULTS, JOB_FIELDS, WITHOUT_EFFECT, JobSettings
from smm4h.config.decision import Costs
from smm4h.config.job import Job, Member
from smm4h.config.task import Columns, Submission, Task
from smm4h.config.versions import OWN
from smm4h.utils.derived import DerivedFiles
from smm4h.utils.durable import Listed, damages, read_checked_json
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json
from smm4h.utils.leases import lease_file_of

REFIT = "refit"  # folder of the refitted run, beside `fold-0`, `fold-1`, ...
DESCRIPTIVE = ("about", "meanings", "published", "costs", "further_measures")  # keys of a task without effect on runs
READING = ("header", "label_header", "spellings", "unknown_labels", "one_text_per_file")  # how files are read
WITHOUT_IDENTITY = ("columns", "files", *READING, *DESCRIPTIVE)  # keys whose effect the data's hashes hold, or none
LATER = ("average", "unscored")  # keys that older jobs did not know; without effect as long as they are not given
SHAPE_FILE = "submission.json"
OF_THE_RULE = tuple(f"recipe shared {key} " for key in ("vote", "decision", "ties"))  # of differences


@dataclass(frozen=True)
class Run:
    """One training of a member: on one fold's training part or, as a refit, on all labelled tweets."""

    member: Member
    fold: int | None  # None: a refit, which holds no tweet out
    directory: Path
    fingerprint: str
    is_baseline: bool = False  # without a vote

    @property
    def name(self) -> str:
        return f"{self.member.name}/{self.directory.name}"

    @property
    def is_refit(self) -> bool:
        return self.fold is None

    @property
    def part_name(self) -> str:
        """The fold, or the refit, in words."""
        return "refit" if self.is_refit else f"fold {self.fold}"

    def holds_out(self, folds: np.ndarray) -> np.ndarray:
        """Return a mask (n_tweets,) of the tweets that the run must not learn from.

        Args:
            folds: (n_tweets,) the fold that holds each tweet out.
        """
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
        """A teacher's probabilities of the unlabelled tweets; none where the test tweets are pseudo-labelled."""
        return self.directory / "unlabelled.parquet"

    @property
    def metrics_file(self) -> Path:
        return self.directory / "metrics.json"

    @property
    def done_file(self) -> Path:
        return self.directory / "DONE"

    @property
    def trained_file(self) -> Path:
        """Result of the training; exists from the completion of `trained_model` until the run is done."""
        return self.directory / "TRAINED"

    @property
    def collapsed_file(self) -> Path:
        """Exists while a run is trained with another seed, since it collapsed with the first one."""
        return self.directory / "COLLAPSED"

    @property
    def trained_model(self) -> Path:
        return self.directory / "trained"

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def running_file(self) -> Path:
        """Heartbeat: where the run is trained, and its step; exists while it is trained."""
        return self.directory / "RUNNING"

    @property
    def attempts_file(self) -> Path:
        """Event log, a JSON object per line."""
        return self.directory / "attempts.jsonl"

    @property
    def lease_file(self) -> Path:
        """Lease of the process that trains the run."""
        return lease_file_of(self.directory)

    def is_done(self) -> bool:
        """Whether DONE is there, whole, and of this run's fingerprint."""
        return self.done_record() is not None

    def done_record(self) -> dict[str, Any] | None:
        """Return the content of DONE; None where it is missing, damaged, or of another fingerprint."""
        try:
            status = self.done_file.stat()
        except OSError:
            return None
        record = _checked_json(self.done_file, (status.st_ino, status.st_size, status.st_mtime_ns))
        return record if record and record.get("fingerprint") == self.fingerprint else None

    def listed_files(self) -> Listed:
        """Return the sizes and hashes that DONE has of the run's files; empty before DONE, and in old jobs."""
        return (self.done_record() or {}).get("files", {})

    def check_file(self, path: Path) -> None:
        """Raise `InputError` for a file, or a folder with a file, that is not what the run wrote."""
        name = path.relative_to(self.directory).as_posix()
        own = {key: value for key, value in self.listed_files().items() if key == name or key.startswith(f"{name}/")}
        for damaged, wrong in damages(self.directory, own):
            raise InputError(
                f"{self.directory / damaged} {wrong}; remove {self.done_file} and give the job's command, which makes "
                "the run again"
            )

    def measures(self) -> dict[str, Any]:
        """Return the content of the metrics file."""
        return read_json(self.metrics_file)


@lru_cache(maxsize=4096)
def _checked_json(path: Path, version: tuple[int, ...]) -> dict[str, Any] | None:
    """Return the content of a checked file, which is read once for each `version` of it."""
    return read_checked_json(path)


@dataclass(frozen=True)
class Plan:
    """All runs of a job, the runs asked for by --members and --folds, and the paths of the job's files."""

    output_dir: Path
    runs: list[Run]
    wanted: list[Run]
    identity: dict[str, Any]  # what a result depends on: recipe, task, data
    baselines: list[Run] = field(default_factory=list)  # without a vote

    @property
    def plan_file(self) -> Path:
        return self.output_dir / "plan.json"

    @property
    def folds_file(self) -> Path:
        return self.output_dir / "folds.parquet"

    @property
    def report_file(self) -> Path:
        """What was odd about the tweets."""
        return self.output_dir / "data_report.json"

    @property
    def shape_file(self) -> Path:
        """Shape of the submission, which may be corrected after the training, and the sources of the test tweets."""
        return self.output_dir / SHAPE_FILE

    @property
    def token_folder(self) -> Path:
        return self.output_dir / "tokens"

    @property
    def fingerprints_file(self) -> Path:
        """Hashes of the phrases, ids and user names in tweets, which must not be published."""
        return self.output_dir / "marks.npz"

    @property
    def outside_folder(self) -> Path:
        """Predictions of members from elsewhere, in the order of the job's tweets."""
        return self.output_dir / "outside"

    @property
    def extra_file(self) -> Path:
        """Extra training tweets, without text, and the folds that must not train on each."""
        return self.output_dir / "extra.parquet"

    @property
    def derived(self) -> DerivedFiles:
        """The files that are made from runs and tweets; of jobs of earlier versions, they are taken as they are."""
        stored = read_checked_json(self.plan_file) or {}
        return DerivedFiles(self.output_dir, accepts_unrecorded=OWN not in stored.get("versions", {OWN: ""}))

    @property
    def out_of_fold_file(self) -> Path:
        return self.output_dir / "out_of_fold.parquet"

    @property
    def ensemble_file(self) -> Path:
        """The fitted voting rule and its scores."""
        return self.output_dir / "ensemble.json"

    @cached_property
    def settings(self) -> JobSettings:
        """The settings of the job that its results depend on; all others have their defaults."""
        return shared_settings(self.identity)

    @property
    def members(self) -> list[str]:
        """Names of the members, in the recipe's order."""
        return list(dict.fromkeys(run.member.name for run in self.runs))

    @property
    def members_with_models(self) -> list[str]:
        """Names of the members that are trained, and so have models; of the others predictions are all there is."""
        return list(dict.fromkeys(run.member.name for run in self.runs if not run.member.is_outside))

    def runs_of(self, members: Iterable[str]) -> list[Run]:
        """Return the runs of the members with these names."""
        names = set(members)
        return [run for run in self.runs if run.member.name in names]


def make_plan(job: Job, data: dict[str, str | None], outside: Mapping[str, Mapping[str, str]] | None = None) -> Plan:
    """Return the plan of a job.

    Args:
        data: content hashes of the tweets by part (`labelled`, `test`, `unlabelled`, `extra`), as far as they are
            known.
        outside: by the name of each member from elsewhere, content hashes of its predictions by part. They take the
            place of the files' names, so that files may be moved.
    """
    members = [
        member.with_settings(predictions=json.dumps(outside[member.name], sort_keys=True))
        if outside and member.name in outside
        else member
        for member in job.members
    ]
    identity = {
        "recipe": {
            "shared": job.shared_settings,
            "members": {member.name: _effective_settings(member) for member in members},
        },
        "task": _task_identity(job.task) | {"submission": _first_shape(job)},
        "data": data,
    }
    runs = _runs(job.output_dir, members, identity)
    baselines = _runs(job.output_dir / "baselines", job.baselines, identity, are_baselines=True)
    return Plan(job.output_dir, runs, wanted_of([*runs, *baselines], job.settings), identity, baselines)


def _task_identity(task: Task) -> dict[str, Any]:
    """Return what results depend on of a task."""
    content, plain = task.to_dict(), Task(task.name, task.labels, task.positive, task.measure, task.columns).to_dict()
    return {
        key: value
        for key, value in content.items()
        if key not in WITHOUT_IDENTITY and not (key in LATER and value == plain[key])
    }


def wanted_of(runs: Iterable[Run], settings: JobSettings) -> list[Run]:
    """Return the runs that --members and --folds ask for; all runs without these flags."""
    members, folds = settings.members, settings.folds
    return [r for r in runs if (not members or r.member.name in members) and (not folds or r.fold in folds)]


def _first_shape(job: Job) -> dict[str, Any]:
    """Return file and columns of the submission as the folder's plan has them, so that they can be corrected later.

    They are part of each run's fingerprint, though no run's result depends on them.
    """
    own = {"file": job.task.submission.file, "columns": job.task.submission.columns}
    try:
        stored = json.loads((job.output_dir / "plan.json").read_text(encoding="utf-8"))["task"]["submission"]
    except (OSError, ValueError, KeyError, TypeError):
        return own
    return stored if isinstance(stored, dict) and stored.keys() == own.keys() else own


def _shape_of(output_dir: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a job's submission; a job of an earlier version has file and columns in its plan only."""
    path = output_dir / SHAPE_FILE
    return json.loads(path.read_text(encoding="utf-8"))["shape"] if path.exists() else content["task"]["submission"]


def read_plan(output_dir: Path) -> tuple[Plan, Task]:
    """Read the plan and the task of a job; raise `InputError` where `output_dir` is not a job's output folder."""
    content = read_checked_json(output_dir / "plan.json")
    if content is None and (output_dir / "plan.json").is_file():
        raise InputError(f"{output_dir / 'plan.json'} is damaged; give the job's command, which makes it again")
    try:
        identity = {part: content[part] for part in ("recipe", "task", "data")}
        submission = Submission(**_shape_of(output_dir, content))
        columns = Columns(**content["columns"])
        further = {**content.get("reading", {}), **content.get("told", {})}
        if costs := further.get("costs"):
            further["costs"] = Costs(**costs)
        task = Task(**{**content["task"], **further, "submission": submission, "columns": columns})
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{output_dir} is not a job's output folder: it has no readable plan.json") from None
    members = [Member(name, settings) for name, settings in identity["recipe"]["members"].items()]
    runs = _runs(output_dir, members, identity)
    return Plan(output_dir, runs, runs, identity), task


def shared_settings(identity: dict[str, Any]) -> JobSettings:
    """Return the job's settings that a plan's identity holds."""
    return JobSettings(**{JOB_FIELDS[flag].name: value for flag, value in identity["recipe"]["shared"].items()})


def _runs(
    output_dir: Path, members: Iterable[Member], identity: dict[str, Any], *, are_baselines: bool = False
) -> list[Run]:
    n_folds = shared_settings(identity).n_folds
    return [
        Run(
            *(member, fold, output_dir / member.name / _folder_name(fold), _fingerprint(identity, member, fold)),
            is_baseline=are_baselines,
        )
        for member in members
        for fold in [*range(n_folds), *([None] if member.args.refit and not member.is_outside else [])]
    ]


def _folder_name(fold: int | None) -> str:
    return REFIT if fold is None else f"fold-{fold}"


def fold_runs(runs: Iterable[Run]) -> list[Run]:
    """Return the runs that hold tweets out, which are all but the refits."""
    return [run for run in runs if not run.is_refit]


def _effective_settings(member: Member) -> dict[str, Any]:
    """Return the member's settings that differ from the defaults and change results."""
    return {name: value for name, value in sorted(member.settings.items()) if name not in WITHOUT_EFFECT}


def _fingerprint(identity: dict[str, Any], member: Member, fold: int | None) -> str:
    """Return a SHA-256 of all that a run's result depends on; with pseudo labels, this includes all members."""
    members = identity["recipe"]["members"]
    content = {
        "shared": identity["recipe"]["shared"],
        "member": _effective_settings(member),
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
    content = _checked_json(plan_file, (status.st_ino, status.st_size, status.st_mtime_ns))
    return None if content is None else identity_hash(content)


def code_commit() -> str | None:
    """Return the commit of this project's checkout; None where it is not in a checkout of git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def is_stored(plan: Plan) -> bool:
    """Return whether the output folder holds the plan of this job."""
    return stored_plan(plan) is not None and difference_from_stored(plan) is None


def stored_plan(plan: Plan) -> dict[str, Any] | None:
    """Return the content of the output folder's plan.json; None where it is missing or damaged."""
    stored = read_checked_json(plan.plan_file)
    return stored if stored is not None and {"task", "data", "recipe", "versions"} <= stored.keys() else None


def difference_from_stored(plan: Plan) -> str | None:
    """Return the first difference from the output folder's plan, as a message with its remedy.

    None without a difference, and where there is no whole plan.
    """
    stored = stored_plan(plan)
    if stored is None:
        return None
    for part, remedy in (("task", "task"), ("data", "data"), ("recipe", "recipe or flags")):
        if difference := _first_difference(stored[part], plan.identity[part], part):
            saving = f"; ensemble.py {plan.output_dir} --save changes how a finished job decides"
            return (
                f"{plan.output_dir} was made with another {part}: {difference}; "
                f"choose another --output_dir, or the {remedy} that it was made with"
                f"{saving if difference.startswith(OF_THE_RULE) else ''}"
            )
    return None


def _first_difference(stored: Any, current: Any, path: str) -> str | None:
    """Return the first difference between a folder's settings and the current ones, in words; None if equal.

    Args:
        path: the keys down to these values, separated by spaces.
    """
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in [*stored, *(k for k in current if k not in stored)]:
            if difference := _first_difference(stored.get(key), current.get(key), f"{path} {key}"):
                return difference
        return None
    if json.loads(json.dumps(current)) == stored:
        return None
    default = DEFAULTS.get(path.rsplit(" ", 1)[-1])
    return f"{path} was {_shown(stored, default)} and is {_shown(current, default)} now"


def _shown(value: Any, default: Any) -> str:
    """Return a value for a message; hashes are cut, and large mappings left out."""
    if value is None:
        return "not there" if default is None else str(default)
    if isinstance(value, dict):
        return "another one" if len(value) > 3 else json.dumps(value)
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)


def teacher_runs(plan: Plan, job: Job, stage: int) -> list[Run]:
    """Return the runs whose vote labels the pseudo tweets of a stage; for stage 2 that vote is the paper's result-A."""
    return plan.runs_of(member.name for member in job.teachers_of(stage))
