"""Extra training tweets: they train, are never held out, and twins of held-out and of test tweets are left out."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from smm4h.cli.train import main
from smm4h.config.plans.plan import make_plan
from smm4h.config.recipe import read_command_line
from smm4h.config.validation import check_input_files
from smm4h.data.dataset import column
from smm4h.data.folds import folds_of, write_folds
from smm4h.data.splits import load_splits
from smm4h.training.run_data import PseudoLabels, prepare_run_data, training_part
from smm4h.utils.errors import InputError

LABELS = ("none", "side_effect")
RECIPE = """
shared: {n_folds: 3}
members:
  words: {classifier: tfidf-logistic, refit: true}
  other-folds: {classifier: tfidf-logistic, fold_seed: 7}
  without: {classifier: tfidf-logistic, extra_train: false}
"""


def write_tweets(folder):
    """Write 60 labelled tweets, six test tweets, and two extra files, one of which has ids and parents."""
    rows = [
        f"{n},this is tweet {n} of a {'headache' if n % 4 == 0 else 'walk'},{LABELS[n % 4 == 0]}" for n in range(60)
    ]
    (folder / "train.csv").write_text("\n".join(["id,text,label", *rows, ""]))
    (folder / "test.csv").write_text("id,text\n" + "".join(f"9{n},new tweet number {n}\n" for n in range(6)))
    extra = [
        {"id": "500", "text": "a quite new headache of mine", "label": "side_effect"},
        {
            "id": "501",
            "text": "THIS is tweet 8 of a headache @you",
            "label": "none",
        },  # of tweet 8
        {"id": "12", "text": "the same id as tweet 12", "label": "side_effect"},
        {"id": "502", "text": "what a paraphrase of tweet 16", "label": "side_effect", "parent_id": "16"},
        {"id": "503", "text": "New tweet number 3", "label": "none", "parent_id": "4711"},  # a test tweet
        {"id": "504", "text": "no label here", "label": ""},
    ]
    (folder / "paraphrases.jsonl").write_text("".join(json.dumps({"parent_id": "", **row}) + "\n" for row in extra))
    (folder / "corpus.tsv").write_text("tweet\tClass\nanother headache\tside_effect\nanother walk\tnone\n")


def command(folder, *flags):
    write_tweets(folder)
    (folder / "recipe.yaml").write_text(RECIPE)
    words = [folder / "recipe.yaml", "--task", ROOT / "tasks" / "own_data.yaml", "--train_file", folder / "train.csv"]
    words += ["--test_file", folder / "test.csv", "--output_dir", folder / "out", "--baselines", "none", *flags]
    return [str(word) for word in words]


def with_extra(folder):
    return command(folder, "--extra_train_file", folder / "paraphrases.jsonl", folder / "corpus.tsv")


def prepared(words):
    job = read_command_line(words)
    check_input_files(job)
    splits = load_splits(job)
    plan = make_plan(job, splits.content_hashes())
    plan.output_dir.mkdir(exist_ok=True)
    write_folds(splits.labelled, plan.folds_file)
    return job, splits, plan, prepare_run_data(plan, job, splits)


def test_twins_are_left_out_of_the_fold_that_holds_the_tweet_out_and_of_no_other(tmp_path):
    _, splits, plan, data = prepared(with_extra(tmp_path))
    assert len(splits.labelled) == 60
    assert len(splits.extra.tweets) == 7
    texts = column(splits.extra.tweets, "text").to_pylist()
    twin_of = {texts[1]: 8, texts[2]: 12, texts[3]: 16}
    for run in plan.runs:
        learnt = training_part(run, data, None)["text"][:]
        held_out = set(np.flatnonzero(run.holds_out(folds_of(splits.labelled, run.member.args.fold_seed))).tolist())
        expected = [text for n, text in enumerate(texts) if n != 4 and twin_of.get(text) not in held_out]
        expected = [] if run.member.name == "without" else expected
        assert learnt[60 - len(held_out) :] == expected
        assert len(set(learnt)) == len(learnt)


def test_what_is_left_out_is_counted(tmp_path):
    found = {finding.what: finding.count for finding in load_splits(read_command_line(with_extra(tmp_path))).findings}
    assert found["rows train and are never held out (none: 3, side_effect: 4)"] == 7
    assert found["rows are twins of test tweets; no run trains on them"] == 1
    assert [n for what, n in found.items() if what.startswith("extra rows are left out of the runs")] == [3, 3]
    assert [n for what, n in found.items() if what.startswith("extra rows have neither an id nor a parent")] == [2]
    assert found["tweets have no label"] == 1
    assert found["rows have a parent that is no labelled and no test tweet's id"] == 1


def test_extra_rows_join_soft_pseudo_labels(tmp_path):
    _, _, plan, data = prepared(with_extra(tmp_path))
    soft = PseudoLabels(np.array([0, 2]), np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32))
    part = training_part(plan.runs[0], data, soft)
    hard = training_part(plan.runs[0], data, None)
    assert len(part) == len(hard) + 2
    assert np.argmax(part["labels"][:][: len(hard)], axis=1).tolist() == hard["labels"][:]
    assert part["labels"][:][-2:] == soft.labels.tolist()


def test_a_job_without_the_file_has_the_identity_that_it_always_had(tmp_path):
    plain = load_splits(read_command_line(command(tmp_path)))
    assert set(plain.content_hashes()) == {"labelled", "test"}
    extra = load_splits(read_command_line(with_extra(tmp_path))).content_hashes()
    assert {part: extra[part] for part in ("labelled", "test")} == plain.content_hashes()
    (tmp_path / "corpus.tsv").write_text("tweet\tClass\nanother headache\tside_effect\nanother stroll\tnone\n")
    words = command(tmp_path, "--extra_train_file", tmp_path / "paraphrases.jsonl")
    assert load_splits(read_command_line(words)).content_hashes()["extra"] != extra["extra"]


def test_extra_rows_need_no_groups_and_labelled_tweets_do(tmp_path):
    words = with_extra(tmp_path)
    task = (ROOT / "tasks" / "own_data.yaml").read_text()
    (tmp_path / "task.yaml").write_text(f"{task}by: language\n")
    words[words.index("--task") + 1] = str(tmp_path / "task.yaml")
    with pytest.raises(InputError, match=r"train\.csv, line 1: no column language among id, text, label"):
        load_splits(read_command_line(words))
    header, *rows = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([f"{header},language", *(f"{row},de" for row in rows), ""]))
    splits = prepared(words)[1]
    assert len(splits.extra.tweets) == 7
    assert any(
        finding.what == "the file has no column language: its tweets have no group" for finding in splits.findings
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", None, "train.csv is read as .*train.csv already; name it once"),
        ("missing.tsv", None, "missing.tsv"),
        ("odd.csv", "text,label\na,perhaps\n", "odd.csv, line 2: the label is none of none, side_effect"),
        ("odd.csv", "words,label\na,none\n", "no column text or tweet"),
        ("odd.csv", "text,label,parent_id\na,none,16.0\n", "odd.csv, column parent_id: the id is written as a decimal"),
    ],
)
def test_bad_extra_files_are_refused(tmp_path, name, content, message):
    words = command(tmp_path, "--extra_train_file", tmp_path / name)
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        prepared(words)


@pytest.mark.slow
def test_a_job_trains_on_them_and_says_where_they_are_from(tmp_path, call):
    words = with_extra(tmp_path)
    result = call(main, *words)
    assert result.code == 0, result.err
    out = tmp_path / "out"
    assert "60 labelled tweets (none: 45, side_effect: 15)" in result.out
    assert "extra training tweets: 7 rows train and are never held out" in result.out
    files = json.loads((out / "plan.json").read_text())["extra"]
    assert [(file["file"], file["tweets"]) for file in files] == [("paraphrases.jsonl", 5), ("corpus.tsv", 2)]
    assert files[1]["sha256"] == hashlib.sha256((tmp_path / "corpus.tsv").read_bytes()).hexdigest()
    assert len(pd.read_parquet(out / "folds.parquet")) == 60
    assert len(pd.read_parquet(out / "out_of_fold.parquet")) == 60
    metrics = {
        name: json.loads((out / name / "metrics.json").read_text()) for name in ("words/refit", "without/fold-0")
    }
    assert metrics["words/refit"]["extra_tweets"] == 6
    assert metrics["words/refit"]["training_tweets"] == 66
    assert metrics["without/fold-0"]["extra_tweets"] == 0
    assert "text" not in pd.read_parquet(out / "extra.parquet")
    again = call(main, *command(tmp_path))
    assert again.code == 2
    assert "was made with another data: data extra" in again.err
