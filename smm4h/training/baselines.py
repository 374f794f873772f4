"""Fits classifiers that read words: TF-IDF under a linear model, and networks over word embeddings."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from smm4h.config.plan import Run
from smm4h.data.dataset import column
from smm4h.data.pseudo_labels import hard_labels
from smm4h.models.word_models import TERMS, HashedTfidf, WordEmbeddingClassifier, hash_of, padded, words_of
from smm4h.training.losses import Loss, balanced_weights, targets_of
from smm4h.training.run_data import RunData, remove_intermediate_files, training_part, write_results
from smm4h.utils.errors import InputError, Stopped
from smm4h.utils.files import read_json, write_json

MOST_FEATURES = 200_000  # of each kind of terms
MIN_COUNT = 2  # tweets that must have a term
EPOCHS, BATCH, LEARNING_RATE = 8, 32, 1e-3


def _logistic(seed: int) -> LogisticRegression:
    return LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed)


def _svm(seed: int) -> LinearSVC:
    return LinearSVC(C=0.3, class_weight="balanced", max_iter=5000, random_state=seed)


CLASSIFIERS = {"tfidf-logistic": _logistic, "tfidf-svm": _svm}


def fit_counts(name: str, texts: Sequence[str], labels: np.ndarray, n_classes: int, seed: int) -> HashedTfidf:
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
    return HashedTfidf(about, arrays)


def fit_net(
    name: str,
    texts: Sequence[str],
    labels: np.ndarray,
    n_classes: int,
    seed: int,
    tell: Callable[[int, int], None] = lambda step, steps: None,
) -> WordEmbeddingClassifier:
    """One of `wordnets.NETS`, of texts and class indices (n_tweets,), all classes weighing the same.

    `tell` is told step and steps.
    """
    counts = Counter(word for text in texts for word in set(words_of(text)))
    known = [hash_of(word) for word in sorted(word for word, count in counts.items() if count >= MIN_COUNT)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = WordEmbeddingClassifier(name, len(known), n_classes)
        net.words.copy_(torch.tensor(known, dtype=torch.int64))
        _train(net, [net.ids_of(text) for text in texts], targets_of(torch.from_numpy(labels), n_classes), tell)
    return net.eval()


def _train(
    net: WordEmbeddingClassifier, rows: list[torch.Tensor], targets: torch.Tensor, tell: Callable[[int, int], None]
) -> None:
    loss = Loss(weights=balanced_weights(targets.sum(dim=0)))
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    n_steps = EPOCHS * -(-len(rows) // BATCH)
    batches = (places for _ in range(EPOCHS) for places in torch.randperm(len(rows)).split(BATCH))
    net.train()
    for step, places in enumerate(batches, start=1):
        logits = net(padded([rows[place] for place in places.tolist()]))
        optimizer.zero_grad()
        (loss(logits, targets[places]).sum() / loss.normalizer(targets[places])).backward()
        optimizer.step()
        tell(step, n_steps)


ABOUT, WEIGHTS = "config.json", "model.safetensors"


def save_baseline(name: str, model: HashedTfidf | WordEmbeddingClassifier, folder: Path) -> None:
    """Writes the model of a run without an encoder; `load_baseline` reads it."""
    if isinstance(model, HashedTfidf):
        about, arrays = model.about, model.arrays
    else:
        arrays = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        about = {"classifier": name, "n_words": len(model.words), "n_classes": model.net.classifier[-1].out_features}
    save_file(arrays, folder / WEIGHTS)
    write_json(folder / ABOUT, about)


def load_baseline(folder: Path) -> HashedTfidf | WordEmbeddingClassifier:
    """The model of a finished run without an encoder: the same probabilities."""
    about, arrays = read_json(folder / ABOUT), load_file(folder / WEIGHTS)
    if about["classifier"] in CLASSIFIERS:
        return HashedTfidf(about, arrays)
    net = WordEmbeddingClassifier(about["classifier"], about["n_words"], about["n_classes"])
    net.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    return net.eval()


def train_baseline(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None],
    stop: Callable[[], bool],
    on_trained: Callable[[], None],
) -> None:
    """Fits a run that has no encoder and writes its folder, DONE last. It takes so little that a stop starts it over.

    The arguments are `train_run`'s. Of processes that train together the first does it.
    """
    state = PartialState()
    if state.is_main_process:
        _fit_and_predict(run, data, report, stop, on_trained)
    state.wait_for_everyone()


def _fit_and_predict(run: Run, data: RunData, report, stop, on_trained) -> None:
    started = time.perf_counter()
    run.directory.mkdir(parents=True, exist_ok=True)
    pseudo = data.pseudo_labels(run)
    part = training_part(run, data, pseudo)
    texts, labels = column(part, "text").to_pylist(), hard_labels(np.asarray(column(part, "labels").to_pylist()))
    name, seed, n_classes = run.member.get("classifier"), run.member.get("seed"), data.task.n_classes

    def tell(step: int, steps: int) -> None:
        report(step, steps)
        if stop():
            raise Stopped

    tell(0, 1)
    try:
        if name in CLASSIFIERS:
            model = fit_counts(name, texts, labels, n_classes, seed)
        else:
            model = fit_net(name, texts, labels, n_classes, seed, tell)
    except ValueError as error:
        if "no terms remain" in str(error) or "empty vocabulary" in str(error):
            raise InputError(
                f"{run.name}: the tweets of its training part share no word; give it more of them"
            ) from None
        raise
    on_trained()
    trained = time.perf_counter()

    def probabilities(tweets: Dataset) -> np.ndarray:
        return model.predict_proba(column(tweets, "text").to_pylist()).astype(np.float32)

    n_pseudo = 0 if pseudo is None else len(pseudo.rows)
    write_results(run, data, probabilities, {"training_tweets": len(part), "pseudo_tweets": n_pseudo})
    if data.keep_models != "none" and not run.model.exists():
        partial = run.directory / ".model.partial"
        partial.mkdir(exist_ok=True)
        save_baseline(name, model, partial)
        partial.rename(run.model)
    done = {
        "fingerprint": run.fingerprint,
        "seconds": round(time.perf_counter() - started, 2),
        "training_seconds": round(trained - started, 2),
        "preparation_seconds": 0.0,
        "device": "cpu",
        "processes": 1,
        "threads": torch.get_num_threads(),
    }
    write_json(run.done_file, done)
    remove_intermediate_files(run)
