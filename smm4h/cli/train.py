"""Train the runs of a recipe (members x folds) on a task, vote, and write the submission: by one command.

accelerate launch run_classification.py recipes/smm4h2020.yaml --task tasks/task5.yaml \\
    --data_dir DIR --output_dir runs/task5

The same command again does only what is missing.
"""

import dataclasses
import textwrap
import typing
from collections.abc import Sequence

from smm4h.cli.flags import words_of
from smm4h.cli.subtasks.command import subtask_jobs_of
from smm4h.config.arguments import FIELDS, GROUPS, default_of
from smm4h.config.recipe import read_command_line, without_none
from smm4h.config.validation import check_input_files, check_packages
from smm4h.parallel.environment import LaunchEnvironment, become_coordinator_or_peer

WIDTH = 110  # columns of `--help`
COLUMN = 34  # where meanings begin
MOST_CHOICES = 7


def main(words: Sequence[str] | None = None) -> None:
    words = words_of(words)
    if {"-h", "--help", "--help-all"}.intersection(words):
        return print(help_text(everything="--help-all" in words))
    launch = LaunchEnvironment.detect()
    words = [*words, *launch.flags]
    if jobs := subtask_jobs_of(words):
        from smm4h.cli.subtasks.train import run_subtasks  # few tasks have subtasks

        return run_subtasks(jobs, words, launch)
    job = read_command_line(words)
    if job.settings.init:
        from smm4h.cli.init_task import draft_task_file  # pandas and Arrow take a second to import

        return draft_task_file(job)
    reads_only = job.settings.list_runs or job.settings.verify
    if not reads_only:
        check_packages(job)
        check_input_files(job)
    if not (reads_only or job.settings.check):
        become_coordinator_or_peer(launch, job)

    from smm4h.cli.check_job import check_job  # libraries that take seconds to import
    from smm4h.cli.train_job import download, print_run_table, train_job, verify

    if job.settings.list_runs:
        print_run_table(job, launch)
    elif job.settings.verify:
        verify(job, launch)
    elif job.settings.check:
        check_job(job, launch)
    elif job.settings.download_only:
        download(job, launch)
    else:
        train_job(job, launch)


def help_text(*, everything: bool) -> str:
    """Return the text of `--help`: the settings by group, or with `everything` the Trainer's other ones too."""
    lines = [__doc__.strip(), "", "The first argument is a recipe file (recipes/*.yaml). Flags win over its `shared:`."]
    groups = [(group, [name for name, f in FIELDS.items() if f.metadata["group"] == group]) for group in GROUPS]
    if everything:
        groups.append(("others", [name for name, f in FIELDS.items() if f.metadata["group"] is None]))
    for group, names in groups:
        lines += ["", f"{group}:", *(line for name in names for line in _lines(name))]
    if not everything:
        lines += ["", "--help-all lists the Trainer's other settings, --list the runs and their states."]
    return "\n".join(lines)


def _lines(name: str) -> list[str]:
    """Return a setting's lines in the help: flag, what it takes, meaning and default."""
    usage, meaning = f"  --{name} {_takes(name)}".rstrip(), _meaning(name)
    first = f"{usage:{COLUMN}}" if len(usage) < COLUMN else f"{usage}\n{'':{COLUMN}}"
    wrapped = textwrap.wrap(meaning, WIDTH - COLUMN)
    return (first + f"\n{'':{COLUMN}}".join(wrapped)).split("\n")


def _takes(name: str) -> str:
    """Return what a flag takes: `INT`, `STR ...`, `all|best|none`; nothing for truth values."""
    kind = without_none(FIELDS[name].type)
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        choices = "|".join(parts)
        return choices if len(f"  --{name} {choices}") < COLUMN else "NAME"
    if typing.get_origin(kind) is list:
        return f"{parts[0].__name__.upper()} ..."
    return "" if kind is bool else kind.__name__.upper()


def _meaning(name: str) -> str:
    """Return what a setting means, its choices where they are not said yet, and its default."""
    setting: dataclasses.Field = FIELDS[name]
    text, default = setting.metadata["help"], default_of(setting)
    kind = without_none(setting.type)
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else setting.metadata["choices"] or ()
    said = f"{text} {_takes(name)}"
    if any(choice not in said for choice in choices):
        text += f": {', '.join(choices[:MOST_CHOICES])}{', ...' if len(choices) > MOST_CHOICES else ''}"
    if default is True:
        return f"{text} (--no_{name})"
    if isinstance(default, list):
        default = " ".join(default)
    is_said = isinstance(default, int | float) and f"({default:g}:" in text
    return text if default in (None, "", False) or is_said else f"{text} ({default})"
