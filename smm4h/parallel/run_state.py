"""What has happened to a run, and what is happening to it: files that any process on any host can read at any time."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import psutil

from smm4h.config.plan import Run
from smm4h.utils.files import write_json
from smm4h.utils.leases import LEASE_SECONDS, seconds_since_heartbeat

TRIES = 3  # a run that fails is tried again twice
WRITE_EVERY = 2.0  # seconds

Event = Literal["begun", "trained", "done", "stopped", "failed", "again"]
ENDS = ("done", "stopped", "failed")
State = Literal["done", "running", "failed", "missing"]


@dataclass
class HeartbeatRecord:
    """The content of a run's RUNNING file."""

    host: str
    pid: int
    device: str
    since: float  # seconds since the epoch
    step: int = 0
    steps: int = 0

    @property
    def fraction(self) -> float:
        return self.step / self.steps if self.steps else 0.0

    @property
    def where(self) -> str:
        return f"{self.host} GPU {self.device}" if self.device.isdigit() else f"{self.host} {self.device}"

    def is_gone(self) -> bool:
        """Whether its process was one of this host and is no more."""
        return self.host == platform.node() and not psutil.pid_exists(self.pid)


class Heartbeat:
    """Writes and, at the end, removes the RUNNING file of the run that this process trains; `quiet`: does neither."""

    def __init__(self, run: Run, device: str, *, quiet: bool = False) -> None:
        self.run, self.quiet = run, quiet
        self.content = HeartbeatRecord(platform.node(), os.getpid(), device, time.time())
        self.written = -WRITE_EVERY

    def __enter__(self) -> "Heartbeat":
        self.run.directory.mkdir(parents=True, exist_ok=True)
        self.update(0, 0)
        return self

    def __exit__(self, *exception) -> None:
        if not self.quiet:
            self.run.running_file.unlink(missing_ok=True)

    def update(self, step: int, steps: int) -> None:
        """Takes how far the run is; written every two seconds at most."""
        if not self.quiet and time.monotonic() - self.written > WRITE_EVERY:
            self.content.step, self.content.steps = step, steps
            write_json(self.run.running_file, asdict(self.content))
            self.written = time.monotonic()


def read_heartbeat(run: Run) -> HeartbeatRecord | None:
    """Who trains the run, or did until death took it; None where nobody does."""
    try:
        return HeartbeatRecord(**json.loads(run.running_file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def log_event(run: Run, event: Event, **facts: Any) -> None:
    """Adds an event to the run's history; `pid` in `facts` is the worker's, where another process speaks of it."""
    run.directory.mkdir(parents=True, exist_ok=True)
    when = datetime.now(timezone.utc).astimezone().isoformat(timespec="milliseconds")
    line = {"time": when, "event": event, "host": platform.node(), "pid": os.getpid(), **facts}
    with run.attempts_file.open("a", encoding="utf-8") as history:
        history.write(json.dumps(line) + "\n")


def events(run: Run) -> list[dict[str, Any]]:
    """The run's history; a line that a dying process left torn is passed over."""
    try:
        lines = run.attempts_file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def started_without_end(run: Run, pid: int) -> bool:
    """Whether this process of this host has begun the run, and no word tells how that ended."""
    mine = [event["event"] for event in events(run) if (event["host"], event["pid"]) == (platform.node(), pid)]
    return "begun" in mine and mine[-1] not in ENDS


def failures(run: Run) -> list[str]:
    """Why the run failed, each time since the command was last given."""
    found: list[str] = []
    for event in events(run):
        if event["event"] == "again":
            found = []
        elif event["event"] == "failed":
            found.append(event["error"])
    return found


def has_failed_for_good(run: Run) -> bool:
    return len(failures(run)) >= TRIES


def state(run: Run) -> State:
    """`done`; `running`, on whatever host; `failed` so often that it is not tried again; or `missing`."""
    if run.is_done():
        return "done"
    silence, running = seconds_since_heartbeat(run.lease_file), read_heartbeat(run)
    if running and silence is not None and silence < LEASE_SECONDS and not running.is_gone():
        return "running"
    return "failed" if has_failed_for_good(run) else "missing"
