"""New tweets labelled by refits alone: the decision as it was fitted, a model for each member kept and published."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ExampleJob, job_words, recipe_of, train_here

from smm4h.cli import predict, publish, vote
from smm4h.cli.train import main
from smm4h.config.plans.plan import new_tweet_runs, read_plan
from smm4h.data.outputs.label_files import read_labels
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.inference import saved_rule
from smm4h.inference.new_tweets.chosen_members import choose_members
from smm4h.models import voting

LABELS = ("1", "2", "3")
MEMBERS = {"words": "{classifier: tfidf-logistic}", "encoder": "{head: last3, eval_strategy: 'no', checkpoint: last}"}


@pytest.fixture(scope="module")
def refitted_job(tiny_encoder, tmp_path_factory) -> ExampleJob:
    """A word member and an encoder, whose models of all labelled tweets alone are used and kept; and a baseline."""
    folder = tmp_path_factory.mktemp("refits")
    flags = {
        "baselines": "tfidf-svm",
        "keep_baselines": True,
        "n_folds": 3,
        "refit": True,
        "vote": "soft",
        "decision": "tuned",
        "max_train_samples": 300,
    }
    recipe = recipe_of(folder, **MEMBERS)
    words = job_words(tiny_encoder, folder / "out", recipe=recipe, predict_with="refits", keep_models="refits", **flags)
    result = train_here(words)
    assert result.code == 0, result.err
    return ExampleJob(folder / "out", words, result)


def refit_probabilities(folder: Path, members: list[str]) -> np.ndarray:
    """Return the refits' probabilities (n_members, n_tweets, n_classes) of the test tweets."""
    tables = [pd.read_parquet(folder / name / "refit" / "test.parquet") for name in members]
    return np.stack([table[[f"p_{label}" for label in LABELS]].to_numpy() for table in tables])


@pytest.mark.slow
def test_the_vote_is_that_of_the_refits_by_the_decision_as_it_was_fitted(refitted_job):
    folder = refitted_job.folder
    path = folder / "ensemble.json"
    content, rule = json.loads(path.read_text()), FittedEnsemble.read(path).rule
    assert content["decision"] == content["fitted_decision"]
    assert not rule.is_argmax
    combined = voting.mean_log_odds(refit_probabilities(folder, rule.members))
    expected = voting.decide(combined, rule.decision[0])
    np.testing.assert_array_equal(read_labels(folder / "votes" / "final.tsv").indices(LABELS), expected)
    appraisal = json.loads((folder / "appraisal.json").read_text())
    low, high = appraisal["expected"]["interval"]
    assert low <= appraisal["expected"]["value"] <= high
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Of each member that was trained, the model of all labelled tweets votes alone" in report
    assert "counts as much as its member's folds" not in report


@pytest.mark.slow
def test_only_the_refits_models_are_kept_and_published_and_label_as_the_job_did(
    refitted_job, new_tweets, tmp_path, call
):
    folder = refitted_job.folder
    kept = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("*/*/model"))
    assert [path for path in kept if not path.startswith("tfidf-svm")] == ["encoder/refit", "words/refit"]
    labelled = call(predict.main, folder, new_tweets, "--columns", "label", "--output", tmp_path / "labels.tsv")
    assert labelled.code == 0, labelled.err
    assert (tmp_path / "labels.tsv").read_bytes() == (folder / "votes" / "final.tsv").read_bytes()
    published = call(publish.main, folder, "--to_folder", tmp_path / "published")
    assert published.code == 0, published.err
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    assert [member["refitted"] for member in config["members"]] == [[True], [True]]
    card = (tmp_path / "published" / "README.md").read_text()
    assert "the model of all labelled tweets votes alone" in card
    assert "by the refits alone; out of fold" in card
    words = (tmp_path / "published", new_tweets, "--columns", "label", "--output", tmp_path / "again.tsv")
    assert call(predict.main, *words).code == 0
    assert (tmp_path / "again.tsv").read_bytes() == (tmp_path / "labels.tsv").read_bytes()


def folds_models(folder):
    """Make and return folders as of the folds' models, which a job that kept all would have."""
    models = [run / "model" for member in ("encoder", "words") for run in (folder / member).glob("fold-[0-9]")]
    for model in models:
        model.mkdir()
    return models


