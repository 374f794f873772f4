"""Several runs at a time in one worker, each in a thread and on a CUDA stream of its own (`--streams_per_device`).

Each thread acquires, trains and finishes run after run as a worker with one run does; they take turns by
`training.captured.turns`. Once a run fails, the GPU's state may be corrupt: the other runs save their state, and the
worker ends, as it does without neighbours. Its successor resumes them; a run that has failed is tried again without
neighbours, so that it can't fail because of them, nor they because of it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from smm4h.config.plans.run import Run
from smm4h.parallel.run_state import TICK, failures
from smm4h.training.captured.turns import Queue, Turn, begin_turns
from smm4h.utils.errors import Stopped

IDLE_SECONDS = 1.0  # between two looks for a free run, while other threads train


class Place(Protocol):
    """Where a worker trains one run after the other."""

    def turn(self):
        """Return the context in which runs are looked for and trained."""

    def must_stop(self) -> bool:
        """Return whether the run must be saved and the worker end."""

    def has_failed_neighbour(self) -> bool:
        """Return whether another run of this process failed, so that an error of this one need not be its own."""

    def may_begin(self, runs: Sequence[Run]) -> list[Run]:
        """Return those of some runs that may be trained here now."""

    def training(self, run: Run):
        """Return the context in which a run is trained."""

    def rest(self) -> None:
        """Wait a moment, as there is no run to train."""


class OnlyPlace:
    """The place of a worker that trains one run at a time."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    @contextmanager
    def turn(self) -> Iterator[None]:
        yield

    def must_stop(self) -> bool:
        return self.stop.is_set()

    def has_failed_neighbour(self) -> bool:
        return False

    def may_begin(self, runs: Sequence[Run]) -> list[Run]:
        return list(runs)

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        yield

    def rest(self) -> None:
        self.stop.wait(TICK)


class Streams:
    """The threads of a worker, and what they know of each other.

    Args:
        stop: is set once the worker must stop.
        on_gpu: whether runs are trained on a GPU, the only one that this process sees.
    """

    def __init__(self, n_streams: int, stop: threading.Event, *, on_gpu: bool) -> None:
        self.stop = stop
        self.queue = Queue()
        self.in_training: list[Run] = []
        self.errors: list[BaseException] = []  # that ended a thread
        if on_gpu:
            torch.cuda.init()
        self.places = [StreamPlace(self, on_gpu=on_gpu) for _ in range(n_streams)]

    def work(self, work: Callable[["StreamPlace"], None]) -> None:
        """Do the work in each place, and return when all have ended.

        Raises the first error that ended one of them, `Stopped` only where there was no other.
        """
        threads = [threading.Thread(target=place.work, args=(work,), daemon=True) for place in self.places]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(TICK)  # again and again, so that this thread, which alone can, answers signals
        for error in sorted(self.errors, key=lambda error: isinstance(error, Stopped)):
            raise error


class StreamPlace:
    """A place in a thread of its own, beside others of the same process."""

    def __init__(self, streams: Streams, *, on_gpu: bool) -> None:
        self.streams = streams
        self.stream = torch.cuda.Stream() if on_gpu else None
        self._turn = Turn(streams.queue, torch.cuda.default_generators[0].clone_state() if on_gpu else None)

    def work(self, work: Callable[["StreamPlace"], None]) -> None:
        """Do the work on this place's stream, in the calling thread; an error is noted before another has its turn."""
        n_threads = torch.get_num_threads()
        begin_turns(self._turn)
        try:
            with self.turn():
                torch.set_num_threads(n_threads)
                if self.stream is not None:
                    torch.cuda.set_device(self.stream.device)
                    torch.cuda.set_stream(self.stream)
            work(self)
        except BaseException as error:
            if error not in self.streams.errors:
                self.streams.errors.append(error)

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._turn:
            try:
                yield
            except BaseException as error:
                self.streams.errors.append(error)
                raise

    def must_stop(self) -> bool:
        return self.streams.stop.is_set() or bool(self.streams.errors)

    def has_failed_neighbour(self) -> bool:
        return any(not isinstance(error, Stopped) for error in self.streams.errors)

    def may_begin(self, runs: Sequence[Run]) -> list[Run]:
        """Return those of some runs that may be trained now: one that has failed is trained without neighbours."""
        in_training = self.streams.in_training
        if not in_training:
            return list(runs)
        if any(failures(run) for run in in_training):
            return []
        return [run for run in runs if not failures(run)]

    @contextmanager
    def training(self, run: Run) -> Iterator[None]:
        self.streams.in_training.append(run)
        try:
            yield
        finally:
            self.streams.in_training.remove(run)

    def rest(self) -> None:
        self.streams.stop.wait(IDLE_SECONDS if self.streams.in_training else TICK)
