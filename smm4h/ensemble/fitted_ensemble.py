"""The fitted ensemble: the voting rule that predicts labels from all members' probabilities, and ensemble.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smm4h.config.decision import ASKED
from smm4h.config.plans.plan import Plan, new_tweet_runs
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.ensemble.decisions.fit import adjust_for_averaging
from smm4h.ensemble.decisions.operating_points import promise_of
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.member_predictions import (
    MemberPredictions,
    fold_and_mean_predictions,
    mean_predictions,
    read_out_of_fold,
    write_out_of_fold,
)
from smm4h.models.label_spaces import rule_from_dict, space_of
from smm4h.models.voting import VotingRule, binary_threshold
from smm4h.utils.durable import read_checked_json, write_checked_json
from smm4h.utils.errors import InputError
from smm4h.utils.files import read_json, write_json

WITH_MODELS = "with_models"  # key of ensemble.json: the ensemble of the members that have models, fitted for itself


@dataclass(frozen=True)
class FittedEnsemble:
    """The content of ensemble.json: the voting rule that every script uses, and its scores."""

    rule: VotingRule
    labels: list[str]
    out_of_fold: dict[str, Any]  # scores of rules that were fitted without each tweet

    @classmethod
    def read(cls, path: Path, *, with_models: bool = False) -> "FittedEnsemble":
        """Read ensemble.json; raise `InputError` for a file that is missing or of another kind.

        Args:
            with_models: read the rule of the members that have models, and so can predict new tweets. It is another
                one where some members are predictions from elsewhere.
        """
        content = read_json(path)
        content = content.get(WITH_MODELS, content) if with_models else content
        try:
            return cls(rule_from_dict(content["rule"]), content["labels"], content["out_of_fold"])
        except (KeyError, TypeError):
            raise InputError(f"{path} is no ensemble of this project; remove it and give the job's command") from None

    def for_new_tweets(self, runs: Sequence[Run], part: str = "test") -> tuple["FittedEnsemble", MemberPredictions]:
        """Return the ensemble as `adjust_for_averaging` adjusts it, and its members' mean predictions over runs.

        An argmax decision, and one by hand, is not adjusted.
        """
        if not self.rule.moves_for_means:
            return self, self.mean_predictions(runs, part)
        folds, predictions = fold_and_mean_predictions(runs, part, self.rule.mean)
        return replace(
            self, rule=adjust_for_averaging(self.rule, folds, predictions.probabilities, predictions.groups)
        ), predictions

    def mean_predictions(self, runs: Sequence[Run], part: str = "test") -> MemberPredictions:
        """Return the members' mean predictions over the runs that predict new tweets, as the rule takes the mean."""
        runs = new_tweet_runs(runs, refits_alone=self.rule.refits_alone)
        return mean_predictions(runs, part, self.rule.mean)

    def predict(self, predictions: MemberPredictions) -> np.ndarray:
        """Return the class (n_tweets,) of each tweet; raise `InputError` for predictions of other members or labels."""
        if predictions.members != self.rule.members or predictions.labels != self.labels:
            raise InputError(f"the ensemble's rule is one for {', '.join(self.rule.members)}; let just these vote")
        return self.rule.predict(predictions.probabilities, predictions.groups)


def fit_ensemble(
    predictions: MemberPredictions, gold: np.ndarray, config: VotingConfig, task: Task
) -> tuple[FittedEnsemble, np.ndarray]:
    """Fit an ensemble to out-of-fold predictions.

    Args:
        gold: class indices (n_tweets,).

    Returns the ensemble, and each tweet's class (n_tweets,) by rules that were fitted without the tweet.
    """
    sample = predictions.members, predictions.probabilities, gold, predictions.groups
    predicted, rule = config.predict_out_of_fold(*sample), config.fit_rule(*sample)
    return FittedEnsemble(rule, predictions.labels, task.score(gold, predicted, predictions.groups)), predicted


def _weights_by_label(ensemble: FittedEnsemble) -> list[dict[str, float]]:
    """Return the class weights by label, one dict for all members, or one per member of a hard vote."""
    decided = space_of(ensemble.rule, ensemble.labels).decided
    return [dict(zip(decided, weights.tolist(), strict=True)) for weights in ensemble.rule.decision]