@pytest.mark.slow
def test_a_finished_job_is_switched_to_its_refits_and_back(refitted_job, new_tweets, tmp_path, call):
    folder = tmp_path / "out"
    shutil.copytree(refitted_job.folder, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.tsv")}
    refused = call(vote.main, folder, "--predict_with", "all", "--save")
    assert refused.code == 2
    assert f"--predict_with all: {folder} has kept no models but its refits'" in refused.err
    assert {path: path.read_bytes() for path in folder.rglob("*.tsv")} == before
    models = folds_models(folder)
    result = call(vote.main, folder, "--predict_with", "all", "--save")
    assert result.code == 0, result.err
    for model in models:  # as somebody does who needs the room
        model.rmdir()
    assert (folder / "votes" / "final.tsv").read_bytes() != before[folder / "votes" / "final.tsv"]
    labelled = call(predict.main, folder, new_tweets, "--output", tmp_path / "labels.tsv")
    assert labelled.code == 2
    assert "6 of the ensemble's models were not kept" in labelled.err
    assert f"ensemble.py {folder} --predict_with refits --save" in labelled.err
    again = call(main, *refitted_job.words, "--output_dir", folder)
    assert again.code == 0, again.err
    assert "as ensemble.py --save has stored it (soft, tuned, all models), not as the recipe says" in again.out
    result = call(vote.main, folder, "--predict_with", "refits", "--save")
    assert "the job's rule is now: soft vote, tuned, by the refits alone" in result.out
    assert not (folder / "saved_rule.json").exists()
    assert {path: path.read_bytes() for path in folder.rglob("*.tsv")} == before


@pytest.mark.slow
def test_a_baseline_that_predicts_new_tweets_does_so_by_all_of_its_models(refitted_job):
    plan, task = read_plan(refitted_job.folder)
    for names, alone in ((["tfidf-svm"], False), (["words", "tfidf-svm"], False), (["words"], True)):
        chosen, ensemble = choose_members(plan, task, names)
        assert ensemble.rule.refits_alone is alone
        runs = new_tweet_runs(chosen.runs, refits_alone=ensemble.rule.refits_alone)
        assert {run.is_refit for run in runs if run.member.name == names[-1]} == ({True} if alone else {False})


@pytest.mark.slow
def test_a_rule_that_is_undone_stays_undone_where_that_was_killed(refitted_job, tmp_path, call, monkeypatch):
    folder = tmp_path / "out"
    shutil.copytree(refitted_job.folder, folder)
    final = (folder / "votes" / "final.tsv").read_bytes()
    folds_models(folder)
    assert call(vote.main, folder, "--predict_with", "all", "--save").code == 0

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(saved_rule, "write_ensemble", killed)
        assert call(vote.main, folder, "--predict_with", "refits", "--save").code != 0
    again = call(main, *refitted_job.words, "--output_dir", folder)
    assert again.code == 0, again.err
    assert "--save has stored" not in again.out
    assert (folder / "votes" / "final.tsv").read_bytes() == final


def test_refits_are_not_kept_alone_for_a_vote_of_all_models(tiny_encoder, tmp_path, call):
    recipe = recipe_of(tmp_path, words="{classifier: tfidf-logistic, refit: true}")
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, keep_models="refits"))
    assert result.code == 2
    assert "--keep_models refits: without the folds' models --predict_with all can't label" in result.err


@pytest.mark.parametrize("flag", ["predict_with", "keep_models"])
def test_refits_that_a_member_does_not_have_are_refused_before_training(tiny_encoder, tmp_path, call, flag):
    recipe = recipe_of(tmp_path, words="{classifier: tfidf-logistic, refit: true}", svm="{classifier: tfidf-svm}")
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, **{flag: "refits"}))
    assert result.code == 2
    assert f"--{flag} refits: member svm has none; give it refit: true" in result.err
    assert not (tmp_path / "out").exists()


def test_only_members_with_refits_vote_by_them(tuned_job, tmp_path, call):
    words = (tuned_job.folder, "--predict_with", "refits", "--output", tmp_path / "votes.tsv")
    result = call(vote.main, *words)
    assert result.code == 2
    assert f"{tuned_job.folder} has no refit of svm" in result.err
    result = call(vote.main, *words, "--members", "counts", "encoder")
    assert result.code == 0, result.err
