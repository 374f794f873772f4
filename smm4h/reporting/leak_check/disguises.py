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
BASE32 = re.compile(r"\b[A-Z2-7]{16,}={0,6}")
HEXADECIMAL = re.compile(r"\b(?:0[xX])?((?:[0-9a-f]{2}){6,}|(?:[0-9A-F]{2}){6,}|[0-9a-f]{11,17}|[0-9A-F]{11,17})\b")
MOST_DIGITS = 17  # hexadecimal ones of an id; longer numbers are hashes
BYTES = (  # characters as bytes: Python's, C's and e-mails' escapes
    ("\\x", re.compile(r"(?:\\x[0-9a-fA-F]{2})+"), 16),
    ("\\", re.compile(r"(?:\\[0-3][0-7]{2})+"), 8),
    ("=", re.compile(r"(?:=[0-9A-F]{2})+"), 16),
)
GROUPED = re.compile(r"(?<![\d.])\d{1,3}([,_' .\u00a0\u202f])\d{3}(?:\1\d{3})+(?!\d)")
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]")  # joiners, soft hyphens, directions
DEEPEST = 3  # layers of encodings


def texts_in(content: bytes, suffix: str, deepest: int = DEEPEST) -> Iterator[tuple[int, str]]:
    """Yield the texts in a file's content, each with the line that it begins at, from 0; the content as UTF-8 first.

    Undone are, also within each other, up to `deepest` layers: UTF-16 and UTF-32, HTML entities, strings of JSON,
    percent-encoding, base64, base32, hexadecimal bytes and numbers, escapes of bytes, invisible characters, and digits
    in groups.
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
    for mark, pattern, base in BYTES:
        if mark in text and pattern.search(text):
            yield 0, pattern.sub(lambda match, base=base: _from_escapes(match[0], base), text)
    if INVISIBLE.search(text):
        yield 0, INVISIBLE.sub("", text)
    for pattern, decoded in ENCODED:
        for match in pattern.finditer(text):
            if (plain := decoded(match)) is not None:
                yield match.start(), plain


def _unescaped(text: str) -> str:
    """Return the text without the escapes of JSON and Python for characters, pairs of them joined."""
    plain = ESCAPED.sub(lambda match: chr(int(match[0][2:], 16)), text)
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


UNDO: list[tuple[str, Callable[[str], str]]] = [("&", html.unescape), ("%", unquote), ("\\u", _unescaped)]


def _from_escapes(run: str, base: int) -> str:
    """Return what escapes of single bytes, such as `\\xc3\\xa8`, stand for."""
    digits = re.findall(r"[0-9a-fA-F]+", run.replace("x", " "))
    return bytes(int(digit, base) for digit in digits).decode("utf-8", errors="replace")


def _from_hexadecimal(match: re.Match[str]) -> str | None:
    """Return the number in decimal, and the text that the digits encode, if they encode one."""
    number = str(int(match[1], 16)) if len(match[1]) <= MOST_DIGITS else ""
    text = _text_of(bytes.fromhex(match[1])) if len(match[1]) % 2 == 0 else None
    return " ".join(filter(None, (number, text))) or None


def _from_base32(match: re.Match[str]) -> str | None:
    compact = match[0].rstrip("=")
    try:
        return _text_of(base64.b32decode(compact + "=" * (-len(compact) % 8)))
    except (binascii.Error, ValueError):
        return None


def _from_base64(run: str) -> str | None:
    """Return the text that a run of characters encodes in base64; None where it is none."""
    compact = re.sub(r"\\n|\s", "", run).rstrip("=").replace("-", "+").replace("_", "/")
    compact = compact[: len(compact) - (len(compact) % 4 == 1)]
    try:
        plain = base64.b64decode(compact + "=" * (-len(compact) % 4))
    except (binascii.Error, ValueError):
        return None
    return _text_of(plain)


def _text_of(plain: bytes) -> str | None:
    """Return bytes as text; None where they are none that people read."""
    for codec in ("utf-8", "utf-16") if b"\0" in plain else ("utf-8",):
        try:
            text = plain.decode(codec)
        except UnicodeDecodeError:
            continue
        if text.replace("\n", " ").replace("\t", " ").replace("\r", " ").isprintable():
            return text
    return None


ENCODED: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]]] = [
    (BASE64, lambda match: _from_base64(match[0])),
    (BASE32, _from_base32),
    (HEXADECIMAL, _from_hexadecimal),
    (GROUPED, lambda match: match[0].replace(match[1], "")),
]


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
