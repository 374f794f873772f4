"""The content of a task file with the line of each key, and what every key is checked for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from smm4h.utils.errors import CONTROL, HAS_CONTROL, InputError, nearest
from smm4h.utils.files import KeyPath


@dataclass(frozen=True)
class Content:
    """The content of a task file, with the line of each key."""

    path: Path
    keys: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a key's value; the default where it is left out or empty."""
        value = self.keys.get(key)
        return default if value is None else value

    def fail(self, key: str, message: str, *below: str) -> NoReturn:
        """Raise `InputError` with the line of a key, or of one below it."""
        line = self.lines.get((key, *below)) or self.lines.get((key,))
        raise InputError(f"{self.path}{f', line {line}' if line else ''}: {message}")

    def strings(self, key: str, value: Any) -> list[str]:
        """Return a value as a list of names; raise `InputError` for truth values and the like."""
        values = value if isinstance(value, list) else [value]
        for item in values:
            if isinstance(item, bool) or not isinstance(item, str | int | float):
                self.fail(key, f"{item!r} is not a name here; put it in quotes (YAML reads yes and no as truth values)")
            if CONTROL.search(str(item)):
                self.fail(key, HAS_CONTROL.format(f"name {str(item)!r}"))
        return [str(item) for item in values]

    def mapping(self, key: str, value: Any, example: str) -> dict[str, Any]:
        """Return a mapping with its keys as strings; raise `InputError` for any other value."""
        if not isinstance(value, dict):
            self.fail(key, f"a mapping such as {example} is expected")
        return {self.strings(key, name)[0]: content for name, content in value.items()}

    def choice(self, key: str, value: Any, choices: Iterable[str], what: str) -> str:
        """Return a value that is one of some names; raise `InputError` with the nearest for any other."""
        choices = list(choices)
        if value not in choices:
            self.fail(key, f"no {what} {value}{nearest(str(value), choices)}; there are {', '.join(choices)}")
        return value

    def check_keys(self, key: str, value: Mapping[str, Any], known: Iterable[str], what: str) -> None:
        """Raise `InputError` for a key below `key` that is none of the known ones."""
        known = sorted(known)
        for name in value:
            if name not in known:
                self.fail(key, f"no {what} {name}{nearest(name, known)}; there are {', '.join(known)}", name)
