"""Fork server: a clean process that has imported once what all workers of a job need, so that a worker starts at once.

Its imports take as long as the job's own. The job starts it before them, so this file imports nothing heavy.
"""

import atexit
import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil

from smm4h.utils.errors import InputError

LONGEST_PLACE = 70  # bytes of a folder of sockets: their whole paths may have 104 (macOS) or 108 (Linux)
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
PRELOADED = ["smm4h.utils.console", "smm4h.parallel.worker"]  # the first silences what the second imports


def start() -> None:
    """Start the server, unless it runs or the system has none; it is ended with this process."""
    if context().get_start_method() == "forkserver":
        atexit.register(end)
        with _ignored(signal.SIGINT):
            forkserver.ensure_running()


def context() -> multiprocessing.context.BaseContext:
    """Return the context that makes workers: the server, or on Windows, which has none, spawned processes."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    home = str(Path(__file__).parents[2])
    if home not in os.environ.get("PYTHONPATH", "").split(os.pathsep):  # where the server looks for its imports
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    place_sockets()
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    return server


def place_sockets() -> None:
    """Have the sockets of this job's processes made in a folder with a short path, where TMPDIR is a long one.

    Raises `InputError` where there is none.
    """
    before = tempfile.gettempdir()
    if len(os.fsencode(before)) <= LONGEST_PLACE:
        return
    place = next((place for place in SHORT_PLACES if os.access(place, os.W_OK | os.X_OK)), None)
    if place is None:
        raise InputError(f"TMPDIR {before} is too long for sockets; name one of {LONGEST_PLACE} characters at most")
    tempfile.tempdir = place
    try:
        multiprocessing.util.get_temp_dir()  # which is chosen once for this process and its workers
    finally:
        tempfile.tempdir = before


def run_worker(*arguments: Any) -> None:
    """Run a worker; the job's own process names this function and need not import what the worker does."""
    from smm4h.parallel.worker import work

    work(*arguments)


def end() -> None:
    """End the server; left to itself, it notices that its job is gone only when all is imported."""
    for server in servers():
        with suppress(psutil.NoSuchProcess):
            server.kill()
            server.wait()


def servers() -> list[psutil.Process]:
    """Return this process's server, if it runs."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if any(forkserver.__name__ in word for word in child.cmdline()):
                found.append(child)
    return found


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    """Let processes that are started meanwhile ignore a signal: Ctrl-C reaches all, and the job alone answers it."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
