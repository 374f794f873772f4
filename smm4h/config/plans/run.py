"""A run: one training of a member, and the paths of its files."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.job import Member
from smm4h.utils.durable import Listed, damages, read_checked_json
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json
from smm4h.utils.leases import lease_file_of

REFIT = "refit"  # folder of the refitted run, beside `fold-0`, `fold-1`, ...


@dataclass(frozen=True)
class Run:
    """One training of a member: on one fold's training part or, as a refit, on all labelled tweets."""

    member: Member
    fold: int | None  # None: a refit, which holds no tweet out
    directory: Path
    fingerprint: str
    is_baseline: bool = False  # without a vote
    adaptation: "Run | None" = None  # the run whose adapted encoder this one fine-tunes
    is_adaptation: bool = False  # adapts an encoder to texts; it predicts nothing

    @property
    def name(self) -> str:
        if self.is_adaptation:
            return f"{self.directory.parent.name}/{self.directory.name}"
        return f"{self.member.name}/{self.directory.name}"

    @property
    def is_refit(self) -> bool:
        return self.fold is None

    @property
    def part_name(self) -> str:
        """The fold, or the refit, in words."""
        if self.is_adaptation:
            return "adaptation"
        return "refit" if self.is_refit else f"fold {self.fold}"

    @property
    def built_member(self) -> Member:
        """The member with the encoder that its model is built on: the adapted one, where it is adapted first."""
        if self.adaptation is None:
            return self.member
        return self.member.with_settings(model_name_or_path=str(self.adaptation.model))

    def holds_out(self, folds: np.ndarray) -> np.ndarray:
        """Return a mask (n_tweets,) of the tweets that the run must not learn from.

        Args:
            folds: (n_tweets,) the fold that holds each tweet out.
        """
        return np.zeros(len(folds), dtype=bool) if self.is_refit else folds == self.fold

    @property
    def stage(self) -> int:
        return self.member.stage

    @property
    def held_out_file(self) -> Path:
        return self.directory / "held_out.parquet"

    @property
    def test_file(self) -> Path:
        return self.directory / "test.parquet"

    @property
    def unlabelled_file(self) -> Path:
        """A teacher's probabilities of the unlabelled tweets; none where the test tweets are pseudo-labelled."""
        return self.directory / "unlabelled.parquet"

    @property
    def metrics_file(self) -> Path:
        return self.directory / "metrics.json"

    @property
    def done_file(self) -> Path:
        return self.directory / "DONE"

    @property
    def trained_file(self) -> Path:
        """Result of the training; exists from the completion of `trained_model` until the run is done."""
        return self.directory / "TRAINED"

    @property
    def collapsed_file(self) -> Path:
        """Exists while a run is trained with another seed, since it collapsed with the first one."""
        return self.directory / "COLLAPSED"

    @property
    def trained_model(self) -> Path:
        return self.directory / "trained"

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def running_file(self) -> Path:
        """Heartbeat: where the run is trained, and its step; exists while it is trained."""
        return self.directory / "RUNNING"

    @property
    def attempts_file(self) -> Path:
        """Event log, a JSON object per line."""
        return self.directory / "attempts.jsonl"

    @property
    def lease_file(self) -> Path:
        """Lease of the process that trains the run."""
        return lease_file_of(self.directory)

    def is_done(self) -> bool:
        """Whether DONE is there, whole, and of this run's fingerprint."""
        return self.done_record() is not None

    def done_record(self) -> dict[str, Any] | None:
        """Return the content of DONE; None where it is missing, damaged, or of another fingerprint."""
        try:
            status = self.done_file.stat()
        except OSError:
            return None
        record = checked_json(self.done_file, (status.st_ino, status.st_size, status.st_mtime_ns))
        return record if record and record.get("fingerprint") == self.fingerprint else None

    def listed_files(self) -> Listed:
        """Return the sizes and hashes that DONE has of the run's files; empty before DONE, and in old jobs."""
        return (self.done_record() or {}).get("files", {})

    def check_file(self, path: Path) -> None:
        """Raise `InputError` for a file, or a folder with a file, that is not what the run wrote."""
        name = path.relative_to(self.directory).as_posix()
        own = {key: value for key, value in self.listed_files().items() if key == name or key.startswith(f"{name}/")}
        for damaged, wrong in damages(self.directory, own):
            raise InputError(
                f"{self.directory / damaged} {wrong}; remove {self.done_file} and give the job's command, which makes "
                "the run again"
            )

    def measures(self) -> dict[str, Any]:
        """Return the content of the metrics file; raise `InputError` where it is not what the run wrote.

        A changed score could have the wrong run's weights removed.
        """
        self.check_file(self.metrics_file)
        return read_json(self.metrics_file)


@lru_cache(maxsize=4096)
def checked_json(path: Path, version: tuple[int, ...]) -> dict[str, Any] | None:
    """Return the content of a checked file, which is read once for each `version` of it."""
    return read_checked_json(path)
