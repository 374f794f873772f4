"""What a person sees: the progress of the whole job, and tables of scores."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from smm4h.plan import Run

console = Console(highlight=False)
if not console.is_terminal:  # a log file: no width to obey
    console = Console(highlight=False, width=140)


class JobProgress:
    """A bar for the whole job in a terminal, and a line for each finished run everywhere.

    Runs that other workers finish count too: their DONE files say so. `quiet` is for the workers that do not speak.
    """

    def __init__(self, runs: Sequence[Run], measure: str, *, quiet: bool) -> None:
        self.runs, self.measure, self.quiet = list(runs), measure, quiet
        self.finished = {run.name for run in runs if run.is_done()}
        self.found_done = len(self.finished)
        self.scores: dict[str, list[float]] = {}
        self.started = self.looked = time.monotonic()
        self.current, self.fraction = "", 0.0
        columns = (BarColumn(bar_width=30), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self.line = self.bar.add_task("", total=max(1, len(self.runs)))

    def __enter__(self) -> "JobProgress":
        self.bar.start()
        for run in self.runs:
            if run.name in self.finished:
                self._take_score(run)
        if self.found_done and not self.quiet:
            console.print(f"{self.found_done} of {len(self.runs)} runs are done already")
        return self

    def __exit__(self, *exception) -> None:
        self.look(force=True)
        self.bar.stop()

    def begin(self, run: Run) -> None:
        self.look(force=True)
        self.current, self.fraction = f"{run.member.name} fold {run.fold}", 0.0

    def report(self, fraction: float) -> None:
        """Takes the share of the current run that is done."""
        self.fraction = fraction
        self.look()

    def look(self, force: bool = False) -> None:
        """Counts what has been finished, by anyone, since the last look; at most once a second."""
        now = time.monotonic()
        if self.quiet or (now - self.looked < 1 and not force):
            return
        self.looked = now
        for run in self.runs:
            if run.name not in self.finished and run.is_done():
                self.finished.add(run.name)
                self.fraction = 0.0  # what was begun has been finished, or is another worker's to count
                self._take_score(run)
                self._tell(run)
        done = len(self.finished)
        position = min(len(self.runs), done + 1)
        text = f"run {position}/{len(self.runs)}  {self.current}  {self._so_far()}  {self._time_left()}"
        self.bar.update(self.line, completed=min(done + self.fraction, len(self.runs)), description=text)

    def _take_score(self, run: Run) -> None:
        self.scores.setdefault(run.member.name, []).append(run.measures()["held_out"][self.measure])

    def _tell(self, run: Run) -> None:
        score = run.measures()["held_out"][self.measure]
        console.print(
            f"run {len(self.finished)}/{len(self.runs)}  {run.member.name} fold {run.fold}  "
            f"{self.measure} {score:.3f} held out  {self._time_left()}"
        )

    def _so_far(self) -> str:
        scores = [score for of_member in self.scores.values() for score in of_member]
        return f"{self.measure} so far {sum(scores) / len(scores):.3f}" if scores else ""

    def _time_left(self) -> str:
        made = len(self.finished) - self.found_done + self.fraction
        if made <= 0:
            return ""
        left = (len(self.runs) - len(self.finished) - self.fraction) * (time.monotonic() - self.started) / made
        if left <= 0:
            return ""
        hours, minutes, seconds = int(left // 3600), int(left // 60 % 60), int(left % 60)
        return f"{hours} h {minutes:02} min left" if hours else f"{minutes} min {seconds:02} s left"


def score_table(
    title: str, measure: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[dict[str, Any] | None]]]
) -> Table:
    """A table with a row a voter and, for each of `columns`, its measure with interval, precision and recall."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(f"{column} {measure}", justify="right")
        table.add_column("95 %", justify="right")
        table.add_column("precision", justify="right")
        table.add_column("recall", justify="right")
    for name, scores in rows:
        cells = []
        for score in scores:
            if score is None:
                cells += ["-", "", "", ""]
            else:
                low, high = score["interval"]
                cells += [
                    f"{score[measure]:.3f}",
                    f"{low:.3f}-{high:.3f}",
                    f"{score['precision']:.3f}",
                    f"{score['recall']:.3f}",
                ]
        table.add_row(name, *cells)
    return table


def state_table(runs: Sequence[Run]) -> Table:
    """The runs, their stage and state, and the held-out measure of those that are done."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "member", "fold", "stage", "state", "held out"):
        table.add_column(name, justify="right" if name in ("run", "fold", "stage", "held out") else "left")
    for number, run in enumerate(runs, start=1):
        state, score = run.state(), ""
        if state == "done":
            held_out = run.measures()["held_out"]
            score = f"{next(iter(held_out.values())):.3f}"
        table.add_row(str(number), run.member.name, str(run.fold), str(run.stage), state, score)
    return table
