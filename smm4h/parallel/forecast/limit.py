"""Time limit: fewer folds, then fewer members, chosen by the forecast before anything is trained, and kept."""

import time
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from smm4h.config.job import Budget, Job, Member
from smm4h.config.output_paths import BUDGET_FILE
from smm4h.config.plans.durations import about, seconds_of
from smm4h.config.plans.identity import identity_hash
from smm4h.config.plans.plan import Plan, make_plan
from smm4h.config.plans.stored import stored_plan
from smm4h.data.splits import Splits
from smm4h.parallel.environment import LaunchEnvironment
from smm4h.parallel.forecast.costs import is_quick
from smm4h.parallel.forecast.forecast import Forecast, Forecaster
from smm4h.parallel.forecast.probe import NoForecast
from smm4h.utils.durable import read_checked_json, write_checked_json
from smm4h.utils.errors import ASK_AGAIN, InputError
from smm4h.utils.leases import POLL_SECONDS, Waiting, lease_file_of, wait_for_lease

FEWEST_FOLDS = 3  # two would train each model on half of the tweets


def reduced(job: Job, n_folds: int, members: list[str]) -> Job:
    """Return the job with other folds and some of its members."""
    teachers = [name for name in job.settings.pseudo_teachers if name in members]
    settings = replace(job.settings, n_folds=n_folds, pseudo_teachers=teachers)
    return replace(job, settings=settings, members=[member for member in job.members if member.name in members])


def smaller_jobs(job: Job) -> Iterator[Job]:
    """Yield the job, and then ever smaller ones: fold after fold down to three, then member after member.

    The last member of the recipe goes first. A teacher stays as long as a member that it teaches; members that count
    words or come from elsewhere stay, since they take seconds; and so does the first of the others.
    """
    yield job
    while job.settings.n_folds > FEWEST_FOLDS:
        job = reduced(job, job.settings.n_folds - 1, [member.name for member in job.members])
        yield job
    while member := _next_to_go(job):
        job = reduced(job, job.settings.n_folds, [one.name for one in job.members if one is not member])
        yield job


def _next_to_go(job: Job) -> Member | None:
    """Return the member that is left out next; None where no more can be."""
    needed = {teacher.name for stage in job.stages if stage > 1 for teacher in job.teachers_of(stage)}
    slow = [member for member in job.members if not is_quick(member)]
    return next((member for member in reversed(slow[1:]) if member.name not in needed), None)


def planned_within(job: Job, splits: Splits, forecaster: Forecaster) -> tuple[Job, Forecast]:
    """Return the largest job that is forecast to fit the time limit, and its forecast.

    Raises `InputError` where even the smallest does not fit.
    """
    limit = seconds_of(job.settings.time_limit)
    for smaller in smaller_jobs(job):
        forecast = forecaster.forecast(_plan_of(smaller, splits), smaller)
        if forecast.seconds <= limit:
            return smaller, forecast
    raise InputError(
        f"--time_limit {job.settings.time_limit}: {smaller.settings.n_folds} folds of {_names(smaller)} alone are "
        f"forecast to take about {about(forecast.seconds)}; give more time, or a smaller encoder or fewer epochs"
    )


def _plan_of(job: Job, splits: Splits) -> Plan:
    return make_plan(job, *splits.hashes())


def _names(job: Job) -> str:
    return ", ".join(member.name for member in job.members)


def within_time_limit(job: Job, splits: Splits, launch: LaunchEnvironment) -> tuple[Job, Forecaster | None]:
    """Return the job that the time limit leaves, with its `budget`, and what chose it, if anything had to.

    Without a limit it is the job itself. The output folder's plan keeps what was chosen, so that a resumed job goes on
    with it, whatever a forecast would say by then. The first process of all hosts chooses, the others follow.

    Raises `InputError` for a limit that the folder was not planned for, and where nothing can be forecast.
    """
    full = _plan_of(job, splits)
    asked, limit = identity_hash(full.identity), job.settings.time_limit
    if stored := _stored_budget(full, asked, limit):
        return _with_budget(job, Budget(**stored)), None
    if limit is None:
        return job, None
    if job.settings.check or stored_plan(full) is not None:  # of another job, whose folder is refused or taken over
        budget, forecaster = _choose(job, full, asked, splits, launch)
        return _with_budget(job, budget), forecaster
    if not launch.is_main_process:
        return _with_budget(job, _wait_for_budget(full, asked, limit, launch)), None
    file = full.output_dir / BUDGET_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lease(lease_file_of(file), file):
        if budget := _agreed_budget(file, asked, limit):
            return _with_budget(job, budget), None
        budget, forecaster = _choose(job, full, asked, splits, launch)
        write_checked_json(file, asdict(budget))
    return _with_budget(job, budget), forecaster


