"""Submissions in the organisers' shapes, read back by scorers that know nothing of this project.

Each scorer is written from what is known of the official one: how it finds the file, what it takes for a header, which
lines and columns it ignores, and whether rows or ids count.
"""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import train_here
from sklearn.metrics import f1_score

from smm4h.cli import train as train_command
from smm4h.cli import vote
from smm4h.config.plans.plan import read_plan
from smm4h.config.task_file import find_task

IDS = [str(9_000_000_000_000_000_000 + 17 * i) for i in range(12)]
GOLD = [int(i % 3 == 0) for i in range(12)]  # 4 positive tweets
PREDICTED = [1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0]  # 3 of the 4, and one false alarm: F1 is 6 / 8
EXPECTED = 0.75


def only_file(path: Path) -> tuple[str, str]:
    """Return name and text of the one file of a zip, as CodaLab unpacks it: a folder would hide it."""
    with zipfile.ZipFile(path) as archive:
        (name,) = archive.namelist()
        assert "/" not in name
        return name, archive.read(name).decode("utf-8")


def f1_of(gold: dict[str, str], predicted: dict[str, str], positive: str) -> float:
    """Return the F1 of a label over ids; a tweet without a prediction counts as negative."""
    hits = sum(gold[i] == positive == predicted.get(i) for i in gold)
    n_gold, n_predicted = (list(labels.values()).count(positive) for labels in (gold, predicted))
    return 2 * hits / (n_gold + n_predicted)


def score_two_columns(text: str, gold: dict[str, str], positive: str) -> float:
    """2021: tab-separated with the header tweet_id and label, further columns ignored."""
    frame = pd.read_csv(io.StringIO(text), sep="\t", dtype=str, quoting=csv.QUOTE_NONE)[["tweet_id", "label"]]
    return f1_of(gold, dict(zip(frame["tweet_id"], frame["label"], strict=True)), positive)


def score_spans(text: str, gold: dict[str, str], positive: str) -> float:
    """2022 task 1a: lines of 5 or 6 fields, others ignored, as is a line that begins with tweet_id; ids collapse."""
    predicted = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) in (5, 6) and fields[0] != "tweet_id":
            int(fields[2]), int(fields[3])  # the positions of a span are numbers
            predicted[fields[0]] = fields[1]
    return f1_of(gold, predicted, positive)


def score_csv(text: str, gold: dict[str, str], positive: str, columns: tuple[str, str] = ("id", "predicted_label")):
    """2025 and 2026 task 1: comma-separated with exactly these two columns, merged with the gold labels by id."""
    frame = pd.read_csv(io.StringIO(text), dtype=str)
    assert list(frame.columns) == list(columns)
    assert len(frame) == len(gold)
    return f1_of(gold, dict(frame.to_numpy().tolist()), positive)


def score_json(text: str, gold: dict[str, str], positive: str) -> float:
    """2025 task 4: an object by note id with the key Insomnia."""
    return f1_of(gold, {note: answer["Insomnia"] for note, answer in json.loads(text).items()}, positive)


def submit(tmp_path, call, task: str, labels: list[str], output: str = "answer.zip", ids=IDS) -> Path:
    """Have a label file handed in by the command for votes."""
    rows = "".join(f"{i}\t{label}\n" for i, label in zip(ids, labels, strict=True))
    (tmp_path / "labels.tsv").write_text(f"tweet_id\tClass\n{rows}", encoding="utf-8")
    result = call(vote.main, tmp_path / "labels.tsv", "--task", task, "--output", tmp_path / output)
    assert result.code == 0, result.err
    return tmp_path / output


def named(classes: list[int], labels: tuple[str, str]) -> list[str]:
    return [labels[i] for i in classes]


SHAPES = {
    "2020/task1": ("prediction_task1.tsv", ("0", "1"), None),
    "2021/task1a": ("prediction_task1a.tsv", ("NoADE", "ADE"), score_two_columns),
    "2021/task8": ("prediction_task8.tsv", ("NR", "S"), score_two_columns),
    "2022/task1a": ("prediction_task1a.tsv", ("noADE", "ADE"), score_spans),
    "2022/task6": ("prediction_task6.tsv", ("Vaccine_chatter", "Self_reports"), score_two_columns),
    "2023/task1": ("prediction_task1.tsv", ("0", "1"), score_two_columns),
    "2025/task1": ("predictions_task1.csv", ("0", "1"), score_csv),
    "2026/task1": ("predictions_task1.csv", ("0", "1"), score_csv),
    "2025/task4_1": ("subtask_1.json", ("no", "yes"), score_json),
}


