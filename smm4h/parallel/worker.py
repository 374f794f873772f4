"""What a worker does: it claims runs one after the other, wherever the folder has one left, and trains them."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from smm4h.config.plan import Run
from smm4h.parallel.environment import set_threads
from smm4h.parallel.run_state import Heartbeat, has_failed_for_good, log_event
from smm4h.training.baselines import train_baseline
from smm4h.training.run import train_run
from smm4h.training.run_data import RunData, keep_best_model
from smm4h.training.tracking import Tracking, trackers_of
from smm4h.utils.console import silence_libraries
from smm4h.utils.errors import ASK_AGAIN, JobFailed, Stopped, user_message
from smm4h.utils.leases import Lease, LeaseHolder

TICK = 0.2  # seconds between two looks at the folder
RUN_FAILED = 3  # exit code of a worker whose run has failed


class LeaseLost(Exception):
    """Another host holds the run: this process was cut off for so long that it seemed dead."""


class RunFailed(JobFailed):
    """A run went wrong, and its history says how; its worker ends too, since a GPU's state may be gone with it."""


def work(device: str | None, threads: int, runs: Sequence[Run], data: RunData, parent: Connection) -> None:
    """The whole life of a worker process on one device; `parent` gets the sentence of an `InputError`."""
    threading.Thread(target=exit_with_parent, daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before anything here asks CUDA
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent says what is to be done
    silence_libraries()
    set_threads(threads)
    try:
        train_all(runs, data, device or "cpu", stop)
    except Stopped:
        raise SystemExit(ASK_AGAIN) from None
    except RunFailed:
        raise SystemExit(RUN_FAILED) from None
    except Exception as error:
        sentence = user_message(error)
        if sentence is None:
            raise
        parent.send(sentence)
        raise SystemExit(2) from None


def exit_with_parent() -> None:
    """Nobody's worker would keep the device: the parent may have been killed without a word."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGKILL)


def unfinished(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if not run.is_done() and not has_failed_for_good(run)]


def acquire_next(runs: Sequence[Run], data: RunData, claims: LeaseHolder) -> tuple[Run, Lease] | None:
    """The first of the runs that is ready and nobody's, and the claim on it; None where there is none just now."""
    for run in runs:
        if data.is_ready(run):
            run.directory.parent.mkdir(parents=True, exist_ok=True)
            if claim := claims.try_acquire(run.lease_file):
                if not run.is_done():
                    return run, claim
                claim.release()
    return None


def train_all(runs: Sequence[Run], data: RunData, device: str, stop: threading.Event) -> None:
    """Trains whatever of `runs` is nobody else's, in their order, until all are done or given up."""
    claims = LeaseHolder()
    while left := unfinished(runs):
        if stop.is_set():
            raise Stopped
        if claimed := acquire_next(left, data, claims):
            run, claim = claimed
            with claim:
                train_and_log(run, data, device, stop.is_set, claim)
            if data.keep_models == "best":
                keep_best_model([other for other in runs if other.member.name == run.member.name])
        else:
            stop.wait(TICK)


def train_and_log(
    run: Run, data: RunData, device: str, stop: Callable[[], bool], claim: Lease | None, is_main_process: bool = True
) -> None:
    """Trains a claimed run and writes down how that went.

    Raises `RunFailed`, or what the user must mend; a lost claim is not worth a word to anyone else.
    """

    def tell(event: str, **facts: Any) -> None:
        if is_main_process:
            log_event(run, event, **facts)

    def report(step: int, steps: int) -> None:
        heartbeat.update(step, steps)
        if claim is not None and claim.compromise is not None:
            raise LeaseLost

    with Heartbeat(run, device, quiet=not is_main_process) as heartbeat:
        tell("begun", device=device)
        try:
            train = train_run if run.member.has_encoder else train_baseline
            with Tracking(trackers_of(run.member), run, is_main_process=is_main_process) as tracking:
                train(run, data, report, stop, lambda: tell("trained"))
                tracking.log_scores()
            tell("done")
        except LeaseLost:
            tell("stopped", error="another host took the run over")
        except Stopped:
            tell("stopped")
            raise
        except Exception as error:
            if user_message(error):
                tell("stopped", error=user_message(error))
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            tell("failed", error=reason, traceback=traceback.format_exc())
            raise RunFailed(f"{run.name} failed ({reason}); {run.attempts_file} has the traceback") from error


def train_jointly(
    runs: Sequence[Run], data: RunData, stop: Callable[[], bool], device: str, idle: Callable[[], None]
) -> None:
    """Trains the runs one after the other, each by all processes of the process group; the first one chooses."""
    claims, first = LeaseHolder(), PartialState().is_main_process
    while True:
        claimed, word = None, "over"
        if first and (left := unfinished(runs)):
            is_stopped = stop()
            claimed = None if is_stopped else acquire_next(left, data, claims)
            word = "stop" if is_stopped else runs.index(claimed[0]) if claimed else "wait"
        word = broadcast_object_list([word])[0]
        if word == "over":
            return
        if word == "stop":
            raise Stopped
        if word == "wait":
            idle()
            threading.Event().wait(TICK)
            continue
        claim = claimed[1] if claimed else None
        try:
            train_and_log(runs[word], data, device, stop, claim, is_main_process=first)
        finally:
            if claim is not None:
                claim.release()
        idle()
