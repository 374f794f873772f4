"""Input files: names, compression, encodings and line ends, and errors of reading as one sentence."""

import codecs
import csv
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from smm4h.data.readers.tables import SURROGATE, Finding, Wanted
from smm4h.utils.errors import InputError, path_message
from smm4h.utils.tracebacks import QUOTED

CHUNK = 1 << 20  # bytes


class StandardInput(type(Path())):
    """The path of a copy of standard input, which messages call standard input."""


def name_of(path: Path) -> str:
    """Return what messages call a file."""
    return "standard input" if isinstance(path, StandardInput) else str(path)


READ_ERRORS = (
    *(OSError, EOFError, ValueError, LookupError, ArithmeticError, RecursionError, TypeError, AttributeError),
    *(NotImplementedError, SyntaxError, zlib.error, struct.error, csv.Error, zipfile.BadZipFile, pa.ArrowException),
)


@contextmanager
def reading(path: Path, kind: str = "") -> Iterator[None]:
    """Turn whatever libraries raise at a path or a file's content into an `InputError`.

    Args:
        kind: of file that is expected, for the message.
    """
    try:
        yield
    except InputError:
        raise
    except READ_ERRORS as error:
        name = name_of(path)
        shown = name if len(name) <= 200 else f"{name[:100]}...{name[-80:]}"
        is_system = isinstance(error, OSError) and error.errno is not None
        if is_system and (message := path_message(error)):
            raise InputError(message) from None
        reason = _reason(error)
        if kind and not is_system:
            raise InputError(f"{shown} is not a {kind} file, or a damaged one ({reason})") from None
        raise InputError(f"{shown} can't be read ({reason}); check the name, or get another copy") from None


def _reason(error: BaseException) -> str:
    """Return an error's cause without anything that it may quote from the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, gzip.BadGzipFile):
        return "not compressed by gzip"
    harmless = (EOFError, zlib.error, zipfile.BadZipFile, csv.Error, pa.ArrowInvalid)
    text = (str(error).splitlines() or [""])[0] if isinstance(error, harmless) else ""
    return QUOTED.sub("'...'", text)[:120].rstrip(". ") or "damaged content"


def kind_of(path: Path) -> str:
    """Return a file's kind by its name, compressed or not: `.tsv` for `a.tsv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
PACKED = {b"\x1f\x8b": ".gz", b"PK\x03\x04": ".zip or .xlsx", b"PAR1\x15": ".parquet"}


