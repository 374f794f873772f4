"""Experiment trackers: each run becomes one tracker run, grouped by job, also in reused worker processes."""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smm4h.config.job import Member
from smm4h.config.plans.run import Run
from smm4h.utils.errors import InputError, nearest

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}


def check_trackers(members: Iterable[Member]) -> None:
    """Raise `InputError` for an unknown tracker in `report_to`, or one whose package is not installed."""
    for name in {name for member in members for name in trackers_of(member)}:
        if name not in PACKAGES:
            known = ", ".join(PACKAGES)
            raise InputError(f"--report_to {name}: no such tracker{nearest(name, PACKAGES)}; there are {known}")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise InputError(f"--report_to {name} needs a package that is not here: pip install {PACKAGES[name]}")


def trackers_of(member: Member) -> list[str]:
    """Return the names of the trackers that a member's runs report to."""
    names = member.args.report_to
    if "all" in names:
        return [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
    return [name for name in names if name != "none"]


class Tracking:
    """Context manager that opens a run in the trackers `names` and closes it at the end.

    Trainer's losses reach the trackers through transformers' own callbacks, which continue the tracker run opened here;
    `log_scores` adds the scores of the finished run. Where several processes train jointly, only the main process
    reports.
    """

    def __init__(self, names: Iterable[str], run: Run, *, is_main_process: bool) -> None:
        self.names = set(names) if is_main_process else set()
        self.run = run
        self.job = run.directory.parents[1]
        self.settings = {"member": run.member.name, "fold": "none" if run.is_refit else run.fold, "stage": run.stage}

    @property
    def project(self) -> str:
        """Name of the tracker project: the job's folder."""
        return self.job.resolve().name

    @property
    def folder(self) -> Path:
        """TensorBoard's log folder, for `tensorboard --logdir runs/task5/tensorboard`."""
        return self.job / "tensorboard" / self.run.name

    @property
    def run_id(self) -> str:
        """Tracker run id, stable across restarts, so that a resumed run continues the same curve."""
        return self.run.fingerprint[:16]

    def __enter__(self) -> "Tracking":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(self.folder)
        if "wandb" in self.names:
            import wandb

            os.environ.setdefault("WANDB_SILENT", "true")  # its lines would break the job's progress display
            wandb.init(
                project=os.environ.get("WANDB_PROJECT", "smm4h"),
                group=os.environ.get("WANDB_RUN_GROUP", self.project),
                job_type=self.run.member.name,
                name=self.run.name,
                id=self.run_id,
                resume="allow",
                config=self.settings,
            )
        if "mlflow" in self.names:
            import mlflow

            mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", self.project))
            tags = {name: str(value) for name, value in self.settings.items()} | {"mark": self.run_id}
            unfinished = f"tags.mark = '{self.run_id}' and attributes.status != 'FINISHED'"
            previous = mlflow.search_runs(filter_string=unfinished, max_results=1, output_format="list")
            mlflow.start_run(previous[0].info.run_id if previous else None, run_name=self.run.name, tags=tags)
        return self

    def __exit__(self, kind: type | None, *rest: Any) -> None:
        if "wandb" in self.names:
            import wandb

            wandb.finish(exit_code=0 if kind is None else 1)
        if "mlflow" in self.names:
            import mlflow

            mlflow.end_run("FINISHED" if kind is None else "FAILED")

    def log_scores(self) -> None:
        """Log the finished run's held-out scores; nothing for a refitted run, which holds no tweets out."""
        results = self.run.measures()
        if not self.names or "held_out" not in results:
            return
        steps = results.get("steps", 0)
        scores = {f"held_out/{name}": value for name, value in results["held_out"].items() if isinstance(value, float)}
        if "tensorboard" in self.names:
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(str(self.folder)) as writer:
                for name, value in scores.items():
                    writer.add_scalar(name, value, steps)
        if "wandb" in self.names:
            import wandb

            wandb.run.summary.update(scores)
        if "trackio" in self.names:
            import trackio

            trackio.init(project=self.project, name=self.run.name, group=self.run.member.name, resume="allow")
            trackio.log(scores)
            trackio.finish()
        if "mlflow" in self.names:
            import mlflow

            mlflow.log_metrics(scores, step=steps)
