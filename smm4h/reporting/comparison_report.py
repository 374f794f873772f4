"""Two jobs side by side: one table and one picture, for the terminal and as a page without tweets."""

from collections.abc import Sequence
from pathlib import Path

from smm4h.config.task import Task
from smm4h.inference.comparison import Comparison
from smm4h.metrics import format_interval
from smm4h.reporting import figures
from smm4h.reporting.html_report import environment
from smm4h.reporting.terminal import print_score_table
from smm4h.utils.console import print_table
from smm4h.utils.files import write_text


def print_comparisons(comparisons: Sequence[Comparison], names: Sequence[str], task: Task) -> None:
    """Print scores of both jobs and their differences, a table each a part."""
    for comparison in comparisons:
        rows = [(name, [score]) for name, score in zip(names, comparison.scores, strict=True)]
        own = " and ".join(map(str, comparison.n_own))
        title = f"\n{comparison.part}, {comparison.n_tweets} shared tweets, of {own}"
        further = ["flagged"] if "flagged" in comparison.scores[0] else []
        print_score_table(title, task.measure, [""], rows, further)
        cells = [
            [name, f"{row['difference']:+.3f}", format_interval(row["interval"]), f"{row['p']:.3f}"]
            for name, row in comparison.differences.items()
        ]
        print_table("\n", [[f"{names[0]} minus {names[1]}"], ["difference", "95 %", "p"]], cells)


def write_comparison(path: Path, comparisons: Sequence[Comparison], names: Sequence[str], task: Task) -> None:
    """Write the comparison as a page of its own."""
    rows = [
        (f"{quantity}, {comparison.part}", difference)
        for comparison in comparisons
        for quantity, difference in comparison.differences.items()
    ]
    template = environment(autoescape=True).get_template("comparison.html")
    picture = figures.differences(rows, names)
    write_text(path, template.render(comparisons=comparisons, names=names, task=task, picture=picture))
