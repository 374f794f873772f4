"""By the front door: members trained once more, on all labelled tweets, and what those runs' word counts."""

import json
import sys

import numpy as np
import pandas as pd
from conftest import job_words, recipe_of, shell

import run_classification
from smm4h.data.prediction_files import read_labels
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.models import voting

LABELS = ("1", "2", "3")


def probabilities(run):
    return pd.read_parquet(run / "test.parquet")[[f"p_{label}" for label in LABELS]].to_numpy()


def test_a_refitted_run_learns_from_every_labelled_tweet_and_scores_none(tuned_job):
    for member in ("counts", "encoder"):
        folder = tuned_job.folder / member / "refit"
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (metrics["training_tweets"], metrics["held_out_tweets"], metrics["fold"]) == (300, 0, None)
        assert "held_out" not in metrics
        assert not (folder / "held_out.parquet").exists()
        assert (folder / "DONE").exists()
        fold = json.loads((tuned_job.folder / member / "fold-0" / "metrics.json").read_text())
        assert fold["training_tweets"] == 240
    assert not (tuned_job.folder / "svm" / "refit").exists()


def test_on_new_tweets_a_refitted_run_counts_as_much_as_all_folds_together(tuned_job):
    folder = tuned_job.folder
    rule = FittedEnsemble.read(folder / "ensemble.json").rule
    means = []
    for member in rule.members:
        folds = voting.mean_log_odds(np.stack([probabilities(folder / member / f"fold-{k}") for k in range(5)]))
        refit = folder / member / "refit"
        means.append(voting.mean_log_odds(np.stack([folds, probabilities(refit)])) if refit.exists() else folds)
    elected = read_labels(folder / "votes" / "final.tsv").indices(LABELS)
    np.testing.assert_array_equal(rule.predict(np.stack(means)), elected)
    counts = rule.members.index("counts")
    plain = voting.mean_log_odds(np.stack([probabilities(run) for run in (folder / "counts").glob("*[0-9t]")]))
    assert np.abs(plain - means[counts]).max() > 0.01  # a sixth would be another mean than the half


def test_the_list_of_runs_has_no_held_out_score_for_it(tuned_job, call):
    outcome = call(run_classification.main, *tuned_job.words, "--list")
    assert outcome.code == 0, outcome.err
    row = next(line for line in outcome.out.splitlines() if "encoder" in line and "refit" in line)
    assert row.split() == [row.split()[0], "encoder", "refit", "1", "done", "-"]
    assert "encoder refit  all tweets" in tuned_job.outcome.out


def test_folds_that_are_asked_for_leave_it_out_and_the_vote_waits_for_it(tiny_encoder, tmp_path):
    words = job_words(tiny_encoder, tmp_path / "out", "--n_folds", 2, "--folds", 0, 1)
    words[0] = recipe_of(tmp_path, counts="{classifier: tfidf-logistic, refit: true}")
    first = shell(sys.executable, "run_classification.py", *words)
    assert first.code == 0, first.err
    assert "1 of 3 runs are missing, so there is no final vote yet" in first.out
    again = shell(sys.executable, "run_classification.py", *words[: words.index("--folds")])
    assert again.code == 0, again.err
    assert "2 of 3 runs are done already" in again.out
    assert (tmp_path / "out" / "votes" / "final.tsv").exists()


def test_keep_models_best_keeps_the_best_fold_and_the_refitted_run(tiny_encoder, tmp_path):
    words = job_words(tiny_encoder, tmp_path / "out", "--n_folds", 2, "--keep_models", "best")
    words[0] = recipe_of(tmp_path, counts="{classifier: tfidf-logistic, refit: true}")
    outcome = shell(sys.executable, "run_classification.py", *words)
    assert outcome.code == 0, outcome.err
    kept = sorted(path.parent.name for path in (tmp_path / "out" / "counts").glob("*/model"))
    assert len(kept) == 2
    assert kept[1] == "refit"
