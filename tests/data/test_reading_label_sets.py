"""Label sets from every form of file, and folds that spread each label."""

import json

import numpy as np
import pandas as pd
import pytest

from smm4h.config.task_file import read_task
from smm4h.data.dataset import column, read_tweets
from smm4h.data.folds import label_set_folds
from smm4h.data.outputs.label_files import read_labels
from smm4h.utils.errors import InputError

SETS = [["A"], [], ["A", "C"], ["B"], ["C", "B", "A"]]
CODES = [1, 0, 5, 2, 7]


def task_of(folder, form: str):
    path = folder / "task.yaml"
    label = "" if form.startswith(("{", "columns")) else ", label: labels"
    path.write_text(f"name: t\nlabels: [A, B, C]\nmulti_label: {form}\ncolumns: {{id: id, text: text{label}}}\n")
    return read_task(path)


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"t{i}" for i in range(5)], "text": [f"a text {i}" for i in range(5)], **columns})


def write(folder, kind: str):
    """Write the tweets with their label sets in a form; return the file and what the task says of the form."""
    marks = {label: [int(label in labels) for labels in SETS] for label in "ABC"}
    path = folder / f"tweets.{kind.split()[0]}"
    if kind == "parquet":
        frame(labels=SETS).to_parquet(path)
    elif kind == "parquet marks":
        frame(**marks).to_parquet(path)
    elif kind == "jsonl":
        frame(labels=SETS).to_json(path, orient="records", lines=True)
    elif kind == "json by id":
        path.write_text(json.dumps({f"t{i}": {"text": f"a text {i}", "labels": s} for i, s in enumerate(SETS)}))
    elif kind == "csv marks":
        words = {label: ["yes" if mark else "no" for mark in column] for label, column in marks.items()}
        frame(**words).to_csv(path, index=False)
    elif kind == "csv json":
        frame(labels=map(json.dumps, SETS)).to_csv(path, index=False)
    else:
        kind, _, separator = kind.partition(" ")
        lists = [f" {separator} ".join(labels) for labels in SETS]
        frame(labels=lists).to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path, "columns" if kind.endswith("marks") else "true"


KINDS = ["parquet", "parquet marks", "jsonl", "json by id", "csv marks", "csv json", "csv ;", "csv ,", "tsv |"]


@pytest.mark.parametrize("kind", KINDS)
def test_label_sets_are_the_same_in_every_form_of_file(tmp_path, kind):
    path, form = write(tmp_path, kind)
    task = task_of(tmp_path, form)
    tweets, findings = read_tweets([path], task, labelled=True)
    assert column(tweets, "label").to_pylist() == CODES
    assert not [finding for finding in findings if "label" in finding.what]
    if kind != "json by id":  # as a file of gold labels, joined by id
        assert read_labels(path, task).classes_in(task.space).tolist() == CODES


@pytest.mark.parametrize(
    ("form", "columns", "message"),
    [
        ("true", {"labels": ["A", "A;D", "D", "B", ""]}, "tweets.csv, line 3: the label is none of A, B, C, but D 2"),
        ("true", {"labels": [""] * 5}, "has no label in any row of column labels"),
        ("columns", {"A": [1, 0, 1, 0, 1], "B": [0, 1, "", 1, 0], "C": [0] * 5}, "line 4: only some labels are marked"),
        ("columns", {"A": [1, 0, 1, 0, 1], "B": [0, 1, 2, 1, 0], "C": [0] * 5}, "line 4: column B must hold 1 or 0"),
        ("columns", {"A": [1, 0, 1, 0, 1], "B": [0] * 5}, "line 1: no column C"),
    ],
)
def test_labels_that_are_none_are_refused_with_their_line(tmp_path, form, columns, message):
    frame(**columns).to_csv(tmp_path / "tweets.csv", index=False)
    with pytest.raises(InputError) as caught:
        read_tweets([tmp_path / "tweets.csv"], task_of(tmp_path, form), labelled=True)
    assert message in str(caught.value)


def test_lists_of_labels_without_the_key_are_explained(tmp_path):
    frame(labels=["A", "A;B", "B", "C", "C"]).to_csv(tmp_path / "tweets.csv", index=False)
    with pytest.raises(InputError, match="where a tweet can have several labels, the task file says so by"):
        read_tweets([tmp_path / "tweets.csv"], task_of(tmp_path, "false"), labelled=True)


def test_rows_without_any_mark_are_unlabelled(tmp_path):
    marks = {label: [1, 0, "", 0, 1] for label in "ABC"}
    frame(**marks).to_csv(tmp_path / "tweets.csv", index=False)
    tweets, findings = read_tweets([tmp_path / "tweets.csv"], task_of(tmp_path, "columns"), labelled=True)
    assert column(tweets, "id").to_pylist() == ["t0", "t1", "t3", "t4"]
    assert [finding.count for finding in findings if finding.what == "tweets have no label"] == [1]


def test_every_fold_holds_out_its_share_of_every_label_and_combination_of_rare_ones():
    rng = np.random.default_rng(0)
    targets = (rng.random((1000, 4)) < [0.5, 0.2, 0.03, 0.012]).astype(int)
    folds = label_set_folds(targets, 5, seed=1)
    held_out = np.stack([targets[folds == fold].sum(axis=0) for fold in range(5)])
    assert (np.abs(held_out - targets.sum(axis=0) / 5) <= 1.5).all()
    assert np.ptp(np.bincount(folds)) <= 3
    assert (label_set_folds(targets, 5, seed=1) == folds).all()
    assert (label_set_folds(targets, 5, seed=2) != folds).any()


def test_groups_are_held_out_together():
    rng = np.random.default_rng(0)
    targets, groups = (rng.random((300, 3)) < 0.2).astype(int), rng.integers(0, 120, 300)
    folds = label_set_folds(targets, 3, seed=1, groups=groups)
    assert all(len(set(folds[groups == group])) == 1 for group in range(120) if (groups == group).any())
    held_out = np.stack([targets[folds == fold].sum(axis=0) for fold in range(3)])
    assert (np.abs(held_out - targets.sum(axis=0) / 3) <= 3).all()


def submitting(folder, form: str, submission: str):
    task_of(folder, form)
    with (folder / "task.yaml").open("a") as file:
        file.write(f"submission: {{{submission}, columns: [id, labels]}}\n")
    return read_task(folder / "task.yaml")


@pytest.mark.parametrize(
    ("kind", "message", "remedies"),
    [
        (
            "tsv |",
            r'with \| between them, and .* have ; between .* `joint: "\|"`',
            [("true", 'file: a.csv, joint: "|"'), ('"|"', "file: a.csv"), ('";"', "file: a.csv")],
        ),
        (
            "csv json",
            "as JSON, and .* have ; between .* `joint: json`",
            [("true", "file: a.csv, joint: json"), ('";"', "file: a.csv"), ("true", "file: a.json")],
        ),
        ("csv ;", "", [("true", "file: a.csv")]),
    ],
)
def test_label_sets_are_not_handed_in_in_another_form_than_the_files_have(tmp_path, kind, message, remedies):
    path, form = write(tmp_path, kind)
    if message:
        with pytest.raises(InputError, match=f", line [24]: labels are listed {message}"):
            read_tweets([path], submitting(tmp_path, form, "file: a.csv"), labelled=True)
    for remedy in remedies:
        tweets, _ = read_tweets([path], submitting(tmp_path, *remedy), labelled=True)
        assert column(tweets, "label").to_pylist() == CODES
