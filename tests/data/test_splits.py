"""Splits from users' own files and data sets."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, job_words, recipe_of
from datasets import ClassLabel, Dataset, Features, List, Value
from sklearn.metrics import confusion_matrix

from smm4h.cli.train import main
from smm4h.config.recipe import read_command_line
from smm4h.config.task_file import read_task
from smm4h.data.dataset import column, read_tweets
from smm4h.data.hub_dataset import read_hub_tweets
from smm4h.data.outputs.predictions import read_predictions
from smm4h.data.splits import Splits, load_splits, read_gold
from smm4h.utils.errors import InputError

pytestmark = pytest.mark.slow


def test_own_data_in_other_formats_without_test_tweets(tiny_encoder, tmp_path, call):
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": str(i),
            "author": f"u{i % 9}",
            "text": f"tweet {i} {rng.integers(99)}",
            "label": ["none", "side_effect"][i % 4 == 0],
        }
        for i in range(40)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("members:\n  one: {head: last3, max_seq_length: 16}\n")
    words = [recipe, "--task", "tasks/own_data.yaml", "--train_file", tmp_path / "a.jsonl"]
    words += ["--model_name_or_path", tiny_encoder, "--n_folds", 2, "--num_train_epochs", 1, "--keep_models", "none"]
    result = call(main, *words, "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["one"]["out_of_fold"]["interval"]
    assert scores["one"]["test"] is None
    assert not (tmp_path / "out" / "one" / "fold-0" / "model").exists()
    assert (tmp_path / "out" / "one" / "fold-0" / "held_out.parquet").exists()


def test_another_test_file_is_not_scored_by_the_official_gold(tiny_encoder, tmp_path, call):
    (tmp_path / "other.tsv").write_text("tweet_id\tuser_id\ttext\n5\tu\tmy son\n6\tu\tno son\n")
    words = job_words(tiny_encoder, tmp_path / "out", members="last3-42", test_file=tmp_path / "other.tsv")
    result = call(main, *words)
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["last3-42"]["test"] is None
    assert read_predictions(tmp_path / "out" / "last3-42" / "fold-0" / "test.parquet").ids.to_pylist() == ["5", "6"]


def test_a_dataset_of_the_hub_is_read_by_its_splits(tiny_encoder, tmp_path, call):
    """A folder replaces the Hub: `load_dataset` reads both in the same way."""
    (tmp_path / "data").mkdir()
    frame = pd.DataFrame({"id": range(10**17, 10**17 + 40), "text": [f"tweet {i}" for i in range(40)]})
    frame["label"] = ["side_effect" if i % 4 == 0 else "none" for i in range(40)]
    frame[:30].to_csv(tmp_path / "data" / "train.csv", index=False)
    frame[30:].to_csv(tmp_path / "data" / "test.csv", index=False)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("members:\n  one: {head: last3, max_seq_length: 16, bf16: false}\n")
    words = [recipe, "--task", "tasks/own_data.yaml", "--dataset_name", tmp_path / "data"]
    words += ["--model_name_or_path", tiny_encoder, "--n_folds", 2, "--num_train_epochs", 1]
    result = call(main, *words, "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    lines = (tmp_path / "out" / "votes" / "final.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == [str(i) for i in frame["id"][30:]]
    voted = [line.split("\t")[1] for line in lines]
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["final vote"]["test"]
    assert scores["confusion"] == confusion_matrix(frame["label"][30:], voted, labels=["none", "side_effect"]).tolist()


def dataset_words(folder, encoder, *more, labels):
    """Words of a job on a folder that replaces a data set of the Hub, of 20 labelled tweets and four test tweets."""
    (folder / "data").mkdir(exist_ok=True)
    rows = [f"{n},tweet {n},{'side_effect' if n % 4 == 0 else 'none'}" for n in range(20)]
    (folder / "data" / "train.csv").write_text("\n".join(["id,text,label", *rows]))
    test = [f"{100 + n},test {n},{label}" for n, label in enumerate(labels)]
    (folder / "data" / "test.csv").write_text("\n".join(["id,text,label", *test]))
    (folder / "recipe.yaml").write_text("members:\n  one: {head: last3, max_seq_length: 16}\n")
    words = [folder / "recipe.yaml", "--task", "tasks/own_data.yaml", "--dataset_name", folder / "data", "--n_folds", 2]
    words += ["--model_name_or_path", encoder, "--cache_dir", folder / "cache", "--output_dir", folder / "out", *more]
    return [str(word) for word in words]


HIDDEN = "test tweets are not scored by their split's labels, some or all of which are hidden or not the task's"


@pytest.mark.parametrize(
    ("labels", "gold"),
    [
        (["none", "none", "none", "side_effect"], [0, 0, 0, 1]),
        (["none", "side_effect", "none", ""], None),
        ([""] * 4, None),
        (["-1"] * 4, None),
        (["none", "?", "none", "none"], None),
    ],
)
def test_a_test_split_scores_where_each_of_its_tweets_has_a_label(tiny_encoder, tmp_path, labels, gold):
    """Hidden labels are written in many ways, and a job can do without them."""
    job = read_command_line(dataset_words(tmp_path, tiny_encoder, labels=labels))
    splits = load_splits(job)
    read = read_gold(job, splits)
    assert (None if read is None else read.tolist()) == gold
    found = [one.what for one in splits.findings if one.where.endswith("/test")]
    assert [what.split(";")[0] for what in found] == [
        HIDDEN if gold is None else "test tweets have a label, by which they are scored"
    ]


@pytest.mark.parametrize(
    ("test", "gold"), [([[0], [1], [0, 1]], [1, 2, 3]), ([[-1], [-1], [-1]], None), ([[], [], []], None)]
)
def test_hidden_label_sets_of_a_test_split_are_no_gold(tmp_path, test, gold):
    """A class number of -1 once stood for the last label."""
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["a", "b"]))})
    rows = {"train": {"text": [f"t{n}" for n in range(4)], "label": [[0], [1], [0, 1], []]}}
    rows["test"] = {"text": ["x", "y", "z"], "label": test}
    (tmp_path / "data").mkdir()
    for name, columns in rows.items():
        Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "data" / f"{name}.parquet")
    (tmp_path / "task.yaml").write_text(
        "name: t\nlabels: [a, b]\nmulti_label: ';'\ncolumns: {text: text, label: label}\n"
    )
    task = read_task(tmp_path / "task.yaml")
    tweets = read_hub_tweets(str(tmp_path / "data"), None, task, cache_dir=str(tmp_path / "cache"))
    assert (None if tweets.test_labels is None else tweets.test_labels.tolist()) == gold


def test_other_test_tweets_and_gold_labels_replace_the_test_split(tiny_encoder, tmp_path):
    other = ["none", "side_effect", "side_effect", "none"]
    (tmp_path / "test.csv").write_text("id,text\n7,a\n8,b\n")
    (tmp_path / "gold.csv").write_text("id,label\n8,side_effect\n7,none\n")
    words = dataset_words(tmp_path, tiny_encoder, "--test_file", tmp_path / "test.csv", labels=["?"] * 4)
    job = read_command_line(words)
    splits = load_splits(job)
    assert (column(splits.test, "id").to_pylist(), read_gold(job, splits)) == (["7", "8"], None)
    job = read_command_line([*words, "--gold_file", str(tmp_path / "gold.csv")])
    assert read_gold(job, load_splits(job)).tolist() == [0, 1]
    job = read_command_line(dataset_words(tmp_path, tiny_encoder, "--max_predict_samples", 2, labels=other))
    assert read_gold(job, load_splits(job)).tolist() == [0, 1]


@pytest.mark.parametrize("flag", ["data_dir", "train_file", "validation_file"])
def test_labelled_files_beside_a_dataset_of_the_hub_are_refused(tiny_encoder, tmp_path, call, flag):
    """They were passed over without a word."""
    other = tmp_path / "other.csv"
    other.write_text("id,text,label\n1,a,none\n")
    named = ROOT / "quickstart" / "data" if flag == "data_dir" else other
    words = dataset_words(tmp_path, tiny_encoder, f"--{flag}", named, labels=["none"] * 4)
    result = call(main, *words)
    assert result.code == 2
    assert f"--{flag} and --dataset_name both name the job's tweets; leave one of them out" in result.err


def test_labels_of_test_and_unlabelled_tweets_are_counted_and_not_used(tiny_encoder, tmp_path):
    """A test file's labels are no gold: `--gold_file` says which labels are to be believed."""
    pool = ('{"id": "29", "text": "w"}', '{"id": "30", "text": "x", "label": "none"}', '{"id": "31", "text": "y"}')
    (tmp_path / "pool.jsonl").write_text("\n".join(pool))
    splits = load_rows_without_label(tmp_path, tiny_encoder, unlabelled_file=tmp_path / "pool.jsonl")
    found = {Path(one.where).name: one.count for one in splits.findings if "which is not used" in one.what}
    assert found == {"pool.jsonl": 1}
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("id,text,label\n30,x,none\n31,y,side_effect\n32,z,?\n")
    for flags, counts in ({"test_file": labelled}, [2]), ({"test_file": labelled, "gold_file": labelled}, []):
        splits = load_rows_without_label(tmp_path, tiny_encoder, **flags)
        assert [one.count for one in splits.findings if "which is not used" in one.what] == counts
    for name, text in (
        ("pool.csv", "text,label,id\nx,none,30\ny,,31\nz,?,32\n"),
        ("pool.tsv", "id\ttext\n1\ta\n2\tb\n"),
    ):
        (tmp_path / name).write_text(text)
        splits = load_rows_without_label(tmp_path, tiny_encoder, unlabelled_file=tmp_path / name)
        found = [one.count for one in splits.findings if "which is not used" in one.what]
        assert found == ([1] if name == "pool.csv" else [])
        assert "label" not in splits.unlabelled.column_names


