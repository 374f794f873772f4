"""A vote of some of a job's members and baselines, fitted for itself to their out-of-fold predictions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from smm4h.config.job import Job
from smm4h.config.plans.plan import Plan, make_plan
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.folds import read_fold_labels
from smm4h.ensemble.fitted_ensemble import FittedEnsemble, asked_config, fit_ensemble, members_without_refit
from smm4h.ensemble.member_predictions import check_done, out_of_fold_predictions
from smm4h.utils.errors import InputError, nearest


def baseline_runs(plan: Plan, task: Task) -> list[Run]:
    """Return the runs of the baselines that lie in a job's folder."""
    names = [path.name for path in sorted((plan.output_dir / "baselines").glob("*")) if path.is_dir()]
    members = list({run.member.name: run.member for run in plan.runs}.values())
    job = Job("", replace(plan.settings, baselines=names or ["none"]), task, plan.output_dir, members, [], [])
    return make_plan(job, plan.identity["data"]).baselines


def choose_members(
    plan: Plan, task: Task, names: Sequence[str], decision: str | None = None
) -> tuple[Plan, FittedEnsemble]:
    """Return the plan of some members and baselines, and their ensemble, which votes and decides as the job's does.

    Where some have no refit, as baselines have none, all models of all of them predict.

    Args:
        decision: another one than the job's.

    Raises:
        InputError: for a name that is neither, and for a baseline whose models were not kept.
    """
    baselines = baseline_runs(plan, task)
    known = list(dict.fromkeys([*plan.members, *(run.member.name for run in baselines)]))
    for name in names:
        if name not in known:
            raise InputError(f"--members {name}{nearest(name, known)}: {plan.output_dir} has {', '.join(known)}")
    runs = [run for name in dict.fromkeys(names) for run in [*plan.runs, *baselines] if run.member.name == name]
    for run in runs:
        if run.is_baseline and not run.model.is_dir():
            raise InputError(
                f"--members {run.member.name}: models of baselines are kept by --keep_baselines only; remove "
                f"{Path(plan.output_dir) / 'baselines' / run.member.name} and give the job's command with it, which "
                "takes seconds"
            )
    check_done(runs)
    plan.derived.check(plan.folds_file)
    gold = task.indices(read_fold_labels(plan.folds_file))
    models = "all" if members_without_refit(plan, names) else None
    config = asked_config(plan, task, {"decision": decision, "predict_with": models}, names)
    fitted, _ = fit_ensemble(out_of_fold_predictions(runs), gold, config, task)
    has_test = plan.identity["data"].get("test") is not None
    return replace(plan, runs=runs), fitted.for_new_tweets(runs)[0] if has_test else fitted
