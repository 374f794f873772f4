"""Forecast of a job: how long it takes, and what it takes of disk and memory, before anything is trained."""

import heapq
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from smm4h.config.job import Job
from smm4h.config.plans.adaptation import without_removed
from smm4h.config.plans.durations import about
from smm4h.config.plans.plan import Plan
from smm4h.config.plans.run import Run
from smm4h.data.splits import Splits
from smm4h.data.tokenization import encoder_size
from smm4h.parallel import fork_server
from smm4h.parallel.environment import LaunchEnvironment, devices, is_joint_training, threads_each
from smm4h.parallel.forecast.costs import (
    Measured,
    adaptation_seconds,
    is_quick,
    kind_of_run,
    prediction_bytes,
    run_seconds,
    working_bytes,
)
from smm4h.parallel.forecast.gpu_memory import SPARE, GpuMemory, within_gpu_memory
from smm4h.parallel.forecast.probe import NoForecast, kinds_of, probe
from smm4h.parallel.forecast.size import JobSize, planned_steps
from smm4h.utils.devices import available_memory
from smm4h.utils.wording import counted

QUICK = 60.0  # seconds; a job that is guessed to take less is not probed
RUN_GUESS, OPERATIONS, GPU_OPERATIONS = 0.5, 1e11, 3e13  # the guess: seconds of a run, and operations a second
BATCH, GPU_BATCH = 0.01, 0.005  # seconds of a training batch for the guess, beside its operations
CHARACTER_GUESS = 2e-5  # seconds to count a tweet's words and pieces, a character
CHARACTERS, TOKENS = 130, 40  # of a tweet, for the guess
VOTES, VOTES_A_TWEET = 6.0, 2e-4  # seconds of votes, scores and report, and those more for a tweet and member


