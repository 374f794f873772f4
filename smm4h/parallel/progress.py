"""Progress of a whole job: a display while it runs, and the table of its runs' states."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from smm4h.config.plans.durations import duration
from smm4h.config.plans.run import Run
from smm4h.parallel.run_state import HeartbeatRecord, failures, read_heartbeat, state
from smm4h.utils.console import console
from smm4h.utils.wording import are, counted

MAX_RUN_BARS = 12  # running runs that have a bar of their own


class JobProgress:
    """Progress display: in a terminal a bar for the job and one per running run; everywhere a line per finished run.

    Runs of all workers on all hosts are shown, as their files in the output folder record them.

    Args:
        costs: the runs' relative durations by name, in any unit.
        measure: name of the task's metric.
        quiet: show nothing; for all processes but the main one.
    """

    def __init__(self, runs: Sequence[Run], costs: Mapping[str, float], measure: str, *, quiet: bool) -> None:
        self.runs, self.costs, self.measure, self.quiet = list(runs), costs, measure, quiet
        self.finished = {run.name for run in runs if run.is_done()}
        self.finished_before = frozenset(self.finished)
        self.scores: list[float] = []
        self.started = self.last_look = time.monotonic()
        columns = (BarColumn(bar_width=30), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.description}"))
        self.bars = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self.job_bar = self.bars.add_task("", total=sum(costs.values()) or 1)
        self.run_bars: dict[str, TaskID] = {}

    def __enter__(self) -> "JobProgress":
        self.bars.start()
        for run in self.runs:
            if run.name in self.finished:
                self._add_score(run)
        if self.finished and not self.quiet:
            console.print(
                f"{len(self.finished)} of {counted(len(self.runs), 'run')} {are(len(self.finished))} done already"
            )
        return self

    def __exit__(self, *exception) -> None:
        self.look(force=True)
        self.bars.stop()

    def look(self, force: bool = False) -> None:
        """Read all runs' files and update the display, at most once a second unless forced."""
        now = time.monotonic()
        if self.quiet or (now - self.last_look < 1 and not force):
            return
        self.last_look = now
        running = {}
        for run in self.runs:
            if run.name in self.finished:
                continue
            if run.is_done():
                self.finished.add(run.name)
                self._print_finished(run, self._add_score(run))
            elif heartbeat := read_heartbeat(run):
                running[run.name] = heartbeat
        self._update_bars(running)

    def _update_bars(self, running: Mapping[str, HeartbeatRecord]) -> None:
        completed = self._cost_of(self.finished)
        completed += sum(self.costs[name] * heartbeat.fraction for name, heartbeat in running.items())
        mean = f"{self.measure} so far {sum(self.scores) / len(self.scores):.3f}" if self.scores else ""
        counts = f"{len(self.finished)}/{len(self.runs)} runs done, {len(running)} running"
        text = f"{counts}  {mean}  {self._time_left(completed)}"
        self.bars.update(self.job_bar, completed=completed, description=text)
        for name in [name for name in self.run_bars if name not in running]:
            self.bars.remove_task(self.run_bars.pop(name))
        for name, heartbeat in running.items():
            if name not in self.run_bars and len(self.run_bars) < MAX_RUN_BARS:
                self.run_bars[name] = self.bars.add_task("", total=1)
            if name in self.run_bars:
                text = f"{name.replace('/fold-', ' fold ').replace('/', ' ')} on {heartbeat.where}"
                self.bars.update(self.run_bars[name], completed=heartbeat.fraction, description=text)

    def _cost_of(self, names: Iterable[str]) -> float:
        return sum(self.costs[name] for name in names)

    def _add_score(self, run: Run) -> dict[str, Any] | None:
        """Return a finished run's held-out scores, None for a refit, and add them to the mean so far."""
        scores = run.measures().get("held_out")
        if scores:
            self.scores.append(scores[self.measure])
        return scores

    def _print_finished(self, run: Run, scores: dict[str, Any] | None) -> None:
        shown = "an encoder for other runs" if run.is_adaptation else "all tweets"
        if scores:
            shown = f"{self.measure} {scores[self.measure]:.3f}, AP {scores['average_precision']:.3f} held out"
        console.print(
            f"run {len(self.finished)}/{len(self.runs)}  {run.member.name} {run.part_name}  {shown}  "
            f"{self._time_left(self._cost_of(self.finished))}"
        )

    def _time_left(self, completed: float) -> str:
        """Return the time left in words, at the speed since the start; empty while the speed is unknown.

        The costs of runs without an encoder, which take seconds, say nothing of the speed of those with one.
        """
        words = [run.name for run in self.runs if run.name in self.finished and not run.member.has_encoder]
        if completed <= self._cost_of(words) and any(run.member.has_encoder for run in self.runs):
            return ""
        new = completed - self._cost_of(self.finished_before)
        left = self._cost_of(run.name for run in self.runs) - completed
        return f"{duration((time.monotonic() - self.started) * left / new)} left" if new > 0 and left > 0 else ""


def state_table(runs: Sequence[Run]) -> Table:
    """Return a table of the runs' states, with held-out scores, devices of running runs, and errors of failed runs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "member", "fold", "stage", "state", "held out", ""):
        justify = "right" if name in ("run", "fold", "stage", "held out") else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name not in ("member", ""))
    for number, run in enumerate(runs, start=1):
        run_state, score, remark = state(run), "", ""
        if run_state == "done":
            scores = run.measures().get("held_out")
            score = f"{next(iter(scores.values())):.3f}" if scores else "-"
        elif run_state == "running" and (heartbeat := read_heartbeat(run)):
            elapsed = duration(max(0.0, time.time() - heartbeat.since))
            remark = f"{heartbeat.fraction:.0%} on {heartbeat.where}, for {elapsed}"
        elif errors := failures(run):
            remark = f"{len(errors)} x, last: {errors[-1]}"
        fold = run.part_name.removeprefix("fold ")
        cells = [str(number), run.member.name, fold, str(run.stage), run_state, score, remark]
        table.add_row(*(escape(cell) for cell in cells))
    return table


def state_summary(runs: Sequence[Run]) -> str:
    """Return how many runs are in each state and, while some are running, about how long the rest will take."""
    states = {run.name: state(run) for run in runs}
    tally = Counter(states.values())
    counts = ", ".join(f"{tally[name]} {name}" for name in ("done", "running", "failed", "missing"))
    running = [run for run in runs if states[run.name] == "running"]
    heartbeats = [heartbeat for run in running if (heartbeat := read_heartbeat(run))]
    seconds = [record["seconds"] for run in runs if (record := run.done_record())]
    if not heartbeats or not seconds:
        return counts
    runs_left = tally["missing"] + sum(1 - heartbeat.fraction for heartbeat in heartbeats)
    return f"{counts}; about {duration(runs_left * sum(seconds) / len(seconds) / len(heartbeats))} left"
