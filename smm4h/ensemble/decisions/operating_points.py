"""Operating points: what a recall costs in precision and in tweets to read, and what a target can promise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from smm4h.config.decision import SIDES, Costs, Decision, LeastCost, Target, Tuned
from smm4h.config.task import Task
from smm4h.ensemble.decisions.fit import adjust_for_averaging
from smm4h.ensemble.fitting import VotingConfig
from smm4h.metrics import (
    bootstrap_interval,
    confusion_matrix,
    find_measure,
    least_shown,
    sample_interval,
    saved_cost,
)

RECALLS = (0.8, 0.9, 0.95)  # of the table of operating points


@dataclass(frozen=True)
class TestPart:
    """Predictions of gold-labelled test tweets by single folds' models and by their means, and the gold labels."""

    folds: np.ndarray  # (n_folds, n_members, n_tweets, n_classes)
    means: np.ndarray  # (n_members, n_tweets, n_classes)
    gold: np.ndarray  # (n_tweets,) class indices
    groups: np.ndarray | None = None  # (n_tweets,) of strings


def counts_of(confusion: np.ndarray, positive: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Return by quantity how many tweets count and of how many, micro over the positive classes.

    recall: hits of gold positive tweets; precision: hits of flagged tweets; flagged: flagged tweets of all.
    """
    confusion, positive = np.asarray(confusion), list(positive)
    hits = int(confusion[positive, positive].sum())
    n_gold, n_flagged = int(confusion[positive].sum()), int(confusion[:, positive].sum())
    return {"recall": (hits, n_gold), "precision": (hits, n_flagged), "flagged": (n_flagged, int(confusion.sum()))}


def shares_of(confusion: np.ndarray, positive: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return recall, precision and share of flagged tweets, each as `value`, `interval`, `of` (number of tweets).

    See `metrics.sample_interval` for the interval.
    """
    return {
        quantity: {"value": hits / of if of else 0.0, "interval": list(sample_interval(hits, of)), "of": of}
        for quantity, (hits, of) in counts_of(confusion, positive).items()
    }


def promise_of(target: Decision, confusion: np.ndarray, positive: Sequence[int]) -> dict[str, Any] | None:
    """Return what a target promises, given a confusion matrix (n_classes, n_classes) of nested predictions.

    Any other decision promises nothing: None.

    Returns `target`, `value` and `interval` out of fold, the number of tweets `of` that it was measured on, and
    `words`: why the data can't promise that, or an empty text.
    """
    if not isinstance(target, Target):
        return None
    share = shares_of(confusion, positive)[target.quantity]
    return {"target": str(target), **share, "words": _doubts(target, share)}


def aim_of(decision: Decision, score: Mapping[str, Any], task: Task) -> dict[str, Any] | None:
    """Return what a decision by hand, for costs, or for another measure than the metric reaches; None for another one.

    Args:
        score: the result of `Task.score` for nested predictions.

    Returns `aim`, and of a decision by hand its `shares`, see `shares_of`, of another one `value` and its bootstrap
    `interval`. Costs are those of the errors of 1,000 tweets; beside them
    stands `unflagged`, the costs if no tweet were flagged. None, too, for tasks of several labels a tweet, of which the
    matrix does not tell which pairs belong together.
    """
    confusion, positive = np.array(score["confusion"]), list(task.objective.positive)
    if task.multi_label:
        return None
    if decision.by_hand and len(positive) < task.n_classes:
        return {"aim": str(decision), "shares": shares_of(confusion, positive)}
    if isinstance(decision, LeastCost) and decision.costs is not None:
        measure = partial(_costs_of_1000, costs=decision.costs)
        further = {"unflagged": 1000 * decision.costs.missed * float(confusion[positive].sum() / confusion.sum())}
    elif isinstance(decision, Tuned) and decision.measure not in (None, task.measure) and task.average == "pooled":
        measure, further = find_measure(decision.measure), {}
    else:
        return None
    value, interval = float(measure(confusion, positive)), list(bootstrap_interval(confusion, measure, positive))
    return {"aim": str(decision), "value": value, "interval": interval, **further}


def _costs_of_1000(confusion: np.ndarray, positive: Sequence[int], *, costs: Costs) -> np.ndarray:
    return -1000 * saved_cost(confusion, positive, missed=costs.missed, false=costs.false)


def _doubts(target: Target, share: dict[str, Any]) -> str:
    """Return why a target can't be promised, one sentence; an empty text where it can."""
    (low, high), of, name = share["interval"], share["of"], target.quantity
    if SIDES[name] == "<=":
        return "" if low <= target.bound else f"More tweets are flagged out of fold than {target.bound:g} of them."
    if of == 0:
        return f"No tweet is {'labelled positive' if name == 'recall' else 'flagged'}, so that nothing is shown."
    if high < target.bound:
        return f"Out of fold no decision reaches a {name} of {target.bound:g}; this one is the nearest."
    if target.bound - share["value"] > np.sqrt(target.bound * (1 - target.bound) / of):
        return f"Out of fold the {name} stays below {target.bound:g}: it is {share['value']:.2f}."
    best = least_shown(of)
    if best < target.bound:
        kind = "positive" if name == "recall" else "flagged"
        return (
            f"{of} {kind} tweets can't show a {name} of {target.bound:g}: if all of them were right, they would show "
            f"{best:.2f} or more."
        )
    return ""


def operating_points(
    config: VotingConfig,
    members: Sequence[str],
    probabilities: np.ndarray,
    gold: np.ndarray,
    test: TestPart | None,
    groups: np.ndarray | None = None,
    *,
    recalls: Sequence[float] = RECALLS,
) -> list[dict[str, Any]]:
    """Return for each recall what the vote promises: `target`, `out_of_fold` and `test` shares, and `words` of doubt.

    Args:
        config: how the members vote; its own decision is left aside.
        probabilities: (n_members, n_tweets, n_classes), out of fold.
        gold: class indices (n_tweets,).
        groups: (n_tweets,) of strings.
        test: None without test tweets or their gold labels.
    """
    positive, n_classes = config.objective.positive, probabilities.shape[2]
    if len(positive) == n_classes or config.space.problem_type is not None:
        return []  # every tweet is flagged, or tweets have several labels
    targets = [Target("recall", recall) for recall in recalls]
    sample = members, probabilities, gold, groups
    nested = config.predict_targets_out_of_fold(*sample, targets=targets)
    rules = config.fit_targets(*sample, targets=targets)
    rows = []
    for target, predicted, rule in zip(targets, nested, rules, strict=True):
        confusion, on_test = confusion_matrix(gold, predicted, n_classes), None
        if test is not None:
            adjusted = adjust_for_averaging(rule, test.folds, test.means, test.groups)
            found = confusion_matrix(test.gold, adjusted.predict(test.means), n_classes)
            on_test = shares_of(found, positive)
        rows.append(
            {
                "target": str(target),
                "out_of_fold": shares_of(confusion, positive),
                "test": on_test,
                "words": promise_of(target, confusion, positive)["words"],
            }
        )
    return rows
