"""Reading YAML with line numbers, checks of paths, and atomic writing."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.constructor import ConstructorError

from smm4h.utils.errors import InputError
from smm4h.utils.temporaries import temporary_file

KeyPath = tuple[str, ...]
PIPE = "-"  # stands for standard input or output
MOST_NODES = 100_000  # values in a YAML file
MERGE, STRING = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"  # what YAML says of `<<:` and of text
UMASK_AT_START = os.umask(0)
os.umask(UMASK_AT_START)  # asked once, before there are threads
UMASK_VARIABLE = "SMM4H_UMASK"  # of files with tweets
SURROGATE = re.compile("[\ud800-\udfff]")
_fence: ContextVar[Callable[[], None]] = ContextVar("fence", default=lambda: None)
LONG_NAME = 128  # bytes; a hidden name beside a file holds its name and more, and file systems allow 255


class NamesAsWritten(yaml.SafeLoader):
    """Reads names as the text they are written as, and merges mappings (`<<: *name`) as YAML 1.1 says.

    A member may be called `no`, a label `01` and a folder `2026_11_27`: keys are text, and so are dates and integers
    in any but the usual form, of which YAML makes other numbers. PyYAML 6.0.4 lets the last of several merged mappings
    win, older versions the first, which is right.
    """

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        node.value = [*_merged_pairs(node), *((_as_text(key), value) for key, value in node.value if key.tag != MERGE)]
        return node

    def construct_usual_int(self, node: yaml.ScalarNode) -> int | str:
        """Return an integer, or the text of one that is not written in the usual form."""
        number = self.construct_yaml_int(node)
        return number if str(number) == node.value else node.value


NamesAsWritten.add_constructor("tag:yaml.org,2002:int", NamesAsWritten.construct_usual_int)
NamesAsWritten.add_constructor("tag:yaml.org,2002:timestamp", NamesAsWritten.construct_yaml_str)


def _as_text(key: yaml.Node) -> yaml.Node:
    if not isinstance(key, yaml.ScalarNode):
        return key
    return yaml.ScalarNode(STRING, key.value, key.start_mark, key.end_mark)


def _merged_pairs(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    """Return the keys and values that a mapping takes over from others, without those that it has itself.

    Raises `yaml.YAMLError` for anything but mappings that end above.
    """
    merges = [(key, value) for key, value in node.value if key.tag == MERGE]
    if len(merges) > 1:
        raise ConstructorError(problem="<< stands twice; write <<: [*a, *b]", problem_mark=merges[1][0].start_mark)
    own, pairs = {str(name.value) for name, _ in node.value}, {}
    for key, value in merges:
        for mapping in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(mapping, yaml.MappingNode) or mapping.end_mark is None or mapping is node:
                raise ConstructorError(problem="<< takes mappings that end above it", problem_mark=key.start_mark)
            for pair in mapping.value:
                pairs.setdefault(str(pair[0].value), pair)
    return [pair for name, pair in pairs.items() if name not in own]


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text; raise what yaml does for one that is none."""
    return yaml.load(text, Loader=NamesAsWritten)


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Read a YAML mapping; return it, and the line of each of its keys by the path of keys that leads to it.

    A key that is merged from another mapping (`<<: *name`) has the line where it is written.

    Raises:
        InputError: for a missing or malformed file, and for a repeated key, which YAML would let pass.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not valid UTF-8"
        raise InputError(f"{path} can't be read ({reason}); name an existing YAML file") from None
    try:
        root = yaml.compose(text, Loader=NamesAsWritten)
        lines = _key_lines(path, root)
        content = parse_yaml(text)
    except InputError:
        raise
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "problem", error)
        problem = str(problem).partition("\n")[0]
        raise InputError(f"{path}{where}: this is not YAML ({problem})") from None
    except (ValueError, TypeError) as error:  # of a number that there is not, and of a list as a key
        reason = str(error).splitlines()[0] if str(error) else "a value that can't be read"
        raise InputError(f"{path}: this is not YAML that can be read ({reason}); put such values in quotes") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}, line 1: a mapping `key: value` is expected here")
    return content, lines


