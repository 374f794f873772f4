"""What decisions promise out of fold, and what is found on test tweets, over many draws of real tweets.

python benchmarks/promises.py --task tasks/task2_en.yaml --data_dir DIR --output_dir runs/promises
python benchmarks/promises.py --task tasks/task1.yaml --share 0.01 --tweets 2500 --test_tweets 6000 --data_dir DIR \\
    --output_dir runs/promises100

DIR holds the task's official files and the gold labels of its test file. Each draw takes `--tweets` labelled tweets and
others to test on, trains the two TF-IDF classifiers on five folds, and lets them vote. Predictions are kept in
`--output_dir`, so that the same command again only decides.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from smm4h.config.arguments import BASELINE_CLEANING
from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.dataset import column, read_tweets
from smm4h.data.folds import stratified_choice
from smm4h.data.outputs.label_files import read_labels
from smm4h.ensemble.decisions.fit import adjust_for_averaging
from smm4h.ensemble.decisions.operating_points import promise_of
from smm4h.ensemble.fitting import VotingConfig
from smm4h.metrics import confusion_matrix, flagged, precision, recall
from smm4h.models.cleaning import clean
from smm4h.models.voting import MEANS, softmax
from smm4h.models.word_models import TERMS
from smm4h.training.words.fitting import CLASSIFIERS, MIN_COUNT
from smm4h.utils.console import silence_libraries

DECISIONS = ("recall>=0.8", "recall>=0.9", "recall>=0.95", "precision>=0.8", "flagged<=0.05")
MEASURES = {"recall": recall, "precision": precision, "flagged": flagged}
N_FOLDS = 5


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    task = read_task(arguments.task)
    counts, labels = read_all(task, arguments.data_dir)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    draws = [predict_draw(seed, counts, labels, task, arguments) for seed in range(arguments.draws)]
    for decision in arguments.decisions:
        print_decision(decision, draws, task, arguments.method)


def read_arguments() -> argparse.Namespace:
    parser = draws_parser(__doc__, test_tweets=4000)
    parser.add_argument("--decisions", nargs="+", default=DECISIONS)
    return parser.parse_args()


def tweets_parser(description: str, tweets: int, test_tweets: int) -> argparse.ArgumentParser:
    """Return a parser with the flags of what is drawn, and of where results are kept."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--task", required=True)
    add("--data_dir", type=Path, required=True)
    add("--tweets", type=int, default=tweets, help="labelled tweets")
    add("--test_tweets", type=int, default=test_tweets, help="test tweets, at most")
    add("--share", type=float, help="share of the rare labels (default: as it is)")
    add("--output_dir", type=Path, required=True)
    return parser


def draws_parser(description: str, test_tweets: int) -> argparse.ArgumentParser:
    """Return a parser with the flags of `draw_rows`, of a vote, and of where predictions are kept."""
    parser = tweets_parser(description, 1000, test_tweets)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--method", default="soft")
    return parser


def read_all(task: Task, folder: Path) -> tuple[list[csr_matrix], np.ndarray]:
    """Return the counts (n_tweets, n_terms) of each kind of terms in all official files, and class indices."""
    paths = {part: folder / files[0].name for part, files in task.files.items()}
    labelled, _ = read_tweets([paths["training"], paths["validation"]], task, labelled=True)
    test, _ = read_tweets([paths["test"]], task, labelled=False)
    tweets = column(concatenate_datasets([labelled.remove_columns("label"), test]), "text").to_pylist()
    texts = [clean(text, BASELINE_CLEANING) for text in tweets]
    counts = [CountVectorizer(analyzer=terms_of).fit_transform(texts) for terms_of in TERMS.values()]
    gold = read_labels(paths["gold"]).indices(task.labels)
    return counts, np.concatenate([column(labelled, "label").to_numpy(), gold])


