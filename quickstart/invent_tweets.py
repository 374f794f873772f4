"""Invents the quickstart's tweets in the official task-5 shape: files, columns, encodings, line ends and their traps.

python quickstart/invent_tweets.py quickstart/data

The classes differ in who the child is and whether it has the defect, not in keywords: other people's children, doctors,
news and school projects use the same words as parents do. Their words are in words.yaml.
"""

import random
import sys
from pathlib import Path

import yaml

WORDS = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
TEMPLATES = {"1": WORDS["own_and_affected"], "2": WORDS["ambiguous"], "3": WORDS["mentioned"]}
UNSEEN = 4  # templates of each class, the last ones, that only test tweets use
NOISE = 0.03  # annotators disagree
BLANKS = ("defect", "name", "child", "other", "age", "feeling", "place")
SHARES = {"1": 0.12, "2": 0.12, "3": 0.76}
SIZES = {"training": 320, "validation": 80, "test": 120}


def invent(rng: random.Random, label: str, templates: list[str]) -> str:
    """One tweet of a class: a template with its blanks filled, and the noise of its medium."""
    blanks = {name: rng.choice(WORDS[name]) for name in BLANKS}
    text = rng.choice(templates).format(**blanks)
    if rng.random() < 0.4:
        aside = rng.choice(WORDS["asides"]).format(**{**blanks, "child": rng.choice(WORDS["child"])})
        text = rng.choice([f"{aside}. {text}", f"{text}. {aside}"])
    if rng.random() < 0.4:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.3:
        text = text.replace("'", "’")
    if rng.random() < 0.15:
        text = f"@{rng.choice(WORDS['name']).lower()}{rng.randint(1, 99)} {text}"
    if rng.random() < 0.1:
        text = text.replace(" and ", " &amp; ")
    if rng.random() < 0.25:
        text += " " + rng.choice(["!", "!!", "…", "lol", "ugh", "omg", "tbh", "smh"])
    if rng.random() < 0.25:
        text += " " + rng.choice(WORDS["tag"])
    if rng.random() < (0.35 if label == "3" else 0.12):
        text += f" https://t.co/{''.join(rng.choices('abcdefghijkmnpqrstuvwxyz23456789', k=10))}"
    return text


def invent_all(rng: random.Random, n_tweets: int, n_unseen: int) -> list[tuple[str, str, str, str]]:
    """Id, user, text and label of `n_tweets` tweets in random order; hardly any text comes twice."""
    counts = {label: round(share * n_tweets) for label, share in SHARES.items()}
    counts["3"] += n_tweets - sum(counts.values())
    labels = [label for label, count in counts.items() for _ in range(count)]
    rng.shuffle(labels)
    users = [str(rng.randint(10**8, 10**10)) for _ in range(n_tweets * 2 // 3)]
    tweets = []
    for label in labels:
        templates = TEMPLATES[label][: len(TEMPLATES[label]) - n_unseen]
        text = invent(rng, label, templates)
        if rng.random() < NOISE:
            label = rng.choice([other for other in TEMPLATES if other != label])
        tweets.append((str(rng.randint(10**17, 10**19 - 1)), rng.choice(users), text, label))
    return tweets


def main(folder: Path) -> None:
    rng = random.Random(2020)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {part: invent_all(rng, size, 0 if part == "test" else UNSEEN) for part, size in SIZES.items()}
    for part in ("training", "validation"):
        blank = "\t\t" if part == "validation" else ""  # the official file has two nameless columns
        lines = [f"tweet_id\tuser_id\ttweet\tclass{blank}"]
        for number, (tweet_id, user, text, label) in enumerate(parts[part]):
            if number % 25 == 7:  # as a spreadsheet leaves it
                text = '"' + text.replace("day", 'day "one"').replace('"', '""') + '"'
            lines.append(f"{tweet_id}\t{user}\t{text}\t{label}{blank}")
        (folder / f"task5_{part}.tsv").write_bytes("".join(f"{line}\r\n" for line in lines).encode("cp1252"))
    test = parts["test"]
    test[30] = (test[17][0], *test[30][1:])  # an id that stands twice
    lines = ["tweet_id\tuser_id\ttext"]
    for number, (tweet_id, user, text, _) in enumerate(test):
        text += " 💙" if number % 11 == 3 else ""
        extra = "\t3" if number % 40 == 9 else ""  # looks like a label, and is none
        lines.append(f"{tweet_id}\t{user}\t{text}{extra}")
    (folder / "task5_test_participant.tsv").write_bytes("\n".join(lines).encode("utf-8"))
    gold = ["tweet_id\tClass", *(f"{tweet_id}\t{label}" for tweet_id, _, _, label in test)]
    (folder / "task5_test_gold.tsv").write_bytes("".join(f"{line}\n" for line in gold).encode("utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
