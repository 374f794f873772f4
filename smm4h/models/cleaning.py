"""Text cleaning steps by name, and the normalizers of encoders that were pretrained on tweets.

Cleaning by `STEPS` is idempotent: `clean(clean(text)) == clean(text)`. Normalizers are not: BERTweet's would take the
words that it has made of an emoji apart.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

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


class MissingPackageError(ImportError):
    """A package that a cleaning step needs is not installed; the text is one sentence with the remedy."""

    for_user = True


@cache
def emoji_namer() -> Callable[[str], str]:
    """Return the function that turns emoji into words; raise `MissingPackageError` without the package `emoji`."""
    try:  # in a try statement, or transformers would ask for the package wherever a published model is loaded
        from emoji import demojize
    except ImportError:
        raise MissingPackageError(
            "the cleaning step bertweet needs the package emoji, which names emoji: pip install emoji==0.6.0, the "
            "version that BERTweet's pretraining and its tokenizer name"
        ) from None
    return demojize


@cache
def tweet_words() -> Callable[[str], list[str]]:
    """Return NLTK's tokenization of tweets, of the version that transformers keeps for BERTweet."""
    from transformers.models.bertweet.tokenization_bertweet import TweetTokenizer  # --help does without transformers

    return TweetTokenizer().tokenize


TYPOGRAPHIC = (("’", "'"), ("…", "..."))
# Spaces before clitics and within times, in the order of BERTweet's normalizer, whose text its word pieces come from.
BERTWEET_SPACING = (
    *(("cannot ", "can not "), ("n't ", " n't "), ("n 't ", " n't "), ("ca n't", "can't"), ("ai n't", "ain't")),
    *((f"'{clitic} ", f" '{clitic} ") for clitic in ("m", "re", "s", "ll", "d", "ve")),
    *((f" {half} . m{end}", f" {half}.m{joined}") for half in "pa" for end, joined in ((" .", "."), (" ", " "))),
)


def normalize_for_bertweet(text: str) -> str:
    """Return a tweet as BERTweet read it: @USER, HTTPURL, emoji as words, clitics and punctuation set apart.

    The rules are those of `TweetNormalizer.py` of BERTweet (Nguyen et al. 2020, section 2), and of `normalizeTweet` in
    transformers' `BertweetTokenizer`, with which a test compares the results.
    """
    for mark, plain in TYPOGRAPHIC:
        text = text.replace(mark, plain)
    normalized = " ".join(_bertweet_word(word) for word in tweet_words()(text))
    for apart, spaced in BERTWEET_SPACING:
        normalized = normalized.replace(apart, spaced)
    return " ".join(normalized.split())


def _bertweet_word(word: str) -> str:
    if word.startswith("@"):
        return "@USER"
    if word.lower().startswith(("http", "www")):
        return "HTTPURL"
    # An entity may hide a typographic mark until the text is cut into words.
    return dict(TYPOGRAPHIC).get(word, emoji_namer()(word)) if len(word) == 1 else word


def normalize_for_twitter_roberta(text: str) -> str:
    """Return a tweet as Twitter-RoBERTa and XLM-T read it, after `preprocess` in the cards of these models.

    Of the words between spaces, those that begin with @ become `@user`, but not a lone @, and those that begin with
    http become `http`.
    """
    words = ("@user" if word.startswith("@") and len(word) > 1 else word for word in text.split(" "))
    return " ".join("http" if word.startswith("http") else word for word in words)


# What encoders were pretrained on. Run last and once, after the steps.
NORMALIZERS: dict[str, Callable[[str], str]] = {
    "bertweet": normalize_for_bertweet,
    "twitter_roberta": normalize_for_twitter_roberta,
}
CLEANING_NAMES = (*STEPS, *NORMALIZERS)
MAX_PASSES = 10  # far above the 2 that tweets need; a bound, so that no tweet hangs a job
PAPER_STEPS = ("urls", "usernames", "case")  # Bai & Zhou 2020, section 4.1


def clean(text: str, steps: Sequence[str]) -> str:
    """Run the named steps in the order of `STEPS`, then the named normalizer.

    The steps are repeated, and whitespace is collapsed, until the text no longer changes. One pass is nearly always
    enough; a full-width ampersand that only becomes an entity by the ASCII step takes two. Without steps the text is
    returned as it is, and a normalizer alone reads the raw text.

    Raises `MissingPackageError` where the normalizer needs a package that is not installed.
    """
    if chosen := [step for name, step in STEPS.items() if name in steps]:
        text = _until_unchanged(text, chosen)
    for name, normalize in NORMALIZERS.items():
        if name in steps:
            text = normalize(text)
    return text


def _until_unchanged(text: str, steps: Sequence[Callable[[str], str]]) -> str:
    for _ in range(MAX_PASSES):
        cleaned = text
        for step in steps:
            cleaned = step(cleaned)
        cleaned = SPACES.sub(" ", cleaned).strip()
        if cleaned == text:
            break
        text = cleaned
    return text
