"""Invents the quickstart's tweets in the official task-5 shape: files, columns, encodings, line ends and their traps.

python quickstart/invent_tweets.py quickstart/data

A tweet's label follows from what it means: whose child it is about, whether the child has the defect, and whether that
is so or is dreamt, supposed, made up or quoted. All labels share their words, which are in words.yaml.
"""

import random
import re
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

WORDS = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
CHILDREN, CLAUSES, FRAMES, POSTS = (WORDS.pop(name) for name in ("children", "clauses", "frames", "posts"))
PRONOUNS = {"he": {"he": "he", "his": "his"}, "she": {"he": "she", "his": "her"}}
SHARES = {
    "1": 0.1,
    "2": 0.1,
    "3": 0.8,
}  # the official 5, 6 and 89 % would leave a few hundred tweets next to no rare ones
SIZES = {"training": 320, "validation": 80, "test": 200}
DISPUTED = 0.05  # of the tweets about a child: annotators disagree
SEED = 2020


class Meaning(NamedTuple):
    """What a tweet about a child says; keys of words.yaml."""

    child: str  # own, unclear or other
    state: str  # affected, suspected or clear
    frame: str  # real or unreal

    @property
    def label(self) -> str:
        """1: the author's child has the defect; 2: whose child it is, or whether it has it, is open; 3: neither."""
        if self.child == "other" or self.state == "clear" or self.frame == "unreal":
            return "3"
        return "1" if (self.child, self.state) == ("own", "affected") else "2"


# How often tweets of a label mean what, in proportion. None: no child, but news, studies, jobs and opinions.
FREQUENCIES: dict[Meaning | None, float] = {
    Meaning("own", "affected", "real"): 1,
    Meaning("unclear", "affected", "real"): 3,
    Meaning("own", "suspected", "real"): 3,
    Meaning("unclear", "suspected", "real"): 2,
    Meaning("other", "affected", "real"): 10,
    Meaning("other", "suspected", "real"): 2,
    Meaning("other", "clear", "real"): 1,
    Meaning("own", "clear", "real"): 5,
    Meaning("unclear", "clear", "real"): 1,
    Meaning("own", "affected", "unreal"): 4,
    Meaning("own", "suspected", "unreal"): 1,
    Meaning("unclear", "affected", "unreal"): 2,
    Meaning("other", "affected", "unreal"): 1,
    None: 60,
}


def meaning_of(rng: random.Random, label: str) -> Meaning | None:
    """Draw what a tweet of a label says."""
    fitting = [meaning for meaning in FREQUENCIES if (meaning.label if meaning else "3") == label]
    return rng.choices(fitting, [FREQUENCIES[meaning] for meaning in fitting])[0]


def filled(rng: random.Random, template: str, **known: str) -> str:
    """Return a template with one of each [this|or that] and its blanks filled, where they are not known, by chance."""
    template = re.sub(r"\[([^]]*)\]", lambda choice: rng.choice(choice[1].split("|")), template)
    blanks = {name: rng.choice(WORDS[name]) for name in WORDS if name not in ("general", "asides")}
    blanks["name"] = rng.choice([blanks["he_name"], blanks["she_name"]])
    return template.format(**{**blanks, **known})


def sentence(rng: random.Random, meaning: Meaning | None) -> str:
    """Put a meaning into words: one of the whole tweets that say it, or a frame around a clause."""
    if meaning is None:
        return filled(rng, rng.choice(WORDS["general"]))
    gender = rng.choice(list(PRONOUNS))
    child = filled(rng, rng.choice(CHILDREN[meaning.child][gender]))
    posts = POSTS.get(f"{meaning.child} {meaning.state}") if meaning.frame == "real" else None
    if posts and rng.random() < 0.5:
        return filled(rng, rng.choice(posts), child=child, **PRONOUNS[gender])
    clause = filled(rng, rng.choice(CLAUSES[meaning.state]), child=child, **PRONOUNS[gender])
    plain = meaning.frame == "real" and rng.random() < 0.4
    return clause if plain else filled(rng, rng.choice(FRAMES[meaning.frame]), clause=clause)


