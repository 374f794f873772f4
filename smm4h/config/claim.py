"""The claim of an output folder for one recipe, task and data: plan.json, which one process creates in one act."""

import dataclasses
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from smm4h.config.job import Job
from smm4h.config.output_paths import ENCODERS_FILE
from smm4h.config.plans.adaptation import FOLDER
from smm4h.config.plans.identity import DESCRIPTIVE, READING, code_commit
from smm4h.config.plans.plan import Plan
from smm4h.config.plans.run import REFIT, Run
from smm4h.config.plans.stored import difference_from_stored, stored_plan
from smm4h.config.versions import OWN, own_version, versions
from smm4h.utils.durable import read_checked_json, write_checked_json
from smm4h.utils.errors import InputError
from smm4h.utils.files import sync_names
from smm4h.utils.leases import POLL_SECONDS, Lease, LeaseHolder, Waiting, holder_of, lease_file_of
from smm4h.utils.temporaries import private_folder

LOOKS = 5  # at folders that may vanish meanwhile
WITHOUT_RESULT = ("attempts.jsonl", "RUNNING")  # files of a run that has not been trained for long
RESULTS = ("pseudo_labels", "votes", "out_of_fold.parquet", "ensemble.json", "scores.json")
Counts = Mapping[str, Mapping[str, int]]  # of the texts of files: `texts`, and those that are others', by name
RECORDS = ("DONE", "TRAINED", "checkpoint-*/SEALED")  # files of a run that name its fingerprint


@contextmanager
def lock_output_dir(
    plan: Plan, job: Job, n_unlabelled: int, n_extra: Sequence[int] = (), adapted_to: Counts | None = None
) -> Iterator[list[str]]:
    """Create plan.json, or check that an existing one is of this job; yield notices.

    A folder in which another recipe, task or data made no result yet is taken over, unless that job still runs. The
    `with` block holds the lease by which other commands know that this one runs; a second job of the same plan does
    without.

    Args:
        n_unlabelled: number of unlabelled tweets.
        n_extra: number of extra training tweets of each file.
        adapted_to: number of texts of each file that encoders are adapted to, and how many are whose.

    Raises `InputError` with the first difference, where the folder is another recipe's, task's or data's.
    """
    try:
        plan.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {plan.output_dir} can't be made ({error.strerror})") from None
    lease = _lease_or_plan(plan)
    try:
        notices = _claim(plan, lambda: _content(plan, job, n_unlabelled, n_extra, adapted_to or {}), lease)
        yield [*notices, *_version_notices(plan, job)]
    finally:
        if lease is not None:
            lease.release()


def check_claimable(plan: Plan) -> None:
    """Raise `InputError` where the output folder has results of another recipe, task or data, before it is claimed."""
    if (difference := difference_from_stored(plan)) and _holds_results(plan.output_dir):
        raise InputError(difference)


def _lease_or_plan(plan: Plan) -> Lease | None:
    """Return the job's lease; None where another job has it and has written its plan."""
    leases, lease_file, waiting = LeaseHolder(), lease_file_of(plan.plan_file), Waiting()
    while (lease := leases.try_acquire(lease_file)) is None and stored_plan(plan) is None:
        waiting.tell(lambda: f"{plan.plan_file}, which is written by {holder_of(lease_file)}")
        time.sleep(POLL_SECONDS)
    return lease


def _claim(plan: Plan, content: Callable[[], dict[str, Any]], lease: Lease | None) -> list[str]:
    """Make the folder this job's, or raise `InputError`; return notices.

    Args:
        content: returns what plan.json is to hold.
        lease: the job's; None: the folder has a plan, and its job runs.
    """
    notices: list[str] = []
    if difference := difference_from_stored(plan):
        if lease is None or _holds_results(plan.output_dir):
            raise InputError(difference)
        _remove_preparations(plan, lease)
        notices.append(f"{plan.output_dir} was begun with other settings and held no result; it is begun anew")
    elif lease is not None and plan.plan_file.exists() and stored_plan(plan) is None:
        _remove_damaged_plan(plan, lease)
        notices.append(f"{plan.plan_file} was damaged and is made again")
    if lease is not None and not plan.plan_file.exists():
        _create(plan.plan_file, content())
    if difference := difference_from_stored(plan):  # a job that lost its lease in a stop may have been overtaken
        raise InputError(difference)
    return notices


def _create(path: Path, content: dict[str, Any]) -> None:
    """Write plan.json unless another process was faster, in one act: a hard link, which NFS creates exclusively, too.

    Where the file system has no hard links, the lease alone keeps two processes apart.
    """
    with private_folder(path.parent) as folder:
        partial = folder / path.name
        write_checked_json(partial, content)
        try:
            os.link(partial, path)
        except FileExistsError:
            return
        except OSError:
            partial.rename(path)
        sync_names(path.parent)


def _content(plan: Plan, job: Job, n_unlabelled: int, n_extra: Sequence[int], adapted_to: Counts) -> dict[str, Any]:
    """Return the content of plan.json."""
    content = {
        **plan.identity,
        "recipe_file": job.recipe,
        "command": job.words,
        "versions": _versions(job),
        "begun": datetime.now(timezone.utc).date().isoformat(),
        "commit": code_commit(),
        "columns": dataclasses.asdict(job.task)["columns"],
        "reading": {name: getattr(job.task, name) for name in READING},
        "told": {name: value for name, value in dataclasses.asdict(job.task).items() if name in DESCRIPTIVE},
    }
    if job.budget is not None:
        content["budget"] = dataclasses.asdict(job.budget)
    if job.settings.unlabelled_file:
        content["unlabelled"] = _provenance(Path(job.settings.unlabelled_file), n_unlabelled)
    if outside := [member for member in job.members if member.is_outside]:
        content["outside"] = {
            member.name: {part: _provenance(Path(file)) for part, file in member.outside_files.items()}
            for member in outside
        }
    if n_extra:
        files = zip(job.settings.extra_train_file, n_extra, strict=True)
        content["extra"] = [_provenance(Path(name), n_tweets) for name, n_tweets in files]
    if plan.adaptations:
        content["adaptations"] = {run.name: _adaptation(run, plan, job, adapted_to) for run in plan.adaptations}
    return content


