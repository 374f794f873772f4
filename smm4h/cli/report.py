"""A finished job's folder -> report.html on one page: scores, decision, pictures, errors; or two jobs side by side.

python report.py runs/task5
python report.py runs/task5 runs/other --output comparison.html

Every job writes its report at its end. That page holds tweets and is for those who may read them; a comparison holds
none.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from smm4h.cli.flags import CommandParser
from smm4h.utils.errors import InputError
from smm4h.utils.files import check_new, check_output


def main(words: Sequence[str] | None = None) -> None:
    arguments = read_arguments(words)
    if len(arguments.folders) == 2:
        return compare(arguments)

    from smm4h.inference.finished_job import FinishedJob
    from smm4h.reporting.html_report import write_report

    print(f"written to {write_report(FinishedJob.read(arguments.folders[0]))}")


def compare(arguments: argparse.Namespace) -> None:
    """Write and print two jobs side by side."""
    from smm4h.inference.comparison import compare_jobs, names_of
    from smm4h.reporting.comparison_report import print_comparisons, write_comparison
    from smm4h.utils.console import console, silence_libraries

    silence_libraries()
    comparisons, task, notices = compare_jobs(arguments.folders, arguments.gold, arguments.encoding)
    names = names_of(arguments.folders)
    print_comparisons(comparisons, names, task)
    write_comparison(arguments.output, comparisons, names, task)
    for notice in notices:
        console.print(f"note: {notice}", markup=False, soft_wrap=True)
    print(f"written to {arguments.output}")


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="folder", help="the output folder of a finished job, or of two")
    add("--output", type=Path, help="page of a comparison (default: comparison.html)")
    add("--gold", type=Path, help="label file of the test tweets for a comparison (default: the jobs' own)")
    add("--encoding", help="encoding of a label file that is not UTF-8 (default: cp1252)")
    parser.add_overwrite()
    arguments = parser.parse(words)
    if len(arguments.folders) > 2:
        raise InputError("give one job's folder for its report, or two to compare them")
    if len(arguments.folders) == 1 and (arguments.output or arguments.gold):
        raise InputError("--output and --gold are for a comparison of two jobs; a report lies in the job's folder")
    arguments.output = arguments.output or Path("comparison.html")
    check_output(arguments.output, [arguments.gold])
    if len(arguments.folders) == 2:
        check_new(arguments.output, arguments.overwrite)
    return arguments
