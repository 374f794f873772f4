"""What refits, votes and learners from unlabelled tweets add to one fine-tuning, over draws of real tweets, paired.

python benchmarks/gains.py --task tasks/task2_en.yaml --data_dir DIR --model_name_or_path ENCODER \\
    --output_dir runs/gains -- --n_folds 3

DIR holds the task's official files and the gold labels of its test file. Each draw takes `--tweets` labelled tweets,
others to test on, and of the rest `--pool_tweets` without their labels. Three jobs are trained on each: the members of
`recipes/rare.yaml` with learners, `benchmarks/unlabelled.yaml`; the paper's recipe with a learning rate that suits
small encoders; and `benchmarks/stock.yaml`. `--jobs` chooses among them and `rare`, which is `recipes/rare.yaml`
without learners. A row of the table is a choice of members and models. `--share` thins the rare labels out. The same
command again goes on; finished jobs are only scored. Flags behind `--` are given to all jobs.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import quality
from sklearn.metrics import average_precision_score

from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.config.task_file import read_task
from smm4h.ensemble.decisions.fit import adjust_for_averaging
from smm4h.ensemble.expected_score import LabelledTweets, NewTweets, expected_score
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.member_predictions import (
    fold_and_mean_predictions,
    out_of_fold_predictions,
)
from smm4h.inference.finished_job import FinishedJob
from smm4h.utils.console import silence_libraries

N_SAMPLES = 1000
UNLABELLED, RARE, PAPER, STOCK = "unlabelled", "rare", "paper", "stock"
RECIPES = {
    RARE: ["recipes/rare.yaml"],
    UNLABELLED: ["benchmarks/unlabelled.yaml"],
    PAPER: ["recipes/smm4h2020.yaml", "--learning_rate", "3e-4", "--adam_beta2", "0.98"],
    STOCK: ["benchmarks/stock.yaml"],
}


@dataclass(frozen=True)
class Row:
    """A choice of a job's members and models.

    Args:
        job: whose members they are; those of `RARE` are also teachers in `UNLABELLED`.
        members: a regular expression of their whole names.
        refits: let the refits alone predict, not the mean of them and of the folds' models.
        one_by_one: the mean score of the members, each on its own, instead of their vote's.
    """

    name: str
    job: str
    members: str
    decision: str = "tuned"
    refits: bool = False
    one_by_one: bool = False
    method: str = "soft"


ROWS = (
    Row("teachers and learners", UNLABELLED, ".*"),
    Row("learners", UNLABELLED, "learner.*"),
    Row("learners, refits alone", UNLABELLED, "learner.*", refits=True),
    Row("one learner's refit", UNLABELLED, "learner.*", refits=True, one_by_one=True),
    Row("learners, pulled", UNLABELLED, "learner.*", "pulled"),
    Row("teachers: rare.yaml", RARE, "(?!learner).*"),
    Row("teachers: rare.yaml, pulled", RARE, "(?!learner).*", "pulled"),
    Row("teachers, refits alone", RARE, "(?!learner).*", refits=True),
    Row("teachers without TF-IDF", RARE, "last.*"),
    Row("one teacher's refit", RARE, "last.*", refits=True, one_by_one=True),
    Row("TF-IDF", RARE, "tfidf.*"),
    Row("the paper's recipe", PAPER, ".*", "argmax", method="hard"),
    Row("stock: vote, folds and refits", STOCK, ".*"),
    Row("stock: vote, folds and refits, pulled", STOCK, ".*", "pulled"),
    Row("stock: vote of the refits", STOCK, ".*", refits=True),
    Row("stock: vote of the refits, argmax", STOCK, ".*", "argmax", refits=True),
    Row("one stock fine-tuning, tuned", STOCK, ".*", refits=True, one_by_one=True),
    Row("one stock fine-tuning, argmax", STOCK, ".*", "argmax", refits=True, one_by_one=True),
)


@dataclass(frozen=True)
class Draw:
    """A draw's finished jobs by name, and its test tweets' class indices (n_tweets,)."""

    jobs: dict[str, FinishedJob]
    gold: np.ndarray
    task: Task
    seed: int

    @cached_property
    def samples(self) -> np.ndarray:
        """How often each bootstrap sample has each test tweet, (n_samples, n_tweets); the first has each once."""
        n_tweets = len(self.gold)
        drawn = np.random.default_rng(self.seed).multinomial(n_tweets, np.full(n_tweets, 1 / n_tweets), N_SAMPLES)
        return np.concatenate([np.ones((1, n_tweets), dtype=int), drawn]).astype(float)

    def scores(self, choices: np.ndarray) -> np.ndarray:
        """Return the task's metric (n_samples,) of class indices (n_tweets,) on each sample."""
        n_classes = self.task.n_classes
        cells = np.eye(n_classes**2)[self.gold * n_classes + choices]
        objective = self.task.objective
        return objective.measure((self.samples @ cells).reshape(-1, n_classes, n_classes), objective.positive)


def main() -> None:
    arguments = read_arguments()
    silence_libraries()
    task = read_task(arguments.task)
    draws = []
    for seed in arguments.seeds:
        draws.append(train_draw(seed, task, arguments))
        print_rows(draws, arguments)


def read_arguments() -> argparse.Namespace:
    parser = quality.jobs_parser(__doc__, tweets=500, test_tweets=2000)
    parser.add_argument("--pool_tweets", type=int, default=5000, help="unlabelled tweets, at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the draws")
    parser.add_argument(
        "--jobs", nargs="+", choices=RECIPES, default=[UNLABELLED, PAPER, STOCK], help="that are trained and scored"
    )
    return parser.parse_args()


