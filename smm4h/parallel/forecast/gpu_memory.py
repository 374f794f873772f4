"""How many runs at a time the memory of a GPU holds."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from smm4h.config.arguments import JobSettings

SPARE = 0.1  # of a GPU's memory: for CUDA itself in each process, and for tweets longer than a probe's


@dataclass(frozen=True)
class GpuMemory:
    """What runs take of a GPU.

    Args:
        of_runs: bytes of each, the largest first.
        total: bytes that the GPU has; 0: no GPU is used.
    """

    of_runs: tuple[float, ...] = ()
    total: float = 0.0

    @classmethod
    def of(cls, of_runs: Iterable[float], total: float) -> "GpuMemory":
        return cls(tuple(sorted(of_runs, reverse=True)), total)

    def taken_by(self, n_runs: int) -> float:
        """Return the bytes that so many runs take at once, at most."""
        return sum(self.of_runs[:n_runs])

    def n_fitting(self, n_asked: int) -> int:
        """Return how many runs fit in at once, whichever they are: at most those that are asked for, at least one."""
        if not self.total:
            return n_asked
        usable = (1 - SPARE) * self.total
        return next((n for n in range(n_asked, 1, -1) if self.taken_by(n) <= usable), 1)


def within_gpu_memory(settings: JobSettings, memory: GpuMemory) -> JobSettings:
    """Return settings with as many runs of a GPU at a time as fit in, at most those that are asked for.

    Streams of a process are given up first: processes hide each other's time on the host.
    """
    n = memory.n_fitting(settings.runs_per_device * settings.streams_per_device)
    n_processes = min(settings.runs_per_device, n)
    return replace(settings, runs_per_device=n_processes, streams_per_device=n // n_processes)
