"""Explained tweets: a self-contained page for people, and a table with a row a word; both hold tweets."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from smm4h.config.task import Task
from smm4h.data.streaming import Writer
from smm4h.inference.new_tweets.explanation import Explanation, Word
from smm4h.reporting.html_report import environment
from smm4h.utils.files import write_atomically, write_text

FIRST_WORDS = 5  # named below a tweet
LEVELS = 5  # shades of a word
FAINTEST = 0.1  # weight below which no word is shaded, on a scale where the tweet's heaviest word has 1
SUFFIXES = (".gz",)


def names_beside(output: Path) -> tuple[Path, Path]:
    """Return where the page and the table of an output's explained tweets lie: beside it, in its format."""
    kinds = output.suffixes[-2:] if output.suffix.lower() in SUFFIXES else output.suffixes[-1:]
    stem = output.name.removesuffix("".join(kinds))
    return output.with_name(f"{stem}.explained.html"), output.with_name(f"{stem}.explained{''.join(kinds)}")


def write_explanations(
    output: Path, explanations: Sequence[Explanation], task: Task, names: Sequence[str]
) -> list[Path]:
    """Write page and table of explained tweets beside an output; return their paths.

    Args:
        names: of the output's columns of ids and labels.
    """
    page, table = names_beside(output)
    template = environment(autoescape=True).get_template("explanation.html")
    content = {"task": task, "explanations": explanations, "level": level, "first_words": FIRST_WORDS}
    write_text(page, template.render(**content), private=True)
    rows = table_of(explanations, task.labels, names)

    def write(partial: Path) -> None:
        with Writer(partial, rows.schema, foreign={"word"}) as writer:
            writer.write(rows)

    write_atomically(table, write, private=True)
    return [page, table]


def table_of(explanations: Sequence[Explanation], labels: Sequence[str], names: Sequence[str]) -> pa.Table:
    """Return a row a word: the tweet's id, label and its probability, the word, its weight, the label's fate."""
    rows = [(explained, word) for explained in explanations for word in explained.words]
    return pa.table(
        {
            names[0]: pa.array([explained.tweet.id for explained, _ in rows], pa.string()),
            names[1]: pa.array([labels[explained.label] for explained, _ in rows], pa.string()),
            "probability": pa.array([explained.probability for explained, _ in rows], pa.float64()),
            "word": pa.array([word.word for _, word in rows], pa.string()),
            "weight": pa.array([word.weight for _, word in rows], pa.float64()),
            "keeps_label": pa.array([int(word.keeps_label) for _, word in rows], pa.int64()),
        }
    )


def level(explained: Explanation, word: Word | None) -> int:
    """Return how dark a word is shaded, from 0 to `LEVELS`: by its weight, against the tweet's heaviest word.

    Words that speak against the label have a negative level.
    """
    if word is None:
        return 0
    heaviest = max(abs(other.weight) for other in explained.words)
    share = abs(word.weight) / heaviest if heaviest > 0 else 0.0
    if share < FAINTEST:
        return 0
    shade = max(1, round(share * LEVELS))
    return shade if word.weight > 0 else -shade