def load_rows_without_label(tmp_path, encoder, **flags):
    """Load the splits of five tweets in each class, two without a label, and three test tweets."""
    rows = [f"{n},tweet {n},{['none', 'side_effect', ''][n // 5]}" for n in range(12)]
    (tmp_path / "train.csv").write_text("\n".join(["id,text,label", *rows]))
    (tmp_path / "test.csv").write_text("id,text\n20,a\n21,b\n22,c\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "members:\n  one: {head: last3}\n  two: {head: last3, pseudo_labels: true}\nshared: {pseudo_teachers: [one]}\n"
    )
    words = [recipe, "--task", "tasks/own_data.yaml", "--train_file", tmp_path / "train.csv", "--n_folds", 2]
    words += ["--test_file", tmp_path / "test.csv", "--model_name_or_path", encoder, "--output_dir", tmp_path / "out"]
    words += [word for flag, value in {"pseudo_fraction": 0.5, **flags}.items() for word in (f"--{flag}", value)]
    return load_splits(read_command_line([str(word) for word in words]))


def test_rows_without_a_label_are_left_out_or_pooled(tiny_encoder, tmp_path):
    left_out = load_rows_without_label(tmp_path, tiny_encoder)
    assert column(left_out.pool, "id").to_pylist() == ["20", "21", "22"]
    assert [finding.count for finding in left_out.findings if "no label" in finding.what] == [2]
    pooled = load_rows_without_label(tmp_path, tiny_encoder, unlabelled_rows="pool")
    assert column(pooled.pool, "id").to_pylist() == ["20", "21", "22", "10", "11"]
    assert column(pooled.pool, "row").to_pylist() == [0, 1, 2, 3, 4]
    assert pooled.content_hashes()["labelled"] == left_out.content_hashes()["labelled"]
    assert len(pooled.labelled) == len(left_out.labelled) == 10


