"""The probe: processes beside the job, as many as it will have workers, in which a few steps are timed.

They are forked as workers are, with the same threads and devices, so that what slows workers down slows the probe down,
too. They write to a temporary folder alone, and nothing that a run's bytes depend on is touched.
"""

import time
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing.connection import Connection, wait

import numpy as np
from datasets import Dataset

from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.dataset import column, renumbered
from smm4h.data.folds import stratified_choice
from smm4h.parallel import fork_server
from smm4h.parallel.forecast.costs import Measured, kind_of_run

SAMPLE = 2000  # labelled tweets that probes learn from and predict, at most
MOST_PROBES = 8  # of more workers, so many are probed
LONGEST = 300.0  # seconds of a probe


class NoForecast(Exception):
    """Raised with the reason where nothing could be measured; the job itself needs no forecast."""


def kinds_of(runs: Sequence[Run]) -> dict[str, Run]:
    """Return a run for each kind of cost among some runs."""
    kinds: dict[str, Run] = {}
    for run in runs:
        if not run.member.is_outside:
            kinds.setdefault(kind_of_run(run), run)
    return kinds


def probe(
    runs: Sequence[Run], labelled: Dataset, task: Task, devices: Sequence[str | None], threads: int
) -> dict[str, Measured]:
    """Return what each kind of the runs costs, measured by one process a worker, side by side.

    Args:
        devices: of each worker, as CUDA_VISIBLE_DEVICES names them.
        threads: CPU threads of each.

    Raises `NoForecast`.
    """
    fork_server.start()  # which runs already, unless the job only checks
    kinds, sample = kinds_of(runs), sample_of(labelled)
    context, processes, pipes = fork_server.context(), [], []
    for device in devices[:MOST_PROBES]:
        ours, theirs = context.Pipe(duplex=False)
        arguments = device, threads, list(kinds.values()), sample, task, theirs
        process = context.Process(target=run_probe, args=arguments)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    try:
        results = [_received(pipe, until=time.monotonic() + LONGEST) for pipe in pipes]
    finally:
        for process in processes:
            process.join(2)
            if process.is_alive():
                process.kill()
    means = [mean_of([of_process[number] for of_process in results]) for number in range(len(kinds))]
    return dict(zip(kinds, means, strict=True))


def _received(pipe: Connection, until: float) -> list[Measured]:
    if not wait([pipe], max(0.0, until - time.monotonic())):
        raise NoForecast(f"a probe of a few steps took more than {LONGEST:.0f} s")
    try:
        answer = pipe.recv()
    except EOFError:
        raise NoForecast("the probe's process died; memory may be short") from None
    if isinstance(answer, str):
        raise NoForecast(answer)
    return answer


def mean_of(measured: Sequence[Measured]) -> Measured:
    """Return the mean over processes; of fits, of those to the same number of tweets."""
    means = {
        field.name: type(getattr(measured[0], field.name))(np.mean([getattr(one, field.name) for one in measured]))
        for field in fields(Measured)
        if field.name != "fits"
    }
    by_number = zip(*(one.fits for one in measured), strict=True)
    fits = tuple((fits[0][0], float(np.mean([seconds for _, seconds in fits]))) for fits in by_number)
    return Measured(**means, fits=fits)


def sample_of(labelled: Dataset) -> Dataset:
    """Return some labelled tweets, sorted by label, so that every second one is a stratified half of them."""
    labels = column(labelled, "label").to_numpy()
    rows = stratified_choice(labels, min(SAMPLE, len(labels)), seed=0)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    names = [name for name in labelled.column_names if not name.startswith("fold_")]
    return renumbered(labelled.select_columns(names).select(rows))


def run_probe(
    device: str | None,
    threads: int,
    runs: Sequence[Run],
    sample: Dataset,
    task: Task,
    parent: Connection,
) -> None:
    """Measure in this process, and send what was found, or in words why nothing was."""
    from smm4h.parallel.worker import become_worker
    from smm4h.utils.errors import user_message

    become_worker(device, threads)
    try:
        from smm4h.parallel.forecast.measure import measure

        parent.send(measure(runs, sample, task))
    except Exception as error:
        parent.send(user_message(error) or f"the probe failed ({type(error).__name__})")
