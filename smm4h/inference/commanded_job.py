"""A finished job's own command, read again, and the tweets that it was made with."""

from collections.abc import Sequence
from dataclasses import replace

from smm4h.config.arguments import DEFAULTS
from smm4h.config.job import LABELLED_FILES, Job
from smm4h.config.recipe import read_command_line
from smm4h.data.splits import Splits, load_splits
from smm4h.inference.finished_job import FinishedJob
from smm4h.utils.errors import InputError


def command_of_job(job: FinishedJob, moved: Sequence[str]) -> Job:
    """Return the job as it was commanded, with flags for files that have moved, and without its encoders' adaptation.

    The texts of an adaptation teach a finished job nothing more, and may be gone.

    Raises `InputError` for a plan without a command.
    """
    if not job.command:
        raise InputError(f"{job.plan.plan_file} does not say how the job was commanded; it is an older one's")
    command = read_command_line([*job.command, *moved])
    given = {word.removeprefix("--") for word in moved}
    # Labelled tweets are named in one way, and what another way named before is not where they have moved to.
    before = set()
    if "dataset_name" in given:
        before = {*LABELLED_FILES, "test_file", "gold_file"} - given
    elif given.intersection(LABELLED_FILES):
        before = {"dataset_name"}
    command = replace(command, settings=replace(command.settings, **{name: DEFAULTS[name] for name in before}))
    return replace(command, members=[member.with_settings(adapt=None) for member in command.members])


def load_job_splits(job: FinishedJob, command: Job) -> Splits:
    """Read the job's tweets; raise `InputError` where the files hold others by now."""
    splits = load_splits(command)
    for part, content in splits.content_hashes().items():
        if content != job.plan.identity["data"].get(part):
            raise InputError(
                f"the {part} tweets are not those that {job.plan.output_dir} was made with; name the files by "
                "--data_dir, or --train_file, --validation_file and --test_file"
            )
    return splits