@pytest.mark.parametrize("task", SHAPES)
def test_a_scorer_of_the_year_finds_the_score_of_planted_predictions(tmp_path, call, task):
    file, labels, score = SHAPES[task]
    name, text = only_file(submit(tmp_path, call, task, named(PREDICTED, labels)))
    assert name == file
    gold = dict(zip(IDS, named(GOLD, labels), strict=True))
    if score is None:  # 2020's scorer wants the gold file's header and its rows in their order
        assert [line.split("\t")[0] for line in text.splitlines()] == ["tweet_id", *IDS]
        assert text.splitlines()[0] == "tweet_id\tClass"
        text, score = text.replace("Class", "label"), score_two_columns
    assert score(text, gold, labels[1]) == EXPECTED


def test_four_labels_are_handed_in_under_the_years_header(tmp_path, call):
    gold, predicted = [i % 4 for i in range(12)], [0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 3, 3]
    name, text = only_file(submit(tmp_path, call, "2024/task3", [str(i) for i in predicted]))
    frame = pd.read_csv(io.StringIO(text), sep="\t", dtype=str)
    assert (name, list(frame.columns)) == ("prediction_task3.tsv", ["id", "Label"])
    found = f1_score([str(i) for i in gold], frame["Label"], average="macro")
    assert found == pytest.approx(f1_score(gold, predicted, average="macro"))


def write_task(tmp_path, submission: str, labels: str = '["0", "1"]') -> Path:
    path = tmp_path / "task.yaml"
    path.write_text(
        f"name: t\nlabels: {labels}\ncolumns: {{id: id, text: text, label: label}}\nsubmission: {submission}\n"
    )
    return path


@pytest.mark.parametrize(
    ("submission", "expected"),
    [
        ("{file: a.tsv, columns: [id, label], header: false}", "x\t1\ny\t0\n"),
        (
            "{file: a.txt, columns: {label: label, run: '1', id: id}, separator: semicolon}",
            "label;run;id\n1;1;x\n0;1;y\n",
        ),
        ("{file: a.csv, columns: [id, label], separator: tab, labels: {'0': none}}", "id\tlabel\nx\t1\ny\tnone\n"),
        ("{file: a.csv, columns: {id: id, label: label, note: 'a, b'}}", 'id,label,note\nx,1,"a, b"\ny,0,"a, b"\n'),
        ("{file: a.jsonl, columns: [id, label]}", '{"id": "x", "label": "1"}\n{"id": "y", "label": "0"}\n'),
        ("{file: a.json, columns: {id: id, label: label, by: us}}", None),
    ],
)
def test_each_key_of_a_submission_shapes_it(tmp_path, call, submission, expected):
    path = submit(tmp_path, call, write_task(tmp_path, submission), ["1", "0"], ids=["x", "y"])
    text = only_file(path)[1]
    if expected is None:
        assert json.loads(text) == {"x": {"label": "1", "by": "us"}, "y": {"label": "0", "by": "us"}}
    else:
        assert text == expected


@pytest.mark.parametrize(
    ("joint", "expected"),
    [("json", 'id,label\nx,"[""A"", ""B""]"\ny,[]\n'), ('" | "', "id,label\nx,A | B\ny,\n")],
)
def test_several_labels_stand_in_a_cell_as_the_task_says(tmp_path, call, joint, expected):
    task = write_task(tmp_path, f"{{file: a.csv, columns: [id, label], joint: {joint}}}\nmulti_label: true", "[A, B]")
    assert only_file(submit(tmp_path, call, task, ["A;B", ""], ids=["x", "y"]))[1] == expected


def test_a_vote_under_the_submissions_own_name_is_the_submission_without_a_zip(tmp_path, call):
    path = submit(tmp_path, call, "2025/task1", named(PREDICTED, ("0", "1")), "predictions_task1.csv")
    gold = dict(zip(IDS, map(str, GOLD), strict=True))
    assert score_csv(path.read_text(encoding="utf-8"), gold, "1") == EXPECTED


@pytest.mark.parametrize("task", ["2022/task1a", "2026/task1", "2025/task4_1"])
def test_a_submission_can_be_voted_on_again(tmp_path, call, task):
    _, labels, _ = SHAPES[task]
    path = submit(tmp_path, call, task, named(PREDICTED, labels))
    result = call(vote.main, path, "--task", task, "--output", tmp_path / "again.tsv")
    assert result.code == 0, result.err
    lines = (tmp_path / "again.tsv").read_text().splitlines()[1:]
    assert lines == [f"{i}\t{label}" for i, label in zip(IDS, named(PREDICTED, labels), strict=True)]