def _key_lines(path: Path, root: yaml.Node | None) -> dict[KeyPath, int]:
    """Return the line of each key of a document.

    Raises `InputError` for a repeated key, for a value that refers to itself, and for aliases that unfold to more than
    `MOST_NODES` values: ten lines can make a billion.
    """
    lines: dict[KeyPath, int] = {}
    n_nodes = 0

    def fail(node: yaml.Node, message: str) -> NoReturn:
        raise InputError(f"{path}, line {node.start_mark.line + 1}: {message}")

    def walk(node: yaml.Node, parents: KeyPath, above: frozenset[int]) -> None:
        nonlocal n_nodes
        n_nodes += 1
        if id(node) in above or n_nodes > MOST_NODES:
            what = "refers to itself" if id(node) in above else f"unfolds to more than {MOST_NODES} values"
            fail(node, f"this value {what}; write it out without aliases")
        if isinstance(node, yaml.ScalarNode) and SURROGATE.search(node.value):
            fail(node, "half a character, such as half an emoji, stands here; write it whole")
        if isinstance(node, yaml.SequenceNode):
            for value in node.value:
                walk(value, parents, above | {id(node)})
        elif isinstance(node, yaml.MappingNode):
            own: set[str] = set()
            for key, value in node.value:
                key_path = (*parents, str(key.value))
                if key_path[-1] in own:
                    where = f"first on line {lines[key_path]}"
                    fail(key, f"{key.value} stands here a second time ({where}); keep one of them")
                own.add(key_path[-1])
                lines[key_path] = key.start_mark.line + 1
                walk(value, key_path, above | {id(node)})

    if root is not None:
        walk(root, (), frozenset())
    return lines


def expand_home(path: str) -> str:
    """Return a path with its leading `~` replaced: no shell does that in YAML, nor in `--output=~/labels.tsv`."""
    return os.path.expanduser(path)


def check_is_input(path: str | Path) -> None:
    """Raise `InputError` for an input of tweets that is neither a file nor a folder of files."""
    if not Path(path).is_dir():
        check_is_file(path)


def is_stream(path: str | Path) -> bool:
    """Return whether a path leads to a pipe or a device: it exists, and is neither a file nor a folder."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


def check_is_file(path: str | Path) -> None:
    """Raise `InputError` for an input file that does not exist, or is a folder."""
    path = Path(path)
    if path.is_file():
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder, where a file is expected; name a file in it")
    if file := file_above(path):
        raise InputError(f"{path} can't be read, because {file} is a file and no folder; name an existing file")
    if not path.exists():
        raise InputError(f"{path} is not there; name an existing file")
    raise InputError(f"{path} is a pipe or a device, which can be read only once; write it to a file first")


def file_above(path: Path) -> Path | None:
    """Return the file that a path treats as a folder, `a.tsv` of `a.tsv/b/c.tsv`, or None."""
    return next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)


def is_same_file(path: str | Path, other: str | Path) -> bool:
    """Return whether two paths lead to one file or folder, by other spellings, symbolic links or hard links too."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(path) == os.path.realpath(other)


def is_below(path: str | Path, folder: str | Path) -> bool:
    """Return whether a path lies in a folder, at any depth, or is the folder."""
    real = Path(os.path.realpath(path))
    return any(is_same_file(place, folder) for place in (path, real, *real.parents))


def check_output(output: str | Path, inputs: Iterable[str | Path | None], flag: str = "--output") -> None:
    """Raise `InputError` for an output file that is also an input, lies in an input folder, or can't be a file.

    Leave out folders that are read by known names: a file of another name there is no input.

    Args:
        inputs: files and folders that the command reads; None and names that are no path count as nothing.
        flag: which named the output, for the message.
    """
    output = Path(output)
    if output.is_dir():
        raise InputError(f"{flag} {output} is a folder, where a file is expected; name a file in it")
    if output.exists() and not output.is_file():
        raise InputError(f"{flag} {output} is a device or a pipe, where a file is expected; name a file")
    check_place(output, flag)
    for path in inputs:
        if path is None or not Path(path).exists():
            continue
        if Path(path).is_dir():
            if is_below(output, path):
                raise InputError(f"{flag} {output} lies in {path}, which this command reads; name a place outside it")
        elif is_same_file(output, path):
            raise InputError(f"{flag} {output} is {path}, which this command reads; name another file")


