"""What an ensemble is worth, by out-of-fold probabilities alone: nothing is scored on the tweets it was chosen on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from smm4h.combining import FITTED, fit, nested_choices
from smm4h.metrics import Aim
from smm4h.rules import Rule

SUBSETS = 20  # of the members, at most, for each size of an ensemble
FEWER_SAMPLES = 5  # of a decision's bootstrap, where many ensembles are compared


@dataclass(frozen=True)
class Fitting:
    """How rules are to be fitted: method, decision, ties; and what for."""

    aim: Aim
    method: str
    decision: str
    ties: str = "probability"

    @property
    def learns(self) -> bool:
        """Whether a fit looks at gold labels at all."""
        return self.decision != "argmax" or self.method in FITTED

    def rule(self, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray, **options: Any) -> Rule:
        """The rule of these members, of probabilities (n_members, n_tweets, n_classes)."""
        kinds = {"method": self.method, "decision": self.decision, "ties": self.ties}
        return fit(probabilities, gold, members, self.aim, **(kinds | options))

    def choices(
        self, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray, **options: Any
    ) -> np.ndarray:
        """The class (n_tweets,) of each tweet by rules that were fitted without it."""
        if not self.learns:
            return self.rule(members, probabilities, gold).choose(probabilities)
        return nested_choices(probabilities, gold, lambda part, truth: self.rule(members, part, truth, **options))

    @property
    def for_one(self) -> "Fitting":
        """How one member alone is to be fitted: nothing but its decision."""
        return replace(self, method="soft")


def leave_one_out(
    fitting: Fitting, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray
) -> dict[str, float]:
    """The out-of-fold score of the ensemble without each member, by the member's name."""
    found = {}
    for place, name in enumerate(members):
        rest = [other for other in range(len(members)) if other != place]
        found[name] = _score(fitting, [members[other] for other in rest], probabilities[rest], gold)
    return found


def by_number(
    fitting: Fitting, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray, *, seed: int = 42
) -> list[dict[str, float]]:
    """For each number of members, how ensembles of so many score out of fold: mean, lowest, highest of random ones.

    They vote by a plain mean where the method is a fitted one, which would choose among them once more.
    """
    if fitting.method in FITTED:
        fitting = replace(fitting, method="soft")
    rng, found = np.random.default_rng(seed), []
    for size in range(1, len(members) + 1):
        subsets = {tuple(sorted(rng.permutation(len(members))[:size])) for _ in range(SUBSETS)}
        scores = [
            _score(fitting, [members[place] for place in subset], probabilities[list(subset)], gold)
            for subset in sorted(subsets)
        ]
        spread = {"mean": float(np.mean(scores)), "lowest": min(scores), "highest": max(scores)}
        found.append({"members": size, "ensembles": len(scores), **spread})
    return found


def _score(fitting: Fitting, members: Sequence[str], probabilities: np.ndarray, gold: np.ndarray) -> float:
    choices = fitting.choices(members, probabilities, gold, n_samples=FEWER_SAMPLES)
    return fitting.aim.score(gold, choices, probabilities.shape[2])
