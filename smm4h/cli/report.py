"""A finished job's folder -> report.html on one page: scores, pictures, findings on the data, label issues.

python report.py runs/task5

Every job writes it at its end. The page holds tweets and is for those who may read them.
"""

from collections.abc import Sequence
from pathlib import Path

from smm4h.cli.flags import CommandParser


def main(words: Sequence[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("folder", type=Path, help="the output folder of a finished job")
    folder = parser.parse(words).folder

    from smm4h.inference.finished_job import FinishedJob
    from smm4h.reporting.html_report import write_report

    print(f"written to {write_report(FinishedJob.read(folder))}")
