"""Draft of a task file for one's own tweets: the option `--init` of the command `train`."""

from pathlib import Path

from smm4h.cli.flags import command_name
from smm4h.config.job import Job
from smm4h.data.task_draft import TaskDraft, draft_task
from smm4h.utils.console import console
from smm4h.utils.errors import InputError
from smm4h.utils.files import check_is_file, write_text


def draft_task_file(job: Job) -> None:
    """Write a commented task file for a file of labelled tweets, and print what it says and the next command.

    Raises:
        InputError: where the file can't be read or holds no labelled tweets, and where the task file is there already.
    """
    settings = job.settings
    source = Path(settings.init)
    check_is_file(source)
    name = source.name.partition(".")[0]
    target = Path(settings.task or f"{name}.yaml")
    if target.exists():
        raise InputError(f"{target} is there already; name another file with --task, or remove that one")
    draft = draft_task(
        source,
        settings.encoding,
        text=settings.text_column_name,
        label=settings.label_column_name,
        id=settings.id_column_name,
    )
    write_text(target, draft.to_yaml(name))
    print_draft(draft, target)
    recipe, output = job.recipe or "--preset rare", settings.output_dir or f"runs/{name}"
    command = f"{command_name('train')} {recipe} --task {target} --train_file {source} --output_dir {output}"
    console.print("Read it, mend what was guessed wrong, then see what a job would do (leave --check out to train):")
    console.print_command(f"  {command} --check")


def print_draft(draft: TaskDraft, target: Path) -> None:
    """Print what a draft says, without any cell of the file but the labels."""
    counts = ", ".join(f"{label} {count}" for label, count in draft.counts.items())
    lines = [
        f"{target} is written, from {draft.n_rows} rows of {draft.file}:",
        *(f"  {kind}: column {name}" for kind, name in draft.columns.items()),
        f"  labels: {counts}{f'; {draft.n_empty} rows have none' if draft.n_empty else ''}",
        f"  metric: {draft.measure} of {', '.join(draft.positive)}",
    ]
    if draft.sets:
        form = f"column {draft.sets.column} lists them" if draft.sets.column else "each has a column of 1 and 0"
        lines.append(f"  several labels a tweet: {form}; --label_column_name says otherwise")
    if draft.others:
        lines.append(f"  could hold labels, too: {', '.join(draft.others)}; --label_column_name chooses")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