def _named_cuts(ensemble: FittedEnsemble) -> dict[str, list[dict[str, float]]]:
    """Return the class weights of groups with a cut of their own, as `_weights_by_label` does."""
    cuts = ensemble.rule.cuts or {}
    return {
        group: _weights_by_label(replace(ensemble, rule=replace(ensemble.rule, decision=decision)))
        for group, decision in cuts.items()
    }


def describe(ensemble: FittedEnsemble, task: Task) -> dict[str, Any]:
    """Return the content of ensemble.json: the rule in readable form, the scores, and the rule for scripts."""
    rule = ensemble.rule
    content: dict[str, Any] = {
        "task": task.name,
        "labels": ensemble.labels,
        "tuned_for": task.measured,
        "method": rule.method,
        "decision": _weights_by_label(ensemble),
    }
    if len(task.space.decided) == 2:
        content["thresholds"] = [binary_threshold(weights) for weights in rule.decision]
    if rule.cuts and task.multi_label:
        content["label_thresholds"] = {
            label: [binary_threshold(weights) for weights in rule.cuts[label]]
            for label in ensemble.labels
            if label in rule.cuts
        }
    if rule.cuts:
        content["cuts"] = _named_cuts(ensemble)
    if rule.weights is not None:
        content["weights"] = dict(zip(rule.members, rule.weights.tolist(), strict=True))
    return content | {"out_of_fold": ensemble.out_of_fold, "rule": rule.to_dict()}


def voting_config(plan: Plan, task: Task) -> VotingConfig:
    """Return how a job's members vote: as `ensemble.py --save` has stored it, or as the recipe says."""
    if saved := saved_rule(plan):
        return VotingConfig.for_task(task, **_of_rule(saved), group_cuts=plan.settings.group_cuts)
    return VotingConfig.from_settings(plan.settings, task)


def saved_rule_file(plan: Plan) -> Path:
    """Return the file of the rule that wins over the recipe's; it outlasts an ensemble.json that is made again."""
    return plan.output_dir / "saved_rule.json"


def saved_rule(plan: Plan) -> dict[str, str] | None:
    """Return the rule that `ensemble.py --save` has stored, as it was asked for; None where the recipe's is in use.

    Where its file is damaged, and in jobs of earlier versions, which had none, ensemble.json says it.

    Raises `InputError` where it can't be told.
    """
    path, derived = saved_rule_file(plan), plan.derived
    if saved := read_checked_json(path):
        return saved
    if plan.ensemble_file.exists() and derived.damage_of(plan.ensemble_file) is None:
        asked = read_json(plan.ensemble_file).get("asked", {})
        return _of_rule(asked) if asked.get("saved") else None
    if path.exists():
        raise InputError(
            f"{path} is damaged, and so is {plan.ensemble_file}, which has its content, too; remove {path}, give the "
            "job's command, and save the rule again by ensemble.py --save"
        )
    return None


def keep_saved_rule(plan: Plan, task: Task, config: VotingConfig) -> None:
    """Write the file of the rule that wins over the recipe's, where it is missing or damaged; remove any other."""
    path, derived = saved_rule_file(plan), plan.derived
    if config == VotingConfig.from_settings(plan.settings, task):
        if path.exists():  # first what would say in its place that a rule was saved
            derived.remove([plan.ensemble_file, path])
    elif read_checked_json(path) != _asked(config) or derived.damage_of(path) is not None:
        write_checked_json(path, _asked(config))
        derived.record(path)


def _asked(config: VotingConfig) -> dict[str, str]:
    asked = {"method": config.method, "decision": str(config.decision), "ties": config.ties}
    return asked | ({"predict_with": config.predict_with} if config.refits_alone else {})


def _of_rule(asked: Mapping[str, Any]) -> dict[str, str]:
    """Return what `_asked` has written, without what stands beside it; a rule for all models does not say so."""
    return {name: asked[name] for name in ASKED if name in asked}


def asked_config(plan: Plan, task: Task, asked: Mapping[str, str | None], members: Sequence[str] = ()) -> VotingConfig:
    """Return how a job's members vote, but for what is asked by the names of `ASKED`, None for the job's own.

    Args:
        members: those that vote; none: all.

    Raises `InputError` where refits are to predict alone that a voting member does not have.
    """
    own = voting_config(plan, task)
    given = {name: asked.get(name) or getattr(own, name) for name in ASKED}
    without = members_without_refit(plan, members or plan.members)
    if given["predict_with"] == "refits" and without:
        raise InputError(
            f"--predict_with refits: {plan.output_dir} has no refit of {without[0]}; leave this out, or train a job "
            "with refit: true"
        )
    return VotingConfig.for_task(task, **given, group_cuts=own.group_cuts)


