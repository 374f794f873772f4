"""Fit classifiers without a pretrained encoder: TF-IDF under a linear model, and networks over word embeddings."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from smm4h.models.label_spaces import PROBLEM
from smm4h.models.word_models import (
    LONGEST,
    SAFE_TERMS,
    TERMS,
    BucketEmbeddingClassifier,
    BucketLinear,
    HashedTfidf,
    WordEmbeddingClassifier,
    hash_of,
    impersonal,
    padded,
    words_of,
)
from smm4h.training.losses import LabelSetLoss, Loss, balanced_weights, label_odds, targets_of
from smm4h.training.words.safe_terms import SafeTerms, TermRows

CERTAIN = 13.8  # log odds of a label that all tweets of a training part have: a probability of 1e-6 of its absence
MAX_FEATURES = 200_000  # for each kind of terms
MIN_COUNT = 2  # tweets that must contain a term
EPOCHS, BATCH, LEARNING_RATE = 8, 32, 1e-3


def _logistic(seed: int) -> LogisticRegression:
    return LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed)


def _svm(seed: int) -> LinearSVC:
    return LinearSVC(C=0.3, class_weight="balanced", max_iter=5000, random_state=seed)


CLASSIFIERS = {"tfidf-logistic": _logistic, "tfidf-svm": _svm}


def fit_counts(name: str, texts: Sequence[str], labels: np.ndarray, n_classes: int, seed: int) -> HashedTfidf:
    """Fit TF-IDF features and one of `CLASSIFIERS` to texts and labels, see `fit_linear`.

    Raises ValueError where the texts share no term.
    """
    from scipy.sparse import hstack  # comes with scikit-learn

    parts, arrays = [], {}
    for kind, terms_of in TERMS.items():
        vectorizer = TfidfVectorizer(analyzer=terms_of, sublinear_tf=True, min_df=MIN_COUNT, max_features=MAX_FEATURES)
        parts.append(vectorizer.fit_transform(texts))
        arrays[f"terms_{kind}"] = np.array([hash_of(term) for term in vectorizer.get_feature_names_out()])
        arrays[f"idf_{kind}"] = vectorizer.idf_
    weights, about = fit_linear(name, hstack(parts).tocsr(), labels, seed)
    return HashedTfidf({"classifier": name, "n_classes": n_classes, **about}, arrays | weights)


def fit_linear(name: str, features: Any, labels: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Fit one of `CLASSIFIERS` to sparse features (n_tweets, n_features).

    Of label sets each label has a classifier of its own; a label that all tweets have, or none, gets a constant.

    Args:
        labels: class indices (n_tweets,), or of label sets whether a tweet has a label, (n_tweets, n_labels).

    Returns the arrays `coef` and `intercept`, and what a word model's `about` says of them.
    """
    if labels.ndim == 1:
        classifier = CLASSIFIERS[name](seed).fit(features, labels)
        weights = {"coef": np.ascontiguousarray(classifier.coef_), "intercept": classifier.intercept_}
        return weights, {"classes": classifier.classes_.tolist()}
    coef, intercept = np.zeros((labels.shape[1], features.shape[1])), np.zeros(labels.shape[1])
    for index, has_label in enumerate(labels.T):
        if len(np.unique(has_label)) == 1:
            intercept[index] = CERTAIN if has_label[0] else -CERTAIN
        else:
            classifier = CLASSIFIERS[name](seed).fit(features, has_label)
            coef[index], intercept[index] = classifier.coef_[0], classifier.intercept_[0]
    about = {"classes": list(range(labels.shape[1])), "problem_type": PROBLEM}
    return {"coef": coef, "intercept": intercept}, about


