"""Fits classifiers that read words: TF-IDF under a linear model, and networks over word embeddings."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from smm4h.counting import TERMS, CountedWords, hash_of, words_of
from smm4h.losses import Loss, balanced_weights, targets_of
from smm4h.wordnets import WordNet, padded

MOST_FEATURES = 200_000  # of each kind of terms
MIN_COUNT = 2  # tweets that must have a term
EPOCHS, BATCH, LEARNING_RATE = 8, 32, 1e-3


def _logistic(seed: int) -> LogisticRegression:
    return LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed)


def _svm(seed: int) -> LinearSVC:
    return LinearSVC(C=0.3, class_weight="balanced", max_iter=5000, random_state=seed)


CLASSIFIERS = {"tfidf-logistic": _logistic, "tfidf-svm": _svm}


def fit_counts(name: str, texts: Sequence[str], labels: np.ndarray, n_classes: int, seed: int) -> CountedWords:
    """One of `CLASSIFIERS`, of texts and class indices (n_tweets,); ValueError where the texts share no term."""
    from scipy.sparse import hstack  # comes with scikit-learn

    parts, arrays = [], {}
    for kind, terms_of in TERMS.items():
        vectorizer = TfidfVectorizer(analyzer=terms_of, sublinear_tf=True, min_df=MIN_COUNT, max_features=MOST_FEATURES)
        parts.append(vectorizer.fit_transform(texts))
        arrays[f"terms_{kind}"] = np.array([hash_of(term) for term in vectorizer.get_feature_names_out()])
        arrays[f"idf_{kind}"] = vectorizer.idf_
    classifier = CLASSIFIERS[name](seed).fit(hstack(parts).tocsr(), labels)
    arrays |= {"coef": np.ascontiguousarray(classifier.coef_), "intercept": classifier.intercept_}
    about = {"classifier": name, "n_classes": n_classes, "classes": classifier.classes_.tolist()}
    return CountedWords(about, arrays)


def fit_net(
    name: str,
    texts: Sequence[str],
    labels: np.ndarray,
    n_classes: int,
    seed: int,
    tell: Callable[[int, int], None] = lambda step, steps: None,
) -> WordNet:
    """One of `wordnets.NETS`, of texts and class indices (n_tweets,), all classes weighing the same.

    `tell` is told step and steps.
    """
    counts = Counter(word for text in texts for word in set(words_of(text)))
    known = [hash_of(word) for word in sorted(word for word, count in counts.items() if count >= MIN_COUNT)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = WordNet(name, len(known), n_classes)
        net.words.copy_(torch.tensor(known, dtype=torch.int64))
        _train(net, [net.ids_of(text) for text in texts], targets_of(torch.from_numpy(labels), n_classes), tell)
    return net.eval()


def _train(net: WordNet, rows: list[torch.Tensor], targets: torch.Tensor, tell: Callable[[int, int], None]) -> None:
    loss = Loss(weights=balanced_weights(targets.sum(dim=0)))
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    n_steps = EPOCHS * -(-len(rows) // BATCH)
    batches = (places for _ in range(EPOCHS) for places in torch.randperm(len(rows)).split(BATCH))
    net.train()
    for step, places in enumerate(batches, start=1):
        logits = net(padded([rows[place] for place in places.tolist()]))
        optimizer.zero_grad()
        (loss.of(logits, targets[places]).sum() / loss.size(targets[places])).backward()
        optimizer.step()
        tell(step, n_steps)
