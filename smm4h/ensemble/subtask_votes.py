"""The votes of a task's subtasks brought together: one submission with a column for each, and one file of scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.plans.plan import read_plan
from smm4h.config.plans.subtask_jobs import SubtaskJobs
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.outputs.submissions import Part, parts_of, read_sources, submission_files, write_submission_files
from smm4h.ensemble.scoring import FINAL, LEAKY
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json, write_json

SCORES = "scores.json"
PARTS = ("out_of_fold", "test")


def write_joint_submission(jobs: SubtaskJobs) -> list[Path]:
    """Write the submission with the labels of all subtasks; return its files, none until all have their final vote.

    Raises:
        InputError: where the subtasks' jobs have predicted other test tweets.
    """
    votes = {name: folder / "votes" / "final.tsv" for name, folder in jobs.folders.items()}
    if not all(path.exists() for path in votes.values()):
        return []
    return write_submission_files(jobs.derived, submission_files(jobs.subtasks.submission, _joint_parts(jobs, votes)))


def _joint_parts(jobs: SubtaskJobs, votes: Mapping[str, Path]) -> list[Part]:
    """Return the answers on the test tweets, with each subtask's labels as the submission writes them."""
    ids, answers, sources = None, {}, []
    for name, path in votes.items():
        vote, (plan, task) = read_labels(path), read_plan(jobs.folders[name])
        if ids is None:
            ids, sources, first = vote.ids.to_pylist(), read_sources(plan), name
        elif vote.ids.to_pylist() != ids:
            raise InputError(
                f"{jobs.folders[name]} has predicted other test tweets than {jobs.folders[first]}; give the command of "
                "all subtasks with one test file"
            )
        written = task.submission.labels
        answers[name] = [written.get(label, label) for label in vote.labels.to_pylist()]
    return parts_of(ids, answers, sources)


def score_subtasks(jobs: SubtaskJobs) -> dict[str, Any]:
    """Write and return the scores of each subtask's final vote, by `out_of_fold` and `test`, and the means over them.

    `mean` is that of the subtasks' metrics, `further` has that of each further measure that all of them are scored by.
    Nothing is written, and the result is empty, until all subtasks have a final vote.
    """
    scores: dict[str, dict[str, Any]] = {}
    for name, folder in jobs.folders.items():
        rows = read_json(folder / SCORES) if (folder / SCORES).exists() else {}
        final = next((row for row in (FINAL, f"{FINAL}{LEAKY}") if row in rows), None)
        if final is None:
            return {}
        task = read_plan(folder)[1]
        about = {"measure": task.measure, "further": task.further_measures, "leaky": final != FINAL}
        scores[name] = {**about, **rows[final]}
    further = [
        name
        for name in next(iter(scores.values()))["further"]
        if all(name in own["further"] for own in scores.values())
    ]
    content = {
        "subtasks": scores,
        "mean": _means(scores, {name: own["measure"] for name, own in scores.items()}),
        "further": {measure: _means(scores, dict.fromkeys(scores, measure)) for measure in further},
    }
    path = jobs.folder / SCORES
    if not path.exists() or read_json(path) != content:
        write_json(path, content)
    jobs.derived.record(path)
    return content


def _means(scores: Mapping[str, Mapping[str, Any]], measures: Mapping[str, str]) -> dict[str, float | None]:
    """Return by part the mean over the subtasks of a measure; None where a subtask has no score of the part.

    Args:
        measures: the measure of each subtask.
    """
    return {
        part: float(np.mean([own[part][measures[name]] for name, own in scores.items()]))
        if all(own[part] for own in scores.values())
        else None
        for part in PARTS
    }
