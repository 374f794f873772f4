"""A job and a published ensemble of the code before it was split into packages: still read, continued and published.

tests/witness/README.md says how they were made.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

import smm4h
from smm4h.cli import predict, publish, report, train, vote

WITNESS = ROOT / "tests" / "witness"
COLUMNS = ("--columns", "label", "probability", "margin", "votes")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_predictions(path: Path) -> pd.DataFrame:
    return pd.read_table(path, dtype={"tweet_id": str, "Class": str})


def assert_same_predictions(path: Path, expected: Path) -> None:
    predictions, expected = read_predictions(path), read_predictions(expected)
    pd.testing.assert_frame_equal(predictions, expected, rtol=0, atol=1e-6)
    assert len(predictions) == 5


@pytest.fixture
def job(tmp_path) -> Path:
    """A copy of the old job."""
    shutil.copytree(WITNESS / "job", tmp_path / "job")
    return tmp_path / "job"


def test_it_is_listed_as_done(job, call):
    result = call(train.main, "--list", "--output_dir", job)
    assert result.code == 0, result.err
    assert "9 runs" in result.out
    assert "9 done, 0 running, 0 failed, 0 missing" in result.out


def test_its_command_changes_no_byte_and_trains_nothing(job, call, monkeypatch):
    """But for the report on its data and the evaluation of its vote, which get newer words, findings and keys.

    Votes by their number of members count a member alone by its score in the table, which the old code did not.
    """
    monkeypatch.chdir(WITNESS)  # its command has relative paths
    before = files_of(job)
    result = call(train.main, *json.loads(before["plan.json"])["command"], "--output_dir", job)
    assert result.code == 0, result.err
    assert "9 of 9 runs are done already" in result.out
    after = files_of(job)
    findings = json.loads(before.pop("data_report.json"))
    for old, new in zip(findings, json.loads(after.pop("data_report.json")), strict=False):
        assert (new["where"], new["count"]) == (old["where"], old["count"])
    evaluation, new = (json.loads(files.pop("appraisal.json")) for files in (before, after))
    assert list(evaluation.pop("unshared").values()) == list(new.pop("unshared").values())
    assert {name: new[name] for name in evaluation} == {**evaluation, "by_number": new["by_number"]}
    assert {name: after[name] for name in before} == before
    added = {name for name in after.keys() - before.keys() if not name.startswith("tokens/")}
    assert added == {"report.html", "made.json", "profile.parquet"}


def test_it_predicts_as_it_did(job, call, tmp_path):
    result = call(predict.main, job, WITNESS / "new.tsv", "--output", tmp_path / "new.tsv", *COLUMNS)
    assert result.code == 0, result.err
    assert_same_predictions(tmp_path / "new.tsv", WITNESS / "predictions.tsv")


def test_the_published_ensemble_predicts_as_it_did(call, tmp_path):
    result = call(predict.main, WITNESS / "published", WITNESS / "new.tsv", "--output", tmp_path / "new.tsv", *COLUMNS)
    assert result.code == 0, result.err
    assert_same_predictions(tmp_path / "new.tsv", WITNESS / "predictions_of_published.tsv")


def test_it_is_loaded_with_predictions_leaderboard_and_out_of_fold_table(job):
    ensemble, expected = smm4h.load(job, device="cpu"), read_predictions(WITNESS / "predictions.tsv")
    table = ensemble.predict(pd.read_table(WITNESS / "new.tsv")["text"].tolist())
    assert table["label"].tolist() == expected["Class"].tolist()
    probability = [row[f"p_{row['label']}"] for _, row in table.iterrows()]
    np.testing.assert_allclose(probability, expected["probability"], atol=1e-6)
    leaderboard, scores = ensemble.leaderboard(), json.loads((job / "scores.json").read_text())
    assert leaderboard.index[leaderboard["leaky"]].tolist() == ["student", "final vote"]
    assert leaderboard["out_of_fold"].tolist() == [parts["out_of_fold"]["f1"] for parts in scores.values()]
    assert leaderboard["test"].tolist() == [parts["test"]["f1"] for parts in scores.values()]
    assert ensemble.out_of_fold().equals(pd.read_parquet(job / "out_of_fold.parquet"))


@pytest.mark.parametrize(("name", "members"), [("final", ()), ("stage1", ("--members", "counts", "encoder"))])
def test_its_members_vote_as_they_did(job, call, tmp_path, name, members):
    result = call(vote.main, job, *members, "--output", tmp_path / "vote.tsv")
    assert result.code == 0, result.err
    assert (tmp_path / "vote.tsv").read_bytes() == (job / "votes" / f"{name}.tsv").read_bytes()


def test_its_report_has_its_scores(job, call):
    result = call(report.main, job)
    assert result.code == 0, result.err
    content = (job / "report.html").read_text(encoding="utf-8")
    for parts in json.loads((job / "scores.json").read_text()).values():
        assert f"{parts['out_of_fold']['f1']:.3f}" in content


def test_it_is_published_to_a_folder_that_predicts_as_it_did(job, call, tmp_path):
    result = call(publish.main, job, "--to_folder", tmp_path / "published")
    assert result.code == 0, result.err
    assert (tmp_path / "published" / "README.md").exists()
    call(predict.main, tmp_path / "published", WITNESS / "new.tsv", "--output", tmp_path / "new.tsv", *COLUMNS)
    assert_same_predictions(tmp_path / "new.tsv", WITNESS / "predictions.tsv")


def test_no_file_of_it_has_a_path_of_the_machine_that_made_it():
    paths = (b"/tmp/", b"/work/", b"/root/", b"/home/")
    for name, content in files_of(WITNESS).items():
        assert not [path for path in paths if path in content], name