@dataclass
class Source:
    """A file to be read, by its path or by its content, and how."""

    path: Path
    encoding: str | None = None
    wanted: Wanted | None = None
    encoding_flag: str | None = None  # of the command, for messages; None: it has none
    content: bytes | None = None
    findings: list[Finding] = field(default_factory=list)  # for the first table
    codec: str = "utf-8-sig"
    line_end: str = "\n"
    header_line: int = 1  # 2 behind a line that declares the separator
    has_zeros: bool = False
    has_halves: bool = False  # of characters of two UTF-16 units, which programs that cut tweets may leave
    errors: str = "strict"

    @property
    def name(self) -> str:
        return name_of(self.path)

    def open(self) -> BinaryIO:
        """Open for reading bytes, decompressed."""
        if self.content is not None:
            return io.BytesIO(self.content)
        return gzip.open(self.path, "rb") if self.path.suffix.lower() == ".gz" else self.path.open("rb")

    def load(self) -> None:
        """Keep the content in memory, so that it is read and decompressed once."""
        with self.open() as stream:
            self.content = stream.read()

    def text(self, newline: str | None = None) -> io.TextIOWrapper:
        """Open for reading text; lines end at `newline`, by default as the whole file's do."""
        newline = self.line_end if newline is None else newline
        return io.TextIOWrapper(self.open(), encoding=self.codec, errors=self.errors, newline=newline)

    def skip_declaration(self, text: io.TextIOWrapper) -> None:
        """Read over the lines before the header."""
        for _ in range(self.header_line - 1):
            text.readline()

    def find(self, what: str, count: int = 0) -> None:
        """Add a finding for the next table."""
        self.findings.append(Finding(self.name, count, what))

    def take_findings(self) -> list[Finding]:
        """Return the findings that no table has yet."""
        findings, self.findings = self.findings, []
        return findings

    def survey(self) -> None:
        """Find out encoding and line ends of the whole file; an encoding that was named wins.

        Raises:
            InputError: with the line where no encoding fits, for lines of different encodings, for a file that is no
                text, and for an unknown encoding.
        """
        with self.open() as stream:
            start = stream.read(8)
        for magic, kind in PACKED.items():
            if start.startswith(magic):
                remedy = "unpack it first" if isinstance(self.path, StandardInput) else "give it that name"
                raise InputError(f"{self.name} is no text, but by its first bytes {kind}; {remedy}")
        marked = next((codec for mark, codec in MARKS.items() if start.startswith(mark)), None)
        named = _known_codec(self.encoding) if self.encoding else None
        self.codec = named or marked or "utf-8-sig"
        wrong = self._first_undecodable()
        if wrong is not None and not named and not marked:
            self.errors = "surrogatepass"  # UTF-8 but for halves, or pairs, of UTF-16 units
            if self._first_undecodable() is None:
                wrong = None
            else:
                self.errors, self.has_halves = "strict", False
        if wrong is None:
            what = f"read as {self.encoding or self.codec.removesuffix('-sig')}"
            if marked and not named:
                what += ", by its byte order mark"
        elif named or marked:
            raise InputError(f"{self.name}, line {wrong}: not valid {self.encoding or marked}; {self._remedy()}")
        else:
            what = self._as_cp1252()
        self.find(what)
        if self.line_end == "\r":
            self.find("lines end in carriage returns alone")

    def _first_undecodable(self) -> int | None:
        """Return the line of the first byte that the codec does not know; look at line ends and zeros on the way."""
        decoder, n_lines, has_returns = codecs.getincrementaldecoder(self.codec)(self.errors), 0, False
        self.has_zeros = False
        with self.open() as stream:
            while True:
                chunk = stream.read(CHUNK)
                try:
                    text = decoder.decode(chunk, final=not chunk)
                except UnicodeError as error:
                    good = error.object[: error.start] if isinstance(error, UnicodeDecodeError) else b""
                    return n_lines + good.count(b"\n") + 1
                n_lines += text.count("\n")
                has_returns = has_returns or "\r" in text
                self.has_zeros = self.has_zeros or "\0" in text
                may_have_halves = self.encoding or self.errors != "strict"
                self.has_halves = self.has_halves or bool(may_have_halves and SURROGATE.search(text))
                if not chunk:
                    self.line_end = "\r" if has_returns and not n_lines else "\n"
                    return None

    def _as_cp1252(self) -> str:
        """Take cp1252 for a file that is not UTF-8; return the finding, with the first line that is not UTF-8."""
        wrong, right, n_wrong, n_right, undefined = 0, 0, 0, 0, 0
        with self.open() as stream:
            for number, line in enumerate(stream, start=1):
                if line.isascii():
                    continue
                try:
                    line.decode("utf-8", "surrogatepass")
                    n_right, right = n_right + 1, right or number
                except UnicodeDecodeError:
                    n_wrong, wrong = n_wrong + 1, wrong or number
                    if not undefined and not _is_valid(line, "cp1252"):
                        undefined = number
        if n_right:
            raise InputError(
                f"{self.name}, line {wrong}: not valid UTF-8 ({n_wrong} {_lines(n_wrong)}), but line {right} is "
                f"({n_right} {_lines(n_right)} with more than ASCII); mend the lines that are wrong, or "
                f"{self._remedy()}"
            )
        if undefined:
            raise InputError(f"{self.name}, line {undefined}: not valid UTF-8 or cp1252; {self._remedy()}")
        self.codec = "cp1252"
        self._first_undecodable()
        return f"read as cp1252, because line {wrong} is not valid UTF-8"

    def _remedy(self) -> str:
        return f"name the file's {self.encoding_flag}" if self.encoding_flag else "save the file as UTF-8"


def _lines(count: int) -> str:
    return "line" if count == 1 else "lines"


def _is_valid(line: bytes, codec: str) -> bool:
    try:
        line.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _known_codec(encoding: str) -> str:
    """Return the codec of an encoding, for UTF-8 the one that skips a byte order mark."""
    try:
        b"".decode(encoding)
        codecs.getincrementaldecoder(encoding)
        name = codecs.lookup(encoding).name
        io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    except (LookupError, ValueError):
        raise InputError(f"--encoding {encoding} is no encoding that Python knows; utf-8 or cp1252?") from None
    return "utf-8-sig" if name == "utf-8" else encoding
