"""Small files of invented tweets and labels, and datasets read from them."""

from collections.abc import Sequence
from pathlib import Path

from conftest import ROOT, TASK5
from datasets import Dataset

from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.dataset import read_tweets

TASK = read_task(TASK5)
OWN_DATA = read_task(ROOT / "tasks" / "own_data.yaml")
HEADER = "tweet_id\tuser_id\ttweet\tclass\n"
UNLABELLED_HEADER = "tweet_id\tuser_id\ttext\n"


def read(path: Path, content: str | bytes, *, labelled: bool = True, task: Task = TASK, **options):
    """Write a file of tweets and read it: the dataset and the findings on it."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return read_tweets([path], task, labelled=labelled, **options)


def counts_of(findings, words: str) -> list[int]:
    """Return the counts of the findings whose text has some words."""
    return [finding.count for finding in findings if words in finding.what]


def labelled_tweets(rows: Sequence[tuple], path: Path) -> Dataset:
    """Write rows (id, user, text, label) to a file, and read it."""
    return read(path, HEADER + "".join("\t".join(map(str, row)) + "\n" for row in rows))[0]


def tweets_with_duplicates(folder: Path) -> Dataset:
    """Write 40 tweets a class to train.tsv, every fourth with a duplicate; users have two tweets each."""
    rows = []
    for number in range(120):
        label = 1 + number % 3
        rows.append((f"1{number}", f"u{number // 2}", f"tweet {number} about class {label}", label))
        if number % 4 == 0:
            rows.append((f"2{number}", f"x{number}", f"@me TWEET {number} about class {label} https://t.co/x", label))
    return labelled_tweets(rows, folder / "train.tsv")


def write_labels(path: Path, labels: Sequence[str], ids: Sequence[str] | None = None) -> Path:
    """Write a label file, of the tweets 10, 11, ... where no ids are given."""
    ids = ids or [str(10 + i) for i in range(len(labels))]
    path.write_text("tweet_id\tClass\n" + "".join(f"{i}\t{label}\n" for i, label in zip(ids, labels, strict=True)))
    return path
