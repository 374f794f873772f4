"""Verification of an output folder: is every file as it was written? For `--verify`, and for a job's start."""

import math
from collections.abc import Iterator

from smm4h.config.output_paths import ENCODERS_FILE
from smm4h.config.plans.plan import Plan
from smm4h.config.plans.run import Run
from smm4h.data.outputs.predictions import is_complete
from smm4h.parallel.run_state import events
from smm4h.training import checkpoints
from smm4h.utils.durable import damages, read_checked_json
from smm4h.utils.errors import InputError

QUICK = 1 << 24  # bytes; models of base size are thirty times as large, and a job may have a hundred of them
Damage = tuple[str, str]  # a path below the output folder, and what is wrong with it, in words


def first_damage(run: Run) -> str | None:
    """Return what is damaged of a finished run, in words that follow its folder; None if nothing is.

    Large weights are compared by size only, but for those of an adapted encoder, on which other runs are built.
    """
    limit = math.inf if run.is_adaptation else QUICK
    return next((f"{name} {wrong}" for name, wrong in run_damages(run, weights_up_to=limit)), None)


def run_damages(run: Run, *, weights_up_to: float = math.inf) -> Iterator[Damage]:
    """Yield the damaged files of a run that has a DONE file, by their path in the run's folder.

    A `model` folder that is missing as a whole was not kept, which is no damage.

    Args:
        weights_up_to: bytes; of larger files in `model` sizes are compared only: a gigabyte takes seconds.
    """
    record = read_checked_json(run.done_file)
    if record is None or "fingerprint" not in record:
        yield "DONE", "is damaged"
        return
    if record["fingerprint"] != run.fingerprint:
        yield "DONE", "is of another recipe, task or data"
        return
    if run.is_adaptation and not run.model.is_dir():
        yield run.model.name, "is gone"
    if "files" not in record:
        yield from _unlisted_damages(run)
        return
    of_model = {name: listed for name, listed in record["files"].items() if name.startswith("model/")}
    others = {name: listed for name, listed in record["files"].items() if name not in of_model}
    yield from damages(run.directory, others)
    if run.model.is_dir():
        yield from damages(run.directory, of_model, up_to=weights_up_to)


def _unlisted_damages(run: Run) -> Iterator[Damage]:
    """Yield files that can't be read, of a run of an earlier version, whose DONE lists no files."""
    try:
        run.measures()
    except InputError:
        yield run.metrics_file.name, "can't be read"
    for part, path in (("held_out", run.held_out_file), ("test", run.test_file), ("unlabelled", run.unlabelled_file)):
        maker = {"member": run.member.name, "fold": run.fold, "fingerprint": run.fingerprint, "part": part}
        if path.exists() and not is_complete(path, maker):
            yield path.name, "can't be read"


def all_damages(plan: Plan) -> Iterator[Damage]:
    """Yield all damaged files of a job's folder, finished or not; reads every file that is listed anywhere."""
    for run in [*plan.adaptations, *plan.runs, *plan.baselines]:
        name = run.directory.relative_to(plan.output_dir).as_posix()
        found = run_damages(run) if run.done_file.exists() else unfinished_damages(run)
        yield from ((f"{name}/{file}", wrong) for file, wrong in found)
        if not run.done_file.exists() and _was_done(run, plan):
            yield f"{name}/{run.done_file.name}", "is gone"
    for done in plan.output_dir.glob("baselines/*/*/DONE"):
        name, record = done.parent.relative_to(plan.output_dir).as_posix(), read_checked_json(done)
        found = [(done.name, "is damaged")] if record is None else damages(done.parent, record.get("files", {}))
        yield from ((f"{name}/{file}", wrong) for file, wrong in found)
    if (file := plan.output_dir / ENCODERS_FILE).exists() and read_checked_json(file) is None:
        yield file.name, "is damaged"
    is_begun = any(run.done_file.exists() for run in plan.runs)
    yield from plan.derived.damaged(plan.derived_before_training if is_begun else ())


def _was_done(run: Run, plan: Plan) -> bool:
    """Return whether a run without DONE had one, which is lost: its own events, or the fitted ensemble, tell it."""
    if run.is_adaptation and not run.directory.exists():
        return False  # a removed encoder is needed no more
    logged = events(run)
    return plan.ensemble_file.exists() or (bool(logged) and logged[-1]["event"] == "done")


def unfinished_damages(run: Run) -> Iterator[Damage]:
    """Yield what is damaged of a run without DONE: it is not used, and is made again."""
    if run.trained_file.exists() and checkpoints.read_training_result(run) is None:
        yield "TRAINED", "or the weights that it lists are damaged, or of another version"
    if run.collapsed_file.exists() and read_checked_json(run.collapsed_file) is None:
        yield "COLLAPSED", "is damaged"
    for folder in run.directory.glob("checkpoint-*[0-9]"):
        if checkpoints.completion_record(folder) is None:
            yield folder.name, "is incomplete or damaged"