def _choose(job: Job, full: Plan, asked: str, splits: Splits, launch: LaunchEnvironment) -> tuple[Budget, Forecaster]:
    """Measure, and return the budget of the largest job that fits the limit."""
    limit = job.settings.time_limit
    try:
        forecaster = Forecaster.of_job(full, job, splits, launch)
    except NoForecast as error:
        raise InputError(f"--time_limit {limit}: the time can't be forecast: {error}; leave the limit out") from None
    whole = forecaster.forecast(full, job)
    smaller, forecast = planned_within(job, splits, forecaster)
    members = [member.name for member in smaller.members]
    seconds = round(whole.seconds), round(forecast.seconds)
    return Budget(limit, asked, smaller.settings.n_folds, members, *seconds), forecaster


def _agreed_budget(file: Path, asked: str, limit: str) -> Budget | None:
    """Return the budget that another process has chosen for the same job and limit; None without one."""
    content = read_checked_json(file)
    if not content or (content["asked"], content["time_limit"]) != (asked, limit):
        return None
    return Budget(**{field.name: content[field.name] for field in fields(Budget)})


def _with_budget(job: Job, budget: Budget) -> Job:
    return replace(reduced(job, budget.n_folds, budget.members), budget=budget)


def _stored_budget(full: Plan, asked: str, limit: str | None) -> dict[str, Any] | None:
    """Return the budget that the output folder was planned with, if it is of this job; None without one.

    Raises `InputError` where the folder is this job's, with another time limit or without any.
    """
    stored = stored_plan(full)
    if stored is None:
        return None
    budget = stored.get("budget")
    if budget and budget["asked"] == asked and budget["time_limit"] != limit:
        raise _other_limit(full.output_dir, f"--time_limit {budget['time_limit']}", f"--time_limit {limit}")
    if limit is not None and not budget and identity_hash(stored) == asked:
        raise _other_limit(full.output_dir, "no --time_limit", f"--time_limit {limit}")
    return budget if budget and budget["asked"] == asked else None


def _other_limit(folder: Path, planned: str, given: str) -> InputError:
    given = given.replace("--time_limit None", "none")
    return InputError(
        f"{folder} was planned for {planned}, and {given} is asked for now; give the command as it was, or choose "
        "another --output_dir"
    )


def _wait_for_budget(full: Plan, asked: str, limit: str, launch: LaunchEnvironment) -> Budget:
    """Return the budget once the main process has chosen it; end where it ended instead."""
    waiting, file = Waiting(), full.output_dir / BUDGET_FILE
    while (budget := _agreed_budget(file, asked, limit)) is None:
        if launch.is_orphaned():
            raise SystemExit(ASK_AGAIN)
        waiting.tell(lambda: f"{file}, which another process of this launch writes")
        time.sleep(POLL_SECONDS)
    return budget


def budget_notices(job: Job, asked_folds: int, asked_members: list[str]) -> list[str]:
    """Return lines on what the time limit left out of the job as it was asked for."""
    if (budget := job.budget) is None:
        return []
    whole, planned = about(budget.seconds_asked), about(budget.seconds)
    left_out = [name for name in asked_members if name not in budget.members]
    lines = [f"--time_limit {budget.time_limit}: about {whole} for all, about {planned} as planned"]
    if budget.n_folds < asked_folds:
        lines.append(
            f"{budget.n_folds} folds in place of {asked_folds}: every tweet is still held out once, and each model "
            f"learns from {1 - 1 / budget.n_folds:.0%} of them, not {1 - 1 / asked_folds:.0%}"
        )
    if left_out:
        lines.append(f"left out: {', '.join(left_out)}; trained: {', '.join(budget.members)}")
    if len(lines) == 1:
        lines = [f"--time_limit {budget.time_limit}: nothing needs to be left out, as all takes about {whole}"]
    return lines