def predict_draw(
    seed: int, counts: Sequence[csr_matrix], labels: np.ndarray, task: Task, arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Return a draw's `gold`, `test_gold`, `out_of_fold` (n_members, n_tweets, n_classes) and `folds`, by each model.

    `folds` are (n_folds, n_members, n_test_tweets, n_classes).
    """
    path = arguments.output_dir / f"{seed}.npz"
    if path.exists():
        return dict(np.load(path))
    chosen, rest = draw_rows(seed, labels, task, arguments)
    gold = labels[chosen]
    held_out = np.zeros((len(CLASSIFIERS), len(chosen), task.n_classes))
    folds = np.zeros((N_FOLDS, len(CLASSIFIERS), len(rest), task.n_classes))
    cut = StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed)
    for fold, (others, own) in enumerate(cut.split(gold, gold)):
        trained, *used = features(counts, chosen[others], chosen[own], rest)
        for member, make in enumerate(CLASSIFIERS.values()):
            model = make(seed).fit(trained, gold[others])
            held_out[member, own], folds[fold, member] = (probabilities_of(model, part) for part in used)
    draw = {"gold": gold, "test_gold": labels[rest], "out_of_fold": held_out, "folds": folds}
    np.savez(path, **draw)
    return draw


def draw_rows(seed: int, labels: np.ndarray, task: Task, arguments: argparse.Namespace) -> tuple[np.ndarray, ...]:
    """Return the rows of the labelled and of the test tweets of a draw."""
    kept, rng = np.arange(len(labels)), np.random.default_rng(seed)
    if arguments.share:
        is_rare = np.isin(labels, task.positive_indices)
        n_rare = round((~is_rare).sum() * arguments.share / (1 - arguments.share))
        kept = np.concatenate([np.flatnonzero(~is_rare), rng.permutation(np.flatnonzero(is_rare))[:n_rare]])
    chosen = kept[stratified_choice(labels[kept], arguments.tweets, seed)]
    rest = np.setdiff1d(kept, chosen)
    return chosen, rest[stratified_choice(labels[rest], arguments.test_tweets, seed)]


def features(counts: Sequence[csr_matrix], *parts: np.ndarray) -> list[csr_matrix]:
    """Return the TF-IDF features of some rows, as `fit_counts` makes them of the first part's terms."""
    columns = []
    for kind in counts:
        known = np.flatnonzero(np.diff(kind[parts[0]].tocsc().indptr) >= MIN_COUNT)
        tfidf = TfidfTransformer(sublinear_tf=True).fit(kind[parts[0]][:, known])
        columns.append([tfidf.transform(kind[rows][:, known]) for rows in parts])
    return [hstack(of_part).tocsr() for of_part in zip(*columns, strict=True)]


def probabilities_of(model: LogisticRegression | LinearSVC, part: csr_matrix) -> np.ndarray:
    """Return probabilities (n_tweets, n_classes), as `HashedTfidf` does."""
    distances = model.decision_function(part)
    return softmax(np.column_stack([-distances / 2, distances / 2]) if distances.ndim == 1 else distances)


def print_decision(decision: str, draws: Sequence[dict[str, np.ndarray]], task: Task, method: str) -> None:
    """Print a line a draw, and how often the promised interval holds what is found."""
    config, positive = VotingConfig.for_task(task, method, decision, "probability"), task.positive_indices
    quantity, members, rows = config.decision.quantity, list(CLASSIFIERS), []
    for draw in draws:
        gold, test_gold = draw["gold"], draw["test_gold"]
        predicted = config.predict_out_of_fold(members, draw["out_of_fold"], gold)
        rule = config.fit_rule(members, draw["out_of_fold"], gold)
        means = np.stack([MEANS[rule.mean](draw["folds"][:, member]) for member in range(len(members))])
        adjusted = adjust_for_averaging(rule, draw["folds"], means)
        own = confusion_matrix(gold, predicted, task.n_classes)
        promise = promise_of(config.decision, own, positive)
        found = [
            float(MEASURES[quantity](confusion_matrix(test_gold, one.predict(means), task.n_classes), positive))
            for one in (adjusted, rule)
        ]
        rows.append((promise["value"], *promise["interval"], *found))
    table = np.array(rows)
    value, low, high, found, plain = table.T
    print(
        f"{decision}: promised {value.mean():.3f} ({low.mean():.3f} to {high.mean():.3f}), found {found.mean():.3f} "
        f"({found.min():.3f} to {found.max():.3f}), not adjusted {plain.mean():.3f}; "
        f"in the interval {int(((low <= found) & (found <= high)).sum())} of {len(table)}"
    )


if __name__ == "__main__":
    main()
