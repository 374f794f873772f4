"""A job whose tweets have a second text, from its task file to a published pipeline."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import job_words, recipe_of, train_here

import smm4h
from smm4h.cli import distill, predict, publish

pytestmark = pytest.mark.slow
TASK = """name: stance
labels: [none, favor]
positive: [favor]
columns: {id: id, text: text, label: label}
context: claim
"""


def tweets(n_tweets: int, first: int) -> pd.DataFrame:
    """Tweets that favour every second claim only: the label is not in the text."""
    rng = np.random.default_rng(first)
    claim = np.array(["masks", "schools"])[np.arange(n_tweets) % 2]
    texts = [" ".join(rng.choice(["my", "son", "was", "with", "the", "baby", "and", "is"], 6)) for _ in claim]
    ids = [str(first + i) for i in range(n_tweets)]
    label = np.where(claim == "masks", "none", "favor")
    return pd.DataFrame({"id": ids, "claim": claim, "text": texts, "label": label})


@pytest.fixture(scope="module")
def job(tmp_path_factory, tiny_encoder):
    folder = tmp_path_factory.mktemp("second")
    (folder / "task.yaml").write_text(TASK)
    tweets(60, 1000).to_csv(folder / "train.csv", index=False)
    tweets(20, 5000).drop(columns="label").to_csv(folder / "test.csv", index=False)
    rows = {
        "counts": "{classifier: tfidf-logistic}",
        "encoder": "{head: last2_pooler, checkpoint: last, cleaning: [case]}",
    }
    files = {"task": folder / "task.yaml", "train_file": folder / "train.csv", "test_file": folder / "test.csv"}
    words = job_words(tiny_encoder, folder / "out", recipe=recipe_of(folder, **rows), vote="soft", n_folds=2, **files)
    at = words.index("--data_dir")
    result = train_here(words[:at] + words[at + 2 :])
    assert result.code == 0, result.err
    return folder


def test_a_label_that_only_the_second_text_tells_is_found(job):
    scores = json.loads((job / "out" / "scores.json").read_text())
    assert scores["counts"]["out_of_fold"]["f1"] == 1.0


def test_new_tweets_are_predicted_as_test_tweets_are_and_need_the_second_text(job, tmp_path, call):
    output = tmp_path / "new.csv"
    result = call(predict.main, job / "out", job / "test.csv", "--output", output, "--use_cpu")
    assert result.code == 0, result.err
    voted = pd.read_table(job / "out" / "votes" / "final.tsv")["Class"]
    assert pd.read_csv(output)["label"].tolist() == voted.tolist()
    pd.read_csv(job / "test.csv").drop(columns="claim").to_csv(tmp_path / "alone.csv", index=False)
    result = call(predict.main, job / "out", tmp_path / "alone.csv", "--output", tmp_path / "b.csv", "--use_cpu")
    assert result.code == 2
    assert "no column claim among id, text; name it with --context_column_name" in result.err


def test_an_explanation_predicts_with_the_second_text_and_shows_it(job, tmp_path, call):
    """No word of a text carries a label that only the second text tells."""
    words = ["--output", tmp_path / "o.csv", "--explain", 4, "--members", "counts", "--use_cpu"]
    result = call(predict.main, job / "out", job / "test.csv", *words)
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "o.explained.csv")
    assert table["id"].nunique() == 4
    assert set(table["label"]) == {"favor"}
    assert table["keeps_label"].all()
    assert "claim: schools" in (tmp_path / "o.explained.html").read_text()


def test_the_encoder_reads_the_second_text_and_so_does_its_run_alone(job, tmp_path, call):
    test, run = pd.read_csv(job / "test.csv"), job / "out" / "encoder" / "fold-0"
    alone = smm4h.load(run / "model", device="cpu")
    stored = pd.read_parquet(run / "test.parquet")[["p_none", "p_favor"]].to_numpy()
    answers = alone.predict(test["text"], contexts=test["claim"]).filter(like="p_").to_numpy()
    np.testing.assert_allclose(answers, stored, atol=1e-6)
    others = alone.predict(test["text"], contexts=["my son was born"] * len(test)).filter(like="p_").to_numpy()
    assert np.abs(others - stored).max() > 5e-6  # ten times the float noise of a tiny encoder
    with pytest.raises(TypeError, match="predict needs the second texts, too"):
        alone.predict(test["text"])


def test_a_published_pipeline_takes_pairs_and_no_text_alone(job, tmp_path, call):
    from transformers import pipeline

    result = call(publish.main, job / "out", "--to_folder", tmp_path / "published")
    assert result.code == 0, result.err
    classify = pipeline("text-classification", str(tmp_path / "published"), trust_remote_code=True)
    test = pd.read_csv(job / "test.csv")
    pairs = [{"text": text, "text_pair": claim} for text, claim in zip(test["text"], test["claim"], strict=True)]
    voted = pd.read_table(job / "out" / "votes" / "final.tsv")["Class"]
    assert [answer["label"] for answer in classify(pairs)] == voted.tolist()
    with pytest.raises(ValueError, match="the model reads pairs of texts"):
        classify("my son")


def test_distillation_refuses_in_a_sentence(job, tiny_encoder, call):
    result = call(distill.main, job / "out", "--model_name_or_path", tiny_encoder)
    assert result.code == 2
    assert "was trained with a second text (claim), which students do not read" in result.err
