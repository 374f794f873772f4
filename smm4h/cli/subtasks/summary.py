"""What the jobs of all subtasks come to: the joint submission, and a table of their final votes."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from smm4h.cli.flags import command_name
from smm4h.cli.train_job import print_steps, submit_steps
from smm4h.config.plans.subtask_jobs import SubtaskJobs
from smm4h.ensemble.subtask_votes import score_subtasks, write_joint_submission
from smm4h.utils.console import console


def finish_subtasks(jobs: SubtaskJobs) -> None:
    """Write the joint submission and scores, once all subtasks have a final vote, and show both."""
    write_joint_submission(jobs)
    if not (scores := score_subtasks(jobs)):
        return console.print("\nsome subtasks have no final vote yet; the same command goes on from there")
    print_subtask_scores(jobs, scores)
    reports = [("read", str(folder / "report.html")) for folder in jobs.folders.values()]
    steps = [*reports, *submit_steps(jobs.folder)]
    models = any(jobs.folder.glob("*/*/*/model"))
    if models:
        steps.append(("predict", f"{command_name('predict')} {jobs.folder} new_tweets.csv --output labels.csv"))
        one = next(iter(jobs.folders.values()))
        steps.append(
            ("publish", f"{command_name('publish')} {one} --to_folder published/{one.name}, and the others alike")
        )
    print_steps(steps)


def print_subtask_scores(jobs: SubtaskJobs, scores: Mapping[str, Any]) -> None:
    """Print the final vote's metric of each subtask, out of fold and on test, and the mean over the subtasks."""
    parts = [part for part in ("out_of_fold", "test") if any(own[part] for own in scores["subtasks"].values())]
    table = Table(title=f"{jobs.subtasks.name}: final votes", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("metric")
    for part in parts:
        table.add_column(part.replace("_", " "), justify="right")
        table.add_column("95 %", justify="right")
    for name, own in scores["subtasks"].items():
        cells = []
        for score in (own[part] for part in parts):
            value, interval = score and score[own["measure"]], score and score["interval"]
            cells += [f"{value:.3f}", f"{interval[0]:.3f}-{interval[1]:.3f}"] if score else ["-", ""]
        table.add_row(name, own["measure"], *cells)
    means = (scores["mean"][part] for part in parts)
    table.add_row("mean", "", *(cell for mean in means for cell in ("-" if mean is None else f"{mean:.3f}", "")))
    console.print()
    console.print(table)