def as_posted(rng: random.Random, text: str) -> str:
    """Add what says nothing about the label: a sentence beside it, and the noise of the medium."""
    if rng.random() < 0.35:
        aside = filled(rng, rng.choice(WORDS["asides"]))
        text = rng.choice([f"{aside}. {text}", f"{text}. {aside}"])
    if rng.random() < 0.4:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.3:
        text = text.replace("'", "’")
    if rng.random() < 0.1:
        text = f"@{rng.choice(WORDS['she_name']).lower()}{rng.randint(1, 99)} {text}"
    if rng.random() < 0.1:
        text = text.replace(" and ", " &amp; ")
    if rng.random() < 0.2:
        text += " " + rng.choice(["!", "!!", "…", "lol", "ugh", "omg", "tbh", "smh"])
    if rng.random() < 0.2:
        text += " " + rng.choice(WORDS["tag"])
    if rng.random() < 0.15:
        text += f" https://t.co/{''.join(rng.choices('abcdefghijkmnpqrstuvwxyz23456789', k=10))}"
    return text


def annotated(rng: random.Random, label: str, meaning: Meaning | None) -> str:
    """Return the label that an annotator gives: now and then, of a tweet about a child, the next one."""
    if meaning is None or rng.random() >= DISPUTED:
        return label
    return {"1": "2", "2": rng.choice("13"), "3": "2"}[label]


def invent_all(rng: random.Random, n_tweets: int, shares: dict[str, float]) -> list[tuple[str, str, str, str]]:
    """Return id, user, text and label of `n_tweets` tweets in random order; hardly any text comes twice."""
    labels = [label for label in ("1", "2") for _ in range(round(shares[label] * n_tweets))]
    labels += ["3"] * (n_tweets - len(labels))
    rng.shuffle(labels)
    users = [str(rng.randint(10**8, 10**10)) for _ in range(5 * n_tweets)]  # few post twice
    tweets = []
    for label in labels:
        meaning = meaning_of(rng, label)
        text = as_posted(rng, sentence(rng, meaning))
        tweet_id, user = str(rng.randint(10**17, 10**19 - 1)), rng.choice(users)
        tweets.append((tweet_id, user, text, annotated(rng, label, meaning)))
    return tweets


def main(folder: Path) -> None:
    rng = random.Random(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {part: invent_all(rng, size, SHARES) for part, size in SIZES.items()}
    for part in ("training", "validation"):
        # The official validation file has two nameless columns.
        write_labelled(folder / f"task5_{part}.tsv", parts[part], "\t\t" if part == "validation" else "")
    write_test(folder, parts["test"])


def write_labelled(path: Path, tweets: list[tuple[str, str, str, str]], blank: str) -> None:
    """Write labelled tweets as cp1252, with `blank` for nameless columns, and now and then a spreadsheet's quotes."""
    lines = [f"tweet_id\tuser_id\ttweet\tclass{blank}"]
    for number, (tweet_id, user, text, label) in enumerate(tweets):
        if number % 25 == 7:
            text = '"' + f'{text} "sigh"'.replace('"', '""') + '"'
        lines.append(f"{tweet_id}\t{user}\t{text}\t{label}{blank}")
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode("cp1252"))


def write_test(folder: Path, tweets: list[tuple[str, str, str, str]]) -> None:
    """Write the test tweets as UTF-8, with an id that stands twice and stray fields, and their gold labels."""
    tweets[30] = (tweets[17][0], *tweets[30][1:])
    lines = ["tweet_id\tuser_id\ttext"]
    for number, (tweet_id, user, text, _) in enumerate(tweets):
        text += " 💙" if number % 11 == 3 else ""
        extra = "\t3" if number % 40 == 9 else ""  # looks like a label, and is none
        lines.append(f"{tweet_id}\t{user}\t{text}{extra}")
    (folder / "task5_test_participant.tsv").write_bytes("\n".join(lines).encode("utf-8"))
    gold = ["tweet_id\tClass", *(f"{tweet_id}\t{label}" for tweet_id, _, _, label in tweets)]
    (folder / "task5_test_gold.tsv").write_bytes("".join(f"{line}\n" for line in gold).encode("utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
