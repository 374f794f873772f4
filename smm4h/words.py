"""Classifiers that count words: TF-IDF under a logistic regression or a linear SVM."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC

from smm4h.files import read_json, write_json
from smm4h.voting import softmax

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")  # emoji and punctuation are words too
MOST_FEATURES = 200_000
ABOUT, WEIGHTS = "config.json", "model.safetensors"


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


class TfidfModel:
    """One of `CLASSIFIERS` over counted words, fitted, that can be saved without a pickle."""

    def __init__(self, name: str, n_classes: int, model: Pipeline) -> None:
        self.name, self.n_classes, self.model = name, n_classes, model

    @classmethod
    def fit(cls, name: str, texts: Sequence[str], labels: np.ndarray, n_classes: int, seed: int) -> "TfidfModel":
        """Of texts and class indices (n_tweets,)."""
        return cls(name, n_classes, make_pipeline(_features(), CLASSIFIERS[name](seed)).fit(texts, labels))

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(n_tweets, n_classes); 0 for a class that was not fitted.

        An SVM's are the softmax of its distances from the boundaries: in the right order, and for a tuned decision good
        enough.
        """
        found = np.zeros((len(texts), self.n_classes))
        if hasattr(self.model, "predict_proba"):
            found[:, self.model.classes_] = self.model.predict_proba(texts)
            return found
        distances = self.model.decision_function(texts)
        if distances.ndim == 1:
            distances = np.column_stack([-distances / 2, distances / 2])
        found[:, self.model.classes_] = softmax(distances)
        return found

    def save(self, folder: Path) -> None:
        """Writes terms as JSON, numbers as safetensors."""
        features, classifier = (step for _, step in self.model.steps)
        terms, numbers = {}, {"coef": classifier.coef_, "intercept": classifier.intercept_}
        for name, vectorizer in features.transformer_list:
            terms[name] = vectorizer.get_feature_names_out().tolist()
            numbers[f"idf.{name}"] = vectorizer.idf_
        about = {"classifier": self.name, "n_classes": self.n_classes, "classes": classifier.classes_.tolist()}
        save_file({name: np.ascontiguousarray(array) for name, array in numbers.items()}, folder / WEIGHTS)
        write_json(folder / ABOUT, {**about, "terms": terms})

    @classmethod
    def load(cls, folder: Path) -> "TfidfModel":
        """What `save` wrote: the same probabilities."""
        about, numbers = read_json(folder / ABOUT), load_file(folder / WEIGHTS)
        features, classifier = _features(), CLASSIFIERS[about["classifier"]](0)
        for name, vectorizer in features.transformer_list:
            vectorizer.set_params(vocabulary=about["terms"][name])
            vectorizer.idf_ = numbers[f"idf.{name}"]
        classifier.coef_, classifier.intercept_ = numbers["coef"], numbers["intercept"]
        classifier.classes_ = np.array(about["classes"])
        return cls(about["classifier"], about["n_classes"], make_pipeline(features, classifier))
