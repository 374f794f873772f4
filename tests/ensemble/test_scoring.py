"""The leaderboard and the evaluation of an ensemble: leave-one-out, its size, baselines."""

import json
import shutil

import pandas as pd
import pytest
from conftest import MEMBERS, job_words, recipe_of
from simulated import RARE, binary

from smm4h.cli.train import main
from smm4h.config.decision import Tuned
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.scoring import by_ensemble_size, leave_one_out


def test_leave_one_out_and_ensemble_size_show_which_members_are_needed():
    probs, gold = binary(n_members=5, shift=1.5, n_tweets=5000)
    probs[4] = binary(seed=9, shift=0.0, n_tweets=5000)[0][0]
    members, config = list("abcde"), VotingConfig(RARE, "soft", Tuned())
    alone = {m: RARE.score(gold, config.predict_out_of_fold([m], probs[[i]], gold), 2) for i, m in enumerate(members)}
    without = leave_one_out(config, alone, probs, gold)
    assert max(without, key=without.get) == "e"
    by_size = by_ensemble_size(config, alone, 0.5, probs, gold)
    assert [row["members"] for row in by_size] == [1, 2, 3, 4, 5]
    assert by_size[3]["highest"] == pytest.approx(without["e"])
    assert by_size[0]["highest"] == max(alone.values())
    assert by_size[4]["mean"] == 0.5
    assert by_size[0]["mean"] < by_size[2]["mean"]


def test_the_evaluation_scores_the_vote_without_each_member_and_by_their_number(tuned_job):
    folder, out = tuned_job.folder, tuned_job.result.out
    evaluation = json.loads((folder / "appraisal.json").read_text())
    assert set(evaluation["without"]) == set(MEMBERS)
    assert [row["members"] for row in evaluation["by_number"]] == [1, 2, 3]
    best = evaluation["best_member"]
    scores = json.loads((folder / "scores.json").read_text())
    assert best["name"] in ("counts", "svm")
    difference = scores["final vote"]["out_of_fold"]["f1"] - scores[best["name"]]["out_of_fold"]["f1"]
    assert best["difference"] == pytest.approx(difference)
    assert "final vote against its best member out of fold" in out
    assert "the vote without a member" in out


def test_a_job_says_what_its_vote_is_expected_to_score_on_new_tweets(tuned_job):
    expected = json.loads((tuned_job.folder / "appraisal.json").read_text())["expected"]
    scores = json.loads((tuned_job.folder / "scores.json").read_text())
    assert (expected["vote"], expected["tweets"], expected["level"]) == ("final vote", 40, 0.95)
    assert expected["out_of_fold"] == scores["final vote"]["out_of_fold"]["f1"]
    low, high = expected["interval"]
    assert low < expected["value"] < high
    assert (
        f"Expected f1 of the final vote on 40 test tweets, if they are like the labelled ones: {expected['value']:.3f}"
        in (" ".join(tuned_job.result.out.split()))
    )
    assert f"{expected['value']:.3f}" in (tuned_job.folder / "report.html").read_text(encoding="utf-8")


def test_where_members_learnt_the_test_tweets_pseudo_labels_the_vote_before_them_is_judged(finished_job):
    """Their out-of-fold predictions are not like those on new tweets."""
    expected = json.loads((finished_job.folder / "appraisal.json").read_text())["expected"]
    scores = json.loads((finished_job.folder / "scores.json").read_text())
    assert expected["vote"] == "stage-1 vote"
    assert expected["out_of_fold"] == scores["stage-1 vote"]["out_of_fold"]["f1"]


def test_baselines_are_in_the_leaderboard_and_have_no_vote(tuned_job):
    folder = tuned_job.folder
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["baseline textcnn"]["out_of_fold"]["f1"] > 0.2
    assert "baseline textcnn" in tuned_job.result.out
    assert not any("textcnn" in name for name in pd.read_parquet(folder / "out_of_fold.parquet").columns)
    assert (folder / "baselines" / "textcnn" / "fold-4" / "DONE").exists()


def test_an_ensemble_that_does_not_beat_a_baseline_is_reported_and_baselines_can_be_added_later(
    tuned_job, tiny_encoder, tmp_path, call
):
    """The same folder, another command: only the new baseline is trained."""
    shutil.copytree(tuned_job.folder, tmp_path / "out")
    again = call(main, *tuned_job.words, "--output_dir", tmp_path / "out", "--baselines", "tfidf-svm")
    assert again.code == 0, again.err
    assert "baseline tfidf-svm" in again.out
    assert "17 of 22 runs are done already" in again.out
    recipe = recipe_of(tmp_path, encoder="{head: mean}")
    flags = {"baselines": "tfidf-logistic", "max_train_samples": 300}
    result = call(main, *job_words(tiny_encoder, tmp_path / "weak", recipe=recipe, **flags))
    assert result.code == 0, result.err
    assert "THE ENSEMBLE DOES NOT BEAT baseline tfidf-logistic" in result.out
