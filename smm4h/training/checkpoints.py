"""What a process writes for a run: in a folder of its own, and moved to the run's when it is complete.

A process that was stopped until its lease lapsed may go on at any moment, beside its successor. It then writes into its
own folder only; what it moves to the run's folder, or removes there, is fenced by its lease (`smm4h.utils.leases`).
Its successor takes its complete checkpoints by renaming them, so that nobody else can change them afterwards.

A checkpoint is complete by the list of its files with sizes and hashes, which is written last.
"""

import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from smm4h.config.plans.run import Run
from smm4h.config.versions import is_same_code
from smm4h.data.outputs.predictions import is_complete
from smm4h.training.captured.turns import aside
from smm4h.utils.durable import damages, listing, read_checked_json, remove, sync_tree, write_checked_json
from smm4h.utils.files import check_fence, sync_names
from smm4h.utils.leases import LeaseLost

COMPLETE_FILE = "SEALED"
OWN = ".work-"  # and a random name: a process's own folder in the run's


def make_own_folder(run_directory: Path) -> Path:
    """Return a new folder in the run's, for this process alone."""
    folder = run_directory / f"{OWN}{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    return folder


def leave_own_folder(folder: Path) -> None:
    """Remove this process's own folder; a complete checkpoint in it goes back to the run's, if the lease is held."""
    with suppress(LeaseLost, OSError):
        for checkpoint in folder.glob("*/checkpoint-*[0-9]"):
            sync_tree(checkpoint)  # not aside: others must not go on before the error that may have led here is noted
            _move(checkpoint, folder.parent / checkpoint.name)
    shutil.rmtree(folder, ignore_errors=True)


def move_into_place(folder: Path, target: Path) -> None:
    """Move a complete folder to its place, instead of one that is there already."""
    with aside():
        sync_tree(folder)
    _move(folder, target)


def _move(folder: Path, target: Path) -> None:
    check_fence()
    if target.exists():
        remove(target)
    folder.rename(target)
    sync_names(target.parent)


def mark_complete(folder: Path, content: Mapping[str, Any]) -> None:
    """Flush a checkpoint's files to the disk and write their list.

    Args:
        content: what a resumed run needs to know and to compare; see `completion_record`.
    """
    with aside():
        sync_tree(folder)  # or a power cut may keep the mark and lose the content of the files
        files = listing(folder, [folder], without=[COMPLETE_FILE])
    write_checked_json(folder / COMPLETE_FILE, {**content, "files": files})


def publish(folder: Path, run_directory: Path) -> None:
    """Move a complete checkpoint to the run's folder, and remove all others, which are older."""
    target = run_directory / folder.name
    others = [path for path in run_directory.glob("checkpoint-*") if path != target]
    move_into_place(folder, target)
    for path in others:
        remove(path)
    for path in folder.parent.glob("*/checkpoint-*"):  # the one that this process resumed from
        shutil.rmtree(path, ignore_errors=True)


def completion_record(folder: Path) -> dict[str, Any] | None:
    """Return the content given to `mark_complete`; None for an incomplete checkpoint.

    A checkpoint is incomplete without its list, where the list was changed, and where its files differ in name, size or
    content from those that are listed. Lists of earlier versions have sizes only.
    """
    content = read_checked_json(folder / COMPLETE_FILE)
    if content is None or not isinstance(files := content.get("files"), dict):
        return None
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    names.pop(COMPLETE_FILE, None)
    if names.keys() != files.keys():
        return None
    with_hashes = all(isinstance(expected, dict) for expected in files.values())
    if with_hashes:
        return None if any(damages(folder, files)) else content
    return content if files == {name: path.stat().st_size for name, path in names.items()} else None


def adopt_latest(run_directory: Path, own: Path, facts: Mapping[str, Any]) -> Path | None:
    """Move the complete checkpoint with the most steps into this process's own folder; return its place there, or None.

    All other checkpoints, and the own folders of former processes, are removed.

    Args:
        facts: what the checkpoint's record must hold, such as its fingerprint; what it lacks is not compared.
    """
    folders = [folder for folder in run_directory.glob(f"{OWN}*") if folder != own]
    found = [*run_directory.glob("checkpoint-*[0-9]"), *(run_directory.glob(f"{OWN}*/**/checkpoint-*[0-9]"))]
    found = sorted((path for path in found if own not in path.parents), key=_steps, reverse=True)
    check_fence()  # after the search: it can't have found what a later holder of the lease writes
    adopted = None
    for number, path in enumerate(found):
        place = own / f"adopted-{number}" / path.name
        place.parent.mkdir(parents=True)
        with suppress(FileNotFoundError):  # a former process has removed it
            path.rename(place)
        record = None if adopted else completion_record(place)
        if record is not None and all(record.get(key, value) == value for key, value in facts.items()):
            adopted = place
        else:
            shutil.rmtree(place.parent, ignore_errors=True)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return adopted


