"""State of a run: its heartbeat and its event log, files that any process on any host can read at any time."""

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal

import psutil

from smm4h.config.plans.adaptation import adaptations_of, without_removed
from smm4h.config.plans.run import Run
from smm4h.utils.files import write_json
from smm4h.utils.leases import LEASE_SECONDS, holder_of, seconds_since_heartbeat

TRIES = 3  # a failed run is tried again twice
WRITE_EVERY = 2.0  # seconds
TICK = 0.2  # seconds between two polls of the output folder
RUN_FAILED = 3  # exit code of a worker whose run has failed

Event = Literal["begun", "trained", "done", "stopped", "failed", "again"]
ENDS = ("done", "stopped", "failed")
State = Literal["done", "running", "failed", "missing"]


@dataclass
class HeartbeatRecord:
    """Content of a run's RUNNING file."""

    host: str
    pid: int
    device: str
    since: float  # seconds since the epoch
    step: int = 0
    steps: int = 0

    @property
    def fraction(self) -> float:
        """Share of the training steps that are done."""
        return self.step / self.steps if self.steps else 0.0

    @property
    def where(self) -> str:
        """Host and device, for display."""
        return f"{self.host} GPU {self.device}" if self.device.isdigit() else f"{self.host} {self.device}"

    def is_gone(self) -> bool:
        """Return whether the process ran on this host and has ended; False for processes of other hosts."""
        return self.host == platform.node() and not psutil.pid_exists(self.pid)


class Heartbeat:
    """Write a run's RUNNING file while this process trains the run, and remove it when the `with` block ends.

    Args:
        quiet: leave the file alone; for processes other than the main one of a joint training.
    """

    def __init__(self, run: Run, device: str, *, quiet: bool = False) -> None:
        self.run, self.quiet = run, quiet
        self.content = HeartbeatRecord(platform.node(), os.getpid(), device, time.time())
        self.written = -WRITE_EVERY

    def __enter__(self) -> "Heartbeat":
        self.run.directory.mkdir(parents=True, exist_ok=True)
        self.update(0, 0)
        return self

    def __exit__(self, *exception) -> None:
        written = None if self.quiet else read_heartbeat(self.run)
        if written and (written.host, written.pid) == (self.content.host, self.content.pid):
            self.run.running_file.unlink(missing_ok=True)  # not that of a process that took the run over

    def update(self, step: int, steps: int) -> None:
        """Write the step and the total number of steps, at most every `WRITE_EVERY` seconds."""
        if not self.quiet and time.monotonic() - self.written > WRITE_EVERY:
            self.content.step, self.content.steps = step, steps
            write_json(self.run.running_file, asdict(self.content))
            self.written = time.monotonic()


def read_heartbeat(run: Run) -> HeartbeatRecord | None:
    """Return the content of the RUNNING file, which may be of a killed process; None if missing or unreadable."""
    try:
        record = HeartbeatRecord(**json.loads(run.running_file.read_text(encoding="utf-8")))
        numbers = float(record.since), int(record.pid), int(record.step), int(record.steps)
        return replace(record, since=numbers[0], pid=numbers[1], step=numbers[2], steps=numbers[3])
    except (OSError, ValueError, TypeError):
        return None


def log_event(run: Run, event: Event, **facts: Any) -> None:
    """Append an event to the run's event log.

    Args:
        facts: further keys of the event; `pid` where the event is about another process, the run's worker.
    """
    run.directory.mkdir(parents=True, exist_ok=True)
    when = datetime.now(timezone.utc).astimezone().isoformat(timespec="milliseconds")
    line = {"time": when, "event": event, "host": platform.node(), "pid": os.getpid(), **facts}
    with run.attempts_file.open("ab+") as log:
        size = log.seek(0, os.SEEK_END)
        if size:
            log.seek(size - 1)
        is_torn = size and log.read(1) != b"\n"  # by a process that was killed while it wrote
        log.write(b"\n" * is_torn + json.dumps(line).encode() + b"\n")


def events(run: Run) -> list[dict[str, Any]]:
    """Return the run's events, the oldest first, without lines that are incomplete or damaged."""
    try:
        lines = run.attempts_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    logged = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.keys() >= {"event", "host", "pid"}:
            logged.append(event)
    return logged


def started_without_end(run: Run, pid: int) -> bool:
    """Return True if process `pid` of this host started the run and its end was never logged."""
    names = [event["event"] for event in events(run) if (event["host"], event["pid"]) == (platform.node(), pid)]
    return "begun" in names and names[-1] not in ENDS


def failures(run: Run) -> list[str]:
    """Return the error of each failure since the job's command was last given."""
    errors: list[str] = []
    for event in events(run):
        if event["event"] == "again":
            errors = []
        elif event["event"] == "failed":
            errors.append(str(event.get("error")))
    return errors


def try_again(run: Run, launch: str) -> None:
    """Log that the job's command was given again, so that a failed run is tried anew; once for all ranks of a launch.

    Args:
        launch: tells launches apart.
    """
    was_said = any(event["event"] == "again" and event.get("launch") == launch for event in events(run))
    if not run.is_done() and failures(run) and not was_said:
        log_event(run, "again", launch=launch)


def has_failed_for_good(run: Run) -> bool:
    """Return True if the run, or the adaptation of its encoder, has failed `TRIES` times: it is not tried again."""
    waits_in_vain = run.adaptation is not None and has_failed_for_good(run.adaptation)
    return len(failures(run)) >= TRIES or (waits_in_vain and not run.adaptation.is_done())


def state(run: Run) -> State:
    """Return the run's state: `done`, `running` on any host, `failed` for good, or `missing`."""
    if run.is_done():
        return "done"
    silence, running = seconds_since_heartbeat(run.lease_file), read_heartbeat(run)
    if running and silence is not None and silence < LEASE_SECONDS and not running.is_gone():
        return "running"
    return "failed" if has_failed_for_good(run) else "missing"


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are neither done nor failed for good.

    An adaptation that was removed when all of its runs were done is not made again.
    """
    return [run for run in without_removed(runs) if not run.is_done() and not has_failed_for_good(run)]


def with_adaptations(runs: Sequence[Run]) -> list[Run]:
    """Return some runs and the adaptations that they wait for."""
    waited_for = [run for run in adaptations_of(runs) if not run.is_done()]
    return [*waited_for, *(run for run in runs if run not in waited_for)]


def waited_for(runs: Sequence[Run]) -> str:
    """Return, in words, which unfinished runs are waited for and who holds the first of them."""
    runs = with_adaptations(runs)
    held = [run for run in runs if run.lease_file.exists()]
    if not held:
        missing = "their pseudo labels, their teachers' runs or their adapted encoders"
        return f"{_named(runs)}, which no process holds; {missing} are missing"
    return f"{_named(held)}, which is held by {holder_of(held[0].lease_file)}"


def _named(runs: Sequence[Run]) -> str:
    return runs[0].name if len(runs) == 1 else f"{len(runs)} runs, the first of them {runs[0].name}"
