"""TF-IDF models against scikit-learn's pipeline."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline, make_union

from smm4h.models.voting import softmax
from smm4h.models.word_models import words_of
from smm4h.training.words.fitting import CLASSIFIERS, fit_counts


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_tfidf_models_are_scikit_learns_pipeline(name, n_classes):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["Ünï", "a", "Baby's", "#x", "🙂", "born", "y\n z  "], 6)) for _ in range(60)]
    labels = rng.integers(0, n_classes, 60)
    shared = {"sublinear_tf": True, "min_df": 2}
    words = TfidfVectorizer(tokenizer=words_of, token_pattern=None, ngram_range=(1, 2), **shared)
    features = make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **shared))
    pipeline = make_pipeline(features, CLASSIFIERS[name](1)).fit(texts, labels)
    distances = pipeline.decision_function([*texts, ""])
    distances = distances if n_classes > 2 else np.column_stack([-distances / 2, distances / 2])
    probs = fit_counts(name, texts, labels, n_classes, seed=1).predict_proba([*texts, ""])
    np.testing.assert_allclose(probs, softmax(distances), atol=1e-6)
    if name == "tfidf-logistic":
        np.testing.assert_allclose(probs, pipeline.predict_proba([*texts, ""]), atol=1e-6)
