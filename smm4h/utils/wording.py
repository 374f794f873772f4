"""Words beside a number, in the singular where the number is one, and lines of whole words."""

import re
import textwrap

NOUN = re.compile(r"\b(tweet|text|row|label|id|cell|piece|formula|field|record|line|file|run)s\b")
OF_ONE = (  # what a clause says of several, and of one
    (re.compile(r"\bare twins\b"), "is a twin"),
    (re.compile(r"\bare errors\b"), "is an error"),
    (re.compile(r"\bshare their\b"), "shares its"),
    (re.compile(r"\bof theirs\b"), "of it"),
    (re.compile(r"\bare\b"), "is"),
    (re.compile(r"\bwere\b"), "was"),
    (re.compile(r"\bhave\b"), "has"),
    (re.compile(r"\btrain\b"), "trains"),
    (re.compile(r"\brepeat\b"), "repeats"),
    (re.compile(r"\bend in\b"), "ends in"),
)
FURTHER = ((re.compile(r"^([;,] )they were\b"), r"\1it was"), (re.compile(r"\bcompare them\b"), "compare it"))


def counted(count: int, noun: str) -> str:
    """Return a number and a noun, which is given in the singular: `1 run`, `6 runs`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def are(count: int) -> str:
    """Return `is` or `are`."""
    return "is" if count == 1 else "are"


def of_one(what: str) -> str:
    """Return in the singular what a sentence says of several: `tweets have no text` -> `tweet has no text`.

    Nouns and verbs change up to the first comma, semicolon, colon or bracket; what follows is of other things.
    """
    end = re.search(r"[;:,(]", what)
    first, rest = (what, "") if end is None else (what[: end.start()], what[end.start() :])
    rest = re.sub(r"^(\([^)]*\)) are\b", r"\1 is", rest)
    first = NOUN.sub(r"\1", first, count=1)
    for several, one in OF_ONE:
        first = several.sub(one, first)
    for several, one in FURTHER:
        rest = several.sub(one, rest)
    return first + rest


def between_words(text: str, width: int) -> str:
    """Return a text whose lines are broken between words to `width` characters; a word that is longer stays whole."""
    lines = text.split("\n")
    return "\n".join(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in lines)
