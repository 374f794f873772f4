"""Baselines: they learn, are saved without a word of a tweet, and come back."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import INVENTED

from smm4h.config.arguments import BASELINES
from smm4h.data.readers.formats import read_tsv
from smm4h.models.tweet_ensemble import _fold_model
from smm4h.reporting.export import _word_model_tensors
from smm4h.training.words.baselines import load_baseline, save_baseline
from smm4h.training.words.fitting import CLASSIFIERS, fit_counts, fit_net, fit_safe_counts, fit_safe_net

TEXTS = [f"my daughter has a defect number {n}" if n % 4 == 0 else f"nothing but words number {n}" for n in range(80)]
LABELS = np.array([0 if n % 4 == 0 else 1 for n in range(80)])


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_learns_from_words_and_loads_as_it_was_saved(name, tmp_path):
    fit = fit_counts if name in CLASSIFIERS else fit_net
    model = fit(name, TEXTS, LABELS, 3, seed=1)
    probs = model.predict_proba([*TEXTS, "", "🙂"])
    assert probs.shape == (82, 3)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, atol=1e-5)
    assert (probs[:80].argmax(axis=1) == LABELS).mean() > 0.95
    save_baseline(name, model, tmp_path)
    np.testing.assert_array_equal(load_baseline(tmp_path).predict_proba(TEXTS), model.predict_proba(TEXTS))
    np.testing.assert_array_equal(fit(name, TEXTS, LABELS, 3, seed=1).predict_proba(TEXTS), probs[:80])


@pytest.mark.parametrize("name", BASELINES)
def test_no_word_of_a_tweet_is_kept(name, tmp_path):
    fit = fit_counts if name in CLASSIFIERS else fit_net
    save_baseline(name, fit(name, TEXTS, LABELS, 3, seed=1), tmp_path)
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(word in kept for word in (b"daughter", b"defect", b"nothing"))


def test_a_finished_baselines_model_gives_the_predictions_that_it_gave(tuned_job):
    folder = tuned_job.folder / "svm" / "fold-2"
    texts = read_tsv(INVENTED / "task5_test_participant.tsv", None).columns[2][:40]
    again = load_baseline(folder / "model").predict_proba(texts)
    in_job = pd.read_parquet(folder / "test.parquet")[["p_1", "p_2", "p_3"]]
    np.testing.assert_allclose(again, in_job, atol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_a_member_learns_and_predicts_the_same_when_it_was_saved_and_when_it_was_published(name, tmp_path):
    fit = fit_safe_counts if name in CLASSIFIERS else fit_safe_net
    model = fit(name, TEXTS, range(80), LABELS, 3, seed=1)
    probs = model.predict_proba([*TEXTS, "", "🙂"])
    assert (probs[:80].argmax(axis=1) == LABELS).mean() > 0.95
    save_baseline(name, model, tmp_path)
    again = load_baseline(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), probs[:80])
    tensors, about = _word_model_tensors(again)
    published = _fold_model(name, json.loads(json.dumps(about)))
    published.load_state_dict(tensors)
    np.testing.assert_array_equal(published.eval().predict_proba(TEXTS), probs[:80])
