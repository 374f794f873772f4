"""An attack on a published folder: search all of its bytes for words, pairs of words, ids and names of tweets.

Contents are searched as they are, in UTF-16, and in what can be unpacked: members of archives (.npz, too), gzip, zlib
and base64, also within each other.
"""

import base64
import binascii
import gzip
import io
import itertools
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}")
ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
DEPTH = 3  # packings within each other
SHORTEST = 5  # characters: weights hold any four by chance


def words_and_pairs(texts: Iterable[str]) -> set[str]:
    """Return the words of `SHORTEST` characters or more, and all neighbouring pairs that are as long."""
    terms: set[str] = set()
    for text in texts:
        words = text.lower().split()
        terms.update(words, map(" ".join, itertools.pairwise(words)))
    return {term for term in terms if len(term) >= SHORTEST}


def found_in(paths: Iterable[Path], terms: Collection[str]) -> set[str]:
    """Return the terms, which are in lower case, that stand in a file or in its name."""
    found: set[str] = set()
    for path in paths:
        contents = [path.name.encode(), *unpacked(path.read_bytes())]
        haystack = b"\n".join(content.lower() for content in contents)
        haystack += b"\n" + haystack.replace(b"\0", b"")  # UTF-16 and UTF-32 of what is ASCII
        spaced = re.sub(rb"\s+", b" ", haystack)
        found.update(term for term in terms if term.encode() in spaced)
    return found


def unpacked(content: bytes, depth: int = DEPTH) -> Iterator[bytes]:
    """Yield a content, and what is packed in it."""
    yield content
    for inner in _packed_in(content) if depth else ():
        yield from unpacked(inner, depth - 1)


def _packed_in(content: bytes) -> Iterator[bytes]:
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from map(archive.read, archive.namelist())
    with suppress(OSError, EOFError, zlib.error):
        yield gzip.decompress(content)
    for match in ZLIB.finditer(content):
        with suppress(zlib.error):
            yield zlib.decompressobj().decompress(content[match.start() :])
    for match in BASE64.finditer(content):
        run = match[0].translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):  # other letters may stand before it
            part = run[start:]
            with suppress(binascii.Error):
                yield base64.b64decode(part[: len(part) // 4 * 4])
