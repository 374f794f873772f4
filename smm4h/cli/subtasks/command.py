"""A command line on a task with subtasks: which jobs it is about, one for each subtask."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smm4h.config.job import Job
from smm4h.config.plans.subtask_jobs import SubtaskJobs, check_one_subtask
from smm4h.config.recipe import find_recipe, read_command_line, read_flags, read_recipe
from smm4h.config.task_file import read_subtasks
from smm4h.utils.errors import InputError


def subtask_jobs_of(words: Sequence[str]) -> SubtaskJobs | None:
    """Return the jobs of a training command, one for each subtask; None for a command about one job.

    Raises:
        InputError: for a folder that holds a job for each subtask, where the command trains one subtask there.
    """
    flags, rest = read_flags(words)
    reads_only = flags.get("list") or flags.get("verify")
    if flags.get("init") or (reads_only and not rest and not flags.get("output_dir")):
        return None
    shared = {} if reads_only and not rest else read_recipe(find_recipe(rest, flags.get("preset"))).shared
    common = {**shared, **flags}
    folder = Path(common["output_dir"]) if common.get("output_dir") else None
    if reads_only and folder is not None and not rest:
        return SubtaskJobs.read(folder)
    if folder is None or not common.get("task"):
        return None  # which is refused as for any job
    if subtasks := read_subtasks(common["task"]):
        return SubtaskJobs(folder, subtasks)
    check_one_subtask(folder)
    return None


def commands_of(jobs: SubtaskJobs, words: Sequence[str]) -> dict[str, Job]:
    """Return the job of each subtask, as its own command line would have it.

    `{subtask}` in a word is the subtask's name, as in `--train_labels_file labels_{subtask}.csv`.

    Raises:
        InputError: for what is wrong with any of them, and for flags that one subtask alone can have.
    """
    commands = {}
    for name, folder in jobs.folders.items():
        named = [word.replace("{subtask}", name) for word in words]
        commands[name] = read_command_line([*named, *_task_of(words, name), "--output_dir", str(folder)])
    first = next(iter(commands.values()))
    if any(member.args.push_to_hub for member in first.members):
        raise InputError(f"--push_to_hub pushes a run of one subtask; name it: {' '.join(_task_of(words, name))}")
    return commands


def _task_of(words: Sequence[str], subtask: str) -> list[str]:
    """Return the flag that names one subtask of the command's task; nothing where the command names no task."""
    flags, rest = read_flags(words)
    common: Mapping[str, Any] = flags
    if "task" not in flags and rest:
        common = read_recipe(find_recipe(rest, flags.get("preset"))).shared
    return ["--task", f"{common['task']}:{subtask}"] if common.get("task") else []
