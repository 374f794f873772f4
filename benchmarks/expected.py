"""The score that a job expects on new tweets, and what test tweets then show, over many draws of real tweets.

python benchmarks/expected.py --task tasks/task2_en.yaml --data_dir DIR --output_dir runs/expected

DIR holds the task's official files and the gold labels of its test file. Each draw takes `--tweets` labelled tweets and
others to test on. Six members are trained on each fold and on all labelled tweets: the two TF-IDF classifiers, and four
small networks over TF-IDF that differ by their seeds as encoders do. Predictions are kept in `--output_dir`, so that
the same command again only scores.
"""

import argparse
import warnings

import numpy as np
from promises import draw_rows, draws_parser, features, probabilities_of, read_all
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier

from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.ensemble.decisions.fit import adjust_for_averaging
from smm4h.ensemble.expected_score import LabelledTweets, NewTweets, expected_score
from smm4h.ensemble.fitting import VotingConfig
from smm4h.models.voting import mean_of_models
from smm4h.training.words.fitting import CLASSIFIERS
from smm4h.utils.console import silence_libraries

N_NETWORKS, N_DIMENSIONS = 4, 60
MEMBERS = {"words": slice(0, 2), "networks": slice(2, 6), "all": slice(0, 6)}


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    task = read_task(arguments.task)
    counts, labels = read_all(task, arguments.data_dir)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(arguments.draws):
        rows.append(score_draw(predict_draw(seed, counts, labels, task, arguments), task, arguments))
        print_row(f"draw {seed}", rows[-1:])
    print_row("all draws", rows)


def read_arguments() -> argparse.Namespace:
    parser = draws_parser(__doc__, test_tweets=2000)
    add = parser.add_argument
    add("--folds", type=int, default=3)
    add("--members", choices=MEMBERS, default="all")
    add("--no_refit", action="store_true")
    add("--decision", default="tuned")
    return parser.parse_args()


def predict_draw(
    seed: int, counts: list[csr_matrix], labels: np.ndarray, task: Task, arguments: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Return a draw's `gold`, `test_gold`, `oof` (n_members, n_tweets, n_classes), `folds` and `refit`, by each model.

    `folds` are (n_folds, n_members, n_test_tweets, n_classes), `refit` (n_members, n_test_tweets, n_classes).
    """
    path = arguments.output_dir / f"{seed}.npz"
    if path.exists():
        return dict(np.load(path))
    chosen, rest = draw_rows(seed, labels, task, arguments)
    gold, n_members = labels[chosen], len(CLASSIFIERS) + N_NETWORKS
    out_of_fold, folds = np.zeros((n_members, len(chosen), task.n_classes)), []
    cut = StratifiedKFold(arguments.folds, shuffle=True, random_state=seed)
    for others, own in cut.split(gold, gold):
        trained, *parts = features(counts, chosen[others], chosen[own], rest)
        out_of_fold[:, own], of_test = predictions(trained, gold[others], parts)
        folds.append(of_test)
    trained, part = features(counts, chosen, rest)
    (refit,) = predictions(trained, gold, [part])
    draw = {"gold": gold, "test_gold": labels[rest], "oof": out_of_fold, "folds": np.stack(folds), "refit": refit}
    np.savez(path, **draw)
    return draw


def predictions(trained: csr_matrix, gold: np.ndarray, parts: list[csr_matrix]) -> list[np.ndarray]:
    """Return the probabilities (n_members, n_tweets, n_classes) of each part, by members trained on `trained`."""
    linear = [make(1).fit(trained, gold) for make in CLASSIFIERS.values()]
    reduce = TruncatedSVD(min(N_DIMENSIONS, trained.shape[0] - 1), n_iter=3, random_state=0).fit(trained)
    dense = reduce.transform(trained)
    scale = dense.std(axis=0) + 1e-9
    options = {"max_iter": 25, "batch_size": 32, "learning_rate_init": 3e-3}
    networks = [
        MLPClassifier((32,), random_state=seed, **options).fit(dense / scale, gold) for seed in range(N_NETWORKS)
    ]
    return [
        np.stack(
            [probabilities_of(model, part) for model in linear]
            + [model.predict_proba(reduce.transform(part) / scale) for model in networks]
        )
        for part in parts
    ]


def score_draw(draw: dict[str, np.ndarray], task: Task, arguments: argparse.Namespace) -> tuple[float, ...]:
    """Return the score on test, the expected one with its interval, and the one out of fold with its interval."""
    config = VotingConfig.for_task(task, arguments.method, arguments.decision, "probability")
    kept, gold = MEMBERS[arguments.members], draw["gold"]
    out_of_fold, folds = draw["oof"][kept], draw["folds"][:, kept]
    refits = [] if arguments.no_refit else [draw["refit"][kept]]
    names = [str(index) for index in range(len(out_of_fold))]
    rule = config.fit_rule(names, out_of_fold, gold)
    is_refit = [False] * len(folds) + [True] * len(refits)
    models = [*folds, *refits]
    means = np.stack(
        [mean_of_models(rule.mean, [model[index] for model in models], is_refit) for index in range(len(names))]
    )
    adjusted = rule if rule.is_argmax else adjust_for_averaging(rule, folds, means)
    new = NewTweets(folds, means)
    expected = expected_score(rule, adjusted, LabelledTweets(out_of_fold, gold), new, task.objective)
    nested = task.score(gold, config.predict_out_of_fold(names, out_of_fold, gold))
    found = task.score(draw["test_gold"], adjusted.predict(means))[task.measure]
    return found, expected["value"], *expected["interval"], nested[task.measure], *nested["interval"]


def print_row(name: str, rows: list[tuple[float, ...]]) -> None:
    """Print means over draws, and how often each interval holds what test tweets show."""
    found, *others = np.array(rows).T
    shown = []
    for kind, (value, low, high) in (("expected", others[:3]), ("out of fold", others[3:])):
        is_held = (low <= found) & (found <= high)
        shown.append(
            f"{kind} {value.mean():.3f} ({(value - found).mean():+.3f}; {low.mean():.3f} to {high.mean():.3f}, wide "
            f"{(high - low).mean():.3f}, holds {is_held.sum()} of {len(rows)})"
        )
    print(f"{name}: test {found.mean():.3f}; {'; '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
