"""Reading YAML with line numbers, and atomic writing."""

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
    """Read a YAML mapping; return it, and the line of each of its keys by the path of keys that leads to it.

    Raises:
        InputError: for a missing or malformed file, and for a repeated key, which YAML would let pass.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read ({error}); name an existing YAML file") from None
    lines: dict[KeyPath, int] = {}

    def walk(node: yaml.Node, parents: KeyPath) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                key_path = (*parents, str(key.value))
                if key_path in lines:
                    raise InputError(
                        f"{path}, line {key.start_mark.line + 1}: {key.value} stands here a second time "
                        f"(first on line {lines[key_path]}); keep one of them"
                    )
                lines[key_path] = key.start_mark.line + 1
                walk(value, key_path)

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


def check_is_file(path: str | Path) -> None:
    """Raise `InputError` for an input file that does not exist."""
    if not Path(path).is_file():
        raise InputError(f"{path} is not there; name an existing file, or its folder with --data_dir")


def read_json(path: str | Path) -> Any:
    """Read a JSON file that this project wrote; raise `InputError` if it is missing or incomplete."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} can't be read; give the job's command again to have it made") from None


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary file beside `path`, then move it there: a reader sees the complete file or none.

    Args:
        write: writes the content to the path that it is given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(descriptor)
    partial = Path(name)
    try:
        write(partial)
        with partial.open("rb+") as written:
            os.fsync(written.fileno())  # fsync, or a power failure may keep the name and lose the content
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp's 0600 would lock other users of a shared folder out
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text with the line ends as given, atomically."""
    write_atomically(path, lambda partial: partial.write_bytes(text.encode("utf-8")))


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
