"""What a tweet's labels can be: one of several, or any set of them; and the voting rule for sets.

Everywhere else a tweet's labels are one integer, its class: of one label its index, of a set of labels a number whose
bit i says whether the tweet has label i. A `LabelSpace` turns classes into names, counts and targets. What is decided,
tuned and scored of label sets are pairs of a tweet and a label, each with two classes (absent, given), whose groups are
the labels: micro F1 is the F1 of all pairs, macro F1 the mean over the groups, and a label's cut that of its group.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from smm4h.models.voting import VotingRule, mean_of_models

PROBLEM = "multi_label_classification"  # transformers' `problem_type` of label sets
MOST_LABELS = 62  # bits of a class that is a label set
SEPARATORS = (";", "|", ",")  # of the labels in a cell, as far as no label holds them
JSON_LIST = "json"  # how a cell lists labels that nothing separates: ["A", "B"]
ABSENT, GIVEN = "absent", "given"  # classes of a pair


@dataclass(frozen=True)
class LabelSpace:
    """One label for each tweet; classes are indices of labels."""

    labels: tuple[str, ...]
    problem_type: ClassVar[str | None] = None  # in model configs and predictions' metadata

    @property
    def decided(self) -> tuple[str, ...]:
        """Names of the classes that decisions choose among."""
        return self.labels

    def names(self, classes: np.ndarray) -> list[str]:
        """Return classes (n_tweets,) as texts, for files."""
        return np.asarray(self.labels, dtype=object)[classes].tolist()

    def classes(self, names: Sequence[str]) -> np.ndarray:
        """Return the classes (n_tweets,) of texts as `names` writes them; raise KeyError for any other."""
        index = {label: i for i, label in enumerate(self.labels)}
        return np.array([index[name] for name in names], dtype=np.int64)

    def split(self, text: str) -> list[str]:
        """Return the labels, known or not, that a text names."""
        return [text]

    def joined(self, labels: Sequence[str]) -> str:
        """Invert `split`."""
        (label,) = labels
        return label

    def listed(self, texts: Sequence[str]) -> Sequence[str | list[str]]:
        """Return the labels of texts for a submission: a text that is a label as it is, label sets as lists."""
        return texts

    def most_probable(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the classes (..., n_tweets) that probabilities (..., n_tweets, n_labels) speak for."""
        return probabilities.argmax(axis=-1)

    def by_share(self, probabilities: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the classes (n_tweets,) that give each label to its share (n_labels,) of the tweets, the likeliest.

        Of one label a tweet, those that are left get -1.
        """
        classes = np.full(len(probabilities), -1)
        for label in np.argsort(shares, kind="stable"):  # rarest first, or frequent classes would take its tweets
            free = np.flatnonzero(classes == -1)
            likeliest = free[np.argsort(-probabilities[free, label], kind="stable")]
            classes[likeliest[: round(shares[label] * len(probabilities))]] = label
        return classes

    def counts(self, classes: np.ndarray) -> np.ndarray:
        """Return the number (n_labels,) of tweets with each label."""
        return np.bincount(classes, minlength=len(self.labels))

    def targets(self, classes: np.ndarray) -> np.ndarray:
        """Return whether each tweet has each label, (n_tweets, n_labels) float32."""
        return np.eye(len(self.labels), dtype=np.float32)[classes]

    def has_any(self, classes: np.ndarray, labels: Sequence[int]) -> np.ndarray:
        """Return which tweets (n_tweets,) have any of some labels, by index."""
        return np.isin(classes, list(labels))

    def to_decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probabilities (..., n_decisions, n_decided) of what is decided, of (..., n_tweets, n_labels)."""
        return probabilities

    def decided_classes(self, classes: np.ndarray) -> np.ndarray:
        """Return the decided classes (n_decisions,) of the tweets' classes (n_tweets,)."""
        return classes

    def of_decided(self, classes: np.ndarray, n_tweets: int) -> np.ndarray:
        """Invert `decided_classes`."""
        return classes

    def decided_groups(self, n_tweets: int, groups: np.ndarray | None) -> np.ndarray | None:
        """Return the groups (n_decisions,) of what is decided, given the tweets' groups (n_tweets,) or None."""
        return groups

    def mean_of_models(self, mean: str, probabilities: Sequence[np.ndarray], refitted: Sequence[bool]) -> np.ndarray:
        """Return the mean (n_tweets, n_labels) over a member's models; see `voting.mean_of_models`."""
        return mean_of_models(mean, probabilities, refitted)

    def decided_name(self, decision: int, choice: int) -> str:
        """Return a class of a decision, by its number, in words for people."""
        return self.labels[choice]

    def rule(self, rule: VotingRule) -> VotingRule:
        """Return the rule for tweets of one that was fitted to what is decided."""
        return rule


ONE_LABEL = LabelSpace(())  # of tweets with one label each, where the labels' names do not matter


@dataclass(frozen=True)
class LabelSetSpace(LabelSpace):
    """Any number of labels for each tweet; classes are sums of 2**i over the indices i of a tweet's labels.

    Args:
        separator: of labels in files that are read; empty: any of `SEPARATORS` that no label holds.
    """

    separator: str = ""
    problem_type: ClassVar[str | None] = PROBLEM

    @property
    def decided(self) -> tuple[str, ...]:
        return ABSENT, GIVEN

    @property
    def separators(self) -> list[str]:
        """What may separate labels: of `SEPARATORS` those that no label holds; the first one does in written files."""
        return [separator for separator in SEPARATORS if not any(separator in label for label in self.labels)]

    def joined(self, labels: Sequence[str]) -> str:
        return self.separators[0].join(labels)

    def listed(self, texts: Sequence[str]) -> list[list[str]]:
        return [self.split(text) for text in texts]

    def names(self, classes: np.ndarray) -> list[str]:
        """Return classes (n_tweets,) as texts, labels with the separator between them; no label: an empty text."""
        texts = {code: self.joined(self.labels_in(code)) for code in np.unique(classes).tolist()}
        return [texts[code] for code in np.asarray(classes).tolist()]

    def labels_in(self, code: int) -> list[str]:
        """Return the labels of a class."""
        return [label for i, label in enumerate(self.labels) if code >> i & 1]

    def classes(self, names: Sequence[str]) -> np.ndarray:
        known = {name: self.code(self.split(name)) for name in set(names)}
        return np.array([known[name] for name in names], dtype=np.int64)

    def code(self, labels: Sequence[str]) -> int:
        """Return the class of some labels; raise KeyError for an unknown one."""
        index = {label: i for i, label in enumerate(self.labels)}
        return sum({1 << index[label] for label in labels})

    def split(self, text: str) -> list[str]:
        """Return the parts of a text that lists labels: JSON, or with separators between them; blanks are cut off.

        A text that is a label as a whole is that label. Without its own separator, a text is cut at the first of
        `separators` that it holds.
        """
        text = text.strip()
        form = self.form_of(text)
        if form == JSON_LIST:
            return [str(item).strip() for item in json.loads(text)]
        parts = text.split(form) if form else [text]
        return [part.strip() for part in parts if part.strip()]

    def form_of(self, text: str) -> str:
        """Return what separates the labels that a text lists, or `JSON_LIST`; empty for one label or none."""
        if not text or text in self.labels:
            return ""
        if text[0] == "[":
            try:
                return JSON_LIST if isinstance(json.loads(text), list) else ""
            except ValueError:
                pass
        return next((s for s in (self.separator, *self.separators) if s and s in text), "")

    def most_probable(self, probabilities: np.ndarray) -> np.ndarray:
        return self.packed(probabilities > 0.5)

    def by_share(self, probabilities: np.ndarray, shares: np.ndarray) -> np.ndarray:
        n_given = np.round(np.asarray(shares) * len(probabilities))
        ranks = np.argsort(np.argsort(-probabilities, axis=0, kind="stable"), axis=0, kind="stable")
        return self.packed(ranks < n_given)

    def counts(self, classes: np.ndarray) -> np.ndarray:
        return self.indicators(classes).sum(axis=0)

    def targets(self, classes: np.ndarray) -> np.ndarray:
        return self.indicators(classes).astype(np.float32)

    def has_any(self, classes: np.ndarray, labels: Sequence[int]) -> np.ndarray:
        return self.indicators(classes)[:, list(labels)].any(axis=1)

    def indicators(self, classes: np.ndarray) -> np.ndarray:
        """Return whether each tweet has each label, (n_tweets, n_labels) int64 of 0 and 1."""
        return np.asarray(classes, dtype=np.int64)[:, np.newaxis] >> np.arange(len(self.labels)) & 1

    def packed(self, given: np.ndarray) -> np.ndarray:
        """Return the classes (..., n_tweets) of which labels are given, (..., n_tweets, n_labels)."""
        return given.astype(np.int64) @ (1 << np.arange(len(self.labels), dtype=np.int64))

    def to_decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probabilities (..., n_pairs, 2) of pairs, each tweet's labels one after the other."""
        *before, n_tweets, n_labels = probabilities.shape
        return np.stack([1 - probabilities, probabilities], axis=-1).reshape(*before, n_tweets * n_labels, 2)

    def decided_classes(self, classes: np.ndarray) -> np.ndarray:
        return self.indicators(classes).ravel()

    def of_decided(self, classes: np.ndarray, n_tweets: int) -> np.ndarray:
        return self.packed(classes.reshape(n_tweets, len(self.labels)))

    def decided_groups(self, n_tweets: int, groups: np.ndarray | None) -> np.ndarray:
        """Return the label (n_pairs,) of each pair."""
        return np.tile(np.array(self.labels, dtype=object), n_tweets)

    def mean_of_models(self, mean: str, probabilities: Sequence[np.ndarray], refitted: Sequence[bool]) -> np.ndarray:
        pairs = [self.to_decide(of_model) for of_model in probabilities]  # a label's odds are against its absence
        return mean_of_models(mean, pairs, refitted)[:, 1].reshape(probabilities[0].shape)

    def decided_name(self, decision: int, choice: int) -> str:
        label = self.labels[decision % len(self.labels)]
        return label if choice else f"not {label}"

    def rule(self, rule: VotingRule) -> "LabelSetRule":
        own = {field.name: getattr(rule, field.name) for field in fields(VotingRule)}
        return LabelSetRule(**own, labels=list(self.labels))


@dataclass(frozen=True)
class LabelSetRule(VotingRule):
    """How members' probabilities become a set of labels: a rule for pairs of a tweet and a label.

    Args:
        decision: (1, 2) weights of a label's absence and presence; of a hard vote (n_members, 2).
        cuts: by label, weights of the shape of `decision`.
        labels: names of the labels, in the order of the probabilities.
    """

    labels: Sequence[str] = ()

    @property
    def space(self) -> LabelSetSpace:
        return LabelSetSpace(tuple(self.labels))

    @property
    def over_pairs(self) -> VotingRule:
        """The rule for pairs, whose groups are the labels."""
        return VotingRule(**{field.name: getattr(self, field.name) for field in fields(VotingRule)})

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        """Return probabilities (n_tweets, n_labels) from the members' (n_members, n_tweets, n_labels)."""
        return self.over_pairs.combine(self.space.to_decide(probabilities))[:, 1].reshape(probabilities.shape[1:])

    def predict(self, probabilities: np.ndarray, groups: Sequence[str] | None = None) -> np.ndarray:
        """Return the class (n_tweets,), a label set, from probabilities (n_members, n_tweets, n_labels)."""
        pairs, labels = self.space.to_decide(probabilities), self.space.decided_groups(probabilities.shape[1], None)
        return self.space.packed(self.over_pairs.predict(pairs, labels).reshape(probabilities.shape[1:]))

    def describe(self, labels: Sequence[str], *, has_refits: bool = False) -> str:
        text = self.over_pairs.describe((ABSENT, "A label"), has_refits=has_refits)
        own = {"The highest probability decides.": "A label is given above a probability of 0.5.", "Groups": "Labels"}
        for words, of_labels in own.items():
            text = text.replace(words, of_labels)
        return f"Each label is decided for itself. {text[0].upper()}{text[1:]}"


def rule_from_dict(content: dict[str, Any]) -> VotingRule:
    """Return the rule of a dict from `VotingRule.to_dict`; one with `labels` is a rule for label sets."""
    if "labels" not in content:
        return VotingRule.from_dict(content)
    content = dict(content)
    labels = tuple(content.pop("labels"))
    return LabelSetSpace(labels).rule(VotingRule.from_dict(content))


def space_named(problem_type: str | None, labels: Sequence[str]) -> LabelSpace:
    """Return the label space of a `problem_type`, as predictions' metadata and model configs hold it."""
    return (LabelSetSpace if problem_type == PROBLEM else LabelSpace)(tuple(labels))


def space_of(rule: VotingRule, labels: Sequence[str]) -> LabelSpace:
    """Return the label space of a rule's predictions."""
    return rule.space if isinstance(rule, LabelSetRule) else LabelSpace(tuple(labels))
