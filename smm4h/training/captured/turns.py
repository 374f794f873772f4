"""Turns of a process's threads, of which each trains a run on a CUDA stream of its own, and one at a time is awake.

A GPU computes what is in several streams of one process at the same time; processes take turns on it. The promise: a
run has the bytes that it has alone.

- Between two calls of `pass_on` nothing runs but one thread, so that whatever begins and ends there, a recording, a
  checkpoint, a comparison, is as in a process with one run.
- Beside that thread, others at most hash their run's files, flush them to the disk and move them (`aside`, `Beside`).
- What lives longer and belongs to the process is kept by `HostState` and put back before a thread goes on: random
  generators, and what accelerate knows of the run. What PyTorch keeps for each thread needs no care: the current
  stream, grad mode, autocast.
- All kernels of a run are started in its thread's stream, which orders them; nothing on the device is shared by runs.
  A run's graphs have their own memory, stream, cuBLAS workspace and random generator.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

OF_ACCELERATE = PartialState, AcceleratorState, GradientState  # each has one dictionary for the whole process


@dataclass(frozen=True)
class HostState:
    """What a process has once and a run depends on between two steps.

    Args:
        accelerate: the content of each of `OF_ACCELERATE`.
        on_gpu: the state of the GPU's default random generator, which graphs refer to; None: no GPU is used.
    """

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: torch.Tensor
    accelerate: tuple[dict[str, Any], ...]
    on_gpu: torch.Generator | None

    @classmethod
    def now(cls, on_gpu: torch.Generator | None, *, is_new: bool = False) -> "HostState":
        """Return the state of now; for a thread that `is_new`, accelerate knows of no run."""
        accelerate = tuple({} if is_new else dict(kept._shared_state) for kept in OF_ACCELERATE)
        return cls(random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), accelerate, on_gpu)

    def put_back(self) -> None:
        """Make this the process's state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        for kept, content in zip(OF_ACCELERATE, self.accelerate, strict=True):
            kept._shared_state.clear()  # in place: objects that a run made of it have it as their attributes
            kept._shared_state.update(content)
        if self.on_gpu is not None:
            torch.cuda.default_generators[0].graphsafe_set_state(self.on_gpu)


class Queue:
    """Threads that wait for their turn, the first one first: a lock alone would go to the thread that gave it up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._is_taken = False

    def take(self) -> None:
        """Return when it is the calling thread's turn."""
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            called = threading.Event()
            self._waiting.append(called)
        called.wait()

    def give_up(self) -> None:
        """End the calling thread's turn; the first thread that waits has the next one."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)


class Turn:
    """The turns of one thread: a `with` block waits for one, restores the thread's state, and keeps it at its end.

    Args:
        on_gpu: random generator of the thread's runs; None: they use no GPU.
    """

    def __init__(self, queue: Queue, on_gpu: torch.Generator | None) -> None:
        self.queue = queue
        self.state = HostState.now(on_gpu, is_new=True)

    def __enter__(self) -> "Turn":
        self.queue.take()
        self.state.put_back()
        return self

    def __exit__(self, *exception) -> None:
        try:
            self.state = HostState.now(self.state.on_gpu)
        finally:
            self.queue.give_up()

    def pass_on(self) -> None:
        if self.queue.has_waiting:
            self.__exit__()
            self.__enter__()


_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)  # a thread begins with an empty context


def begin_turns(turn: Turn) -> None:
    """Make these the calling thread's turns, which `pass_on` knows."""
    _turn.set(turn)


def pass_on() -> None:
    """Let each run of this process that waits have a turn, then go on; to be called between two steps."""
    if (turn := _turn.get()) is not None:
        turn.pass_on()


@contextmanager
def aside() -> Iterator[None]:
    """Let the other runs of this process go on during a `with` block that does nothing but hash and flush files."""
    turn = _turn.get()
    if turn is None:
        yield
        return
    turn.__exit__()
    try:
        yield
    finally:
        turn.__enter__()


class Beside:
    """Hashes, flushes and moves files of a run in a thread of its own, while the run goes on.

    The thread has the run's context, its fence above all, but no turns. A `with` block ends when the thread has ended.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._begun: Future | None = None

    def begin(self, action: Callable[[], None]) -> None:
        context = copy_context()
        context.run(_turn.set, None)
        self._begun = self._executor.submit(context.run, action)

    def wait(self) -> None:
        """Return when what was begun is done; raise what it raised."""
        if self._begun is not None:
            with aside():
                self._begun.result()

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self._executor.shutdown()
        if kind is None:
            self.wait()
