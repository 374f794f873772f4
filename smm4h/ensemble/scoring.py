"""Leaderboard of a job's members, votes and baselines: scores out of fold, and on the test tweets by gold labels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from smm4h.config.decision import Target
from smm4h.config.plans.plan import Plan
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.ensemble.decisions.operating_points import TestPart, operating_points
from smm4h.ensemble.expected_score import LabelledTweets, NewTweets, expected_score
from smm4h.ensemble.fitted_ensemble import FittedEnsemble, fit_ensemble
from smm4h.ensemble.fitting import VotingConfig
from smm4h.ensemble.member_predictions import (
    VOTE,
    MemberPredictions,
    fold_and_mean_predictions,
    out_of_fold_predictions,
    read_out_of_fold,
)
from smm4h.models.voting import METHODS

FINAL = VOTE
LEAKY = " *"  # suffix of a name whose teachers saw the held-out tweets
Scores = dict[str, dict[str, Any]]  # by name: `out_of_fold` and `test`, each the result of `Task.score`, or None


class Leaderboard:
    """Scores of members, votes and baselines; out of fold, by decisions and rules that were fitted without each tweet.

    Args:
        config: how the job's members vote.
        gold: class indices (n_tweets,) of the labelled tweets.
        test_gold: class indices of the test tweets, where known.
    """

    def __init__(
        self, plan: Plan, config: VotingConfig, task: Task, gold: np.ndarray, test_gold: np.ndarray | None
    ) -> None:
        self.plan, self.config, self.task, self.gold, self.test_gold = plan, config, task, gold, test_gold
        self.votes: dict[str, np.ndarray] = {}  # by name, out-of-fold class indices (n_tweets,)
        self.fitted: dict[str, tuple[FittedEnsemble, Sequence[Run]]] = {}  # by name, the ensemble and its runs
        self.groups: np.ndarray | None = None  # (n_tweets,) of the labelled tweets
        self.scores: Scores = {}

    def add_vote(self, name: str, runs: Sequence[Run], config: VotingConfig) -> None:
        """Score the vote of one or more members, given their runs."""
        held_out = out_of_fold_predictions(runs)
        self.groups = held_out.groups
        ensemble, self.votes[name] = fit_ensemble(held_out, self.gold, config, self.task)
        self.fitted[name] = ensemble, runs
        self.scores[name] = {"out_of_fold": ensemble.out_of_fold, "test": None}
        if self.test_gold is not None:
            adjusted, predictions = ensemble.for_new_tweets(runs)
            self.scores[name]["test"] = self.task.score(
                self.test_gold, adjusted.predict(predictions), predictions.groups
            )

    def add_members(self, names: Sequence[str]) -> None:
        """Score each member alone."""
        for name in names:
            self.add_vote(name, self.plan.runs_of([name]), self.config.for_one)

    def add_baselines(self) -> list[str]:
        """Score the baselines whose runs are done and return their row names.

        Each baseline gets a fitted decision, so that the ensemble is compared with the baseline at its best.
        """
        names = list(dict.fromkeys(run.member.name for run in self.plan.baselines))
        for name in names:
            runs = [run for run in self.plan.baselines if run.member.name == name]
            if all(run.is_done() for run in runs):
                self.add_vote(baseline_row(name), runs, self.config.for_baseline)
        return [baseline_row(name) for name in names if baseline_row(name) in self.scores]

    def compare(self, name: str, reference: str) -> dict[str, Any]:
        """Return the difference between two out-of-fold scores, its interval and p; see `metrics.paired_bootstrap`."""
        predicted = self.votes[name], self.votes[reference]
        difference = self.task.compare(self.gold, *predicted, self.groups)
        return {"name": reference, "score": self.scores[reference]["out_of_fold"][self.task.measure], **difference}

    def expected(self, name: str) -> dict[str, Any] | None:
        """Return what a vote is expected to score on new tweets; None without test tweets, or with too few of them.

        Returns the result of `expected_score`, the name (`vote`) and the vote's own `out_of_fold` score; where refits
        predict alone, that, too.
        """
        if self.plan.identity["data"].get("test") is None:
            return None
        (ensemble, runs), rule = self.fitted[name], self.fitted[name][0].rule
        held_out, (adjusted, means) = out_of_fold_predictions(runs), ensemble.for_new_tweets(runs)
        folds, _ = fold_and_mean_predictions(runs, "test", rule.mean)
        labelled = LabelledTweets(held_out.probabilities, self.gold, held_out.groups)
        new = NewTweets(folds, means.probabilities, means.groups)
        expected = expected_score(rule, adjusted.rule, labelled, new, self.task.objective)
        own = self.scores[name]["out_of_fold"][self.task.measure]
        models = {"refits_alone": True} if rule.refits_alone else {}
        return None if expected is None else {"vote": name, **expected, "out_of_fold": own, **models}

    def suspicious_members(self) -> dict[str, str]:
        """Return by name why members from elsewhere may have seen the gold labels of the labelled tweets.

        They are right on every labelled tweet; or the intervals of their scores out of fold and on the test tweets do
        not meet, while half of the trained members lose less than half as much.
        """
        outside, found = [m for m in self.plan.members if m not in self.plan.members_with_models], {}
        measure, scored = self.task.measure, {m: self.scores[m] for m in self.plan.members}
        losses = {
            m: score["out_of_fold"][measure] - score["test"][measure] for m, score in scored.items() if score["test"]
        }
        trained = [loss for m, loss in losses.items() if m not in outside]
        usual = max(0.0, float(np.median(trained))) if trained else 0.0
        for name in outside:
            out_of_fold, test = scored[name]["out_of_fold"], scored[name]["test"]
            if np.trace(out_of_fold["confusion"]) == np.sum(out_of_fold["confusion"]):
                found[name] = RIGHT_ON_ALL
            elif test and out_of_fold["interval"][0] > test["interval"][1] and losses[name] > 2 * usual:
                found[name] = OUT_OF_FOLD_ONLY
        return found

    def score_by_fold(self, name: str, folds: Mapping[int, np.ndarray]) -> list[float]:
        """Return a member's out-of-fold score on each of its folds, by the same labels as its score on all tweets."""
        (seed,) = {run.member.args.fold_seed for run in self.plan.runs_of([name])}
        parts = [folds[seed] == fold for fold in range(self.plan.settings.n_folds)]
        return [self._score_of(part, self.votes[name])[self.task.measure] for part in parts]

    def operating_points(self, predictions: MemberPredictions) -> list[dict[str, Any]]:
        """Return what each recall costs, out of fold and on test; see `operating_points.operating_points`."""
        test = None
        if self.test_gold is not None:
            folds, means = fold_and_mean_predictions(
                self.plan.runs, "test", "log_odds", refits_alone=self.config.refits_alone
            )
            test = TestPart(folds, means.probabilities, self.test_gold, means.groups)
        sample = predictions.members, predictions.probabilities, self.gold
        return operating_points(self.config, *sample, test, predictions.groups)

    def evaluate(
        self,
        vote: str,
        baselines: Sequence[str],
        across: Mapping[str, np.ndarray],
        folds: Mapping[int, np.ndarray],
    ) -> dict[str, Any]:
        """Return the evaluation of the final vote, the content of appraisal.json.

        Args:
            vote: row name of the final vote.
            baselines: row names of the baselines to compare the vote with.
            across: by kind of leak, which tweets (n_tweets,) share something with a tweet of another fold.
            folds: by fold seed, the fold (n_tweets,) that holds each tweet out.
        """
        predictions, _ = read_out_of_fold(self.plan.out_of_fold_file)
        members, gold, task, predicted = predictions.members, self.gold, self.task, self.votes[vote]
        evaluation: dict[str, Any] = {"score": self.scores[vote]["out_of_fold"]}
        if len(members) > 1:
            best = max(members, key=lambda name: self.scores[name]["out_of_fold"][task.measure])
            evaluation["best_member"] = self.compare(vote, best)
            alone = {name: self.scores[name]["out_of_fold"][task.measure] for name in members}
            sample, whole = (predictions.probabilities, gold, self.groups), evaluation["score"][task.measure]
            evaluation["without"] = leave_one_out(self.config, alone, *sample)
            evaluation["by_number"] = by_ensemble_size(self.config, alone, whole, *sample)
        evaluation["baselines"] = [self.compare(vote, name) for name in baselines]
        evaluation["unshared"] = {
            kind: {"tweets": int((~mask).sum()), **self._score_of(~mask, predicted)}
            for kind, mask in across.items()
            if mask.any() and task.space.has_any(gold[~mask], task.positive_indices).any()
        }
        if suspicious := self.suspicious_members():
            evaluation["suspicious"] = suspicious
        evaluation["classes"] = {part: task.score_classes(score) for part, score in self.scores[vote].items() if score}
        evaluation["operating_points"] = self.operating_points(predictions)
        evaluation["by_fold"] = {name: self.score_by_fold(name, folds) for name in members}
        evaluation["collapsed"] = {
            run.name: collapse for run in self.plan.runs if (collapse := run.measures().get("collapsed"))
        }
        return evaluation

    def _score_of(self, mask: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """Return the score of predicted class indices (n_tweets,) on the labelled tweets under a mask."""
        return self.task.score(self.gold[mask], predicted[mask], None if self.groups is None else self.groups[mask])


RIGHT_ON_ALL = "predictions from elsewhere are right on every labelled tweet, as a copy of the gold labels would be"
OUT_OF_FOLD_ONLY = (
    "predictions from elsewhere score far better out of fold than on the test tweets, as a model that had seen the "
    "labelled tweets' gold labels would"
)


def baseline_row(name: str) -> str:
    """Return a baseline's row name; without the prefix, a member of the same name would be overwritten."""
    return f"baseline {name}"


def group_rows(*parts: dict[str, Any] | None, of: str = "groups") -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Return the rows of a table of scores by group: each group, then all tweets pooled, and the mean over groups.

    Args:
        parts: results of `Task.score`, or None, for each column; without groups there are no rows.
        of: what the groups are, in the plural.
    """
    by_part = [(part or {}).get("groups", {}) for part in parts]
    names = sorted({name for groups in by_part for name in groups})
    rows = []
    for name in names:
        own = [groups.get(name) for groups in by_part]
        counts = [score["tweets"] if score else "-" for score, part in zip(own, parts, strict=True) if part]
        n_tweets = ", ".join(map(str, counts))
        left_out = "" if next(score for score in own if score)["scored"] else ", not scored"
        rows.append((f"{name or 'no group'} ({n_tweets} tweets{left_out})", own))
    if rows:
        rows.append(("pooled", [(part or {}).get("pooled") for part in parts]))
        rows.append((f"mean over {of}", [_mean_of_groups(part or {}) for part in parts]))
    return rows


def _mean_of_groups(part: dict[str, Any]) -> dict[str, Any] | None:
    """Return the mean over groups of a result of `Task.score`, of precision and recall, too; None without groups.

    `mean_over_groups` has the pooled ones of these, which beside a mean would be taken for means.
    """
    if not (mean := part.get("mean_over_groups")):
        return None
    scored = [score for name, score in part["groups"].items() if score["scored"] and name]
    if not scored:
        return mean
    return mean | {name: float(np.mean([score[name] for score in scored])) for name in ("precision", "recall")}


SUBSETS = 20  # random ensembles at most, for each size
FEWER_SAMPLES = 5  # bootstrap samples of a tuned decision, where many ensembles are fitted


def leave_one_out(
    config: VotingConfig,
    alone: Mapping[str, float],
    probabilities: np.ndarray,
    gold: np.ndarray,
    groups: np.ndarray | None = None,
) -> dict[str, float]:
    """Return the out-of-fold score of the ensemble without each member, by the member's name.

    Args:
        alone: each member's own score, which counts where it is left alone.
    """
    scores, members = {}, list(alone)
    for left_out, name in enumerate(members):
        rest = [index for index in range(len(members)) if index != left_out]
        if len(rest) == 1:
            scores[name] = alone[members[rest[0]]]
        else:
            scores[name] = _score(config, [members[index] for index in rest], probabilities[rest], gold, groups)
    return scores


def by_ensemble_size(
    config: VotingConfig,
    alone: Mapping[str, float],
    whole: float,
    probabilities: np.ndarray,
    gold: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    seed: int = 42,
) -> list[dict[str, float]]:
    """Return the mean, lowest and highest out-of-fold score of random ensembles of each size, from 1 to all members.

    Args:
        alone: each member's own score, which the table of scores has, too.
        whole: the score of the vote of all members, which counts as theirs unless the method is fitted.

    A fitted method is replaced by a soft vote: it would select among the members of each subset once more. So is a hard
    vote with a target, whose cut takes seconds to find.
    """
    is_fitted = METHODS[config.method].is_fitted or (config.method == "hard" and isinstance(config.decision, Target))
    if is_fitted:
        config = replace(config, method="soft")
    members, rng, rows = list(alone), np.random.default_rng(seed), []
    for size in range(1, len(members) + 1):
        subsets = {tuple(sorted(rng.permutation(len(members))[:size])) for _ in range(SUBSETS)}
        if size == 1:
            scores = list(alone.values())
        elif size == len(members) and not is_fitted:
            scores = [whole]
        else:
            scores = [
                _score(config, [members[index] for index in subset], probabilities[list(subset)], gold, groups)
                for subset in sorted(subsets)
            ]
        spread = {"mean": float(np.mean(scores)), "lowest": min(scores), "highest": max(scores)}
        rows.append({"members": size, "ensembles": len(scores), **spread})
    return rows


def _score(
    config: VotingConfig,
    members: Sequence[str],
    probabilities: np.ndarray,
    gold: np.ndarray,
    groups: np.ndarray | None,
) -> float:
    """Return the out-of-fold score of an ensemble, with few bootstrap samples."""
    predicted = config.predict_out_of_fold(members, probabilities, gold, groups, n_samples=FEWER_SAMPLES)
    return config.score(gold, predicted, config.space.to_decide(probabilities).shape[2], groups)
