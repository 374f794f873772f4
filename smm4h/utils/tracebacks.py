"""Tracebacks and messages of errors without the values that libraries quote in them, such as cells of the data."""

import re
import textwrap
import traceback
from pathlib import Path

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|['"`].*$""", re.DOTALL)
LONGEST = 500  # characters of a message
PHRASE = re.compile(r"""(?<!\w)(['"`])(?:(?!\1).)*\s(?:(?!\1).)*\1(?!\w)""", re.DOTALL)  # in quotes, of several words
SECRETS = (  # what gives access, and what is shown of it
    (re.compile(r"(?<=://)[^/@\s]+@"), ""),
    (re.compile(r"(?<=://)([^\s?'\"]+)\?[^\s'\"]+"), r"\1?..."),
    (re.compile(r"\b(hf_|api_)\w{6,}"), r"\1..."),
    (re.compile(r"(?i)\b(bearer|token|authorization)([ :=]+)[\w.~+/-]{12,}"), r"\1\2..."),
)
PACKAGE = Path(__file__).parents[1]
# Packages whose messages are about shapes, devices and settings; those that read data quote what they read.
TALKING = ("torch", "transformers", "accelerate", "huggingface_hub", "safetensors", "sklearn")
OF_CODE = (ImportError, AttributeError, NameError, NotImplementedError, MemoryError)  # quote names of the code


def message_of(error: BaseException) -> str:
    """Return an error's class and, as far as no value of the data can stand in it, its message.

    Quotations become `'...'`. Messages of packages that read data are left out: not all of them put quotes around what
    they quote.
    """
    text, name = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if isinstance(error.filename, str) else ""
        return f"{name}: {error.strerror}{where}"
    if not text or not _may_speak(error):
        return name
    shown = text if isinstance(error, OF_CODE) else QUOTED.sub("'...'", text)
    return f"{name}: {without_secrets(shown)[:LONGEST]}"


def without_secrets(text: str) -> str:
    """Return a text without tokens and without what gives access in its URLs."""
    for secret, shown in SECRETS:
        text = secret.sub(shown, text)
    return text


def reason_of(error: BaseException, longest: int = 300) -> str:
    """Return the message of a library that loads a model, on one line, for a sentence: no phrase in quotes, no secret.

    Names of files and settings, which such messages quote, stay.
    """
    text = "" if isinstance(error, KeyError | UnicodeError) else " ".join(str(error).split())
    text = without_secrets(PHRASE.sub("'...'", text)) or type(error).__name__
    return textwrap.shorten(text, longest, placeholder=" ...")


def _may_speak(error: BaseException) -> bool:
    """Return whether an error's message was written by Python, this project or a package that reads no data."""
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, OF_CODE):
        return True
    if isinstance(error, UnicodeError | SyntaxError) or package not in ("builtins", "smm4h", "heads", *TALKING):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return package != "builtins"
    file = Path(frames[-1].filename)
    is_own = PACKAGE in file.parents or file.name == "heads.py"
    return is_own or any(name in file.parts for name in TALKING)


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error and of those that caused it: all lines of code, and `message_of` each."""
    chain, seen = [], set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    parts = [
        "Traceback (most recent call last):\n"
        + "".join(traceback.StackSummary.from_list(traceback.extract_tb(e.__traceback__)).format())
        + f"{message_of(e)}\n"
        for e in reversed(chain)
    ]
    return "\nThen, while that was handled or because of it:\n\n".join(parts)
