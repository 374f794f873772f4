"""Worker: a process that acquires one run after the other, as long as the folder has a free one, and trains them."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from accelerate import PartialState

from smm4h.config.plans.run import Run
from smm4h.parallel.environment import set_threads
from smm4h.parallel.run_state import RUN_FAILED, Heartbeat, log_event, unfinished
from smm4h.parallel.streams import OnlyPlace, Place, Streams
from smm4h.training.adaptation.adapt import adapt_encoder
from smm4h.training.run import train_run
from smm4h.training.run_data import PseudoLabelsRemoved, RunData, keep_best_model
from smm4h.training.tracking import Tracking, trackers_of
from smm4h.training.words.baselines import take_outside_predictions, train_baseline
from smm4h.utils.console import silence_libraries
from smm4h.utils.devices import prepare_gpu
from smm4h.utils.errors import ASK_AGAIN, JobFailed, Stopped, user_message
from smm4h.utils.leases import Lease, LeaseHolder, LeaseLost
from smm4h.utils.tracebacks import message_of, traceback_of

TAKEN_OVER = "another process took the run over while this one was stopped"
NEIGHBOUR_FAILED = "another run of the same process failed first"
CHECK_SECONDS = 1.0  # between two looks of a training at its lease


class RunFailed(JobFailed):
    """Raised when a run failed, as its event log records; the worker ends too, since its GPU's state may be corrupt."""


def work(
    device: str | None, threads: int, n_streams: int, runs: Sequence[Run], data: RunData, parent: Connection
) -> None:
    """Train runs in a worker process on one device, until all are done or have failed for good.

    Args:
        device: value of CUDA_VISIBLE_DEVICES; None where there is no GPU.
        threads: CPU threads.
        n_streams: runs at a time.
        parent: gets the message of an error that only the user can mend.

    Raises SystemExit with `ASK_AGAIN` when stopped, `RUN_FAILED` after a failed run, 2 for an error of the user.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    become_worker(device, threads)
    try:
        if n_streams == 1:
            train_all(runs, data, device or "cpu", OnlyPlace(stop))
        else:
            streams = Streams(n_streams, stop, on_gpu=device is not None)
            streams.work(lambda place: train_all(runs, data, device or "cpu", place))
    except Stopped:
        raise SystemExit(ASK_AGAIN) from None
    except RunFailed:
        raise SystemExit(RUN_FAILED) from None
    except Exception as error:
        message = user_message(error)
        if message is None:
            print(traceback_of(error), file=sys.stderr)
            raise SystemExit(1) from None
        parent.send(message)
        raise SystemExit(2) from None


def become_worker(device: str | None, threads: int) -> None:
    """Give this process its device and CPU threads, and have it end with its parent."""
    threading.Thread(target=exit_with_parent, daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before CUDA starts, which ignores later changes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent stops workers by SIGTERM
    silence_libraries()
    set_threads(threads)
    prepare_gpu()


def exit_with_parent() -> None:
    """Wait for the parent's end and kill this process; otherwise an orphan would keep the GPU."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGKILL)


def acquire_next(runs: Sequence[Run], data: RunData, leases: LeaseHolder) -> tuple[Run, Lease] | None:
    """Return the first run that is ready and not leased elsewhere, with its lease; None while there is none.

    Raises `InputError` where another job took the folder over.
    """
    data.check_claimed()
    for run in runs:
        if data.is_ready(run):
            run.directory.parent.mkdir(parents=True, exist_ok=True)
            if lease := leases.try_acquire(run.lease_file):
                if not run.is_done():
                    return run, lease
                lease.release()
    return None


def train_all(runs: Sequence[Run], data: RunData, device: str, place: Place) -> None:
    """Train the runs in their order, sharing them with other workers, until all are done or have failed for good.

    Raises `Stopped` once the place must stop, and what `train_and_log` raises.
    """
    leases = LeaseHolder()
    while True:
        with place.turn():
            if not (remaining := unfinished(runs)):
                return
            if place.must_stop():
                raise Stopped
            acquired = acquire_next(place.may_begin(remaining), data, leases)
            if acquired:
                run, lease = acquired
                with lease, place.training(run):
                    train_and_log(
                        run, data, device, place.must_stop, lease, has_failed_neighbour=place.has_failed_neighbour
                    )
                if data.keep_models == "best":
                    keep_best_model([r for r in runs if r.member.name == run.member.name], data.best_by)
        if not acquired:
            place.rest()


def trainer_of(run: Run) -> Callable[..., None]:
    """Return the function that makes a run's results."""
    if run.is_adaptation:
        return adapt_encoder
    if run.member.is_outside:
        return take_outside_predictions
    return train_run if run.member.has_encoder else train_baseline


def train_and_log(
    run: Run,
    data: RunData,
    device: str,
    stop: Callable[[], bool],
    lease: Lease | None,
    is_main_process: bool = True,
    has_failed_neighbour: Callable[[], bool] = lambda: False,
) -> None:
    """Train a run and log its events; a lost lease is logged and otherwise ignored, with all errors that follow it.

    Args:
        device: name of the device, for display.
        stop: returns True once the process must stop.
        lease: the run's; None in processes other than the main one of a joint training.
        is_main_process: whether this process writes the heartbeat and the events.
        has_failed_neighbour: returns whether another run of this process has failed, so that errors are not this one's.

    Raises `Stopped`, `RunFailed`, or the error that only the user can mend.
    """

    def log(event: str, **facts: Any) -> None:
        if is_main_process:
            log_event(run, event, **facts)

    checked = time.monotonic()

    def report(step: int, steps: int) -> None:
        nonlocal checked
        if lease is not None and time.monotonic() - checked > CHECK_SECONDS:
            lease.check()
            checked = time.monotonic()
        heartbeat.update(step, steps)

    def is_lost() -> bool:
        return lease is not None and not lease.is_held()

    with Heartbeat(run, device, quiet=not is_main_process) as heartbeat:
        log("begun", device=device)
        try:
            train = trainer_of(run)
            with Tracking(trackers_of(run.member), run, is_main_process=is_main_process) as tracking:
                train(run, data, report, stop, lambda: log("trained"))
                tracking.log_scores()
            log("done")
        except LeaseLost:
            log("stopped", error=TAKEN_OVER)
        except PseudoLabelsRemoved as error:
            log("stopped", error=str(error))
        except Stopped:
            log("stopped")
            raise
        except Exception as error:
            if is_lost():
                log("stopped", error=TAKEN_OVER)
                if PartialState().num_processes == 1:
                    return
                raise Stopped from error  # the others wait for this process: all of them must end
            if has_failed_neighbour():
                log("stopped", error=NEIGHBOUR_FAILED)
                raise Stopped from error
            if user_message(error):
                log("stopped", error=user_message(error))
                raise
            reason = message_of(error)
            log("failed", error=reason, traceback=traceback_of(error))
            raise RunFailed(f"{run.name} failed ({reason}); {run.attempts_file} has the traceback") from None