def train_draw(seed: int, task: Task, arguments: argparse.Namespace) -> Draw:
    """Draw tweets, and train all jobs on them by the front door."""
    own = argparse.Namespace(**{**vars(arguments), "seed": seed, "output_dir": arguments.output_dir / str(seed)})
    gold = quality.draw(own, task, own.pool_tweets)
    flags = ["--task", own.task, "--model_name_or_path", own.model_name_or_path, *own.flags]
    for name in own.jobs:
        recipe, *settings = RECIPES[name]
        pool = ["--unlabelled_file", own.output_dir / "pool.tsv"] if name == UNLABELLED else []
        words = [*flags, *settings, *pool]
        quality.train_job(quality.ROOT / recipe, own.output_dir / name, own.output_dir, words)
    jobs = {name: FinishedJob.read(own.output_dir / name) for name in own.jobs}
    if UNLABELLED in jobs:
        jobs.setdefault(RARE, jobs[UNLABELLED])
    return Draw(jobs, gold, task, seed)


@dataclass(frozen=True)
class Found:
    """What a vote says of the test tweets, and is expected to score on them."""

    choices: np.ndarray  # (n_tweets,) class indices
    rare: np.ndarray  # (n_tweets,) probabilities of a positive label
    expected: dict | None  # see `expected_score`


def votes(row: Row, draw: Draw) -> Iterator[Found]:
    """Yield what a row's vote says, or each of its members on its own."""
    job = draw.jobs[row.job]
    runs = [run for run in job.plan.runs if re.fullmatch(row.members, run.member.name)]
    names = dict.fromkeys(run.member.name for run in runs)
    voting = [[run for run in runs if run.member.name == name] for name in names] if row.one_by_one else [runs]
    for voters in voting:
        yield vote(voters, row, job, draw.task)


def vote(runs: Sequence[Run], row: Row, job: FinishedJob, task: Task) -> Found:
    """Fit a vote out of fold, and let it label the test tweets."""
    held_out = out_of_fold_predictions(runs)
    models = "refits" if row.refits else "all"
    config = VotingConfig.for_task(task, row.method, row.decision, "probability", predict_with=models)
    rule = config.fit_rule(held_out.members, held_out.probabilities, job.gold)
    folds, means = fold_and_mean_predictions(runs, "test", rule.mean, refits_alone=rule.refits_alone)
    means = means.probabilities
    adjusted = rule if rule.is_argmax else adjust_for_averaging(rule, folds, means)
    labelled, new = LabelledTweets(held_out.probabilities, job.gold), NewTweets(folds, means)
    expected = None if row.job == PAPER else expected_score(rule, adjusted, labelled, new, task.objective)
    rare = adjusted.combine(means)[:, task.positive_indices].sum(axis=1)
    return Found(adjusted.predict(means), rare, expected)


@dataclass(frozen=True)
class Score:
    """How a row did in a draw, means over single members."""

    samples: np.ndarray  # (1 + N_SAMPLES,) the task's metric on all test tweets, and on bootstrap samples of them
    average_precision: float
    expected: list[tuple[float, bool]]  # of each vote: its error, and whether its interval holds the score


def score_row(row: Row, draw: Draw) -> Score:
    is_rare = np.isin(draw.gold, draw.task.positive_indices)
    samples, precisions, expected = [], [], []
    for found in votes(row, draw):
        samples.append(draw.scores(found.choices))
        precisions.append(average_precision_score(is_rare, found.rare))
        if found.expected:
            (low, high), score = found.expected["interval"], samples[-1][0]
            expected.append((found.expected["value"] - score, bool(low <= score <= high)))
    return Score(np.mean(samples, axis=0), float(np.mean(precisions)), expected)


def print_rows(draws: Sequence[Draw], arguments: argparse.Namespace) -> None:
    """Print the table of all draws so far, as Markdown."""
    task = draws[0].task
    n_rare = int(np.isin(draws[0].gold, task.positive_indices).sum())
    print(f"\n{task.name}, {len(draws)} draws of {arguments.tweets} labelled tweets; rare test tweets: {n_rare}\n")
    print(
        f"| | test {task.measure} (lowest to highest) | AP | better than one stock fine-tuning by | expected: error |"
    )
    print("|---|---|---|---|---|")
    by_row = {row.name: [score_row(row, draw) for draw in draws] for row in ROWS if row.job in draws[0].jobs}
    base = by_row.get(ROWS[-1].name)
    for name, scores in by_row.items():
        found = [score.samples[0] for score in scores]
        cells = [
            f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})",
            f"{np.mean([score.average_precision for score in scores]):.3f}",
            difference_cell(scores, base) if base else "-",
            expected_cell([pair for score in scores for pair in score.expected]),
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def difference_cell(scores: Sequence[Score], base: Sequence[Score]) -> str:
    """Return the mean over draws of the paired difference of two rows, with its interval."""
    differences = np.mean([own.samples - one.samples for own, one in zip(scores, base, strict=True)], axis=0)
    low, high = np.quantile(differences[1:], [0.025, 0.975])
    return f"{differences[0]:+.3f} ({low:.3f} to {high:.3f})"


def expected_cell(pairs: Sequence[tuple[float, bool]]) -> str:
    """Return the expected scores' mean error, and how many of their intervals hold the score."""
    if not pairs:
        return "-"
    errors, holds = zip(*pairs, strict=True)
    return f"{np.mean(errors):+.3f}, holds {sum(holds)} of {len(holds)}"


if __name__ == "__main__":
    main()