def _steps(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])


def remove_all(run_directory: Path) -> None:
    """Remove all checkpoints of a run, complete or not."""
    for path in run_directory.glob("checkpoint-*"):
        remove(path)


def on_main_process(action: Callable[[], None]) -> None:
    """Do what one process does for all that train the run jointly; a lease that is lost there is lost for all.

    Raises `LeaseLost` in all processes, also where `action` failed otherwise, without the lease: its successor removes
    this process's own folder.
    """
    lost = False
    if PartialState().is_main_process:
        try:
            action()
        except (LeaseLost, OSError) as error:
            lost = isinstance(error, LeaseLost) or _is_lease_lost()
            if not lost:
                raise
    if broadcast_object_list([lost])[0]:
        raise LeaseLost("another process took the run over")


def _is_lease_lost() -> bool:
    try:
        check_fence()
    except LeaseLost:
        return True
    return False


@dataclass
class TrainingResult:
    """Result of a run's training; the content of its TRAINED file."""

    fingerprint: str
    training_tweets: int
    steps: int
    checkpoint: Any  # the chosen evaluation, or "last"
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    collapsed: dict[str, float] | None = None  # seed and training AUC of a first, collapsed training
    smm4h: str | None = None  # version of the code that trained the run; None: an earlier one
    files: dict[str, dict[str, Any]] | None = None  # sizes and hashes of the run's files so far; None in old jobs

    @property
    def facts(self) -> dict[str, Any]:
        """What the metrics file says of the training."""
        without = ("fingerprint", "seconds", "smm4h", "files")
        return {name: value for name, value in asdict(self).items() if name not in without}


class ResultFiles:
    """The files that a run has written, with sizes and hashes; DONE lists them in the end."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.files: dict[str, dict[str, Any]] = {}

    def is_whole(self, path: Path, maker: dict[str, Any]) -> bool:
        """Return whether a file was written before, by this run, and is as it was."""
        listed = {path.name: self.files[path.name]} if path.name in self.files else None
        return listed is not None and not any(damages(self.run.directory, listed)) and is_complete(path, maker)

    def add(self, path: Path) -> None:
        """List a file that was written just now."""
        self.files |= listing(self.run.directory, [path])


class RunFiles(ResultFiles):
    """A run's files, whose hashes TRAINED keeps until there is DONE, so that a resumed run trusts what is whole."""

    def __init__(self, run: Run, trained: TrainingResult) -> None:
        super().__init__(run)
        self.trained = trained
        self.files = {name: listed for name, listed in (trained.files or {}).items() if "/" not in name}

    def is_whole(self, path: Path, maker: dict[str, Any]) -> bool:
        if self.trained.files is None:  # of an earlier version
            return is_complete(path, maker)
        return super().is_whole(path, maker)

    def add(self, path: Path) -> None:
        super().add(path)
        write_training_result(self.run, replace(self.trained, files={**(self.trained.files or {}), **self.files}))


def write_training_result(run: Run, result: TrainingResult) -> None:
    """Write the TRAINED file."""
    write_checked_json(run.trained_file, asdict(result))


def read_training_result(run: Run) -> TrainingResult | None:
    """Return the content of the TRAINED file; None if it is missing, damaged, of another fingerprint or code.

    None also if the weights are not those that it lists.
    """
    try:
        result = TrainingResult(**(read_checked_json(run.trained_file) or {}))
    except TypeError:
        return None
    is_current = result.fingerprint == run.fingerprint and is_same_code(result.smm4h)
    return result if is_current and _has_weights(run, result) else None


def _has_weights(run: Run, result: TrainingResult) -> bool:
    """Return whether the trained weights are there and, as far as TRAINED lists them, whole."""
    folder = weights_folder(run)
    listed = {name: listed for name, listed in (result.files or {}).items() if name.startswith("trained/")}
    names = {f"{folder.name}/{name.removeprefix('trained/')}": value for name, value in listed.items()}
    return folder.is_dir() and not any(damages(run.directory, names))


def weights_folder(run: Run) -> Path:
    """Return the folder with a run's trained weights: they are moved from `trained` to `model` before DONE."""
    return run.trained_model if run.trained_model.is_dir() else run.model
