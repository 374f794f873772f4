"""Text to text: cleaning steps by name. Cleaning is idempotent: what is clean stays as it is."""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence

URL = re.compile(r"https?://\S*|(?<!\w)www\.\S+", re.IGNORECASE)  # not the www of "Awww."
USERNAME = re.compile(r"(?<![\w@])@\w+")
SPACES = re.compile(r"\s+")
LONG_WORD = re.compile(r"\w{31,}")  # longer than any English word a tweet means as one
CONTRACTIONS = [
    (re.compile(rf"\b{short}\b", re.IGNORECASE), long)
    for short, long in [
        (r"won['’]t", "will not"),
        (r"can['’]t", "can not"),
        (r"shan['’]t", "shall not"),
        (r"let['’]s", "let us"),
        (r"y['’]all", "you all"),
        (r"(\w+)n['’]t", r"\1 not"),
        (r"(i)['’]m", r"\1 am"),
        (r"(\w+)['’]re", r"\1 are"),
        (r"(\w+)['’]ve", r"\1 have"),
        (r"(\w+)['’]ll", r"\1 will"),
        (r"(i|you|he|she|we|they)['’]d", r"\1 would"),
        (r"(it|he|she|that|there|what|who)['’]s", r"\1 is"),
    ]
]


def unescape_entities(text: str) -> str:
    """`&amp;` to `&`, also where it was escaped twice."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return text


def drop_non_ascii(text: str) -> str:
    """Accents go, their letters stay; what has no ASCII form becomes a space."""
    text = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"').replace("…", " ")
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c if c.isascii() else "" if unicodedata.combining(c) else " " for c in decomposed)


def expand_contractions(text: str) -> str:
    """`can't` to `can not`, `I'm` to `I am`."""
    for pattern, long in CONTRACTIONS:
        text = pattern.sub(long, text)
    return text


def split_long_words(text: str) -> str:
    """Words of more than 30 characters are cut at case changes and digits, and then every 30 characters."""

    def cut(match: re.Match) -> str:
        parts = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)", " ", match[0]).split()
        return " ".join(part[i : i + 30] for part in parts for i in range(0, len(part), 30))

    return LONG_WORD.sub(cut, text)


# A step that makes what another one removes stands before it: entities may spell a URL, a URL may hold an @name.
STEPS: dict[str, Callable[[str], str]] = {
    "entities": unescape_entities,
    "ascii": drop_non_ascii,
    "urls": lambda text: URL.sub(" ", text),
    "usernames": lambda text: USERNAME.sub("@user", text),
    "contractions": expand_contractions,
    "long_words": split_long_words,
    "case": str.lower,
}
MOST_PASSES = 10  # never reached; no tweet may hang a job
PAPER_STEPS = ("urls", "usernames", "case")  # Bai & Zhou 2020, section 4.1


def clean(text: str, steps: Sequence[str]) -> str:
    """Runs the named steps in the order of `STEPS` and joins the whitespace they leave, until nothing changes.

    One pass is nearly always enough; a full-width ampersand that only becomes an entity by the ASCII step takes two.
    No steps leave the text as it is.
    """
    if not steps:
        return text
    chosen = [step for name, step in STEPS.items() if name in steps]
    for _ in range(MOST_PASSES):
        cleaned = text
        for step in chosen:
            cleaned = step(cleaned)
        cleaned = SPACES.sub(" ", cleaned).strip()
        if cleaned == text:
            break
        text = cleaned
    return text