def check_output_folder(folder: str | Path, inputs: Iterable[str | Path | None], flag: str = "--output_dir") -> None:
    """Raise `InputError` for an output folder that is a file or an input, or lies in an input folder.

    Args: as `check_output`'s.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{flag} {folder} is a file, where a folder is expected; name another place")
    check_place(folder, flag)
    for path in inputs:
        if path is None or not Path(path).exists():
            continue
        if Path(path).is_dir() and is_below(folder, path):
            raise InputError(f"{flag} {folder} lies in {path}, which this command reads; name a place outside it")


def check_new(output: str | Path, overwrite: bool, flag: str = "--output") -> None:
    """Raise `InputError` for an output that is there already, unless it may be overwritten."""
    if not overwrite and os.path.exists(output):
        raise InputError(f"{flag} {output} is there already; name another place, or replace it with --overwrite")


def check_place(path: Path, flag: str) -> None:
    """Raise `InputError` for an output below a file."""
    if file := file_above(path):
        raise InputError(f"{flag} {path} can't be written, because {file} is a file and no folder; name another place")


def read_json(path: str | Path) -> Any:
    """Read a JSON file that this project wrote; raise `InputError` if it is missing or incomplete."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} can't be read; give the job's command again to have it made") from None


def write_atomically(path: str | Path, write: Callable[[Path], None], *, private: bool = False) -> None:
    """Call `write` on a temporary file beside `path`, then move it there: a reader sees the complete file or none.

    Args:
        write: writes the content to the path that it is given.
        private: whether the file holds tweets, which other users of the machine must not read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix  # the format goes by it
    partial = temporary_file(path.parent, suffix)
    try:
        write(partial)
        sync(partial)
        partial.chmod(private_mode() if private else 0o666 & ~umask())  # its 0600 would lock other users out
        check_fence()
        partial.replace(path)
        sync_names(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_names(folder: Path) -> None:
    """Flush a folder's names to the disk, or a power cut may take a file that was moved there."""
    if os.name != "nt":  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # some network file systems can't flush a folder
            os.fsync(descriptor)
        os.close(descriptor)


@contextmanager
def fenced(check: Callable[[], None]) -> Iterator[None]:
    """Have `check` called just before each write or removal of the `with` block; it raises where the right is lost.

    The checks of blocks around this one are called, too.
    """
    outer = _fence.get()

    def check_all() -> None:
        outer()
        check()

    token = _fence.set(check_all)
    try:
        yield
    finally:
        _fence.reset(token)


def check_fence() -> None:
    """Raise what the checks of the `fenced` blocks raise, where this process lost its right to write."""
    _fence.get()()


def sync(path: Path) -> None:
    """Flush a file to the disk, or a power failure may keep its name and lose its content."""
    with path.open("rb+") as written:
        os.fsync(written.fileno())


def umask() -> int:
    """Return this process's umask without changing it, as another thread may make a file at that moment."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
    except (OSError, StopIteration, ValueError):  # not Linux
        return UMASK_AT_START


def private_mode() -> int:
    """Return the mode of a file with tweets: 0600, or what the umask in SMM4H_UMASK leaves.

    Raises `InputError` for a value that is no umask.
    """
    asked = os.environ.get(UMASK_VARIABLE, "077")
    if not re.fullmatch("0?[0-7]{3}", asked):
        raise InputError(
            f"{UMASK_VARIABLE}={asked} is no umask; 027, for example, lets the group read files with tweets"
        )
    return (0o666 & ~int(asked, 8)) | 0o600


def beside(path: Path, suffix: str) -> Path:
    """Return a hidden path beside a file, named after it as far as a name's length allows."""
    name = path.name
    if len(os.fsencode(name)) >= LONG_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f".{name}{suffix}")


def write_text(path: str | Path, text: str, *, private: bool = False) -> None:
    """Write UTF-8 text with the line ends as given, atomically; `private` as for `write_atomically`."""
    write_atomically(path, lambda partial: partial.write_bytes(text.encode("utf-8")), private=private)


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
