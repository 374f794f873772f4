"""A job on tweets in several languages, from its task file to a published pipeline."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import train_here
from sklearn.metrics import f1_score

import smm4h
from smm4h.cli import distill, predict, publish, vote
from smm4h.cli import train as train_command
from smm4h.config.plans.plan import read_plan
from smm4h.inference.finished_job import FinishedJob
from smm4h.reporting.html_report import pictures_of, rule_text

pytestmark = pytest.mark.slow
TASK = """name: ade
labels: ["0", "1"]
positive: ["1"]
measure: [f1, macro_f1]
columns: {id: id, text: text, label: label}
by: language
average: groups
unscored: ["*_cadec"]
"""
RECIPE = """shared: {n_folds: 2, vote: soft, decision: tuned, group_cuts: 10, baselines: none}
members:
  counts: {classifier: tfidf-logistic}
"""
SIDE_EFFECTS = ["since the tablets my hands shake", "that pill gave me a headache", "cannot sleep on this drug"]


def invented(languages, seed: int, n_tweets: int = 240) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    words = ["summer", "garden", "weather", "yellow", "window", "coffee", "train", "bread", "tablets", "pill", "sleep"]
    language = np.array(languages)[np.arange(n_tweets) % len(languages)]
    label = (rng.random(n_tweets) < np.where(language == "fr", 0.05, 0.3)).astype(int)
    texts = [
        " ".join([*rng.choice(words, 5), rng.choice(SIDE_EFFECTS) if y and rng.random() < 0.8 else "my bus was late"])
        for y in label
    ]
    ids = [f"{name}_{seed}_{i}" for i, name in enumerate(language)]
    return pd.DataFrame({"id": ids, "text": texts, "label": label.astype(float), "language": language})


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with `out`, the finished job; its test tweets have a language that no labelled tweet has."""
    folder = tmp_path_factory.mktemp("languages")
    (folder / "task.yaml").write_text(TASK)
    (folder / "recipe.yaml").write_text(RECIPE)
    test = invented(["de", "en", "fa"], 2, 90)
    invented(["de", "en", "fr", "en_cadec"], 1).to_csv(folder / "train.csv", index=False)
    test.drop(columns="label").to_csv(folder / "test.csv", index=False)
    test.astype({"label": int})[["id", "label"]].to_csv(folder / "gold.csv", index=False)
    files = [word for part in ("train", "test", "gold") for word in (f"--{part}_file", folder / f"{part}.csv")]
    words = [folder / "recipe.yaml", "--task", folder / "task.yaml", *files, "--output_dir", folder / "out"]
    result = train_here([*words, "--use_cpu"])
    assert result.code == 0, result.err
    (folder / "printed").write_text(result.out)
    return folder


@pytest.fixture
def decided_by_group(job, tmp_path):
    """A copy of the job's folder in which a German tweet is never an effect, and any other one always is."""
    shutil.copytree(job / "out", tmp_path / "out")
    path = tmp_path / "out" / "ensemble.json"
    content = json.loads(path.read_text())
    content["rule"] |= {"decision": [[1e-6, 1e6]], "cuts": {"de": [[1e6, 1e-6]]}}
    path.write_text(json.dumps(content))
    read_plan(tmp_path / "out")[0].derived.record(path)  # else it is refused as damaged
    return tmp_path / "out"


def test_the_metric_is_scikit_learns_mean_over_the_scored_languages(job):
    test, gold = pd.read_csv(job / "test.csv"), pd.read_csv(job / "gold.csv")["label"].to_numpy()
    voted = pd.read_table(job / "out" / "votes" / "final.tsv")["Class"].to_numpy()
    score = json.loads((job / "out" / "scores.json").read_text())["final vote"]["test"]
    expected = {
        name: f1_score(gold[own], voted[own]) for name in ["de", "en", "fa"] if any(own := test.language == name)
    }
    assert {name: part["f1"] for name, part in score["groups"].items()} == pytest.approx(expected)
    assert score["f1"] == pytest.approx(np.mean(list(expected.values())))
    assert score["pooled"]["f1"] == pytest.approx(f1_score(gold, voted))
    assert score["pooled"]["macro_f1"] == pytest.approx(f1_score(gold, voted, average="macro"))
    assert score["interval"][0] <= score["f1"] <= score["interval"][1]


def test_an_unscored_language_is_shown_but_counts_nowhere(job):
    score = json.loads((job / "out" / "scores.json").read_text())["final vote"]["out_of_fold"]
    assert score["groups"]["en_cadec"]["scored"] is False
    assert np.sum(score["pooled"]["confusion"]) == 180
    means = [score["groups"][name]["f1"] for name in ("de", "en", "fr")]
    assert score["f1"] == pytest.approx(np.mean(means))
    printed, page = (job / "printed").read_text(), (job / "out" / "report.html").read_text()
    for name in ("en_cadec (60, - tweets, not scored)", "fa (-, 30 tweets)", "mean over groups"):
        assert name in page
        assert name.split(",")[0] in printed
    assert "ade: f1 of 1, mean over language without *_cadec" in printed


