"""Classifiers that count words: TF-IDF under a logistic regression or a linear SVM."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")  # emoji and punctuation are words too
MOST_FEATURES = 200_000


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _features() -> Pipeline:
    """Words and pairs of them, and pieces of words of 2 to 5 characters; in two tweets at least."""
    shared = {"sublinear_tf": True, "min_df": 2, "max_features": MOST_FEATURES}
    words = TfidfVectorizer(tokenizer=words_of, token_pattern=None, ngram_range=(1, 2), **shared)
    return make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **shared))


def _logistic(seed: int) -> LogisticRegression:
    return LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed)


def _svm(seed: int) -> LinearSVC:
    return LinearSVC(C=0.3, class_weight="balanced", max_iter=5000, random_state=seed)


CLASSIFIERS = {"tfidf-logistic": _logistic, "tfidf-svm": _svm}


def fit_tfidf(
    name: str, texts: Sequence[str], labels: np.ndarray, n_classes: int, seed: int
) -> Callable[[Sequence[str]], np.ndarray]:
    """Fits one of `CLASSIFIERS` on texts and class indices (n_tweets,), all of which occur.

    Returns what gives the probabilities (n_tweets, n_classes) of other texts. An SVM's are the softmax of its distances
    from the boundaries: in the right order, and for a tuned decision good enough.
    """
    model = make_pipeline(_features(), CLASSIFIERS[name](seed)).fit(texts, labels)

    def probabilities(others: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(others), n_classes))
        if hasattr(model, "predict_proba"):
            found[:, model.classes_] = model.predict_proba(others)
            return found
        distances = model.decision_function(others)
        if distances.ndim == 1:
            distances = np.column_stack([-distances / 2, distances / 2])
        powers = np.exp(distances - distances.max(axis=1, keepdims=True))
        found[:, model.classes_] = powers / powers.sum(axis=1, keepdims=True)
        return found

    return probabilities