def members_without_refit(plan: Plan, names: Sequence[str]) -> list[str]:
    """Return those of a job's members and baselines that have no refit; predictions from elsewhere need none.

    They do where all of the members are such, so that there is no refit at all.
    """
    refitted = {run.member.name for run in plan.runs if run.is_refit}
    outside = set(plan.members) - set(plan.members_with_models) if refitted & set(names) else set()
    return [name for name in names if name not in refitted | outside]


def unadjusted_note(plan: Plan, rule: VotingRule) -> str | None:
    """Return a notice on a decision that no test tweets could adjust; None for any other one."""
    if plan.identity["data"].get("test") is not None or not rule.moves_for_means:
        return None
    return (
        "the decision was fitted to tweets that one fold's model of each member predicts; new tweets are predicted by "
        "the mean of all its models, which may flag another share of them. With test tweets (--test_file, labels are "
        "not needed) it would have been adjusted to the mean"
    )


def saved_rule_note(plan: Plan, task: Task) -> str | None:
    """Return a notice on a rule that wins over the recipe's; None where the recipe's is in use."""
    own, recipe = voting_config(plan, task), VotingConfig.from_settings(plan.settings, task)
    if own == recipe:
        return None
    names = [f"{config.method}, {config.decision}" for config in (own, recipe)]
    if own.predict_with != recipe.predict_with:
        models = {"all": "all models", "refits": "refits alone"}
        names = [f"{name}, {models[config.predict_with]}" for name, config in zip(names, (own, recipe), strict=True)]
    return f"members vote as ensemble.py --save has stored it ({names[0]}), not as the recipe says ({names[1]})"


def is_outdated(plan: Plan, config: VotingConfig) -> bool:
    """Return whether ensemble.json was fitted for another rule: the costs were changed, or a `--save` was killed."""
    if not plan.ensemble_file.exists():
        return False
    asked = read_json(plan.ensemble_file).get("asked")
    return asked is not None and _of_rule(asked) != _asked(config)


def write_ensemble(plan: Plan, config: VotingConfig, task: Task, *, has_test: bool) -> None:
    """Fit the ensemble of all members to the out-of-fold table, and write it as it applies to new tweets.

    The ensemble's own labels and probabilities are added to the table first: labels by rules that were fitted without
    each tweet; probabilities by one rule, since those of several rules have no common scale.

    Predictions from elsewhere cannot be had for new tweets. Where some members are such, another rule is fitted to the
    rest: a vote with a member left out would have weights and a decision that were fitted for another vote.

    Args:
        has_test: whether there are test tweets, which the rule is adjusted on; see `adjust_for_averaging`.
    """
    predictions, gold = read_out_of_fold(plan.out_of_fold_file)

    def fitted_content(names: Sequence[str]) -> dict[str, Any]:
        part, runs = predictions.of_members(names), plan.runs_of(names)
        fitted, predicted = fit_ensemble(part, gold, config, task)
        content = describe(fitted.for_new_tweets(runs)[0] if has_test else fitted, task)
        if promise := promise_of(config.decision, fitted.out_of_fold["confusion"], task.objective.positive):
            content["promise"] = promise
        content["fitted_decision"] = _weights_by_label(fitted)  # on single folds, before `adjust_for_averaging`
        content["as_fitted"] = task.score(gold, fitted.predict(part), part.groups)
        if list(names) == predictions.members:
            combined = fitted.rule.combine(predictions.probabilities)
            write_out_of_fold(plan.out_of_fold_file, predictions, gold, predicted, combined)
        return content

    content, with_models = fitted_content(predictions.members), plan.members_with_models
    content["asked"] = {**_asked(config), "saved": config != VotingConfig.from_settings(plan.settings, task)}
    if with_models and with_models != predictions.members:
        content[WITH_MODELS] = fitted_content(with_models)
    write_json(plan.ensemble_file, content)
    for path in (plan.out_of_fold_file, plan.ensemble_file):
        plan.derived.record(path)
