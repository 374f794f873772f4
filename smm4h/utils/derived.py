"""Files that are made from others: made by one process, recorded with size and hash, made again where they are damaged.

The records stand in one file of the folder, `made.json`. A derived file is made again, and said to be, where it is
missing, cut or changed, and where the files that it was made from are others now.
"""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from smm4h.utils.console import console
from smm4h.utils.durable import damages, listing, read_checked_json, remove, write_checked_json
from smm4h.utils.errors import InputError
from smm4h.utils.leases import lease_file_of, make_once, wait_for_lease

RECORDS = "made.json"


class DerivedFiles:
    """The derived files of a folder; a folder counts as one file, with all that is in it.

    Args:
        accepts_unrecorded: whether files without a record count as whole, as in folders of earlier versions.
    """

    def __init__(self, folder: Path, *, accepts_unrecorded: bool = False) -> None:
        self.folder, self.accepts_unrecorded = folder, accepts_unrecorded

    @property
    def records_file(self) -> Path:
        return self.folder / RECORDS

    def make(self, path: Path, make: Callable[[], None], inputs: str = "") -> None:
        """Have `path` made by the first process that asks, unless it is whole and of these inputs.

        Args:
            make: writes `path`, atomically.
            inputs: a hash, or any text, that tells the files that `path` is made from.
        """

        def make_and_record() -> None:
            if path.exists() and (reason := self.reason_to_make(path, inputs)):
                console.print(f"note: {path} {reason}; it is made again", markup=False, soft_wrap=True)
                if path.is_dir():
                    remove(path)
            make()
            self.record(path, inputs)

        make_once(path, make_and_record, lambda: self.reason_to_make(path, inputs) is None)

    def reason_to_make(self, path: Path, inputs: str = "") -> str | None:
        """Return why a file must be made, in words after its name; None where it is whole and of these inputs."""
        if not path.exists():
            return "is missing"
        record = self._records().get(self._name(path))
        if record is not None and record["inputs"] != inputs:
            return "was made from other files than there are now"
        return self.damage_of(path)

    def damage_of(self, path: Path) -> str | None:
        """Return what is wrong with a file that is there, in words after its name; None if it is whole."""
        record = self._records().get(self._name(path))
        if record is None:
            return None if self.accepts_unrecorded else "is not known to be whole"
        return self._damage(path, record)

    def record(self, path: Path, inputs: str | None = None) -> None:
        """Write size and hash of a file that was made just now; without `inputs`, they are what they were."""
        with wait_for_lease(lease_file_of(self.records_file), self.records_file):
            records = self._records()
            known = records.get(self._name(path), {}).get("inputs", "") if inputs is None else inputs
            record = {"inputs": known, "files": listing(self.folder, [path])}
            if records.get(self._name(path)) != record:
                write_checked_json(self.records_file, {**records, self._name(path): record})

    def remove(self, paths: Collection[Path]) -> None:
        """Remove files, which nothing makes again but what needs them, with their records."""
        for path in paths:
            remove(path)
        with wait_for_lease(lease_file_of(self.records_file), self.records_file):
            records, names = self._records(), {self._name(path) for path in paths}
            if names & records.keys():
                kept = {name: record for name, record in records.items() if name not in names}
                write_checked_json(self.records_file, kept)

    def recorded_in(self, folder: Path) -> list[Path]:
        """Return the recorded files in a folder, not below it."""
        return [path for path in (self.folder / name for name in self._records()) if path.parent == folder]

    def check(self, path: Path) -> None:
        """Raise `InputError` for a recorded file, or a file of a recorded folder, that is not as it was made.

        Without records, which every job of today has, nothing is known to be whole.
        """
        if not self.accepts_unrecorded and (wrong := self._damage_of_records()):
            raise InputError(f"{self.records_file} {wrong}; give the job's command, which makes it again")
        records = self._records()
        names = [self._name(place) for place in (path, *path.parents) if place.is_relative_to(self.folder)]
        for name in (name for name in names if name in records):
            if damage := self._damage(self.folder / name, records[name]):
                raise InputError(f"{self.folder / name} {damage}; give the job's command, which makes it again")

    def damaged(self, expected: Iterable[Path] = ()) -> Iterable[tuple[str, str]]:
        """Yield each recorded file that is not as it was made, by its path below the folder, and what is wrong.

        Args:
            expected: files that have been made, so that the records must list them.
        """
        expected, records = [self._name(path) for path in expected], self._records()
        if (wrong := self._damage_of_records()) and (expected or self.records_file.exists()):
            yield RECORDS, wrong
        elif not self.accepts_unrecorded:
            yield from ((name, f"is not listed in {RECORDS}") for name in expected if name not in records)
        for record in records.values():
            yield from damages(self.folder, record["files"])

    def _damage_of_records(self) -> str | None:
        """Return what is wrong with the file of records, in words after its name; None if it is whole or not needed."""
        if not self.records_file.exists():
            return None if self.accepts_unrecorded else "is gone"
        return "is damaged" if read_checked_json(self.records_file) is None else None

    def _damage(self, path: Path, record: dict[str, Any]) -> str | None:
        """Return what is wrong with a recorded file or folder, in words after its name; None if it is whole."""
        for name, wrong in damages(self.folder, record["files"]):
            return wrong if name == self._name(path) else f"is damaged: {name} {wrong}"
        return None

    def _records(self) -> dict[str, Any]:
        return read_checked_json(self.records_file) or {}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
