"""From a decision that is asked for to class weights, fitted or set by hand, and adjusted for new tweets."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from smm4h.config.decision import Argmax, Costs, Decision, LeastCost, Pulled, Target, Threshold, Tuned, Weights
from smm4h.ensemble.decisions.thresholds import (
    CUTS,
    N_SAMPLES,
    FlagPath,
    class_shares,
    flag_path,
    match_class_shares,
    pulled_to_gold,
    scaled,
    stepped_path,
    tune_class_weights,
    tune_group_cuts,
)
from smm4h.metrics import Objective, find_measure, saved_cost
from smm4h.models.label_spaces import space_of
from smm4h.models.voting import VotingRule, decide

FEWEST_ADJUSTED = 20  # tweets of a group on which its cut is adjusted
BASE_SAMPLES = 10  # bootstrap samples for the weights from which a target's cut starts


def fit_decision(
    rule: VotingRule,
    probabilities: np.ndarray,
    gold: np.ndarray,
    objective: Objective,
    decision: Decision,
    n_samples: int = N_SAMPLES,
    groups: np.ndarray | None = None,
) -> VotingRule:
    """Return the rule with the class weights that a decision asks for; arguments as in `fit_rule`."""
    if isinstance(decision, Argmax):
        return rule
    weights = _class_weights(rule, probabilities, gold, objective, decision, n_samples, groups)
    return replace(rule, decision=weights, chosen=reason(decision), by_hand=decision.by_hand)


def _class_weights(
    rule: VotingRule, probabilities, gold, objective: Objective, decision: Decision, n_samples: int, groups
) -> np.ndarray:
    """Return class weights (1, n_classes), of a hard vote (n_members, n_classes)."""
    match decision:
        case Threshold(value):
            positive = objective.positive[0] if len(objective.positive) == 1 else 1
            weights = np.array([value, value])
            weights[positive] = 1 - value
            return np.tile(weights / np.sqrt(weights.prod()), (len(rule.decision), 1))
        case Weights(by_label):
            return np.tile([weight for _, weight in by_label], (len(rule.decision), 1))
        case Target():
            return target_weights(rule, probabilities, gold, objective, [decision], groups)[0]
    tuned_for, are_pulled = objective_of(decision, objective), isinstance(decision, Pulled)
    return _tuned(rule, probabilities, gold, tuned_for, n_samples, groups, are_pulled=are_pulled)


def objective_of(decision: Decision, objective: Objective) -> Objective:
    """Return what a decision's class weights are tuned for; by default the given objective."""
    match decision:
        case Tuned(str(measure)):
            return replace(objective, measure=find_measure(measure))
        case LeastCost(Costs(missed, false)):
            return replace(objective, measure=partial(saved_cost, missed=missed, false=false))
    return objective


def reason(decision: Decision) -> str:
    """Return how class weights were chosen, for `VotingRule.chosen`."""
    match decision:
        case Tuned(str(measure)):
            return f"tuned out of fold for {measure}"
        case Pulled():
            return (
                "tuned out of fold for the measure, and pulled half-way to giving each positive label as often as the "
                "labelled tweets have it"
            )
        case LeastCost(costs):
            return f"tuned out of fold for the least cost ({costs})"
        case Target("flagged", bound):
            return f"chosen out of fold so that {bound:g} of the tweets are flagged at most"
        case Target(quantity, bound):
            return f"chosen out of fold for a {quantity} of {bound:g} or more"
    return "set by hand" if decision.by_hand else "tuned out of fold for the measure"


def parts_of(rule: VotingRule, probabilities: np.ndarray) -> Sequence[np.ndarray]:
    """Return the probabilities (n_tweets, n_classes) that class weights are for: members', or the combined ones."""
    return probabilities if rule.method == "hard" else [rule.combine(probabilities)]


def _tuned(
    rule: VotingRule, probabilities, gold, objective: Objective, n_samples: int, groups, *, are_pulled: bool = False
) -> np.ndarray:
    """Return class weights for which the objective is highest, for each of `parts_of`; see `tune_decision`."""
    sample = gold, objective, n_samples, groups
    return np.stack([tune_decision(part, *sample, are_pulled=are_pulled) for part in parts_of(rule, probabilities)])