def _adaptation(run: Run, plan: Plan, job: Job, counts: Counts) -> dict[str, Any]:
    """Return the provenance of an adapted encoder: its settings, its members, and the file of texts, if there is one.

    Args:
        counts: number of texts by file, and how many of them are those of labelled and of test tweets.
    """
    members = list(dict.fromkeys(one.member.name for one in plan.runs if one.adaptation == run))
    settings = {k: v for k, v in dataclasses.asdict(run.member.adaptation).items() if k != "unlabelled"}
    file = next(m.adaptation.unlabelled for m in job.members if m.name == members[0])
    content = {"encoder": run.member.args.model_name_or_path, "members": members, "settings": settings}
    if file is None:
        return content
    known = counts.get(file, {})
    shared = {f"among_{name}": known[name] for name in ("labelled", "test") if name in known}
    return {**content, "unlabelled": {**_provenance(Path(file), known.get("texts")), **shared}}


def _provenance(path: Path, n_tweets: int | None = None) -> dict[str, Any]:
    """Return the provenance of further tweets: file name, hash of its bytes, time of its last change.

    Of a folder, the hash is that of its files' bytes, in the order of their names.
    """
    written = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    known = {"file": path.name, "sha256": digest, "written": written}
    return known if n_tweets is None else {**known, "tweets": n_tweets}


def _versions(job: Job) -> dict[str, str]:
    """Return the versions that the job's results depend on."""
    return versions(*(["emoji"] if any("bertweet" in member.args.cleaning for member in job.members) else []))


def _version_notices(plan: Plan, job: Job) -> list[str]:
    """Return a line for each library, and for each state of this project's code, that made runs and is another now."""
    current, stored = _versions(job), (stored_plan(plan) or {})["versions"]
    notices = [
        f"{name} {stored.get(name)} made the runs that are done, the others get {version}"
        for name, version in current.items()
        if name != OWN and stored.get(name) != version
    ]
    records = [record for run in _all_runs(plan) if (record := run.done_record())]
    makers = Counter(record.get(OWN, "an earlier version") for record in records)
    return notices + [
        f"{count} of {len(records)} runs that are done were made by {OWN} {maker}; this is {own_version()}, whose "
        "runs and votes may differ"
        for maker, count in makers.items()
        if maker != own_version()
    ]


def _all_runs(plan: Plan) -> Iterable[Run]:
    return [*plan.adaptations, *plan.runs, *plan.baselines]


def _run_folders(output_dir: Path) -> list[Path]:
    """Return the folders of all runs that were begun, of whatever recipe."""
    found: dict[Path, None] = {}
    for pattern in (
        *(f"{depth}/{name}" for name in ("fold-*", REFIT) for depth in ("*", "*/*")),
        f"{FOLDER}/*",
    ):
        for _ in range(LOOKS):
            try:
                found |= dict.fromkeys(output_dir.glob(pattern))
                break
            except OSError:  # a folder that another process removed while Python 3.11 looked into it
                continue
    return list(found)


def _names_in(folder: Path) -> set[str]:
    """Return the names of a folder's files that are not hidden; none where the folder was removed meanwhile."""
    try:
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except FileNotFoundError:
        return set()


def _holds_results(output_dir: Path) -> bool:
    """Return whether a run has left more than its event log, or is trained now."""
    leases = LeaseHolder()
    for folder in _run_folders(output_dir):
        names = _names_in(folder)
        if names - set(WITHOUT_RESULT) or any(folder.glob(".*/checkpoint-*/SEALED")):
            return True
        lease = leases.try_acquire(lease_file_of(folder))
        if lease is None:
            return True
        lease.release()
    return any((output_dir / name).exists() for name in RESULTS)


def _remove_preparations(plan: Plan, lease: Lease) -> None:
    """Remove what a job without results has left, plan.json last."""
    lease.check()
    for path in (*_run_folders(plan.output_dir), plan.token_folder):
        shutil.rmtree(path, ignore_errors=True)
    prepared = plan.folds_file, plan.extra_file, plan.report_file, plan.fingerprints_file, plan.derived.records_file
    for path in (*prepared, plan.output_dir / ENCODERS_FILE, plan.plan_file):
        path.unlink(missing_ok=True)


def _remove_damaged_plan(plan: Plan, lease: Lease) -> None:
    """Remove a damaged plan.json; raise `InputError` where runs of another recipe, task or data are in the folder."""
    own = {run.fingerprint for run in _all_runs(plan)}
    for folder in _run_folders(plan.output_dir):
        for path in (path for name in RECORDS for path in folder.glob(name)):
            record = read_checked_json(path)
            if record is not None and record.get("fingerprint") not in own:
                raise InputError(
                    f"{plan.plan_file} is damaged, and {path} is of another recipe, task or data; give the command "
                    "that the folder was made with, or choose another --output_dir"
                )
    lease.check()
    with suppress(FileNotFoundError):
        plan.plan_file.unlink()
