"""Fork server: a clean process that has imported once what all workers of a job need, so that a worker starts at once.

Its imports take as long as the job's own. The job starts it before them, so this file imports nothing heavy.
"""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil

PRELOADED = ["smm4h.parallel.worker"]


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
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    return server


def run_worker(*arguments: Any) -> None:
    """Run a worker; the job's own process names this function and need not import what the worker does."""
    from smm4h.parallel.worker import work

    work(*arguments)


def end() -> None:
    """End the server; left to itself, it notices that its job is gone only when all is imported."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if any(forkserver.__name__ in word for word in child.cmdline()):
                child.kill()
                child.wait()


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    """Let processes that are started meanwhile ignore a signal: Ctrl-C reaches all, and the job alone answers it."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
