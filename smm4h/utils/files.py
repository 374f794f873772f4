"""Files at the edges: YAML with line numbers, and writing that is all or nothing."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from smm4h.utils.errors import InputError

KeyPath = tuple[str, ...]


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """A YAML mapping and the line of each of its keys, by the path of keys that leads there.

    Raises `InputError` for a missing or malformed file and for a key that stands twice, which YAML would let pass.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read ({error}); name an existing YAML file") from None
    lines: dict[KeyPath, int] = {}

    def walk(node: yaml.Node, above: KeyPath) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*above, str(key.value))
                if here in lines:
                    raise InputError(
                        f"{path}, line {key.start_mark.line + 1}: {key.value} stands here a second time "
                        f"(first on line {lines[here]}); keep one of them"
                    )
                lines[here] = key.start_mark.line + 1
                walk(value, here)

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            walk(root, ())
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: this is not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}, line 1: a mapping `key: value` is expected here")
    return content, lines


def read_json(path: str | Path) -> Any:
    """A JSON file that this project wrote; raises `InputError` where it is not there or not whole."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} can't be read; give the job's command again to have it made") from None


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Lets `write` make a file beside `path` and then moves it there: a reader sees the whole file or none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(descriptor)
    partial = Path(name)
    try:
        write(partial)
        with partial.open("rb+") as written:
            os.fsync(written.fileno())  # else a power failure may leave the name without the content
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp's 0600 would lock a team's other members out
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text with the line ends as given, all or nothing."""
    write_atomically(path, lambda partial: partial.write_bytes(text.encode("utf-8")))


def write_json(path: str | Path, content: Any) -> None:
    """Writes readable JSON, all or nothing."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
