"""What labelling the tweets of `label_next.py` brings, against as many random ones, over many draws of real tweets.

python benchmarks/label_next.py --task tasks/task2_en.yaml --data_dir DIR
python benchmarks/label_next.py --task tasks/task2_en.yaml --data_dir DIR --recipe benchmarks/label_next.yaml \\
    --output_dir runs/labelling --draws 6 --pool_tweets 2500 --test_tweets 2000 -- --model_name_or_path ENCODER

DIR holds the task's official files and the gold labels of its test file. Each draw takes `--labelled` tweets to begin
with, others to test on, and the rest as the pool, whose labels are held back. The two TF-IDF classifiers are trained on
`--folds` folds, choose `--n` tweets of the pool by the code of the command, get their labels, and are trained again; in
the last arm the tweets are random. `--arms` may also choose by one signal of the gain alone. With `--recipe`, jobs of
that recipe take the classifiers' place, each with the flags behind `--`; what is trained in `--output_dir` is found by
the same command again. `--tiny` takes seconds and shows nothing but that it runs.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import quality
from datasets import Dataset, concatenate_datasets
from promises import probabilities_of
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold

from smm4h.config.arguments import BASELINE_CLEANING
from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.data.dataset import column, read_tweets
from smm4h.data.folds import stratified_choice
from smm4h.data.outputs.label_files import read_labels
from smm4h.ensemble.fitting import VotingConfig
from smm4h.inference.finished_job import FinishedJob
from smm4h.inference.labelling.choice import Choice, choose, first_of_each
from smm4h.inference.labelling.copies import CopyIndex
from smm4h.inference.labelling.gain import Signals, expected_gain
from smm4h.inference.labelling.pool import key_of
from smm4h.models.cleaning import clean
from smm4h.models.predictors import EnsembleOutput
from smm4h.models.voting import VotingRule, mean_probabilities
from smm4h.models.word_models import TERMS
from smm4h.training.words.fitting import CLASSIFIERS
from smm4h.utils.console import silence_libraries

ARMS = {
    "gain": expected_gain,
    "disagreement": lambda signals: signals.disagreement,
    "margin": lambda signals: -signals.margin,
    "rare": lambda signals: signals.rare,
    "random": lambda signals: np.zeros(len(signals.rare)),
}


@dataclass
class Tweets:
    """All official tweets, their texts, features (n_tweets, n_terms), and class indices (n_tweets,)."""

    all: Dataset
    texts: list[str]
    features: csr_matrix
    labels: np.ndarray
    task: Task


@dataclass
class Arm:
    """What an arm found, a value a draw."""

    rare: list[int] = field(default_factory=list)
    average_precision: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)  # the task's metric, by a decision that is tuned out of fold


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    tweets = read_all(read_task(arguments.task), arguments.data_dir)
    arms = {name: Arm() for name in [*dict.fromkeys(arguments.arms), "random"]}
    for seed in range(arguments.draws):
        run_draw(tweets, arms, seed, arguments)
        if arguments.recipe or seed + 1 == arguments.draws:  # a draw of jobs takes minutes
            print_arms(arms, tweets, seed + 1, arguments)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--task", required=True)
    add("--data_dir", type=Path, required=True)
    add("--labelled", type=int, default=500, help="tweets that are labelled to begin with")
    add("--n", type=int, default=200, help="tweets that are labelled then")
    add("--random", type=float, default=0.1, help="random share of those chosen by gain")
    add("--pool_tweets", type=int, default=5000, help="tweets of the pool, at most")
    add("--test_tweets", type=int, default=3000)
    add("--folds", type=int, default=3)
    add("--draws", type=int, default=10)
    add("--arms", nargs="+", default=["gain"], choices=list(ARMS)[:-1], help="beside random ones")
    add("--tiny", action="store_true")
    add("--recipe", help="train its members, by jobs, instead of the two TF-IDF classifiers")
    add("--output_dir", type=Path, help="of the jobs")
    add("flags", nargs="*", help="behind --: flags for the jobs")
    arguments = parser.parse_args()
    if arguments.recipe and not arguments.output_dir:
        parser.error("--recipe needs --output_dir, for its jobs")
    if arguments.tiny:
        arguments.labelled, arguments.n, arguments.test_tweets, arguments.draws = 120, 40, 150, 2
    return arguments


def read_all(task: Task, folder: Path) -> Tweets:
    paths = {part: folder / files[0].name for part, files in task.files.items()}
    labelled, _ = read_tweets([paths["training"], paths["validation"]], task, labelled=True)
    test, _ = read_tweets([paths["test"]], task, labelled=False)
    both = concatenate_datasets([labelled.remove_columns("label"), test])
    texts = column(both, "text").to_pylist()
    labels = np.concatenate([column(labelled, "label").to_numpy(), read_labels(paths["gold"]).indices(task.labels)])
    cleaned = [clean(text, BASELINE_CLEANING) for text in texts]
    kinds = [TfidfVectorizer(analyzer=terms_of, sublinear_tf=True, min_df=3) for terms_of in TERMS.values()]
    return Tweets(both, texts, hstack([kind.fit_transform(cleaned) for kind in kinds]).tocsr(), labels, task)


def run_draw(tweets: Tweets, arms: dict[str, Arm], seed: int, arguments: argparse.Namespace) -> None:
    """Label by each arm, and score what is learnt then."""
    labels, positive = tweets.labels, tweets.task.positive_indices
    test = stratified_choice(labels, arguments.test_tweets, seed)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    rest = rest[stratified_choice(labels[rest], arguments.labelled + arguments.pool_tweets, seed)]
    begun = rest[stratified_choice(labels[rest], arguments.labelled, seed)]
    pool = np.setdiff1d(rest, begun)
    rule, predicted = train(tweets, begun, pool, seed, "begun", arguments)
    signals = Signals.of_predictions(predicted, EnsembleOutput.from_rule(rule, predicted), positive)
    for name in arms:
        n_random = arguments.n if name == "random" else round(arguments.n * arguments.random)
        choice = choose_from(tweets, begun, pool, ARMS[name](signals), arguments.n, n_random, seed)
        chosen = pool[choice.rows]
        rule_now, members = train(tweets, np.sort(np.concatenate([begun, chosen])), test, seed, name, arguments)
        rare = rule_now.combine(members)[:, positive].sum(axis=1)
        arms[name].rare.append(int(np.isin(labels[chosen], positive).sum()))
        arms[name].average_precision.append(average_precision_score(np.isin(labels[test], positive), rare))
        score = tweets.task.score(labels[test], rule_now.predict(members))
        arms[name].score.append(score[tweets.task.measure])


def train(
    tweets: Tweets, rows: np.ndarray, others: np.ndarray, seed: int, name: str, arguments: argparse.Namespace
) -> tuple[VotingRule, np.ndarray]:
    """Return a vote whose decision is tuned out of fold, and the members' probabilities of other tweets.

    Those are the mean over the folds' models, (n_members, n_others, n_classes).
    """
    if arguments.recipe:
        return train_job(tweets, rows, others, arguments.output_dir / f"{seed}-{name}", arguments)
    return train_word_counters(tweets, rows, others, seed, arguments.folds)


def train_job(
    tweets: Tweets, rows: np.ndarray, others: np.ndarray, folder: Path, arguments: argparse.Namespace
) -> tuple[VotingRule, np.ndarray]:
    """Train a job of the recipe by the front door, with the other tweets as its test tweets; see `train`."""
    folder.mkdir(parents=True, exist_ok=True)
    quality.write_tweets(folder / "train.tsv", tweets.all, rows, tweets.labels, tweets.task)
    quality.write_tweets(folder / "test.tsv", tweets.all, others, None, tweets.task)
    quality.train_job(
        arguments.recipe,
        folder / "job",
        folder,
        ["--task", arguments.task, "--n_folds", arguments.folds, *arguments.flags],
    )
    job = FinishedJob.read(folder / "job")
    fitted, members = job.ensemble.for_new_tweets(job.plan.runs)
    assert len(members.ids) == len(others), "the job has read other tweets"
    return fitted.rule, members.probabilities


def train_word_counters(
    tweets: Tweets, rows: np.ndarray, others: np.ndarray, seed: int, n_folds: int
) -> tuple[VotingRule, np.ndarray]:
    """Train the two TF-IDF classifiers for a soft vote; see `train`."""
    gold, n_classes = tweets.labels[rows], tweets.task.n_classes
    held_out = np.zeros((len(CLASSIFIERS), len(rows), n_classes))
    predicted = np.zeros((n_folds, len(CLASSIFIERS), len(others), n_classes))
    cut = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (used, own) in enumerate(cut.split(gold, gold)):
        for member, make in enumerate(CLASSIFIERS.values()):
            model = make(seed).fit(tweets.features[rows[used]], gold[used])
            held_out[member, own] = probabilities_of(model, tweets.features[rows[own]])
            predicted[fold, member] = probabilities_of(model, tweets.features[others])
    config = VotingConfig.for_task(tweets.task, "soft", "tuned", "probability")
    return config.fit_rule(list(CLASSIFIERS), held_out, gold), mean_probabilities(predicted)


def choose_from(
    tweets: Tweets, begun: np.ndarray, pool: np.ndarray, gain: np.ndarray, n_tweets: int, n_random: int, seed: int
) -> Choice:
    """Return the choice of the command, by rows of the pool.

    Args:
        gain: (n_pool,) by which tweets are chosen.
    """
    known = [tweets.texts[row] for row in begun]
    keys = np.array([key_of(tweets.texts[row], None) for row in pool])
    is_new = first_of_each(keys, {key_of(text, None) for text in known})

    def texts_of(rows: np.ndarray) -> dict[int, str]:
        return {row: tweets.texts[pool[row]] for row in rows.tolist()}

    return choose(gain, is_new, CopyIndex(known), texts_of, n_tweets, n_random, seed)


def print_arms(arms: dict[str, Arm], tweets: Tweets, n_draws: int, arguments: argparse.Namespace) -> None:
    """Print a row an arm, as Markdown, and the differences, which are paired by draw."""
    measure = tweets.task.measure
    print(f"{arguments.labelled} labelled, {arguments.n} more, {n_draws} draws, {arguments.folds} folds\n")
    print(f"| the {arguments.n} tweets | rare among them | AP | {measure} |\n|---|---|---|---|")
    for name, arm in arms.items():
        print(f"| {name} | {_mean(arm.rare, 1)} | {_mean(arm.average_precision)} | {_mean(arm.score)} |")
    for name in list(arms)[:-1]:
        cells = []
        for values in ("rare", "average_precision", "score"):
            differences = np.subtract(getattr(arms[name], values), getattr(arms["random"], values))
            cells.append(f"{differences.mean():+.3f} ± {_error(differences):.3f}, more in {(differences > 0).sum()}")
        print(f"| {name} against random | {' | '.join(cells)} |")


def _mean(values: Sequence[float], digits: int = 3) -> str:
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _error(differences: np.ndarray) -> float:
    """Return twice the standard error of a mean."""
    return 2 * float(differences.std(ddof=1) / len(differences) ** 0.5) if len(differences) > 1 else float("nan")


if __name__ == "__main__":
    main()
