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


def score_subtasks(jobs: SubtaskJobs) -> dict[str, dict[str, Any]]:
    """Write and return each subtask's scores of its final vote, by `out_of_fold` and `test`, and the means over them.

    Nothing is written, and the result is empty, until all subtasks have a final vote.
    """
    scores = {}
    for name, folder in jobs.folders.items():
        if not (folder / SCORES).exists():
            return {}
        own = {key.removesuffix(LEAKY): score for key, score in read_json(folder / SCORES).items()}
        if FINAL not in own:
            return {}
        scores[name] = {"measure": read_plan(folder)[1].measure, **own[FINAL]}
    content = {"subtasks": scores, "mean": {part: _mean_of(scores, part) for part in ("out_of_fold", "test")}}
    path = jobs.folder / SCORES
    if not path.exists() or read_json(path) != content:
        write_json(path, content)
    jobs.derived.record(path)
    return content


def _mean_of(scores: Mapping[str, Mapping[str, Any]], part: str) -> float | None:
    """Return the mean over the subtasks of their metrics; None where a subtask has no score of this part."""
    if not all(score[part] for score in scores.values()):
        return None
    return float(np.mean([score[part][score["measure"]] for score in scores.values()]))
