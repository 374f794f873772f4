"""Two finished jobs on the tweets that they share: scores of both votes, and paired differences."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from smm4h.config.plans.plan import Plan, read_plan
from smm4h.config.task import Task
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.outputs.labels import in_order_of
from smm4h.ensemble.fitted_ensemble import voting_config
from smm4h.ensemble.member_predictions import VOTE, read_out_of_fold
from smm4h.inference.saved_rule import JobParts
from smm4h.metrics import Measure, flagged, paired_bootstrap, precision, recall
from smm4h.utils.errors import InputError

MOST_OTHER_GOLD = 0.01  # share of shared ids with other gold labels, above which the ids are of other tweets


@dataclass(frozen=True)
class Labelled:
    """Tweets by id with gold and predicted class indices, (n_tweets,) each."""

    ids: list[str]
    gold: np.ndarray
    predicted: np.ndarray

    def by_key(self) -> dict[tuple[str, int], int]:
        """Return the row of each id and number of its occurrence, since ids may be repeated."""
        seen: Counter[str] = Counter()
        rows = {}
        for row, tweet_id in enumerate(self.ids):
            rows[tweet_id, seen[tweet_id]] = row
            seen[tweet_id] += 1
        return rows


@dataclass(frozen=True)
class Comparison:
    """The votes of two jobs on shared tweets; `scores` are results of `Task.score`, one a job, with the share flagged.

    `n_own` are the tweets that each job has.
    `differences` are by quantity: the metric, precision, recall, and the share of flagged tweets, each first minus
    second with interval and p; see `metrics.paired_bootstrap`.
    """

    part: str  # `out of fold` or `test`
    n_tweets: int
    n_own: tuple[int, int]
    scores: tuple[dict[str, Any], dict[str, Any]]
    differences: dict[str, dict[str, Any]]


def compare_jobs(
    folders: Sequence[Path], gold_file: Path | None = None, encoding: str | None = None
) -> tuple[list[Comparison], Task, list[str]]:
    """Return the comparisons of two jobs out of fold and, where gold is known, on test; their task; and notices.

    Raises `InputError` for jobs of other labels or metrics, and for jobs that share no labelled tweet.
    """
    (left, task), (right, other) = (read_plan(folder) for folder in folders)
    check_same_task(folders, task, other)
    pair = [out_of_fold_labels(plan, task) for plan in (left, right)]
    check_same_gold(folders, pair, same=left.identity["data"]["labelled"] == right.identity["data"]["labelled"])
    comparisons, notices = [compare("out of fold", *pair, task)], []
    tests = [test_labels(plan, task, gold_file, encoding) for plan in (left, right)]
    if all(tests):
        comparisons.append(compare("test", *tests, task))
    else:
        notices.append("no comparison on test: the gold labels of a job's test tweets are not known; --gold names them")
    return [comparison for comparison in comparisons if comparison], task, notices


def check_same_task(folders: Sequence[Path], task: Task, other: Task) -> None:
    """Raise `InputError` for jobs whose scores can't be compared."""
    for key in ("labels", "positive", "measure", "multi_label"):
        first, second = getattr(task, key), getattr(other, key)
        if first != second:
            raise InputError(
                f"{folders[0]} and {folders[1]} have other {key}: {first} and {second}; compare jobs of one task"
            )


def check_same_gold(folders: Sequence[Path], pair: Sequence[Labelled], *, same: bool) -> None:
    """Raise `InputError` where jobs of other files share no id, or ids whose gold labels differ."""
    keys = [labelled.by_key() for labelled in pair]
    shared = [key for key in keys[0] if key in keys[1]]
    if not shared:
        raise InputError(f"{folders[0]} and {folders[1]} share no labelled tweet, by id; there is nothing to compare")
    gold = [np.array([labelled.gold[rows[key]] for key in shared]) for labelled, rows in zip(pair, keys, strict=True)]
    if not same and (gold[0] != gold[1]).mean() > MOST_OTHER_GOLD:
        raise InputError(
            f"{folders[0]} and {folders[1]} have other gold labels for {(gold[0] != gold[1]).sum()} of {len(shared)} "
            "shared ids, so that these are other tweets; compare jobs of the same labelled files"
        )


def compare(part: str, left: Labelled, right: Labelled, task: Task) -> Comparison | None:
    """Return the comparison on the tweets that both have, with the same gold label; None where there is none."""
    ours, theirs = left.by_key(), right.by_key()
    rows = [(row, theirs[key]) for key, row in ours.items() if key in theirs]
    rows = [(a, b) for a, b in rows if left.gold[a] == right.gold[b]]
    if not rows:
        return None
    first, second = np.array(rows).T
    gold, predicted = left.gold[first], (left.predicted[first], right.predicted[second])
    task = replace(task, average="pooled")  # groups are scored by each job's own report
    measures: dict[str, Measure] = {task.measure: task.metric, "precision": precision, "recall": recall}
    if len(task.positive) < task.n_classes:
        measures["flagged"] = flagged
    differences = (
        {task.measure: task.compare(gold, *predicted)}
        if task.multi_label
        else {
            name: paired_bootstrap(gold, *predicted, task.n_classes, measure, task.positive_indices)
            for name, measure in measures.items()
        }
    )
    scores = tuple(task.score(gold, labels) for labels in predicted)
    if "flagged" in measures:
        for score in scores:
            score["flagged"] = float(flagged(np.array(score["confusion"]), task.positive_indices))
    return Comparison(part, len(rows), (len(left.ids), len(right.ids)), scores, differences)


def out_of_fold_labels(plan: Plan, task: Task) -> Labelled:
    """Return the labelled tweets with the vote's label by rules that were fitted without each tweet."""
    plan.derived.check(plan.out_of_fold_file)
    table = pd.read_parquet(plan.out_of_fold_file)
    if VOTE in table.columns:
        predicted = task.indices(table[VOTE])
    else:  # an older job's
        predictions, gold = read_out_of_fold(plan.out_of_fold_file)
        config = voting_config(plan, task)
        predicted = config.predict_out_of_fold(predictions.members, predictions.probabilities, gold)
    return Labelled(table["id"].astype(str).tolist(), task.indices(table["gold"]), predicted)


def test_labels(plan: Plan, task: Task, gold_file: Path | None, encoding: str | None) -> Labelled | None:
    """Return the test tweets with the final vote's labels; None without test tweets or their gold labels."""
    votes = plan.output_dir / "votes" / "final.tsv"
    if not votes.is_file():
        return None
    plan.derived.check(votes)
    final = read_labels(votes, task if task.multi_label else None)
    if gold_file is not None:
        gold = in_order_of(read_labels(gold_file, task, encoding), final.ids, votes).classes_in(task.space)
    else:
        gold = JobParts.of_folder(plan.output_dir).test_gold
    return None if gold is None else Labelled(final.ids.to_pylist(), gold, final.classes_in(task.space))


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return names by which two folders are told apart: their own, or their paths where these are equal."""
    names = [os.path.basename(os.path.realpath(folder)) for folder in folders]
    return names if names[0] != names[1] else [str(folder) for folder in folders]
