"""What the jobs of all subtasks come to: the joint submission, and a table of their final votes."""

from collections.abc import Mapping, Sequence
from typing import Any

from smm4h.cli.flags import command_name
from smm4h.cli.train_job import print_steps, submit_steps
from smm4h.config.plans.subtask_jobs import SubtaskJobs
from smm4h.ensemble.scoring import LEAKY
from smm4h.ensemble.subtask_votes import PARTS, score_subtasks, write_joint_submission
from smm4h.utils.console import console, print_table


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
    """Print the final vote's scores of each subtask, out of fold and on test, and the means over the subtasks."""
    parts = [part for part in PARTS if any(own[part] for own in scores["subtasks"].values())]
    further = list(scores["further"])
    groups = [[""], ["metric"], *([part.replace("_", " "), "95 %", *further] for part in parts)]
    rows = []
    for name, own in scores["subtasks"].items():
        cells = (cell for part in parts for cell in _cells(own[part], own["measure"], further))
        rows.append([f"{name}{LEAKY if own['leaky'] else ''}", own["measure"], *cells])
    means = (
        cell
        for part in parts
        for cell in (_number(scores["mean"][part]), "", *(_number(scores["further"][name][part]) for name in further))
    )
    print_table(f"\n{jobs.subtasks.name}: final votes", groups, [*rows, ["mean", "", *means]], left=(0, 1))


def _cells(score: Mapping[str, Any] | None, measure: str, further: Sequence[str]) -> list[str]:
    """Return a part's cells of a subtask: metric, interval, further measures."""
    if score is None:
        return ["-", "", *[""] * len(further)]
    low, high = score["interval"]
    return [_number(score[measure]), f"{low:.3f}-{high:.3f}", *(_number(score[name]) for name in further)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
