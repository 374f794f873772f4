"""JSON files (.jsonl, .json): tables of objects, one a line, all in one array, or in one object by id."""

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smm4h.data.readers.files import Source, kind_of
from smm4h.data.readers.rows import Rows, tables_of
from smm4h.data.readers.tables import ID_LIKE, Table
from smm4h.utils.errors import InputError


class _Repeating(dict):
    """A JSON object in which some key stands twice."""


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    return content if len(content) == len(pairs) else _Repeating(content)


JSON = json.JSONDecoder(object_pairs_hook=_json_object)
BLANK = re.compile(r"[ \t\n\r]*")
OPTIONAL = ("user", "source", "group", "context")  # columns that a file may lack; but not in some objects only


def json_tables(source: Source, size: int | None) -> Iterator[Table]:
    """Yield tables of JSON objects, one a line, all in one array or in one object by id.

    Each has the keys of the first that are read, and those that are passed on from any.
    """
    source.survey()
    with source.text() as text:
        start = next((line for line in text if line.strip()), "").lstrip()
    if source.line_end == "\r" and not _is_json(start):  # white space within the only object
        source.line_end = "\n"
    is_array = start.startswith("[")
    objects = _array_objects(source) if is_array else _objects_by_id(source) or _line_objects(source)
    first = next(objects, None)
    if first is None:
        raise InputError(f"{source.name} is empty; one JSON object a line is expected")
    names = [*first[1], *(name for name in _passed_from_any(source) if name not in first[1])]
    rows = Rows(source, names, "dropped", "", header_line=first[0], has_text=False)
    needed = [list(first[1])[rows.positions[kind]] for kind in ("text", "id") if kind in rows.positions]
    optional = [kind for kind in OPTIONAL if source.wanted and kind not in rows.positions]
    missed = [name for kind in optional for name in getattr(source.wanted.columns, kind)]

    def records() -> Iterator[tuple[int, list]]:
        for line, content in itertools.chain([first], objects):
            for name in needed:
                if name not in content:
                    raise InputError(f"{source.name}, line {line}: no key {name}, which line {first[0]} has; add it")
            for name in missed:
                if name in content:
                    raise InputError(f"{source.name}, line {line}: a key {name}, which line {first[0]} lacks; add it")
            yield line, [content.get(name) for name in names]

    yield from tables_of(rows, records(), size)


def _passed_from_any(source: Source) -> list[str]:
    """Return the names of keys that are passed on, whichever objects have them; those that the task reads are none."""
    if source.wanted is None:
        return []
    own = {name for kind in ("text", "id", *OPTIONAL) for name in getattr(source.wanted.columns, kind)}
    return [name for name in source.wanted.passed if name not in own]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _objects_by_id(source: Source) -> Iterator[tuple[int, dict[str, Any]]] | None:
    """Return the entries of one JSON object that has an object, a label or a list of labels for each id.

    None stands for any other content.

    The number of an entry stands for its line.
    """
    if kind_of(source.path) != ".json":
        return None
    with source.text() as stream:
        try:
            content = JSON.decode(stream.read())
        except (ValueError, RecursionError):
            return None
    id_name = next(iter(source.wanted.columns.id), "id") if source.wanted else "id"
    if not isinstance(content, dict) or not content:
        return None
    if all(isinstance(value, dict) for value in content.values()):
        entries = [{id_name: key} | value for key, value in content.items()]
    elif all(isinstance(value, str | int | list) and ID_LIKE.fullmatch(key) for key, value in content.items()):
        entries = [{id_name: key, "label": value} for key, value in content.items()]
    else:
        return None
    if isinstance(content, _Repeating):
        raise InputError(f"{source.name}: an id stands twice in this object; keep one of them")
    return iter(list(enumerate(entries, start=1)))


def _line_objects(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    with source.text() as text:
        for number, line in enumerate(text, start=1):
            if line.strip():
                with _decoding_json(source, number - 1):
                    content = JSON.decode(line)
                yield number, _checked_object(content, source, number)


def _array_objects(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of an array, each with the line that it begins on; the array's text is held in memory."""
    with source.text() as stream:
        text = stream.read()
    position, number, counted, follows = text.index("[") + 1, 1, 0, "]"
    while True:
        position = BLANK.match(text, position).end()
        number, counted = number + text.count("\n", counted, position), position
        mark = text[position : position + 1]
        if mark == "]" and follows:
            break
        if follows == ",":
            if mark != ",":
                raise InputError(f"{source.name}, line {number}: not JSON (a comma or ] is expected here)")
            position, follows = position + 1, ""
            continue
        with _decoding_json(source, 0):
            content, position = JSON.raw_decode(text, position)
        yield number, _checked_object(content, source, number)
        follows = ","
    if text[position + 1 :].strip():
        raise InputError(f"{source.name}, line {number}: not JSON (more text behind the array)")


@contextmanager
def _decoding_json(source: Source, lines_before: int) -> Iterator[None]:
    """Turn errors of decoding JSON into an `InputError` with their line."""
    try:
        yield
    except json.JSONDecodeError as error:
        where = f"{source.name}, line {lines_before + error.lineno}"
        raise InputError(f"{where}: not JSON ({error.msg}); write one object a line") from None
    except (ValueError, RecursionError):
        where = f"{source.name}, line {lines_before + 1}"
        raise InputError(
            f"{where}: no JSON that can be read, a number is too long or it is nested too deeply"
        ) from None


def _checked_object(content: Any, source: Source, line: int) -> dict[str, Any]:
    """Return a JSON object; raise `InputError` for any other value, and for a wanted key that stands twice."""
    if not isinstance(content, dict):
        raise InputError(f"{source.name}, line {line}: an object {{...}} is expected")
    if isinstance(content, _Repeating):
        raise InputError(f"{source.name}, line {line}: a key stands twice in this object; keep one of them")
    return content