def fit_safe_counts(
    name: str, texts: Sequence[str], authors: Sequence[int], labels: np.ndarray, n_classes: int, seed: int
) -> BucketLinear:
    """Fit one of `CLASSIFIERS` to features that can be published, of texts and labels, see `fit_linear`.

    Args:
        authors: (n_tweets,) a number for each author; a term that fewer than `SAFE` of them have changes no weight.

    Raises `NoSafeTerms` where all terms are rarer.
    """
    from scipy.sparse import hstack  # comes with scikit-learn

    rng, parts, n_buckets = np.random.default_rng(seed), [], {}
    shared = [impersonal(text) for text in texts]
    for kind, terms_of in SAFE_TERMS.items():
        rows = TermRows(shared, terms_of)
        safe = SafeTerms.find(rows, texts, authors)
        parts.append(safe.features(rows, rng))
        n_buckets[kind] = safe.n_buckets
    arrays, about = fit_linear(name, hstack(parts).tocsr(), labels, seed)
    return BucketLinear({"classifier": name, "n_classes": n_classes, **about, "n_buckets": n_buckets}, arrays)


def fit_net(
    name: str,
    texts: Sequence[str],
    labels: np.ndarray,
    n_classes: int,
    seed: int,
    report: Callable[[int, int], None] = lambda step, steps: None,
) -> WordEmbeddingClassifier:
    """Train one of `word_models.NETS` on texts and class indices (n_tweets,), with balanced class weights.

    Args:
        report: called after each step with the step's number and the total number of steps.
    """
    counts = Counter(word for text in texts for word in set(words_of(text)))
    known = [hash_of(word) for word in sorted(word for word, count in counts.items() if count >= MIN_COUNT)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = WordEmbeddingClassifier(name, len(known), n_classes, _problem_of(labels))
        net.words.copy_(torch.tensor(known, dtype=torch.int64))
        rows = [net.ids_of(text) for text in texts]
        _train(net, rows.__getitem__, targets_of(torch.from_numpy(labels), n_classes), report)
    return net.eval()


def fit_safe_net(
    name: str,
    texts: Sequence[str],
    authors: Sequence[int],
    labels: np.ndarray,
    n_classes: int,
    seed: int,
    report: Callable[[int, int], None] = lambda step, steps: None,
) -> BucketEmbeddingClassifier:
    """Train one of `word_models.NETS` on words that `SAFE` authors have; rarer ones get random buckets, anew each time.

    For the arguments see `fit_safe_counts` and `fit_net`. Raises `NoSafeTerms` where all words are rarer.
    """
    rows = [words_of(impersonal(text))[:LONGEST] or [""] for text in texts]
    safe = SafeTerms.find(rows, texts, authors)
    known = [torch.tensor([word in safe.terms for word in row]) for row in rows]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = BucketEmbeddingClassifier(name, safe.n_buckets, n_classes, _problem_of(labels))
        ids = [net.ids_of(text) for text in texts]

        def row_of(index: int) -> torch.Tensor:
            drawn = torch.randint(1, safe.n_buckets + 1, ids[index].shape)
            return torch.where(known[index], ids[index], drawn)

        _train(net, row_of, targets_of(torch.from_numpy(labels), n_classes), report)
    return net.eval()


def _train(
    net: WordEmbeddingClassifier | BucketEmbeddingClassifier,
    row_of: Callable[[int], torch.Tensor],
    targets: torch.Tensor,
    report: Callable[[int, int], None],
) -> None:
    """Train the network with Adam on word ids, `row_of` a tweet (n_words,), and targets (n_tweets, n_classes)."""
    counts = targets.sum(dim=0)
    if net.problem_type is None:
        loss = Loss(weights=balanced_weights(counts))
    else:
        loss = LabelSetLoss(weights=1 / label_odds(counts, torch.tensor(len(targets))))
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    n_steps = EPOCHS * -(-len(targets) // BATCH)
    batches = (batch for _ in range(EPOCHS) for batch in torch.randperm(len(targets)).split(BATCH))
    net.train()
    for step, batch in enumerate(batches, start=1):
        logits = net(padded([row_of(index) for index in batch.tolist()]))
        optimizer.zero_grad()
        (loss(logits, targets[batch]).sum() / loss.normalizer(targets[batch])).backward()
        optimizer.step()
        report(step, n_steps)


def _problem_of(labels: np.ndarray) -> str | None:
    """Return the problem type of labels: of targets (n_tweets, n_labels) that of label sets."""
    return None if labels.ndim == 1 else PROBLEM
