"""What the labelled tweets of a job are like, stored with it, and how new tweets compare."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset

from smm4h.config.plans.plan import Plan
from smm4h.config.task import Task
from smm4h.data.dataset import column
from smm4h.data.tokenization import VARIANT
from smm4h.inference.new_tweets.drift import differences
from smm4h.inference.new_tweets.profile import (
    TweetProfile,
    Vocabulary,
    WordPieces,
    histogram_of_lengths,
    histogram_of_shares,
    profile_of,
    vocabulary_of,
)
from smm4h.inference.predictor import EnsemblePredictor, Predictor, saved_tokenizer
from smm4h.models.label_spaces import LabelSpace, space_of
from smm4h.models.tweet_ensemble import TweetEnsemble
from smm4h.utils.files import write_atomically

PROFILE = b"profile"  # of the file's metadata
NO_LENGTHS = histogram_of_lengths([])


@dataclass(frozen=True)
class Reference:
    """What new tweets are compared with.

    Args:
        labelled: profile of the labelled tweets; its labels are those that the ensemble predicts out of fold.
        vocabulary: their words; None: not known.
        tokenizers: by member, those of which the labelled tweets' pieces were counted; the first one is used.
    """

    labelled: TweetProfile
    vocabulary: Vocabulary | None = None
    tokenizers: Mapping[str, WordPieces] = field(default_factory=dict)

    def profile(self, texts: Sequence[str], labels: Sequence[str]) -> TweetProfile:
        """Return the profile of new tweets (n_tweets,) with their predicted labels."""
        return profile_of(texts, labels, self.vocabulary, self.tokenizers)

    def notices(self, new: TweetProfile) -> list[str]:
        """Return a line on how new tweets differ from the labelled ones, if they do by more than chance."""
        found = [difference.what for difference in differences(self.labelled, new)]
        if not found:
            return []
        return [f"these tweets are not like the labelled ones: {'; '.join(found)}; scores may not hold for them"]

    def expected(self, n_tweets: int) -> dict[str, int]:
        """Return how many of some tweets would get each label, were they like the labelled ones; one each: all."""
        counts = np.array(list(self.labelled.labels.values()), dtype=float)
        expected = n_tweets * counts / self.labelled.n_tweets
        if counts.sum() == self.labelled.n_tweets:  # one label a tweet: rounded so that they add up
            expected = np.diff(np.floor(np.cumsum(expected) + 0.5), prepend=0)
        return dict(zip(self.labelled.labels, np.rint(expected).astype(int).tolist(), strict=True))


def summary(new: TweetProfile, reference: Reference | None, task: Task) -> str:
    """Return the line of counts: how many tweets got each label, and how many were to be expected."""

    def listed(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{task.named(label)}: {counts.get(label, 0):,}" for label in task.labels)

    line = f"{new.n_tweets:,} tweets, {listed(new.labels)}"
    expected = reference.expected(new.n_tweets) if reference else {}
    return f"{line}; expected from the labelled ones {listed(expected)}" if expected else line


def with_predicted_labels(profile: TweetProfile, out_of_fold: Mapping[str, Any], space: LabelSpace) -> TweetProfile:
    """Return a profile of the labelled tweets with the labels that an ensemble gives them out of fold.

    Args:
        out_of_fold: the ensemble's scores out of fold.
    """
    if space.problem_type is None:
        confusion = np.array(out_of_fold["confusion"])  # (n_classes, n_classes), gold labels in rows
        counts = confusion.sum(axis=0)
    else:
        pairs = [np.array(out_of_fold["groups"][label]["confusion"]) for label in space.labels]  # absent, given
        confusion, counts = pairs[0], np.array([of_label[:, 1].sum() for of_label in pairs])
    labels = dict(zip(space.labels, counts.tolist(), strict=True))
    return replace(profile, n_tweets=int(confusion.sum()), labels=labels)


def profile_file(plan: Plan) -> Path:
    return plan.output_dir / "profile.parquet"


def write_profile(plan: Plan, labelled: Dataset) -> None:
    """Write what the labelled tweets are like, if models are kept and it is not there; no word of a tweet is in it.

    The file's rows are hashes of their words, which guesses can be looked up among: it stays with the job.
    """
    members = {run.member.name: run for run in reversed(plan.runs) if run.model.is_dir()}
    if not members or not all(run.is_done() for run in plan.runs):
        return

    def make() -> None:
        texts, pieces, by_variant = column(labelled, "text").to_pylist(), {}, {}
        for name in (name for name in plan.members if name in members and members[name].member.has_encoder):
            run = members[name]
            variant = tuple(str(getattr(run.member.args, setting)) for setting in VARIANT)
            if variant not in by_variant:
                known = WordPieces(saved_tokenizer(run.model))
                by_variant[variant] = histogram_of_shares(known.shares(texts))
            pieces[name] = by_variant[variant]
        vocabulary, unknown = vocabulary_of(texts)
        profile = TweetProfile(len(texts), {}, histogram_of_lengths(texts), histogram_of_shares(unknown), pieces)
        table = pa.table({"word": vocabulary.hashes}).replace_schema_metadata({PROFILE: json.dumps(profile.to_dict())})
        write_atomically(profile_file(plan), lambda partial: pa.parquet.write_table(table, partial), private=True)

    inputs = f"{plan.identity['data'].get('labelled')} {' '.join(members)}"
    plan.derived.make(profile_file(plan), make, inputs)


def stored_profile(plan: Plan) -> tuple[TweetProfile, Vocabulary | None]:
    """Return a job's profile of the labelled tweets, and their words; an empty one of an older job.

    Raises `InputError` for a profile that is not as it was made.
    """
    path = profile_file(plan)
    plan.derived.check(path)
    if not path.is_file():
        return TweetProfile(0, {}, NO_LENGTHS), None
    table = pa.parquet.read_table(path, partitioning=None)
    return TweetProfile.from_dict(json.loads(table.schema.metadata[PROFILE])), Vocabulary(table["word"].to_numpy())


def profile_without_words(plan: Plan, out_of_fold: Mapping[str, Any], space: LabelSpace) -> TweetProfile:
    """Return the profile of the labelled tweets that can leave the job: counts and histograms, no list of words."""
    return with_predicted_labels(replace(stored_profile(plan)[0], words=None), out_of_fold, space)


def reference_of(predictor: Predictor) -> Reference | None:
    """Return what a predictor's new tweets are compared with; None where nothing is known of the labelled ones."""
    if isinstance(predictor, EnsemblePredictor):
        profile, vocabulary = stored_profile(predictor.plan)
        space = space_of(predictor.rule, predictor.labels)
        profile = with_predicted_labels(profile, predictor.out_of_fold, space)
        name = next((name for name in predictor.rule.members if name in profile.pieces), None)
        tokenizer = predictor.tokenizer_of(name) if name else None
    else:
        config = predictor.config if isinstance(predictor, TweetEnsemble) else predictor.model.config
        if not (stored := getattr(config, "profile", None)):
            return None
        profile, vocabulary = TweetProfile.from_dict(stored), None
        name = next(iter(profile.pieces), None)
        is_ensemble = isinstance(predictor, TweetEnsemble)
        tokenizer = predictor.tokenizers.get(name) if is_ensemble else predictor.tokenizer
    return Reference(profile, vocabulary, {name: WordPieces(tokenizer)} if name and tokenizer is not None else {})
