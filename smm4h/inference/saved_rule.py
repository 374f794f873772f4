"""Another rule for a finished job: fitted, stored, and everything that follows from it made anew."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from smm4h.config.job import Job
from smm4h.config.plans.plan import Plan, make_plan, read_plan
from smm4h.config.plans.stored import difference_from_stored
from smm4h.config.recipe import read_command_line
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.outputs.labels import in_order_of
from smm4h.data.outputs.predictions import read_predictions
from smm4h.data.splits import load_splits, read_gold
from smm4h.ensemble.fitted_ensemble import asked_config, keep_saved_rule, write_ensemble
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.stages import LabelledPart, fit_and_vote, remove_votes, score_job
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json
from smm4h.utils.leases import LeaseHolder, lease_file_of
from smm4h.utils.wording import are, counted


@dataclass(frozen=True)
class JobParts:
    """A finished job as its command left it, with its tweets where they can be read."""

    job: Job
    plan: Plan
    labelled: LabelledPart
    test_gold: np.ndarray | None  # (n_test_tweets,) class indices
    notices: tuple[str, ...] = ()

    @classmethod
    def of_folder(cls, folder: Path) -> "JobParts":
        """Return the parts of a job's folder; raise `InputError` for a job that is not finished."""
        plan, task = read_plan(folder)
        if missing := [run.name for run in plan.runs if not run.is_done()]:
            which = f"{counted(len(missing), 'run')} {are(len(missing))}"
            raise InputError(f"{folder}: {which} missing ({missing[0]}, ...); give the job's command")
        try:
            return cls._by_command(folder)
        except (InputError, OSError) as error:
            notice = f"the job's tweets can't be read ({error}); its command, given again, adds what needs them"
        members = list({run.member.name: run.member for run in plan.runs}.values())
        baselines = [path.name for path in sorted((folder / "baselines").glob("*")) if path.is_dir()]
        job = Job("", replace(plan.settings, baselines=baselines or ["none"]), task, folder, members, [], [])
        stored = make_plan(job, plan.identity["data"])
        return cls(job, stored, LabelledPart.of_folder(plan, task), None, (notice,))

    @classmethod
    def _by_command(cls, folder: Path) -> "JobParts":
        command = read_json(folder / "plan.json").get("command")
        if not command:
            raise InputError("plan.json does not say how the job was commanded")
        job = replace(read_command_line(command), output_dir=folder)
        splits = load_splits(job)
        plan = make_plan(job, *splits.hashes())
        if difference := difference_from_stored(plan):
            raise InputError(difference)
        return cls(job, plan, LabelledPart.of_splits(splits), read_gold(job, splits))

    def with_gold(self, path: Path, encoding: str | None) -> "JobParts":
        """Return the parts with the test tweets' gold labels of a file, joined by id."""
        tests = [run.test_file for run in self.plan.runs if run.test_file.is_file()]
        if not tests:
            raise InputError(f"--gold {path}: the job has no test tweets")
        task = self.job.task
        gold = in_order_of(read_labels(path, task, encoding), read_predictions(tests[0]).ids, "the test tweets")
        return replace(self, test_gold=gold.classes_in(task.space))


def _check_models_are_kept(plan: Plan, config: VotingConfig) -> None:
    """Raise `InputError` where the refits' models are kept alone, and are not to label new tweets alone."""
    runs = [run for run in plan.runs if run.member.name in plan.members_with_models]
    kept = {run.is_refit for run in runs if run.model.is_dir()}
    if kept == {True} and not config.refits_alone:
        raise InputError(
            f"--predict_with all: {plan.output_dir} has kept no models but its refits', and predict.py and publish.py "
            "would need all; leave this out, or train with --keep_models all"
        )


def save_rule(parts: JobParts, asked: Mapping[str, str | None]) -> None:
    """Make a rule the job's own: ensemble.json, final vote, submission, scores and errors follow.

    The recipe's own rule is stored as such again, so that nothing wins over the recipe.

    Raises `InputError` for a decision that the task can't have, and while the job runs.
    """
    plan, task = parts.plan, parts.job.task
    config = asked_config(plan, task, asked)
    _check_models_are_kept(plan, config)
    lease = LeaseHolder().try_acquire(lease_file_of(plan.plan_file))
    if lease is None:
        raise InputError(f"{plan.output_dir}: the job is running; wait until it has ended, then repeat")
    with lease:
        has_test = plan.identity["data"].get("test") is not None
        keep_saved_rule(plan, task, config)  # first: a job's command that follows a kill goes on from here
        remove_votes(plan)
        write_ensemble(plan, config, task, has_test=has_test)
        fit_and_vote(plan, task, parts.labelled)
        score_job(plan, parts.job, parts.labelled, parts.test_gold)
