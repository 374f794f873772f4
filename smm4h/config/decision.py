"""Decisions: what a user may ask of the step from probabilities to labels, parsed from a flag, recipe or task file."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from smm4h.metrics import MEASURES, find_measure
from smm4h.utils.errors import InputError, nearest

TARGET = re.compile(r"(\w+)\s*(>=|<=|=>|=<|≥|≤|>|<|=)\s*([\d.]+)\s*(%?)")
SIDES = {"recall": ">=", "precision": ">=", "flagged": "<="}  # what may be promised, and from which side
COSTS = ("missed", "false")
EXAMPLES = 'argmax, tuned, pulled, f2, "recall>=0.9", "precision>=0.8", "flagged<=0.05", costs, 0.3, "LABEL: 4"'
ASKED = ("method", "decision", "ties", "predict_with")  # how a vote is asked for, by the names of its flags


@dataclass(frozen=True)
class Costs:
    """What an error costs: a gold positive label that is missed, and a positive label that is given falsely."""

    missed: float
    false: float

    def __str__(self) -> str:
        return f"missed: {self.missed:.12g}, false: {self.false:.12g}"

    @classmethod
    def from_mapping(cls, value: Any) -> "Costs":
        """Return the costs of a mapping; raise ValueError with the reason for anything else."""
        expected = "a mapping such as {missed: 20, false: 1} is expected"
        if not isinstance(value, Mapping):
            raise ValueError(expected)
        named = {key.lower(): cost for key, cost in value.items()}
        if set(named) != set(COSTS):
            raise ValueError(expected)
        try:
            costs = {key: float(cost) for key, cost in named.items()}
        except (TypeError, ValueError):
            raise ValueError(expected) from None
        if not all(math.isfinite(cost) and cost > 0 for cost in costs.values()):
            raise ValueError("both costs must be above 0")
        return cls(**costs)


@dataclass(frozen=True)
class Decision:
    """How probabilities become a label; each kind is a subclass, whose `str` is what `parse_decision` reads.

    `is_fitted`: whether it is fitted to gold labels, out of fold. `by_hand`: whether the user set the numbers, which
    are then used as they stand.
    """

    is_fitted: ClassVar[bool] = True
    by_hand: ClassVar[bool] = False


@dataclass(frozen=True)
class Argmax(Decision):
    """The label of the highest probability."""

    is_fitted: ClassVar[bool] = False

    def __str__(self) -> str:
        return "argmax"


@dataclass(frozen=True)
class Tuned(Decision):
    """Class weights under which a metric is highest; None: the task's metric."""

    measure: str | None = None

    def __str__(self) -> str:
        return self.measure or "tuned"


@dataclass(frozen=True)
class Pulled(Tuned):
    """Class weights under which the task's metric is highest, pulled half-way to as many positive tweets as there are.

    For metrics that weigh precision and recall alike, whose best cut predicts about as many.
    """

    OF: ClassVar[tuple[str, ...]] = ("f1", "macro_f1_positive")  # the metrics

    def __str__(self) -> str:
        return "pulled"


@dataclass(frozen=True)
class Target(Decision):
    """A bound on recall, precision or the share of flagged tweets, micro over the positive labels.

    Under a bound on the recall the precision is as high as it can be, under the other bounds the recall.
    """

    quantity: str  # a key of `SIDES`
    bound: float

    def __str__(self) -> str:
        return f"{self.quantity}{SIDES[self.quantity]}{self.bound:.12g}"


@dataclass(frozen=True)
class LeastCost(Decision):
    """Class weights under which errors cost least; None: the task's costs."""

    costs: Costs | None = None

    def __str__(self) -> str:
        return "costs" if self.costs is None else str(self.costs)


@dataclass(frozen=True)
class Threshold(Decision):
    """The probability from which the positive one of two labels is given."""

    is_fitted: ClassVar[bool] = False
    by_hand: ClassVar[bool] = True
    value: float = 0.5

    def __str__(self) -> str:
        return f"{self.value:.12g}"


@dataclass(frozen=True)
class Weights(Decision):
    """Class weights by label, as (label, weight) pairs; `check_decision` adds a 1 for labels that are not named."""

    is_fitted: ClassVar[bool] = False
    by_hand: ClassVar[bool] = True
    by_label: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return ", ".join(f"{label}: {weight:.12g}" for label, weight in self.by_label)


def parse_decision(text: str) -> Decision:
    """Return the decision that a flag or a recipe names; raise ValueError with the reason for anything else."""
    text = text.strip()
    if text in NAMED:
        return NAMED[text]
    if find_measure(text) is not None:
        return Tuned(text)
    if match := TARGET.fullmatch(text):
        return _target(*match.groups())
    try:
        threshold = float(text)
    except ValueError:
        return _mapping(text)
    if not 0 < threshold < 1:
        raise ValueError(f"a threshold lies between 0 and 1, not at {text}")
    return Threshold(threshold)


