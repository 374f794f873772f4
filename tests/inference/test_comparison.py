"""Two jobs side by side."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from smm4h.cli import report, vote
from smm4h.config.task_file import read_task
from smm4h.inference.comparison import Labelled, compare
from smm4h.metrics import paired_bootstrap


def test_two_votes_are_compared_on_the_tweets_that_they_share():
    task = read_task("task5")
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 200)
    good, bad = (np.where(rng.random(200) < share, gold, rng.integers(0, 3, 200)) for share in (0.9, 0.3))
    ids = [str(row // 2) for row in range(200)]  # each id twice
    left = Labelled(ids, gold, good)
    right = Labelled(ids[60:], gold[60:], bad[60:])
    # The first 60 rows are 30 ids that the other job lacks; its own repeated ids are joined in their order.
    comparison = compare("out of fold", left, right, task)
    assert comparison.n_tweets == 140
    expected = paired_bootstrap(gold[60:], good[60:], bad[60:], 3, task.metric, task.positive_indices)
    assert comparison.differences["f1"] == expected
    assert comparison.scores[0]["f1"] - comparison.scores[1]["f1"] == pytest.approx(expected["difference"])
    assert expected["interval"][0] > 0
    nothing = Labelled(["x"], gold[:1], gold[:1])
    assert compare("test", left, nothing, task) is None


def test_two_jobs_are_compared_out_of_fold_and_on_test(tuned_job, call, tmp_path):
    shutil.copytree(tuned_job.folder, tmp_path / "other")
    assert call(vote.main, tmp_path / "other", "--decision", "argmax", "--save").code == 0
    result = call(report.main, tuned_job.folder, tmp_path / "other", "--output", tmp_path / "comparison.html")
    assert result.code == 0, result.err
    assert "out of fold, 300 shared tweets" in result.out
    assert "test, 40 shared tweets" in result.out
    scores = [
        json.loads((folder / "scores.json").read_text())["final vote"]
        for folder in (tuned_job.folder, tmp_path / "other")
    ]
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    for part in ("out_of_fold", "test"):
        difference = scores[0][part]["f1"] - scores[1][part]["f1"]
        for shown in (result.out, page):
            assert f"{difference:+.3f}" in shown
    assert page.count("<img") == page.count("<table") == 1
    texts = pd.read_table(tuned_job.folder / "errors.tsv", dtype=str, quoting=3)["text"]
    assert not [text for text in texts if text in page]
    same = call(vote.main, tuned_job.folder, tmp_path / "other", "--compare")
    assert same.code == 0
    assert same.out in result.out


def test_jobs_of_other_labels_are_not_compared(tuned_job, call, tmp_path):
    shutil.copytree(tuned_job.folder, tmp_path / "other")
    plan = json.loads((tmp_path / "other" / "plan.json").read_text())
    plan["task"]["labels"] = ["1", "2", "4"]
    del plan["checksum"]
    (tmp_path / "other" / "plan.json").write_text(json.dumps(plan))
    result = call(vote.main, tuned_job.folder, tmp_path / "other", "--compare")
    assert result.code == 2
    assert "have other labels" in result.err
