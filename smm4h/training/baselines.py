"""Train classifiers without a pretrained encoder: TF-IDF under a linear model, and networks over word embeddings."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.dataset import column
from smm4h.data.pseudo_labels import hard_labels
from smm4h.models.label_spaces import PROBLEM
from smm4h.models.word_models import (
    LONGEST,
    SAFE,
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
from smm4h.training import checkpoints
from smm4h.training.checkpoints import ResultFiles
from smm4h.training.losses import Loss, balanced_weights, targets_of
from smm4h.training.run_data import RunData, training_part, write_done, write_results
from smm4h.training.safe_terms import NoSafeTerms, SafeTerms, TermRows
from smm4h.utils.errors import InputError, Stopped
from smm4h.utils.files import read_json, write_json

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
        net = WordEmbeddingClassifier(name, len(known), n_classes)
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
        net = BucketEmbeddingClassifier(name, safe.n_buckets, n_classes)
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
    loss = Loss(weights=balanced_weights(targets.sum(dim=0)))
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


CONFIG, WEIGHTS = "config.json", "model.safetensors"


WordModel = HashedTfidf | BucketLinear | WordEmbeddingClassifier | BucketEmbeddingClassifier


def save_baseline(name: str, model: WordModel, folder: Path) -> None:
    """Write a model without an encoder as config.json and model.safetensors; see `load_baseline`."""
    if isinstance(model, HashedTfidf | BucketLinear):
        config, arrays = model.about, model.arrays
    else:
        arrays = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        is_safe = isinstance(model, BucketEmbeddingClassifier)
        size = {"n_buckets": model.n_buckets} if is_safe else {"n_words": len(model.words)}
        config = {"classifier": name, **size, "n_classes": model.net.classifier[-1].out_features}
    save_file(arrays, folder / WEIGHTS)
    write_json(folder / CONFIG, config)


def load_baseline(folder: Path) -> WordModel:
    """Read a model that `save_baseline` wrote, today's or an older version's; it predicts the same as before."""
    config, arrays = read_json(folder / CONFIG), load_file(folder / WEIGHTS)
    is_safe = "n_buckets" in config
    if config["classifier"] in CLASSIFIERS:
        return BucketLinear(config, arrays) if is_safe else HashedTfidf(config, arrays)
    net_class, size = (BucketEmbeddingClassifier, "n_buckets") if is_safe else (WordEmbeddingClassifier, "n_words")
    net = net_class(config["classifier"], config[size], config["n_classes"])
    net.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    return net.eval()


def train_baseline(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None],
    stop: Callable[[], bool],
    on_trained: Callable[[], None],
) -> None:
    """Train a run without an encoder and write its folder, DONE last; the main process alone does so.

    Training takes seconds, so nothing is saved on a stop and an interrupted run starts over. For the arguments see
    `run.train_run`.
    """
    checkpoints.on_main_process(lambda: _fit_and_predict(run, data, report, stop, on_trained))


def take_outside_predictions(
    run: Run,
    data: RunData,
    report: Callable[[int, int], None],
    stop: Callable[[], bool],
    on_trained: Callable[[], None],
) -> None:
    """Write the folder of a run whose member comes from elsewhere: its fold's part of the predictions, DONE last.

    Nothing is trained, and no model is kept. For the arguments see `run.train_run`.
    """

    def take() -> None:
        started_at, written = time.perf_counter(), ResultFiles(run)
        run.directory.mkdir(parents=True, exist_ok=True)
        report(0, 1)
        facts = {"training_tweets": 0, "pseudo_tweets": 0}
        write_results(run, data, data.outside_predictions(run.member.name), facts, written)
        on_trained()
        _write_done(run, written, time.perf_counter() - started_at, 0.0)

    checkpoints.on_main_process(take)


def _fit_member(name, texts, authors, labels, n_classes, seed, report) -> BucketLinear | BucketEmbeddingClassifier:
    """Fit a member, whose weights may be published; for the arguments see `fit_safe_counts` and `fit_net`."""
    if name in CLASSIFIERS:
        return fit_safe_counts(name, texts, authors, labels, n_classes, seed)
    return fit_safe_net(name, texts, authors, labels, n_classes, seed, report)


def _fit_and_predict(run: Run, data: RunData, report, stop, on_trained) -> None:
    """Fit the run's classifier, write predictions and metrics, save the model, then write DONE."""
    started_at = time.perf_counter()
    run.directory.mkdir(parents=True, exist_ok=True)
    pseudo = data.pseudo_labels(run)
    part = training_part(run, data, pseudo)
    texts, labels = column(part, "text").to_pylist(), _labels_of(part, data.task)
    name, seed, n_classes = run.member.args.classifier, run.member.args.seed, data.task.n_classes

    def report_or_stop(step: int, steps: int) -> None:
        report(step, steps)
        if stop():
            raise Stopped

    report_or_stop(0, 1)
    try:
        if run.is_baseline:
            options = () if name in CLASSIFIERS else (report_or_stop,)
            model = (fit_counts if name in CLASSIFIERS else fit_net)(name, texts, labels, n_classes, seed, *options)
        else:
            model = _fit_member(
                name, texts, column(part, "author").to_pylist(), labels, n_classes, seed, report_or_stop
            )
    except NoSafeTerms as error:
        raise InputError(
            f"{run.name}: its training part has no word that {SAFE} authors share ({error}), and rarer ones must not "
            "show in weights; give it more tweets, or leave the column of users out of the task if it names no authors"
        ) from None
    except ValueError as error:
        if "no terms remain" in str(error) or "empty vocabulary" in str(error):
            raise InputError(
                f"{run.name}: the tweets of its training part share no word; give it more of them"
            ) from None
        raise
    on_trained()
    trained_at = time.perf_counter()

    def predict(tweets: Dataset) -> np.ndarray:
        return model.predict_proba(column(tweets, "text").to_pylist()).astype(np.float32)

    n_pseudo, written = 0 if pseudo is None else len(pseudo.rows), ResultFiles(run)
    write_results(run, data, predict, {"training_tweets": len(part), "pseudo_tweets": n_pseudo}, written)
    # A baseline's model is not kept: nothing loads it, and its hashed terms could be read back.
    if data.keep_models != "none" and not run.is_baseline:
        own = checkpoints.make_own_folder(run.directory)
        (own / "model").mkdir()
        save_baseline(name, model, own / "model")
        checkpoints.move_into_place(own / "model", run.model)
    _write_done(run, written, time.perf_counter() - started_at, trained_at - started_at)


def _labels_of(part: Dataset, task: Task) -> np.ndarray:
    """Return a training part's labels: class indices (n_tweets,), of label sets targets (n_tweets, n_labels)."""
    labels = np.asarray(column(part, "labels").to_pylist())
    if not task.multi_label:
        return hard_labels(labels)
    return (task.space.targets(labels) if labels.ndim == 1 else labels) > 0.5


def _write_done(run: Run, written: ResultFiles, seconds: float, training_seconds: float) -> None:
    record = {
        "seconds": round(seconds, 2),
        "training_seconds": round(training_seconds, 2),
        "preparation_seconds": 0.0,
        "device": "cpu",
        "processes": 1,
        "threads": torch.get_num_threads(),
    }
    write_done(run, record, written.files)