NAMED: dict[str, Decision] = {"argmax": Argmax(), "tuned": Tuned(), "pulled": Pulled(), "costs": LeastCost()}


def _target(quantity: str, sign: str, number: str, percent: str) -> Target:
    if quantity not in SIDES:
        raise ValueError(f"no target {quantity}{nearest(quantity, SIDES)}; there are {', '.join(SIDES)}")
    side = SIDES[quantity]
    if sign.replace("≥", ">=").replace("≤", "<=").strip("=") != side.strip("="):
        raise ValueError(f"{quantity} can be bounded from one side only: {quantity}{side}{number}{percent}")
    try:
        bound = float(number) / (100 if percent else 1)
    except ValueError:
        raise ValueError(f"{number} is no number") from None
    if not 0 < bound < 1:
        raise ValueError(f"the bound of {quantity} lies between 0 and 1, not at {number}{percent}")
    return Target(quantity, bound)


def _mapping(text: str) -> Decision:
    """Return costs, or class weights by hand, of `LABEL: 4, LABEL: 2` with or without braces."""
    unknown = f"no decision {text}{nearest(text, [*NAMED, *MEASURES])}; choose among {EXAMPLES}"
    spaced = re.sub(r":(?=[\d.])", ": ", text)  # YAML would read `1:4` as one word
    braced = spaced if spaced.startswith("{") else f"{{{spaced}}}"
    try:
        named = yaml.load(braced, Loader=yaml.BaseLoader)  # strings only: a label may be `no`
    except yaml.YAMLError:
        raise ValueError(unknown) from None
    if not isinstance(named, dict) or not named or "" in named.values():
        raise ValueError(unknown)
    if set(named) <= set(COSTS):
        return LeastCost(Costs.from_mapping(named))
    try:
        weights = tuple((label, float(weight)) for label, weight in named.items())
    except (TypeError, ValueError):
        raise ValueError(unknown) from None
    if not all(math.isfinite(weight) and weight > 0 for _, weight in weights):
        raise ValueError("class weights must be above 0")
    return Weights(weights)


def canonical_decision(text: str) -> str:
    """Return a decision in its canonical spelling; raise `InputError` for anything else."""
    try:
        return str(parse_decision(text))
    except ValueError as error:
        raise InputError(str(error)) from None


def check_set_decision(decision: Decision, where: str = "--decision") -> None:
    """Raise `InputError` for a decision that a multi-label task can't have."""
    choices = "choose tuned or an F-beta, which tune a cut for each label, argmax (0.5), or a threshold such as 0.3"
    if isinstance(decision, Weights | Target):
        what = "class weights are" if isinstance(decision, Weights) else "a target is"
        raise InputError(
            f"{where} {decision}: {what} for tasks of one label a tweet, and this one is multi-label; {choices}"
        )
    if isinstance(decision, Pulled):
        raise InputError(f"{where} {decision}: a cut for each label is tuned, and none is pulled; {choices}")
    if isinstance(decision, Tuned) and decision.measure in MEASURES and decision.measure != "f1":
        raise InputError(f"{where} {decision}: a multi-label task is tuned for its own metric or an F-beta; {choices}")


def check_decision(
    decision: Decision, labels: Sequence[str], positive: Sequence[str], costs: Costs | None, where: str = "--decision"
) -> Decision:
    """Return a decision with the task's costs and labels filled in; raise `InputError` where the task can't have it.

    Args:
        labels, positive, costs: the task's.
        where: names the setting in the message.
    """
    if isinstance(decision, LeastCost) and decision.costs is None:
        if costs is None:
            raise InputError(f"{where} costs: the task file has no `costs:`, such as {{missed: 20, false: 1}}")
        return LeastCost(costs)
    if isinstance(decision, Threshold) and len(labels) != 2:
        example = ", ".join(f"{label}: 4" for label in positive[:2])
        raise InputError(f'{where} {decision}: a threshold needs two labels; write class weights, such as "{example}"')
    if isinstance(decision, Weights):
        for label, _ in decision.by_label:
            if label not in labels:
                known = f"{nearest(label, labels)}; labels are {', '.join(labels)}"
                raise InputError(f"{where} {decision}: there is no label {label}{known}")
        named = dict(decision.by_label)
        return Weights(tuple((label, named.get(label, 1.0)) for label in labels))
    if isinstance(decision, Target | Pulled) and len(positive) == len(labels):
        raise InputError(
            f"{where} {decision}: all labels are positive, so that every tweet is flagged; name the rare ones as "
            "`positive:` in the task file"
        )
    return decision