@dataclass(frozen=True)
class Workers:
    """A job's workers.

    Args:
        n: number of workers, those of other processes of the launch included.
        n_processes: of the launch on this machine.
        devices: of this process's own.
        threads: CPU threads of each.
    """

    n: int
    n_processes: int
    devices: list[str | None]
    threads: int

    @classmethod
    def of_job(cls, job: Job, launch: LaunchEnvironment) -> "Workers":
        own = devices(launch, job.members[0].args.use_cpu) * job.settings.runs_per_device
        threads = threads_each(launch, len(own), job.settings.threads_per_worker)
        return cls(len(own) * launch.world_size, launch.local_world_size, own, threads)

    def fewer(self, asked: int, kept: int) -> "Workers":
        """Return what is left where each of this process's own devices has `kept` workers, of `asked`."""
        own = self.devices[: len(self.devices) // asked * kept]
        return replace(self, n=self.n - len(self.devices) + len(own), devices=own)


@dataclass(frozen=True)
class Forecast:
    """What the missing runs of a job take; bytes are 0 where nothing was measured.

    Args:
        disk: that stays.
        disk_meanwhile: more, while runs are trained.
        memory: of all workers, with what they share.
        gpu: of a GPU.
        runs_of_a_gpu: that are asked for on it at a time; `gpu` says how many fit in.
    """

    seconds: float
    n_runs: int
    n_workers: int
    was_measured: bool
    disk: float = 0.0
    disk_meanwhile: float = 0.0
    memory: float = 0.0
    gpu: GpuMemory = GpuMemory()
    runs_of_a_gpu: int = 1

    def __str__(self) -> str:
        runs = f"{counted(self.n_runs, 'run')} by {counted(self.n_workers, 'worker')}"
        if not self.was_measured:
            return f"forecast: a minute or less for {runs}; so short a job is not measured before"
        of_gpu = self.gpu.taken_by(self.gpu.n_fitting(self.runs_of_a_gpu))
        gpu = f", {size_text(of_gpu)} of each GPU" if of_gpu else ""
        return (
            f"forecast: about {about(self.seconds)} for {runs}; disk {size_text(self.disk)}, and "
            f"{size_text(self.disk_meanwhile)} more meanwhile; memory {size_text(self.memory)}{gpu}"
        )


def size_text(n_bytes: float) -> str:
    """Return a number of bytes in words, with two digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            value = n_bytes / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


@dataclass(frozen=True)
class Forecaster:
    """Forecasts a job and smaller ones of the same members and tweets, by one probe.

    Args:
        measured: by kind of cost; empty: nothing was measured, since the job takes seconds by the guess.
    """

    size: JobSize
    workers: Workers
    measured: Mapping[str, Measured]
    guess: float  # seconds

    @classmethod
    def of_job(cls, plan: Plan, job: Job, splits: Splits, launch: LaunchEnvironment) -> "Forecaster":
        """Probe the missing runs of a job, unless a guess says that they take seconds.

        Two things are always measured: quantised weights, since how fast bitsandbytes is differs too much between
        devices; and a job with a time limit, since a guess is of the whole job and can't tell what a smaller one takes.

        Raises `NoForecast`.
        """
        if is_joint_training(launch, job.settings):
            raise NoForecast("all processes train one run together, which a probe in one process can't show")
        size, workers = JobSize.of_job(job, splits), Workers.of_job(job, launch)
        runs = missing_runs(plan)
        guess = makespan(runs, {run.name: guessed_seconds(run, size, workers) for run in runs}, workers.n)
        is_measured = job.settings.time_limit is not None or any(run.member.args.quantise for run in runs)
        if not kinds_of(runs) or (guess < QUICK and not is_measured):
            return cls(size, workers, {}, guess)
        return cls(size, workers, probe(runs, splits.labelled, job.task, workers.devices, workers.threads), guess)

    def forecast(self, plan: Plan, job: Job) -> Forecast:
        """Return what the missing runs of a plan take, whose members are among those that were measured."""
        runs, asked = missing_runs(plan), job.settings
        if not self.measured:
            return Forecast(self.guess, len(runs), min(self.workers.n, len(runs)), was_measured=False)
        size = self.size.with_folds(job.settings.n_folds)
        teachers = {member.name for stage in job.stages if stage > 1 for member in job.teachers_of(stage)}
        of_run = {run.name: self._of(run) for run in runs if not run.member.is_outside}
        seconds = {run.name: self._seconds(run, size, teachers) for run in runs}
        gpu = GpuMemory.of(
            (one.gpu_memory for one in of_run.values()), max(one.gpu_total for one in self.measured.values())
        )
        kept = within_gpu_memory(asked, gpu)
        workers = self.workers.fewer(asked.runs_per_device, kept.runs_per_device)
        n_here = len(workers.devices) * workers.n_processes
        n_streams = kept.streams_per_device  # the runs of a worker are counted one after the other, at most
        votes = VOTES + VOTES_A_TWEET * len(size.labels) * len(plan.members)
        working = [working_bytes(of_run[name], seconds[name], job.settings.save_minutes) for name in of_run]
        return Forecast(
            seconds=makespan(runs, seconds, workers.n) + votes,
            n_runs=len(runs),
            n_workers=min(workers.n, len(runs)),
            was_measured=True,
            disk=kept_bytes(runs, of_run, job) + self._prediction_bytes(runs, size, teachers),
            disk_meanwhile=largest(working, workers.n * n_streams),
            memory=shared_memory() * workers.n_processes
            + largest((one.memory for one in of_run.values()), n_here * n_streams),
            gpu=gpu,
            runs_of_a_gpu=asked.runs_per_device * asked.streams_per_device,
        )

    def _of(self, run: Run) -> Measured:
        return self.measured[kind_of_run(run)]

    def _seconds(self, run: Run, size: JobSize, teachers: Collection[str]) -> float:
        if run.member.is_outside:
            return 0.0
        if run.is_adaptation:
            return adaptation_seconds(run.member, self._of(run), size)
        is_teacher = run.member.name in teachers
        return run_seconds(run.member, self._of(run), size, is_refit=run.is_refit, is_teacher=is_teacher)

    def _prediction_bytes(self, runs: Sequence[Run], size: JobSize, teachers: Collection[str]) -> int:
        runs = [run for run in runs if not run.is_adaptation]
        options = ({"is_refit": run.is_refit, "is_teacher": run.member.name in teachers} for run in runs)
        return sum(prediction_bytes(run.member, size, **own) for run, own in zip(runs, options, strict=True))


def largest(values: Iterable[float], n: int) -> float:
    """Return the sum of the `n` largest values: what so many workers take at most at once."""
    return sum(sorted(values, reverse=True)[:n])


def missing_runs(plan: Plan) -> list[Run]:
    """Return the wanted runs that are not done."""
    return [run for run in without_removed(plan.wanted) if not run.is_done()]


def makespan(runs: Sequence[Run], seconds: Mapping[str, float], n_workers: int) -> float:
    """Return the seconds until all runs are done: stage by stage, the longest first, each by the next free worker."""
    total = 0.0
    for own_stage in sorted({_stage_of(run) for run in runs}):
        free = [0.0] * n_workers
        for duration in sorted((seconds[run.name] for run in runs if _stage_of(run) == own_stage), reverse=True):
            heapq.heapreplace(free, free[0] + duration)
        total += max(free)
    return total


def _stage_of(run: Run) -> int:
    """Return when a run is trained: adaptations come before all runs that wait for them."""
    return 0 if run.is_adaptation else run.stage


def guessed_seconds(run: Run, size: JobSize, workers: Workers) -> float:
    """Return a guess at a run's seconds that needs no measurement, by batches, operations and characters.

    Of a tiny encoder, a batch's operations take a small part of the time that it takes.
    """
    member, is_refit = run.member, run.is_refit
    if member.is_outside:
        return 0.0
    batch, speed = (BATCH, OPERATIONS) if workers.devices[0] is None else (GPU_BATCH, GPU_OPERATIONS)
    length = min(TOKENS, member.args.max_seq_length)
    if run.is_adaptation:
        n_texts = size.adaptation_texts(member)
        n_tokens = n_texts * member.args.num_train_epochs * length
        return RUN_GUESS + planned_steps(member, n_texts)[0] * batch + 6 * encoder_size(member) * n_tokens / speed
    n_trained = size.training_tweets(member, is_refit=is_refit)
    n_predicted = size.predicted_tweets(member, is_refit=is_refit, is_teacher=False)
    if not member.has_encoder:
        per_tweet = CHARACTER_GUESS * CHARACTERS * (1 if is_quick(member) else 8)
        return RUN_GUESS + per_tweet * (n_trained + n_predicted)
    steps, evaluations = planned_steps(member, size.shown_tweets(member, is_refit=is_refit))
    n_batches = steps * member.args.gradient_accumulation_steps
    n_predicted += round(evaluations * size.evaluated_tweets(is_refit=is_refit))
    # Backward is twice forward.
    tokens = (3 * n_batches * member.args.per_device_train_batch_size + n_predicted) * length
    return RUN_GUESS + n_batches * batch + 2 * encoder_size(member) * tokens / speed


def kept_bytes(runs: Sequence[Run], measured: Mapping[str, Measured], job: Job) -> float:
    """Return the bytes of the models that are kept of some runs.

    Of each member's best fold, one of the runs that hold tweets out is kept, and its refit.
    """
    adapted = sum(measured[run.name].model_bytes for run in runs if run.is_adaptation)
    runs = [run for run in runs if not run.is_adaptation]
    kept = {run.name: measured[run.name].model_bytes for run in runs if run.name in measured}
    if job.settings.keep_models == "none":
        return adapted
    if job.settings.keep_models == "refits":
        kept = {run.name: kept[run.name] for run in runs if run.is_refit and run.name in kept}
    if job.settings.keep_models == "best":
        first = {(run.member.name, run.is_refit): run.name for run in reversed(runs)}
        kept = {name: size for name, size in kept.items() if name in first.values()}
    of_encoders = {run.name for run in runs if run.member.has_encoder}
    half = 0.5 if job.settings.keep_models_in != "float32" else 1.0
    return adapted + sum(size * (half if name in of_encoders else 1.0) for name, size in kept.items())


def shared_memory() -> float:
    """Return the bytes of this process and of the server that workers are forked from."""
    processes = [psutil.Process(), *fork_server.servers()]
    return float(sum(process.memory_info().rss for process in processes))


def free_disk(folder: Path) -> int:
    """Return the free bytes where a folder is, or will be."""
    above = folder.resolve()
    while not above.exists():
        above = above.parent
    return shutil.disk_usage(above).free


def shortages(forecast: Forecast, folder: Path) -> list[str]:
    """Return a line for disk, for memory and for that of a GPU, where the forecast is more than there is."""
    needed, free = forecast.disk + forecast.disk_meanwhile, free_disk(folder)
    lines = []
    if needed > free:
        lines.append(
            f"only {size_text(free)} of disk are free at {folder}; keep fewer models (--keep_models best or none), or "
            "choose another --output_dir"
        )
    available = available_memory() + psutil.Process().memory_info().rss
    if forecast.memory > available:
        lines.append(
            f"only {size_text(available)} of memory are free; train fewer runs at a time (--runs_per_device, "
            "--streams_per_device)"
        )
    asked, fitting = forecast.runs_of_a_gpu, forecast.gpu.n_fitting(forecast.runs_of_a_gpu)
    if fitting < asked:
        lines.append(
            f"a GPU has {size_text(forecast.gpu.total)} of memory, and {asked} runs at a time would take more than "
            f"{1 - SPARE:.0%} of it; at most {fitting} are trained on it (--runs_per_device, --streams_per_device)"
        )
    return lines
