"""How many runs at a time are trained where `--runs_per_device` is not given."""

from dataclasses import replace

import torch

from smm4h.config.job import Job
from smm4h.data.tokenization import embedding_size, encoder_size
from smm4h.parallel.environment import LaunchEnvironment, devices, is_joint_training
from smm4h.utils.devices import total_memory, usable_cores
from smm4h.utils.errors import InputError

MOST_WORKERS = 4  # of a CPU: they share its memory's bandwidth, and more were not measured
BYTES_A_WEIGHT = 20  # the weight, its gradient, two moments of it, and its best value so far
BYTES_BESIDE = 7e8  # of a run: activations, tweets, and what a worker does not share with the server
USABLE = 0.7  # of the machine's memory


def with_runs_per_device(job: Job, launch: LaunchEnvironment) -> Job:
    """Return the job with a number of runs at a time: as asked; else one for a GPU, and on a CPU one for each core.

    On a CPU one worker a core trains more than one with all cores (docs/speed.md). What decides is the same each time
    that a job is begun on a machine, since its workers' threads, and so the bytes of its runs, depend on it.
    """
    if job.settings.runs_per_device:
        return job
    use_cpu = job.members[0].args.use_cpu
    has_gpu = devices(launch, use_cpu) != [None] or (not use_cpu and torch.accelerator.is_available())
    if has_gpu or launch.world_size > 1 or is_joint_training(launch, job.settings):
        n = 1
    else:
        n_runs = len(job.members) * job.settings.n_folds
        n = runs_of_a_cpu(usable_cores(), n_runs, total_memory(), most_weights(job))
    return replace(job, settings=replace(job.settings, runs_per_device=n))


def runs_of_a_cpu(n_cores: int, n_runs: int, memory: float, n_weights: float) -> int:
    """Return how many runs are trained at a time on a CPU: at least one.

    Args:
        memory: bytes of the machine.
        n_weights: of the largest encoder.
    """
    fitting = int(USABLE * memory // (BYTES_A_WEIGHT * n_weights + BYTES_BESIDE))
    return max(1, min(MOST_WORKERS, n_cores, n_runs, fitting))


def most_weights(job: Job) -> float:
    """Return about how many weights the largest encoder of a job has; 0 where none can be asked."""
    try:
        return max(encoder_size(member) + embedding_size(member) for member in job.members)
    except InputError:  # it is named when the encoders are checked, or not needed, as runs of an adapted one are left
        return 0.0