def test_tweets_to_learn_from_that_are_labelled_or_test_tweets_or_repeated_are_counted(tiny_encoder, tmp_path):
    more = ["id,text", "30,@ann TWEET 1", "31,tweet 2", "32,A http://t.co/x", *(f"{n},new" for n in (33, 34)), "35,"]
    (tmp_path / "more.csv").write_text("\n".join(more))
    adapt = json.dumps({"unlabelled": str(tmp_path / "more.csv"), "labelled": False})
    splits = load_rows_without_label(tmp_path, tiny_encoder, unlabelled_file=tmp_path / "more.csv", adapt=adapt)
    counts = {finding.what: finding.count for finding in splits.findings if finding.where == "unlabelled"}
    assert [(re.split("[,:;]", what)[0], count) for what, count in counts.items()] == [
        ("unlabelled tweets have a duplicate among the labelled ones", 2),
        ("unlabelled tweets have a duplicate among the test tweets", 1),
        ("unlabelled tweets repeat another one", 1),
    ]
    of_file = [str(finding) for finding in splits.findings if finding.what.startswith("texts ")]
    assert [line.partition(": ")[2] for line in of_file] == [
        "2 texts have a duplicate among the labelled tweets, which the encoder reads in spite of labelled: false; take "
        "them out of the file",
        "1 text has a duplicate among the test tweets",
        "1 text repeats another one; each copy is read",
    ]
    (own,) = splits.adaptation_counts().values()
    assert own == {"texts": 6, "labelled": 2, "test": 1, "repeated": 1}