def target_weights(
    rule: VotingRule,
    probabilities: np.ndarray,
    gold: np.ndarray,
    objective: Objective,
    targets: Sequence[Target],
    groups: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Return class weights for each target, (1, n_classes), of a hard vote (n_members, n_classes).

    A cut scales the weights of all positive classes together. What they are before says how these classes share the
    flagged tweets, and among a hard vote's members, what each of them finds likely; they are tuned for the objective.
    Only tweets that are scored count.
    """
    base = np.ones_like(rule.decision)
    if probabilities.shape[2] > 2 or rule.method == "hard":
        base = _tuned(rule, probabilities, gold, objective, BASE_SAMPLES, groups)
    kept = objective.cells(gold, groups, probabilities.shape[2]).kept
    path = _path(rule, base, probabilities[:, kept], gold[kept], objective.positive)
    cuts = [CUTS[target.quantity](path, target.bound) for target in targets]
    return [scaled(base, objective.positive, path.scales[cut]) for cut in cuts]


def _path(rule: VotingRule, base: np.ndarray, probabilities, gold, positive: Sequence[int]) -> FlagPath:
    """Return what becomes of the tweets as the positive classes' weights are scaled up."""
    if rule.method != "hard":
        return flag_path(rule.combine(probabilities), base[0], gold, positive)
    switches = [
        flag_path(part, weights, gold, positive).scales for part, weights in zip(probabilities, base, strict=True)
    ]

    def predict(scale: float) -> np.ndarray:
        return replace(rule, decision=scaled(base, positive, scale)).predict(probabilities)

    return stepped_path(predict, np.concatenate(switches), gold, positive)


def tune_decision(
    probabilities: np.ndarray,
    gold: np.ndarray,
    objective: Objective,
    n_samples: int,
    groups: np.ndarray | None,
    *,
    are_pulled: bool = False,
) -> np.ndarray:
    """Return one decision's class weights (n_classes,), tuned on the tweets that are scored; see `fit_rule`.

    Args:
        are_pulled: whether they are pulled to the shares of these tweets, see `pulled_to_gold`.
    """
    cells = objective.cells(gold, groups, probabilities.shape[1])
    sample = probabilities[cells.kept], gold[cells.kept]
    tuned = tune_class_weights(*sample, cells.measure, objective.positive, n_samples=n_samples, rows=cells.rows)
    return pulled_to_gold(sample[0], tuned, sample[1], objective.positive) if are_pulled else tuned


def tune_cuts(
    probabilities: np.ndarray,
    gold: np.ndarray,
    objective: Objective,
    n_samples: int,
    groups: np.ndarray,
    cut_groups: Sequence[str],
    decision: np.ndarray,
    *,
    are_pulled: bool = False,
) -> dict[str, np.ndarray]:
    """Return the class weights (n_classes,) of `cut_groups`, where all other tweets have those of `decision`.

    Args:
        are_pulled: whether each cut is pulled to the shares of its own group's tweets.
    """

    def tune(part: np.ndarray, labels: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
        of = objective.measure, objective.positive
        tuned = tune_class_weights(part, labels, *of, n_samples=n_samples, rest=rest)
        return pulled_to_gold(part, tuned, labels, objective.positive) if are_pulled else tuned

    kept = objective.cells(gold, groups, probabilities.shape[1]).kept
    sample = probabilities[kept], gold[kept], groups[kept]
    return tune_group_cuts(*sample, cut_groups, decision, tune, pooled=not objective.averages_groups)


def adjust_for_averaging(
    rule: VotingRule, folds: np.ndarray, means: np.ndarray, groups: np.ndarray | None = None
) -> VotingRule:
    """Return a rule fitted on single folds' probabilities, adjusted for members that are means over their runs.

    Held-out tweets are predicted by one fold's model, new tweets by the mean of all models. A mean of models that
    disagree predicts rare classes less often, or more often, than each model does. The class weights are therefore
    moved until each class gets the share of tweets that ensembles of single folds give it on average, on the same
    tweets. No labels are needed. A rule for refits alone stays as it is: a refit is a single model, as a fold's is.

    A group's cut is adjusted on that group's tweets. Where they are few, it is moved as the decision for all tweets is.

    Args:
        folds: (n_folds, n_members, n_tweets, n_classes) probabilities of unlabelled tweets.
        means: (n_members, n_tweets, n_classes), of the same tweets.
        groups: (n_tweets,) of the same tweets.
    """
    if rule.refits_alone:
        return rule
    space = space_of(rule, ())
    if space.problem_type is not None:
        pairs, labels = (space.to_decide(folds), space.to_decide(means)), space.decided_groups(means.shape[1], None)
        return space.rule(adjust_for_averaging(rule.over_pairs, *pairs, labels))
    decision = _adjusted(rule, rule.decision, folds, means)
    cuts, shift = {}, decision / rule.decision
    for name, cut in (rule.cuts or {}).items():
        rows = np.flatnonzero(groups == name) if groups is not None else []
        is_enough = len(rows) >= FEWEST_ADJUSTED
        cuts[name] = _adjusted(rule, cut, folds[:, :, rows], means[:, rows]) if is_enough else cut * shift
    return replace(rule, decision=decision, cuts=cuts or None)


def _adjusted(rule: VotingRule, decisions: np.ndarray, folds: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return class weights (n_rows, n_classes) as `adjust_for_averaging` moves them, on tweets that they decide."""
    n_classes = folds.shape[3]
    if rule.method == "hard":
        singles, averages = folds.swapaxes(0, 1), means
    else:
        singles, averages = np.stack([rule.combine(fold) for fold in folds])[None], rule.combine(means)[None]
    decision = []
    for weights, per_fold, average in zip(decisions, singles, averages, strict=True):
        shares = np.mean([class_shares(decide(probs, weights), n_classes) for probs in per_fold], axis=0)
        decision.append(match_class_shares(average, weights, shares))
    return np.stack(decision)
