"""Members' predictions: the out-of-fold table, and means over a member's runs."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from smm4h.data.outputs.label_files import read_labels
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.ensemble.member_predictions import read_out_of_fold
from smm4h.models import voting


def test_the_table_has_every_labelled_tweet_once_by_the_run_that_held_it_out(tuned_job):
    folder = tuned_job.folder
    table = pd.read_parquet(folder / "out_of_fold.parquet")
    folds = pd.read_parquet(folder / "folds.parquet")
    assert table["row"].tolist() == list(range(300))
    assert table["id"].tolist() == folds["id"].tolist()
    assert table["gold"].tolist() == folds["label"].tolist()
    for member, seed in (("counts", 42), ("svm", 24), ("encoder", 42)):
        for fold in range(5):
            part = pd.read_parquet(folder / member / f"fold-{fold}" / "held_out.parquet")
            rows = np.flatnonzero(folds[f"fold_{seed}"] == fold)
            for label in "123":
                assert table[f"{member} p_{label}"].to_numpy()[rows].tolist() == part[f"p_{label}"].tolist()


def test_a_table_that_lacks_a_tweet_is_refused(tuned_job, tmp_path):
    table = pa.parquet.read_table(tuned_job.folder / "out_of_fold.parquet")
    pa.parquet.write_table(table.slice(0, 299), tmp_path / "short.parquet")
    assert len(read_out_of_fold(tmp_path / "short.parquet")[1]) == 299  # the first ones, without a gap
    pa.parquet.write_table(pa.concat_tables([table.slice(0, 5), table.slice(6)]), tmp_path / "gap.parquet")
    with pytest.raises(ValueError, match="every tweet exactly once"):
        read_out_of_fold(tmp_path / "gap.parquet")


LABELS = ("1", "2", "3")


def probs_of(run):
    """Return a run's probabilities (n_tweets, n_classes) of the test tweets."""
    return pd.read_parquet(run / "test.parquet")[[f"p_{label}" for label in LABELS]].to_numpy()


def test_on_new_tweets_a_refitted_run_counts_as_much_as_all_folds_do(tuned_job):
    folder = tuned_job.folder
    rule = FittedEnsemble.read(folder / "ensemble.json").rule
    means = []
    for member in rule.members:
        folds = voting.mean_log_odds(np.stack([probs_of(folder / member / f"fold-{k}") for k in range(5)]))
        refit = folder / member / "refit"
        means.append(voting.mean_log_odds(np.stack([folds, probs_of(refit)])) if refit.exists() else folds)
    predicted = read_labels(folder / "votes" / "final.tsv").indices(LABELS)
    np.testing.assert_array_equal(rule.predict(np.stack(means)), predicted)
    counts = rule.members.index("counts")
    plain = voting.mean_log_odds(np.stack([probs_of(run) for run in (folder / "counts").glob("*[0-9t]")]))
    assert np.abs(plain - means[counts]).max() > 0.01  # a mean over all six runs, which is another
