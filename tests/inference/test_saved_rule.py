"""A saved rule is the job's own from then on; the job's command keeps it, and nothing of the old rule is left."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from smm4h.cli import predict, report, train, vote
from smm4h.data.outputs.label_files import read_labels
from smm4h.ensemble.member_predictions import VOTE

RULE = ("--decision", "recall>=0.8")


@pytest.fixture(scope="module")
def saved(tuned_job, tmp_path_factory) -> Path:
    """A copy of the finished job, for whose rule the tests of this module ask in turn."""
    folder = tmp_path_factory.mktemp("saved") / "out"
    shutil.copytree(tuned_job.folder, folder)
    return folder


def json_of(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def test_votes_scores_errors_and_report_follow_a_saved_rule(saved, call, tmp_path):
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    result = call(vote.main, saved, *RULE, "--save")
    assert result.code == 0, result.err
    assert "the job's rule is now: greedy vote, recall>=0.8" in result.out
    assert "what a recall costs" in result.out
    stored = json_of(saved, "ensemble.json")
    assert stored["asked"] == {"method": "greedy", "decision": "recall>=0.8", "ties": "probability", "saved": True}
    low, high = stored["promise"]["interval"]
    assert low < stored["promise"]["value"] < high
    assert f"out of fold it is {stored['promise']['value']:.3f}" in result.out
    scores = json_of(saved, "scores.json")
    assert scores["final vote"]["out_of_fold"] == stored["out_of_fold"]
    assert set(scores) == {"counts", "svm", "encoder", "final vote", "baseline textcnn"}
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    derived = {"ensemble.json", "scores.json", "appraisal.json", "report.html", "errors.tsv", "out_of_fold.parquet"}
    assert derived <= changed
    assert changed <= derived | {"final.tsv", "prediction_task5.zip", "made.json"}
    assert "chosen out of fold for a recall of 0.8 or more" in (saved / "report.html").read_text(encoding="utf-8")
    call(vote.main, saved, "--output", tmp_path / "again.tsv")
    assert (tmp_path / "again.tsv").read_bytes() == (saved / "votes" / "final.tsv").read_bytes()


def test_the_jobs_own_command_keeps_the_saved_rule_and_says_so(saved, tuned_job, call):
    results = [path for path in saved.rglob("*") if path.suffix in (".json", ".tsv", ".parquet")]
    before = {path: path.read_bytes() for path in results if path.name != "made.json"}  # which lists the report
    result = call(train.main, *tuned_job.words, "--output_dir", saved)
    assert result.code == 0, result.err
    assert (
        "note: members vote as ensemble.py --save has stored it (greedy, recall>=0.8), not as the recipe" in result.out
    )
    assert "\nrecall>=0.8: out of fold it is 0." in result.out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", ["ensemble.json", "saved_rule.json", "out_of_fold.parquet"])
def test_a_saved_rule_outlasts_damage(saved, tuned_job, call, tmp_path, name):
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.suffix in (".json", ".tsv", ".parquet")}
    (saved / name).write_bytes(before[saved / name][:-30])
    result = call(train.main, "--verify", "--output_dir", saved)
    assert result.code == 1
    assert f"{saved / name} has " in result.out
    result = call(train.main, *tuned_job.words, "--output_dir", saved)
    assert result.code == 0, result.err
    assert {path: path.read_bytes() for path in before if path.name != "made.json"} == {
        path: content for path, content in before.items() if path.name != "made.json"
    }
    result = call(train.main, "--verify", "--output_dir", saved)
    assert result.code == 0, result.out


def test_new_tweets_get_labels_by_the_saved_rule(saved, new_tweets, call, tmp_path):
    result = call(predict.main, saved, new_tweets, "--output", tmp_path / "labels.tsv")
    assert result.code == 0, result.err
    assert read_labels(tmp_path / "labels.tsv").labels == read_labels(saved / "votes" / "final.tsv").labels


def test_the_out_of_fold_table_has_the_votes_own_labels_and_probabilities(saved):
    table, stored = pd.read_parquet(saved / "out_of_fold.parquet"), json_of(saved, "ensemble.json")
    confusion = pd.crosstab(table["gold"], table[VOTE]).reindex(index=list("123"), columns=list("123"), fill_value=0)
    assert confusion.to_numpy().tolist() == stored["out_of_fold"]["confusion"]
    probabilities = table[[f"{VOTE} p_{label}" for label in "123"]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    weights = [stored["fitted_decision"][0][label] for label in "123"]
    by_one_rule = np.array(list("123"))[(probabilities * weights).argmax(axis=1)]
    assert (by_one_rule == table[VOTE]).mean() > 0.95  # the labels are by rules that were fitted without each tweet


def test_errors_are_all_wrong_labels_missed_ones_first_and_the_most_certain_before(saved):
    errors = pd.read_table(saved / "errors.tsv", dtype=str, quoting=3)
    table = pd.read_parquet(saved / "out_of_fold.parquet")
    wrong = table[table["gold"] != table[VOTE]]
    assert sorted(errors["row"].astype(int)) == wrong["row"].tolist()
    assert (wrong.set_index("row").loc[errors["row"].astype(int), "id"].to_numpy() == errors["id"].to_numpy()).all()
    assert errors["error"].tolist() == sorted(errors["error"], key=["missed", "confused", "false"].index)
    missed = errors[errors["error"] == "missed"]
    assert set(missed["label"]) <= {"1", "2"}
    assert set(missed["predicted"]) == {"3"}
    certainty = missed["p_predicted"].astype(float) - missed["p_label"].astype(float)
    assert (certainty.diff().dropna() <= 0.0011).all()
    assert errors["text"].str.len().min() > 0


def test_the_recipes_rule_can_be_saved_again(saved, tuned_job, call):
    result = call(vote.main, saved, "--decision", "tuned", "--save")
    assert result.code == 0, result.err
    names = ("ensemble.json", "scores.json", "appraisal.json", "votes/final.tsv", "errors.tsv", "out_of_fold.parquet")
    for name in names:
        assert (saved / name).read_bytes() == (tuned_job.folder / name).read_bytes(), name


def test_without_the_tweets_a_rule_is_saved_and_the_rest_is_said(tuned_job, call, tmp_path):
    shutil.copytree(tuned_job.folder, tmp_path / "out")
    plan = json_of(tmp_path / "out", "plan.json")
    plan["command"] = [word.replace("invented", "moved") for word in plan["command"]]
    del plan["checksum"]
    (tmp_path / "out" / "plan.json").write_text(json.dumps(plan))
    result = call(vote.main, tmp_path / "out", "--decision", "0.3", "--save")
    assert result.code == 2
    assert "a threshold needs two labels" in result.err
    before = (tmp_path / "out" / "votes" / "final.tsv").read_bytes()
    result = call(vote.main, tmp_path / "out", "--decision", "3: 0.001", "--save")
    assert result.code == 0, result.err
    assert "note: the job's tweets can't be read" in result.out
    assert (tmp_path / "out" / "votes" / "final.tsv").read_bytes() != before
    assert not (tmp_path / "out" / "errors.tsv").exists()
    scores = json_of(tmp_path / "out", "scores.json")
    assert scores["final vote"]["test"] is None
    assert "baseline textcnn" in scores
    assert call(report.main, tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save", "--members", "counts"], "--save keeps all members"),
        (["--compare"], "--compare takes the output folders of two jobs"),
        ([], "name the file for the vote: --output vote.tsv"),
    ],
)
def test_what_can_not_be_saved_is_refused(tuned_job, call, words, message):
    result = call(vote.main, tuned_job.folder, *words)
    assert result.code == 2
    assert message in result.err
