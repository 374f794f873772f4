"""Plan of a job: its runs (members x folds) with stages and fingerprints, and the paths of the job's files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from smm4h.config.arguments import JobSettings
from smm4h.config.decision import Costs
from smm4h.config.job import Job, Member
from smm4h.config.plans.adaptation import FOLDER, adaptation_run, adaptations_of, with_content
from smm4h.config.plans.identity import effective_settings, fingerprint_of, shared_settings, task_identity
from smm4h.config.plans.run import REFIT, Run
from smm4h.config.plans.subtask_jobs import check_one_subtask
from smm4h.config.task import Columns, MultiLabel, Submission, Task
from smm4h.config.versions import OWN
from smm4h.utils.derived import DerivedFiles
from smm4h.utils.durable import read_checked_json
from smm4h.utils.errors import InputError

SHAPE_FILE = "submission.json"


@dataclass(frozen=True)
class Plan:
    """All runs of a job, the runs asked for by --members and --folds, and the paths of the job's files."""

    output_dir: Path
    runs: list[Run]
    wanted: list[Run]
    identity: dict[str, Any]  # what a result depends on: recipe, task, data
    baselines: list[Run] = field(default_factory=list)  # without a vote
    text_files: Mapping[str, str] = field(default_factory=dict)  # by content hash: files that encoders are adapted to

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
        return derived_files(self.output_dir)

    @property
    def derived_before_training(self) -> tuple[Path, ...]:
        """The derived files that every job has before its first run is trained."""
        return self.folds_file, self.fingerprints_file, self.report_file

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
    def adaptations(self) -> list[Run]:
        """The runs that adapt encoders, before all runs that fine-tune them."""
        return adaptations_of(self.runs)

    @property
    def members_with_models(self) -> list[str]:
        """Names of the members that are trained, and so have models; of the others predictions are all there is."""
        return list(dict.fromkeys(run.member.name for run in self.runs if not run.member.is_outside))

    def runs_of(self, members: Iterable[str]) -> list[Run]:
        """Return the runs of the members with these names."""
        names = set(members)
        return [run for run in self.runs if run.member.name in names]


def make_plan(
    job: Job,
    data: dict[str, str | None],
    outside: Mapping[str, Mapping[str, str]] | None = None,
    adaptation: Mapping[str, str] | None = None,
) -> Plan:
    """Return the plan of a job.

    Args:
        data: content hashes of the tweets by part (`labelled`, `test`, `unlabelled`, `extra`), as far as they are
            known.
        outside: by the name of each member from elsewhere, content hashes of its predictions by part. They take the
            place of the files' names, so that files may be moved.
        adaptation: content hashes of the files that encoders are adapted to, which take the place of their names, too.
    """
    members = [
        member.with_settings(predictions=json.dumps(outside[member.name], sort_keys=True))
        if outside and member.name in outside
        else with_content(member, adaptation or {})
        for member in job.members
    ]
    identity = {
        "recipe": {
            "shared": job.shared_settings,
            "members": {member.name: effective_settings(member) for member in members},
        },
        "task": task_identity(job.task) | {"submission": _first_shape(job)},
        "data": data,
    }
    runs = _runs(job.output_dir, members, identity)
    baselines = _runs(job.output_dir / "baselines", job.baselines, identity, are_baselines=True)
    wanted = wanted_of([*runs, *baselines], job.settings)
    text_files = {content: file for file, content in (adaptation or {}).items()}
    return Plan(job.output_dir, runs, [*adaptations_of(wanted), *wanted], identity, baselines, text_files)


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
    """Read the plan and the task of a job; raise `InputError` where `output_dir` is not one job's output folder."""
    check_one_subtask(output_dir)
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
        if multi_label := content["task"].get("multi_label"):
            further["multi_label"] = MultiLabel(**multi_label)
        task = Task(**{**content["task"], **further, "submission": submission, "columns": columns})
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{output_dir} is not a job's output folder: it has no readable plan.json") from None
    members = [Member(name, settings) for name, settings in identity["recipe"]["members"].items()]
    runs = _runs(output_dir, members, identity)
    return Plan(output_dir, runs, [*adaptations_of(runs), *runs], identity), task


def _runs(
    output_dir: Path, members: Sequence[Member], identity: dict[str, Any], *, are_baselines: bool = False
) -> list[Run]:
    n_folds = shared_settings(identity).n_folds
    adapted = {m.name: adaptation_run(output_dir / FOLDER, m, identity["data"]) for m in members}
    return [
        Run(
            *(member, fold, output_dir / member.name / _folder_name(fold), fingerprint_of(identity, member, fold)),
            is_baseline=are_baselines,
            adaptation=adapted[member.name],
        )
        for member in members
        for fold in [*range(n_folds), *([None] if member.args.refit and not member.is_outside else [])]
    ]


def derived_files(output_dir: Path) -> DerivedFiles:
    """Return the derived files of a job's folder; of jobs of earlier versions, they need no record."""
    stored = read_checked_json(output_dir / "plan.json") or {}
    return DerivedFiles(output_dir, accepts_unrecorded=OWN not in stored.get("versions", {OWN: ""}))


def _folder_name(fold: int | None) -> str:
    return REFIT if fold is None else f"fold-{fold}"


def fold_runs(runs: Iterable[Run]) -> list[Run]:
    """Return the runs that hold tweets out, which are all but the refits."""
    return [run for run in runs if not run.is_refit]


def new_tweet_runs(runs: Iterable[Run], *, refits_alone: bool) -> list[Run]:
    """Return the runs whose models predict new tweets: all, or of each member that has refits these alone."""
    runs = list(runs)
    refitted = {run.member.name for run in runs if run.is_refit} if refits_alone else set()
    return [run for run in runs if run.is_refit or run.member.name not in refitted]


def teacher_runs(plan: Plan, job: Job, stage: int) -> list[Run]:
    """Return the runs whose vote labels the pseudo tweets of a stage; for stage 2 that vote is the paper's result-A."""
    return plan.runs_of(member.name for member in job.teachers_of(stage))
