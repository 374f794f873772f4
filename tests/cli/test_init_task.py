"""`--init` drafts a task file that the next command takes as it is."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from smm4h.cli import train
from smm4h.config.task_file import read_task


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


ROWS = [
    [
        f"{10**17 + n}",
        f"user{n % 7}",
        f"my baby, number {n}, was born with it",
        "" if n == 5 else "no" if n % 8 else "yes",
    ]
    for n in range(80)
]
HEADER = ["tweet_id", "author", "post", "is_case"]


@pytest.fixture
def tweets(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_csv(tmp_path / "tweets.csv", HEADER, ROWS)


def test_the_draft_names_columns_labels_rare_ones_and_the_next_command(tweets, call):
    result = call(train.main, "--init", "tweets.csv")
    assert result.code == 0, result.err
    task = read_task("tweets.yaml")
    assert (task.labels, task.positive, task.measure) == (["no", "yes"], ["yes"], "f1")
    columns = (task.columns.text, task.columns.label, task.columns.id, task.columns.user)
    assert columns == (["post"], ["is_case"], ["tweet_id"], ["author"])
    assert "no 69 (87.34%), yes 10 (12.66%); no label: 1" in Path("tweets.yaml").read_text()
    assert "--preset rare --task tweets.yaml --train_file tweets.csv --output_dir runs/tweets --check" in result.out
    assert "my baby" not in result.out + Path("tweets.yaml").read_text()


def test_the_next_command_takes_the_draft(tweets, tiny_encoder, call):
    assert call(train.main, "--init", "tweets.csv", "--task", "mine.yaml").code == 0
    words = ["--task", "mine.yaml", "--train_file", "tweets.csv", "--output_dir", "runs/mine", "--check"]
    words += ["--model_name_or_path", tiny_encoder, "--n_folds", "3"]
    result = call(train.main, "--preset", "rare", *words)
    assert result.code == 0, result.err
    assert "69 (87.3%)" in result.out
    assert "10 (12.7%)" in result.out
    assert not Path("runs").exists()


def test_a_task_file_that_is_there_is_kept(tweets, call):
    Path("tweets.yaml").write_text("mine")
    result = call(train.main, "--init", "tweets.csv")
    assert result.code == 2
    assert "tweets.yaml is there already; name another file with --task" in result.err
    assert Path("tweets.yaml").read_text() == "mine"


def test_what_the_user_names_wins_over_the_guess(tmp_path, monkeypatch, call):
    """Two columns of labels, one of them with the usual name; and the text in a column without one."""
    monkeypatch.chdir(tmp_path)
    rows = [[f"some words number {n}", "abc"[n % 3], "xy"[n % 2]] for n in range(12)]
    write_csv(tmp_path / "t.csv", ["words", "severity", "label"], rows)
    assert "severity; --label_column_name chooses" in call(train.main, "--init", "t.csv").out
    task = read_task("t.yaml")
    assert (task.columns.text, task.columns.label) == (["words"], ["label"])
    assert (task.measure, task.positive) == ("macro_f1", ["x", "y"])
    result = call(train.main, "--init", "t.csv", "--task", "u.yaml", "--label_column_name", "severity")
    assert result.code == 0, result.err
    assert read_task("u.yaml").labels == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.json", "t.tsv.gz", "t.xlsx"])
def test_every_format_that_is_read_can_be_drafted(name, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame([row for row in ROWS if row[3]], columns=HEADER)
    if name.endswith(".jsonl"):
        frame.to_json(name, orient="records", lines=True)
    elif name.endswith(".json"):
        frame.to_json(name, orient="records")
    elif name.endswith(".parquet"):
        frame.to_parquet(name)
    elif name.endswith(".xlsx"):
        frame.to_excel(name, index=False)
    else:
        frame.to_csv(name, sep="\t", index=False)
    result = call(train.main, "--init", name)
    assert result.code == 0, result.err
    assert read_task("t.yaml").columns.label == ["is_case"]


WITHOUT_LABELS = {
    "no column of labels, which have 2 to 20 short values": [["a1", "one two three"], ["a2", "four five six"]],
    "no column holds texts of several words": [["a1", "x"], ["a2", "y"]],
}


@pytest.mark.parametrize("message", WITHOUT_LABELS)
def test_a_file_without_labels_or_texts_is_refused(message, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "t.csv", ["key", "words"], WITHOUT_LABELS[message])
    result = call(train.main, "--init", "t.csv")
    assert result.code == 2
    assert message in result.err
    assert not Path("t.yaml").exists()


def test_labels_that_yaml_would_read_as_other_values_stay_as_they_are(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    labels = ["no", "1.0", "null", "a: b", '"x"', "#1"]
    rows = [{"text": f"word {n} of these", "label": label} for n in range(4) for label in labels]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call(train.main, "--init", "t.jsonl")
    assert result.code == 0, result.err
    assert sorted(read_task("t.yaml").labels) == sorted(labels)


SETS = [["pain"], [], ["pain", "sleep"], ["sleep"], ["mood", "pain"], ["mood"]]


@pytest.mark.parametrize("form", ["lists", "pipes", "json", "marks"])
def test_several_labels_a_tweet_are_recognised(tmp_path, monkeypatch, call, form):
    """Columns of another kind stand beside them: a place with a comma, and a number."""
    monkeypatch.chdir(tmp_path)
    rows = pd.DataFrame(
        {"id": range(10**17, 10**17 + 60), "text": [f"what was said, in number {n}" for n in range(60)]}
    )
    sets = [SETS[n % 6] for n in range(60)]
    if form == "marks":
        for label in ("pain", "sleep", "mood"):
            rows[label] = [int(label in labels) for labels in sets]
    else:
        rows["place"] = [f"Town, Land {n % 3}" for n in range(60)]
        listed = {"lists": "; ".join, "pipes": "|".join, "json": json.dumps}[form]
        rows["effects"] = [listed(labels) for labels in sets]
    rows.to_csv("t.csv", index=False)
    result = call(train.main, "--init", "t.csv")
    assert result.code == 0, result.err
    assert "several labels a tweet" in result.out
    task = read_task("t.yaml")
    assert sorted(task.labels) == ["mood", "pain", "sleep"]
    assert task.multi_label.columns == ({label: label for label in task.labels} if form == "marks" else {})
    assert task.columns.label == (["pain"] if form == "marks" else ["effects"])
    words = ["--task", "t.yaml", "--train_file", "t.csv", "--output_dir", "out", "--check", "--n_folds", "3"]
    (tmp_path / "r.yaml").write_text("members:\n  m: {classifier: tfidf-svm}\n")
    result = call(train.main, "r.yaml", *words)
    assert result.code == 0, result.err
    assert "30 (50.0%)" in result.out
    assert "20 (33.3%)" in result.out
