"""Text cleaning steps by name. Cleaning is idempotent: `clean(clean(text)) == clean(text)`."""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence

URL = re.compile(r"https?://\S*|(?<!\w)www\.\S+", re.IGNORECASE)  # not the www in "Awww."
USERNAME = re.compile(r"(?<![\w@])@\w+")
SPACES = re.compile(r"\s+")
LONG_WORD = re.compile(r"\w{31,}")  # longer than English words; run-together ones, such as hashtags
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
    """Unescape HTML entities, `&amp;` to `&`, also where they were escaped twice."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return text


def drop_non_ascii(text: str) -> str:
    """Strip accents from letters; replace every other character without an ASCII form by a space."""
    text = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"').replace("…", " ")
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c if c.isascii() else "" if unicodedata.combining(c) else " " for c in decomposed)


def expand_contractions(text: str) -> str:
    """Expand contractions: `can't` to `can not`, `I'm` to `I am`."""
    for pattern, long in CONTRACTIONS:
        text = pattern.sub(long, text)
    return text


def split_long_words(text: str) -> str:
    """Split words of more than 30 characters at case changes and digits, then every 30 characters."""

    def cut(match: re.Match) -> str:
        parts = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)", " ", match[0]).split()
        return " ".join(part[i : i + 30] for part in parts for i in range(0, len(part), 30))

    return LONG_WORD.sub(cut, text)


# Order matters: unescaped entities may spell a URL, and a URL may hold an @name, so each is handled before the next.
STEPS: dict[str, Callable[[str], str]] = {
    "entities": unescape_entities,
    "ascii": drop_non_ascii,
    "urls": lambda text: URL.sub(" ", text),
    "usernames": lambda text: USERNAME.sub("@user", text),
    "contractions": expand_contractions,
    "long_words": split_long_words,
    "case": str.lower,
}
MAX_PASSES = 10  # far above the 2 that tweets need; a bound, so that no tweet hangs a job
PAPER_STEPS = ("urls", "usernames", "case")  # Bai & Zhou 2020, section 4.1


def clean(text: str, steps: Sequence[str]) -> str:
    """Run the named steps in the order of `STEPS` and collapse whitespace, until the text no longer changes.

    One pass is nearly always enough; a full-width ampersand that only becomes an entity by the ASCII step takes two.
    Without steps the text is returned as it is.
    """
    if not steps:
        return text
    chosen = [step for name, step in STEPS.items() if name in steps]
    for _ in range(MAX_PASSES):
        cleaned = text
        for step in chosen:
            cleaned = step(cleaned)
        cleaned = SPACES.sub(" ", cleaned).strip()
        if cleaned == text:
            break
        text = cleaned
    return text