def test_a_submission_without_header_can_be_voted_on_again(tmp_path, call):
    task = write_task(tmp_path, "{file: a.tsv, columns: {label: label, id: id}, header: false, labels: {'1': yes_}}")
    path = submit(tmp_path, call, task, ["1", "0"], ids=["x", "y"])
    assert only_file(path)[1] == "yes_\tx\n0\ty\n"
    result = call(vote.main, path, "--task", task, "--output", tmp_path / "again.tsv")
    assert (result.code, (tmp_path / "again.tsv").read_text()) == (0, "tweet_id\tClass\nx\t1\ny\t0\n"), result.err


def test_label_files_of_one_source_are_handed_in_under_its_name(tmp_path, call):
    task = write_task(
        tmp_path, "{file: 'p_{source}.tsv', columns: [id, label]}\nfiles: {training: a, test: {us: b, uk: c}}"
    )
    for output, name in (("p_uk.zip", "p_uk.tsv"), ("other.zip", "p.tsv")):
        assert only_file(submit(tmp_path, call, task, ["1", "0"], output, ids=["x", "y"]))[0] == name


def test_an_id_with_two_labels_does_not_fit_into_json(tmp_path, call):
    (tmp_path / "labels.tsv").write_text("tweet_id\tClass\n7\tyes\n7\tno\n")
    result = call(vote.main, tmp_path / "labels.tsv", "--task", "2025/task4_1", "--output", tmp_path / "a.zip")
    assert result.code == 2
    assert "two test tweets have the same id and other labels" in result.err


# A whole job: texts and labels in files of their own without headers, two corpora, validation tweets handed in, too.

JOB_TASK = """
name: two_corpora
labels: {"no": ["NO", "no"], "yes": ["YES", "yes"]}
positive: ["yes"]
columns: {id: tweet_id, text: text, label: label}
header: [tweet_id, text]
files:
  training: {tweets: tweets.tsv, reviews: reviews.tsv}
  training_labels: {tweets: tweets_labels.tsv, reviews: reviews_labels.tsv}
  validation: valid.tsv
  validation_labels: valid_labels.tsv
  test: {tweets: tweets_test.tsv, reviews: reviews_test.tsv}
  gold: {tweets: tweets_gold.tsv, reviews: reviews_gold.tsv}
submission:
  file: "prediction_{source}.tsv"
  columns: {tweet_id: id, label: label, corpus: source}
  labels: {"yes": "1", "no": "0"}
  zip: both.zip
  validation: true
"""
JOB_RECIPE = """
shared: {classifier: tfidf-logistic, n_folds: 2, threads_per_worker: 1, baselines: none, use_cpu: true}
members: {counts: {fold_seed: 42}}
"""


def write_corpus(folder: Path, name: str, labels: str, first: int, spelling: tuple[str, str]) -> dict[str, str]:
    """Write 24 texts without a header, each third of them about an ache, and their labels; return the labels by id."""
    words = ["train", "music", "ache"]
    of_id = {str(first + i): spelling[i % 3 == 2] for i in range(24)}
    texts = (f"{i}\tsome {words[n % 3]} {words[n % 3]} today {n % 5}\n" for n, i in enumerate(of_id))
    (folder / name).write_text("".join(texts))
    (folder / labels).write_text("".join(f"{i}\t{label}\n" for i, label in of_id.items()))
    return of_id