def test_a_pool_that_leaves_a_fold_no_tweet_or_has_no_text_is_refused_before_training(tiny_encoder, tmp_path):
    for fraction in (0.25, 0):  # of three test tweets
        with pytest.raises(InputError, match="of 3 tweets leaves none for a fold's pseudo labels; raise it"):
            load_rows_without_label(tmp_path, tiny_encoder, pseudo_fraction=fraction, pseudo_from="unseen")
    (tmp_path / "blank.csv").write_text("id,text\n30,\n31, \n")
    with pytest.raises(InputError, match=r"blank\.csv has no text in any row"):
        load_rows_without_label(tmp_path, tiny_encoder, unlabelled_file=tmp_path / "blank.csv")
    adapt = json.dumps({"unlabelled": str(tmp_path / "blank.csv")})
    with pytest.raises(InputError, match=r"blank\.csv has no text in any row"):
        load_rows_without_label(tmp_path, tiny_encoder, adapt=adapt)


@pytest.mark.parametrize("n_kept", [None, 2])
def test_gold_in_another_order_is_joined_by_id(tmp_path, n_kept):
    (tmp_path / "train.tsv").write_text("id\ttext\tlabel\n" + "".join(f"{i}\tt{i}\tnone\n" for i in range(4)))
    (tmp_path / "test.tsv").write_text("id\ttext\n11\ta\n12\tb\n13\tc\n", encoding="utf-8")
    (tmp_path / "gold.tsv").write_text("id\tlabel\n13\tnone\n12\tside_effect\n11\tnone\n", encoding="utf-8")
    files = {f"{name}_file": tmp_path / f"{name}.tsv" for name in ("train", "test", "gold")}
    flags = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    recipe = recipe_of(tmp_path, counts="{classifier: tfidf-logistic}")
    flags += ["--max_predict_samples", str(n_kept)] if n_kept else []
    job = read_command_line([str(recipe), "--task", "own_data", "--output_dir", str(tmp_path / "out"), *flags])
    test, _ = read_tweets([tmp_path / "test.tsv"], job.task, labelled=False)
    splits = Splits(test, test.select(range(n_kept or 3)), None, [])
    assert read_gold(job, splits).tolist() == [0, 1, 0][: n_kept or 3]


def test_gold_of_unscored_groups_alone_is_refused(tmp_path):
    (tmp_path / "task.yaml").write_text(
        "name: t\nlabels: [a, b]\nby: lang\nunscored: fa\ncolumns: {id: id, text: text, label: label}\n"
    )
    (tmp_path / "train.tsv").write_text("id\ttext\tlabel\tlang\n1\tt\ta\tde\n")
    (tmp_path / "test.tsv").write_text("id\ttext\tlang\n2\tt\tfa\n")
    (tmp_path / "gold.tsv").write_text("id\tlabel\n2\ta\n")
    flags = [word for name in ("train", "test", "gold") for word in (f"--{name}_file", str(tmp_path / f"{name}.tsv"))]
    words = ["--task", str(tmp_path / "task.yaml"), "--output_dir", str(tmp_path / "out"), *flags]
    job = read_command_line([str(recipe_of(tmp_path, counts="{classifier: tfidf-logistic}")), *words])
    test, _ = read_tweets([tmp_path / "test.tsv"], job.task, labelled=False)
    with pytest.raises(InputError, match="`unscored: fa` leaves all test tweets out of the score; leave the gold file"):
        read_gold(job, Splits(test, test, None, []))
