"""A finished job's folder -> report.html on one page: scores, pictures, complaints about the data, doubtful labels.

python report.py runs/task5

Every job makes it at its end; the page holds tweets and is for those who may read them.
"""

import argparse
from pathlib import Path

from smm4h.inference.finished_job import FinishedJob
from smm4h.reporting.html_report import write_report
from smm4h.utils.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the output folder of a finished job")
    path = write_report(FinishedJob.read(parser.parse_args().folder))
    print(f"written to {path}")


if __name__ == "__main__":
    run_main(main)
