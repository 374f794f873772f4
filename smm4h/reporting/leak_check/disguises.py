"""Texts that a file holds in other words: escaped, encoded or in another character set."""

import base64
import binascii
import contextlib
import html
import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

ESCAPED = re.compile(r"\\u[0-9a-fA-F]{4}")
BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]{16,}(?:\\n|\r?\n[ \t]*)?)+[A-Za-z0-9+/_-]*={0,2}")
DEEPEST = 3  # layers of encodings


def texts_in(content: bytes, suffix: str, deepest: int = DEEPEST) -> Iterator[tuple[int, str]]:
    """Yield the texts in a file's content, each with the line that it begins at, from 0; the content as UTF-8 first.

    UTF-16 and UTF-32, HTML entities, strings of JSON, percent-encoding and base64 are undone, also within each other,
    up to `deepest` layers.
    """
    pending = [(0, content.decode("utf-8", errors="replace"), 0)]
    if b"\0" in content:
        codecs = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
        pending += [(0, content.decode(codec, errors="replace"), 0) for codec in codecs]
    seen = {text for _, text, _ in pending}
    while pending:
        line, text, depth = pending.pop()
        yield line, text
        if depth == deepest:
            continue
        for start, plain in _undone(text, suffix if depth == 0 else ""):
            if plain not in seen:
                seen.add(plain)
                pending.append((line + text.count("\n", 0, start), plain, depth + 1))


def _undone(text: str, suffix: str) -> Iterator[tuple[int, str]]:
    """Yield offset and text of what a text holds in other words."""
    for mark, undo in UNDO:
        if mark in text:
            yield 0, undo(text)
    if suffix == ".json" and "\\" in text:
        with contextlib.suppress(ValueError, RecursionError):
            yield 0, "\n".join(strings_of(json.loads(text)))
    for match in BASE64.finditer(text):
        if (plain := _from_base64(match[0])) is not None:
            yield match.start(), plain


def _unescaped(text: str) -> str:
    """Return the text without the escapes of JSON and Python for characters, pairs of them joined."""
    plain = ESCAPED.sub(lambda match: chr(int(match[0][2:], 16)), text)
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


UNDO: list[tuple[str, Callable[[str], str]]] = [("&", html.unescape), ("%", unquote), ("\\u", _unescaped)]


def _from_base64(run: str) -> str | None:
    """Return the text that a run of characters encodes in base64; None where it is none."""
    compact = re.sub(r"\\n|\s", "", run).rstrip("=").replace("-", "+").replace("_", "/")
    compact = compact[: len(compact) - (len(compact) % 4 == 1)]
    try:
        plain = base64.b64decode(compact + "=" * (-len(compact) % 4))
    except (binascii.Error, ValueError):
        return None
    for codec in ("utf-8", "utf-16") if b"\0" in plain else ("utf-8",):
        try:
            text = plain.decode(codec)
        except UnicodeDecodeError:
            continue
        if text.replace("\n", " ").replace("\t", " ").replace("\r", " ").isprintable():
            return text
    return None


def strings_of(content: object) -> Iterator[str]:
    """Yield all keys and strings in JSON content."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from strings_of(value)
    elif isinstance(content, list):
        for value in content:
            yield from strings_of(value)
