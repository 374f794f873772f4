"""The folder of a task with subtasks: a job in a folder of each one's name, and what all have in common."""

from dataclasses import asdict, dataclass
from pathlib import Path

from smm4h.config.output_paths import SUBTASKS_FILE
from smm4h.config.task import Submission
from smm4h.config.task_keys.subtasks import Subtasks
from smm4h.utils.derived import DerivedFiles
from smm4h.utils.durable import read_checked_json, write_checked_json
from smm4h.utils.errors import InputError


@dataclass(frozen=True)
class SubtaskJobs:
    """A job for each subtask, in one folder."""

    folder: Path
    subtasks: Subtasks

    @classmethod
    def read(cls, folder: Path) -> "SubtaskJobs | None":
        """Return the jobs of a folder that holds one for each subtask; None for any other folder.

        Raises `InputError` for a damaged list of subtasks.
        """
        path = folder / SUBTASKS_FILE
        if not path.is_file():
            return None
        content = read_checked_json(path)
        try:
            submission = Submission(**content["submission"])
            return cls(folder, Subtasks(content["name"], content["subtasks"], submission))
        except (KeyError, TypeError):
            raise InputError(f"{path} is damaged; give the job's command, which makes it again") from None

    @classmethod
    def around(cls, folder: Path) -> "SubtaskJobs | None":
        """Return the jobs of all subtasks where a folder holds the job of one of them; else None."""
        real = folder.resolve()
        jobs = cls.read(real.parent)
        return jobs if jobs and real.name in jobs.subtasks.names else None

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each subtask's job."""
        return {name: self.folder / name for name in self.subtasks.names}

    @property
    def derived(self) -> DerivedFiles:
        """The files that are made from the jobs of all subtasks."""
        return DerivedFiles(self.folder)

    def check_claimable(self) -> None:
        """Raise `InputError` where the folder holds a job of another kind, or of another task's subtasks."""
        if (self.folder / "plan.json").exists():
            raise InputError(f"{self.folder} holds a job with one subtask; choose another --output_dir")
        stored = read_checked_json(self.folder / SUBTASKS_FILE) or {}
        if stored.get("name", self.subtasks.name) != self.subtasks.name:
            raise InputError(
                f"{self.folder} was made for the subtasks of another task, {stored['name']}; choose another "
                "--output_dir"
            )

    def write(self) -> None:
        """Write which subtasks there are and how they are handed in, where the folder does not say so yet."""
        own = {
            "name": self.subtasks.name,
            "subtasks": self.subtasks.names,
            "submission": asdict(self.subtasks.submission),
        }
        stored = read_checked_json(self.folder / SUBTASKS_FILE) or {}
        if own != {key: stored.get(key) for key in own}:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_checked_json(self.folder / SUBTASKS_FILE, own)


def check_one_subtask(folder: Path) -> None:
    """Raise `InputError` for a folder with a job for each subtask, where the job of one subtask is needed."""
    if jobs := SubtaskJobs.read(folder):
        names = ", ".join(str(path) for path in jobs.folders.values())
        raise InputError(f"{folder} holds a job for each subtask, and this needs one of them; name {names}")
