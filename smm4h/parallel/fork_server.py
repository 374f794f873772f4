"""The server that forks a job's workers: a clean process that has imported once what all of them need.

Its imports take as long as the job's own, so that a job starts it first of all; this file imports nothing heavy.
"""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path

import psutil

IMPORTS = ["smm4h.parallel.worker", "smm4h.training.task_metric"]
# What accelerate and torchrun tell their processes. A Trainer that saw it would make every run a distributed one.
LAUNCHER_NAMES = ("RANK", "WORLD_SIZE")
LAUNCHER_PREFIXES = ("LOCAL_", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_")
SHARDING = ("DEEPSPEED", "FSDP", "MEGATRON_LM")  # what an accelerate config may ask for to spread one model
# With --parallel perhaps: what it asks for is known when the recipe has been read, and the server can start then.
WITHOUT_WORKERS = {"-h", "--help", "--list", "--fetch", "--parallel"}


def launcher_variables() -> list[str]:
    """Names of the environment's variables that a launcher has set."""
    return [name for name in os.environ if name in LAUNCHER_NAMES or name.startswith(LAUNCHER_PREFIXES)]


def sharding() -> list[str]:
    """Which of `SHARDING` the accelerate config asks for."""
    return [name for name in SHARDING if is_true(f"ACCELERATE_USE_{name}")]


def is_true(name: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(name, "false").lower() in ("true", "1")


def begin(arguments: Sequence[str]) -> None:
    """Starts the server for a command line that seems to need it; to be called before all heavy imports."""
    atexit.register(end)
    if not sharding() and not WITHOUT_WORKERS.intersection(word.split("=")[0] for word in arguments):
        start()


def start() -> None:
    """Starts the server, unless it runs or the system has none; it knows nothing of the launcher."""
    if context().get_start_method() == "forkserver":
        with _without(launcher_variables()), _ignored(signal.SIGINT):
            forkserver.ensure_running()


def context() -> multiprocessing.context.BaseContext:
    """What makes workers: the server, or on Windows, where there is none, workers that import for themselves."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    home = str(Path(__file__).parents[2])
    if home not in os.environ.get("PYTHONPATH", "").split(os.pathsep):  # where the server looks for its imports
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(IMPORTS)
    return found


def end() -> None:
    """Ends the server: left to itself, it sees that nobody needs it only when all is imported."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if any(forkserver.__name__ in word for word in child.cmdline()):
                child.kill()
                child.wait()


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """The environment without these variables for a while."""
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    """A signal that a process started meanwhile will ignore: Ctrl-C reaches all, and the job is who answers it."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
