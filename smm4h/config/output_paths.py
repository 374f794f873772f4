"""Outputs in a job's folder: a command may write beside the job's own files, never over them."""

import json
import os
from pathlib import Path

from smm4h.utils.errors import InputError

ENCODERS_FILE = "encoders.json"  # what tells the encoders that the job's runs began with from others
BUDGET_FILE = "budget.json"  # what a time limit has left of a job, until its plan has it
# What jobs, distillations and publications write into their folders, apart from a folder for each member.
JOB_NAMES = (
    *("plan.json", "folds.parquet", "data_report.json", "marks.npz", "tokens", "baselines", "pseudo_labels", "votes"),
    *("out_of_fold.parquet", "ensemble.json", "scores.json", "appraisal.json", "label_problems.tsv", "submission"),
    *("report.html", "made.json", "errors.tsv", "submission.json", "outside", "extra.parquet", "profile.parquet"),
    "encoders",
    ENCODERS_FILE,
    BUDGET_FILE,
)
STUDENT_NAMES = ("model", "student.json", "marks.npz", "test.tsv")
SUBTASKS_FILE = "subtasks.json"
WHOLE_NAMES = (SUBTASKS_FILE, "submission", "scores.json", "made.json")  # of a folder with a job for each subtask


def check_not_of_job(output: str | Path, flag: str = "--output") -> None:
    """Raise `InputError` for an output whose name is that of a file or folder of a job or a student.

    Any other name in a job's folder is free, as the folder is read by known names.
    """
    real = Path(os.path.realpath(output))
    for folder in real.parents:
        first = real.relative_to(folder).parts[0]
        if first.casefold() in _names_of(folder) or (first.startswith(".") and (folder / "plan.json").is_file()):
            raise InputError(f"{flag} {output} would replace a part of {folder}, a job's folder; choose another name")


def _names_of(folder: Path) -> set[str]:
    """Return the names, in lower case, that a job's or a student's folder is read by; none of any other folder."""
    names = STUDENT_NAMES if (folder / "student.json").is_file() else ()
    if (folder / "plan.json").is_file():
        names = (*names, *JOB_NAMES, *_members_of(folder / "plan.json"))
    if (folder / SUBTASKS_FILE).is_file():
        names = (*names, *WHOLE_NAMES)
    return {name.casefold() for name in names}


def _members_of(plan_file: Path) -> list[str]:
    try:
        return list(json.loads(plan_file.read_text(encoding="utf-8"))["recipe"]["members"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no plan that can be read, which its reader reports