def test_only_languages_with_enough_rare_tweets_have_a_cut(job):
    content = json.loads((job / "out" / "ensemble.json").read_text())
    assert set(content["cuts"]) == set(content["rule"]["cuts"]) == {"de", "en"}


def test_new_tweets_are_decided_by_their_languages_cut_and_the_rest_are_counted(decided_by_group, job, tmp_path, call):
    new = tmp_path / "new.csv"
    invented(["de", "fa"], 3, 8).drop(columns="label").to_csv(new, index=False)
    result = call(predict.main, decided_by_group, new, "--output", tmp_path / "a.csv", "--columns", "label")
    assert pd.read_csv(tmp_path / "a.csv")["label"].tolist() == [0, 1] * 4
    assert "the cut for all groups decides where a group has none of its own (fa: 4)" in result.err
    pd.read_csv(new).drop(columns="language").to_csv(new, index=False)
    result = call(predict.main, decided_by_group, new, "--output", tmp_path / "b.csv", "--columns", "label")
    assert pd.read_csv(tmp_path / "b.csv")["label"].tolist() == [1] * 8
    assert "the file has no column language" in result.err
    assert "(no group: 8)" in result.err
    loaded = smm4h.load(decided_by_group, device="cpu")
    assert loaded.predict(["a"] * 3, groups=["de", "fa", ""])["label"].tolist() == ["0", "1", "1"]


def test_a_vote_with_a_target_says_that_it_leaves_the_cuts_out(job, tmp_path, call):
    result = call(vote.main, job / "out", "--decision", "recall>=0.9", "--output", tmp_path / "v.tsv")
    assert result.code == 0, result.err
    assert "note: one decision for all groups: cuts by group are for tuned, an F-beta and costs" in result.out
    assert "soft vote of 1 on 90 tweets (0: " in result.out
    result = call(vote.main, job / "out", "--decision", "0.3", "--output", tmp_path / "h.tsv")
    assert "note: a number by hand applies to the mean of the models' probabilities" in result.out
    assert "one decision" not in call(vote.main, job / "out", "--output", tmp_path / "own.tsv").out


def test_a_report_tells_the_cut_of_single_folds_from_that_of_means(job):
    """The picture has the former, out of fold; one number beside another would be a contradiction."""
    finished = FinishedJob.read(job / "out")
    rule = replace(finished.rule, cuts=None, decision=np.array([[0.3, 0.7]]))
    moved = replace(finished, ensemble=replace(finished.ensemble, rule=rule), fitted_decision=np.array([[0.4, 0.6]]))
    text = "1 is given from a probability of 0.3 on"
    assert text in rule_text(moved)
    assert "out of fold, single folds' models are cut at 0.4." in rule_text(moved)
    assert "single folds" not in rule_text(replace(moved, fitted_decision=np.array([[0.3, 0.7]])))
    (picture,) = (picture for picture in pictures_of(moved) if picture.title == "Where to cut: 1")
    assert "the decision, out of fold: 0.4" in picture.alt


def test_a_distillation_says_that_the_student_has_one_decision_for_all_languages(job, tiny_encoder, tmp_path, call):
    words = ["--model_name_or_path", tiny_encoder, "--checks", "0", "--num_train_epochs", "0.05", "--use_cpu"]
    result = call(distill.main, job / "out", *words, "--output_dir", tmp_path / "student")
    assert result.code == 0, result.err
    note = "the ensemble decides by language (de, en); the student, an ordinary checkpoint, is not told the language"
    assert note in result.out
    published = call(publish.main, tmp_path / "student", "--to_folder", tmp_path / "published")
    assert published.code == 0, published.err
    assert note[1:] in (tmp_path / "published" / "README.md").read_text()


def test_a_published_pipeline_takes_the_language_beside_the_text(decided_by_group, tmp_path, call):
    from transformers import pipeline

    result = call(publish.main, decided_by_group, "--to_folder", tmp_path / "published")
    assert result.code == 0, result.err
    classify = pipeline("text-classification", str(tmp_path / "published"), trust_remote_code=True)
    answers = classify([{"text": "a", "group": "de"}, {"text": "a", "group": "fa"}, {"text": "a"}, "a"])
    assert [answer["label"] for answer in answers] == ["0", "1", "1", "1"]
    assert "| de (60, 30 tweets) |" in (tmp_path / "published" / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--decision", "argmax"), "--decision argmax is not tuned; choose tuned"),
        (("--task", "task5"), "the task has no groups; name their column in the task file"),
    ],
)
def test_cuts_by_group_without_groups_or_tuning_are_refused(job, call, flags, message):
    words = [job / "recipe.yaml", "--task", job / "task.yaml", "--train_file", job / "train.csv"]
    result = call(train_command.main, *words, "--output_dir", job / "refused", *flags)
    assert result.code == 2
    assert message in result.err
