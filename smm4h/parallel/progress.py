"""Progress of a whole job: a display while it runs, and the table of its runs' states."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from smm4h.config.plan import Run
from smm4h.parallel.run_state import HeartbeatRecord, failures, read_heartbeat, state
from smm4h.utils.console import console

SHOWN = 12  # running runs that have a line of their own


class JobProgress:
    """In a terminal a bar for the job and one for each running run; everywhere a line for each finished one.

    Runs of all workers count, on whatever host: their files in the output folder tell. `costs` are the runs' sizes, in
    any unit, by name. `quiet` is for the processes that do not speak.
    """

    def __init__(self, runs: Sequence[Run], costs: Mapping[str, float], measure: str, *, quiet: bool) -> None:
        self.runs, self.costs, self.measure, self.quiet = list(runs), costs, measure, quiet
        self.finished = {run.name for run in runs if run.is_done()}
        self.found_done = frozenset(self.finished)
        self.scores: list[float] = []
        self.started = self.looked = time.monotonic()
        columns = (BarColumn(bar_width=30), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self.line = self.bar.add_task("", total=sum(costs.values()) or 1)
        self.lines: dict[str, TaskID] = {}

    def __enter__(self) -> "JobProgress":
        self.bar.start()
        for run in self.runs:
            if run.name in self.finished:
                self._score(run)
        if self.finished and not self.quiet:
            console.print(f"{len(self.finished)} of {len(self.runs)} runs are done already")
        return self

    def __exit__(self, *exception) -> None:
        self.look(force=True)
        self.bar.stop()

    def look(self, force: bool = False) -> None:
        """Reads what all workers have finished and are at; at most once a second."""
        now = time.monotonic()
        if self.quiet or (now - self.looked < 1 and not force):
            return
        self.looked = now
        running = {}
        for run in self.runs:
            if run.name in self.finished:
                continue
            if run.is_done():
                self.finished.add(run.name)
                self._tell(run, self._score(run))
            elif content := read_heartbeat(run):
                running[run.name] = content
        self._show(running)

    def _show(self, running: Mapping[str, HeartbeatRecord]) -> None:
        made = self._made(self.finished) + sum(self.costs[name] * at.fraction for name, at in running.items())
        mean = f"{self.measure} so far {sum(self.scores) / len(self.scores):.3f}" if self.scores else ""
        counts = f"{len(self.finished)}/{len(self.runs)} runs done, {len(running)} running"
        text = f"{counts}  {mean}  {self._time_left(made)}"
        self.bar.update(self.line, completed=made, description=text)
        for name in [name for name in self.lines if name not in running]:
            self.bar.remove_task(self.lines.pop(name))
        for name, at in running.items():
            if name not in self.lines and len(self.lines) < SHOWN:
                self.lines[name] = self.bar.add_task("", total=1)
            if name in self.lines:
                text = f"{name.replace('/fold-', ' fold ').replace('/', ' ')} on {at.where}"
                self.bar.update(self.lines[name], completed=at.fraction, description=text)

    def _made(self, names: Iterable[str]) -> float:
        return sum(self.costs[name] for name in names)

    def _score(self, run: Run) -> dict[str, Any] | None:
        """A finished run's score on what it holds out, if it does; counted in."""
        found = run.measures().get("held_out")
        if found:
            self.scores.append(found[self.measure])
        return found

    def _tell(self, run: Run, found: dict[str, Any] | None) -> None:
        score = "all tweets"
        if found:
            score = f"{self.measure} {found[self.measure]:.3f}, AP {found['average_precision']:.3f} held out"
        console.print(
            f"run {len(self.finished)}/{len(self.runs)}  {run.member.name} {run.part_name}  {score}  "
            f"{self._time_left(self._made(self.finished))}"
        )

    def _time_left(self, made: float) -> str:
        new = made - self._made(self.found_done)
        left = self._made(run.name for run in self.runs) - made
        return f"{duration((time.monotonic() - self.started) * left / new)} left" if new > 0 and left > 0 else ""


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    hours, minutes, seconds = int(seconds // 3600), int(seconds // 60 % 60), int(seconds % 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def state_table(runs: Sequence[Run]) -> Table:
    """The runs and their states: the held-out measure of the done, where and since when of the running, why failed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "member", "fold", "stage", "state", "held out", ""):
        table.add_column(name, justify="right" if name in ("run", "fold", "stage", "held out") else "left")
    for number, run in enumerate(runs, start=1):
        now, score, remark = state(run), "", ""
        if now == "done":
            found = run.measures().get("held_out")
            score = f"{next(iter(found.values())):.3f}" if found else "-"
        elif now == "running" and (at := read_heartbeat(run)):
            since = duration(max(0.0, time.time() - at.since))
            remark = f"{at.fraction:.0%} on {at.where}, for {since}"
        elif reasons := failures(run):
            remark = f"{len(reasons)} x, last: {reasons[-1]}"
        fold = "refit" if run.is_refit else str(run.fold)
        cells = [str(number), run.member.name, fold, str(run.stage), now, score, remark]
        table.add_row(*(escape(cell) for cell in cells))
    return table


def state_summary(runs: Sequence[Run]) -> str:
    """How many runs are in each state and, while some are running, about how long the rest will take."""
    states = {run.name: state(run) for run in runs}
    tally = Counter(states.values())
    counts = ", ".join(f"{tally[name]} {name}" for name in ("done", "running", "failed", "missing"))
    at_work = [at for run in runs if states[run.name] == "running" and (at := read_heartbeat(run))]
    seconds = [json.loads(run.done_file.read_text())["seconds"] for run in runs if states[run.name] == "done"]
    if not at_work or not seconds:
        return counts
    runs_left = tally["missing"] + sum(1 - at.fraction for at in at_work)
    return f"{counts}; about {duration(runs_left * sum(seconds) / len(seconds) / len(at_work))} left"