@pytest.fixture(scope="module")
def two_corpora(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    write_corpus(folder, "tweets.tsv", "tweets_labels.tsv", 1000, ("NO", "yes"))
    write_corpus(folder, "reviews.tsv", "reviews_labels.tsv", 2000, ("no", "YES"))
    write_corpus(folder, "valid.tsv", "valid_labels.tsv", 3000, ("no", "yes"))
    for source, first in (("tweets", 4000), ("reviews", 5000)):
        write_corpus(folder, f"{source}_test.tsv", f"{source}_gold.tsv", first, ("no", "yes"))
    (folder / "task.yaml").write_text(JOB_TASK)
    (folder / "recipe.yaml").write_text(JOB_RECIPE)
    words = [folder / "recipe.yaml", "--task", folder / "task.yaml", "--data_dir", folder]
    words += ["--output_dir", folder / "out"]
    result = train_here(words)
    assert result.code == 0, result.err + result.out
    return folder


@pytest.mark.slow
def test_each_test_file_is_answered_in_a_file_of_its_own(two_corpora):
    with zipfile.ZipFile(two_corpora / "out" / "submission" / "both.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert list(texts) == ["prediction_tweets.tsv", "prediction_reviews.tsv"]
    for source, first in (("tweets", 4000), ("reviews", 5000)):
        frame = pd.read_csv(io.StringIO(texts[f"prediction_{source}.tsv"]), sep="\t", dtype=str)
        assert frame["tweet_id"].tolist() == [str(first + i) for i in range(24)]
        assert frame["label"].tolist() == [str(int(i % 3 == 2)) for i in range(24)]
        assert set(frame["corpus"]) == {source}
    scores = json.loads((two_corpora / "out" / "scores.json").read_text())
    assert scores["final vote"]["test"]["f1"] == 1.0  # against the gold files of both corpora


@pytest.mark.slow
def test_the_validation_tweets_are_answered_out_of_fold_in_their_order(two_corpora):
    (path,) = (two_corpora / "out" / "submission" / "validation").glob("*.zip")
    frame = pd.read_csv(io.StringIO(only_file(path)[1]), sep="\t", dtype=str)
    assert frame["tweet_id"].tolist() == [str(3000 + i) for i in range(24)]
    assert frame["label"].tolist() == [str(int(i % 3 == 2)) for i in range(24)]


@pytest.mark.slow
def test_a_later_vote_makes_the_same_submission_and_another_task_file_another_shape(two_corpora, call):
    result = call(vote.main, two_corpora / "out", "--output", two_corpora / "vote.zip")
    assert result.code == 0, result.err
    assert (two_corpora / "vote.zip").read_bytes() == (two_corpora / "out" / "submission" / "both.zip").read_bytes()
    other = JOB_TASK.replace('"prediction_{source}.tsv"', "all.csv").replace('  labels: {"yes": "1", "no": "0"}\n', "")
    (two_corpora / "other.yaml").write_text(other)
    words = [two_corpora / "out", "--task", two_corpora / "other.yaml", "--output", two_corpora / "all.csv"]
    result = call(vote.main, *words)
    assert result.code == 0, result.err
    frame = pd.read_csv(two_corpora / "all.csv", dtype=str)
    assert frame.shape == (48, 3)
    assert frame["label"].tolist() == [("no", "yes")[i % 3 == 2] for i in range(24)] * 2


@pytest.mark.slow
def test_a_saved_rule_answers_the_validation_tweets_anew(two_corpora, tmp_path, call):
    shutil.copytree(two_corpora / "out", tmp_path / "out")
    result = call(vote.main, tmp_path / "out", "--save", "--decision", "yes: 1000000, no: 0.000001")
    assert result.code == 0, result.err
    for part in ("submission", "submission/validation"):
        (path,) = (tmp_path / "out" / part).glob("*.zip")
        with zipfile.ZipFile(path) as archive:
            texts = [archive.read(name).decode() for name in archive.namelist()]
        assert {line.split("\t")[1] for text in texts for line in text.splitlines()[1:]} == {"1"}


@pytest.mark.slow
def test_a_corrected_shape_replaces_the_submission_and_trains_nothing(two_corpora, call):
    text = JOB_TASK.replace("corpus: source", "corpus: source, run: '1'").replace("validation: true", "zip: false")
    text = text.replace("  zip: both.zip\n", "").replace("tweet_id: id", "docid: id").replace("prediction_{", "run1_{")
    (two_corpora / "task.yaml").write_text(text)
    folder = two_corpora / "out"
    done = (folder / "counts" / "fold-0" / "DONE").stat().st_mtime_ns
    words = [two_corpora / "recipe.yaml", "--task", two_corpora / "task.yaml", "--data_dir", two_corpora]
    result = call(train_command.main, *words, "--output_dir", folder)
    assert result.code == 0, result.err + result.out
    header = (folder / "submission" / "run1_tweets.tsv").read_text().splitlines()[0]
    assert header == "docid\tlabel\tcorpus\trun"
    assert not (folder / "submission" / "both.zip").exists()  # of the former shape
    assert call(train_command.main, "--verify", "--output_dir", folder).code == 0
    assert read_plan(folder)[1].submission.file == "run1_{source}.tsv"  # what a later vote will write
    assert (folder / "counts" / "fold-0" / "DONE").stat().st_mtime_ns == done


def test_the_task_of_the_readmes_command_is_found():
    assert find_task("2024/task5").is_file()
