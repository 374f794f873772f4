"""The object that `smm4h.load` returns: predictions, leaderboard and out-of-fold table as pandas frames."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from smm4h.inference.finished_job import FinishedJob
from smm4h.inference.new_tweets.explanation import Explanation, Tweet, certainty, explain, rare_indices
from smm4h.inference.predictor import left_out_notices, load_predictor
from smm4h.models.label_spaces import space_of
from smm4h.models.predictors import EnsembleOutput
from smm4h.utils.console import silence_libraries
from smm4h.utils.devices import default_device
from smm4h.utils.errors import InputError


class LoadedEnsemble:
    """A finished job's ensemble, a published one, or a single classifier such as a student; made by `smm4h.load`.

    >>> import smm4h
    >>> ensemble = smm4h.load(folder)
    >>> ensemble.labels
    ['1', '2', '3']
    >>> table = ensemble.predict(["my son was born with a heart defect", "what a day"])
    >>> table.columns.tolist()
    ['label', 'p_1', 'p_2', 'p_3']
    >>> table.filter(like="p_").sum(axis=1).round(3).tolist()
    [1.0, 1.0]

    Which words carried the labels, as a table with a row a word:

    >>> ensemble.explain(["my son was born"]).columns.tolist()
    ['row', 'label', 'probability', 'word', 'weight', 'keeps_label']

    The scores of a job's folder, in the order of its terminal table, and every labelled tweet's held-out probabilities:

    >>> bool(ensemble.leaderboard().loc["final vote", "out_of_fold"] >= 0)
    True
    >>> ensemble.out_of_fold().columns[:4].tolist()
    ['row', 'id', 'gold', 'counts p_1']
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        silence_libraries()
        self.name = name
        device = device or default_device()
        self._predictor, self.task, _ = load_predictor(name, device)
        for notice in left_out_notices(name):
            warnings.warn(notice, stacklevel=3)

    @property
    def labels(self) -> list[str]:
        """Labels in the order of the probabilities."""
        return list(self._predictor.labels)

    def predict(
        self,
        texts: Sequence[str],
        groups: Sequence[str] | None = None,
        contexts: Sequence[str] | None = None,
        *,
        explain: int = 0,
    ) -> pd.DataFrame:
        """Return a row a text: `label`, by the ensemble's own decision, and `p_LABEL`, the probability of each label.

        The label need not have the highest probability where the decision was tuned. Of an ensemble for label sets,
        `label` is the list of a text's labels.

        Args:
            groups: the texts' groups, such as languages, for an ensemble with cuts by group; where they are left out,
                every text gets the cut that was tuned for all groups.
            contexts: the texts' second texts, such as claims; needed where the task has them.
            explain: how many of the most certain texts with a rare label are explained; the table then has a column
                `words`, of each of these texts a dict of words and their weights, the heaviest first; see `explain`.
        """
        texts, further = self._checked(texts, groups, contexts)
        columns = [f"p_{label}" for label in self.labels]
        if not texts:
            return pd.DataFrame(columns=["label", *columns, *(["words"] if explain else [])])
        output = self._predictor.predict(texts, *further)
        table = pd.DataFrame(output.probabilities, columns=columns)
        space = space_of(self._predictor.rule, self.labels)
        table.insert(0, "label", pd.Series(space.listed(space.names(output.predicted)), dtype=object))
        if explain:
            table["words"] = pd.Series(self._words(texts, further, output, explain), dtype=object)
        return table

    def explain(
        self, texts: Sequence[str], groups: Sequence[str] | None = None, contexts: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return a row a text and word, the heaviest first: which words carried the text's label.

        Columns: `row`, the text's place among the texts; its `label` and its `probability`; `word`; `weight`, by how
        much the label's probability falls where the word is left out; `keeps_label`, whether the text has the same
        label without it. Each word costs a prediction by every model. Arguments as for `predict`.
        """
        texts, further = self._checked(texts, groups, contexts)
        rows = [
            (row, self.labels[explained.label], explained.probability, word.word, word.weight, word.keeps_label)
            for row, explained in enumerate(self._explained(range(len(texts)), texts, further))
            for word in explained.words
        ]
        return pd.DataFrame(rows, columns=["row", "label", "probability", "word", "weight", "keeps_label"])

    def _words(
        self, texts: list[str], further: list[list[str] | None], output: EnsembleOutput, count: int
    ) -> list[dict[str, float] | None]:
        """Return the words and weights of the most certain texts with a rare label, and None for all others."""
        space = space_of(self._predictor.rule, self.labels)
        rare = rare_indices(self.task, space.counts(output.predicted))
        certain = certainty(space, output.predicted, output.probabilities, rare)
        rows = [row for row in np.argsort(-certain, kind="stable").tolist() if np.isfinite(certain[row])][:count]
        words: list[dict[str, float] | None] = [None] * len(texts)
        for row, explained in zip(rows, self._explained(rows, texts, further), strict=True):
            words[row] = {word.word: word.weight for word in explained.words}
        return words

    def _explained(self, rows: Sequence[int], texts: list[str], further: list[list[str] | None]) -> list[Explanation]:
        of_rows = ([values and values[row] for values in further] for row in rows)
        tweets = [Tweet(str(row), texts[row], *own) for row, own in zip(rows, of_rows, strict=True)]
        return explain(self._predictor, tweets, self.task.positive_indices) if tweets else []

    def _checked(
        self, texts: Sequence[str], groups: Sequence[str] | None, contexts: Sequence[str] | None
    ) -> tuple[list[str], list[list[str] | None]]:
        """Return texts, and their groups and second texts; raise TypeError for a single text, or second texts' lack."""
        if isinstance(texts, str):
            raise TypeError("predict and explain take a list of texts; write predict([text])")
        if self.task.context and contexts is None and len(texts):
            raise TypeError(
                f"predict needs the second texts, too; write predict(texts, contexts=[each {self.task.context}])"
            )
        return list(texts), [None if values is None else list(values) for values in (groups, contexts)]

    @cached_property
    def job(self) -> FinishedJob:
        """All results of the job; raises `InputError` for a published ensemble or a single model, which has none."""
        if not (Path(self.name) / "plan.json").is_file():
            raise InputError(f"{self.name} is a published ensemble or a single model; its job's folder has the scores")
        return FinishedJob.read(Path(self.name))

    def leaderboard(self) -> pd.DataFrame:
        """Return a row a member, vote and baseline, by name.

        Columns: the task's metric as `out_of_fold` and `test` (NaN where no gold labels are known), each with `_low`
        and `_high`, its 95 % bootstrap interval, `_precision` and `_recall`; `leaky`: whether the out-of-fold score is
        optimistically biased, because teachers of pseudo labels saw the held-out tweets.
        """
        measure, rows = self.job.task.measure, {}
        for name, parts in self.job.scores.items():
            row: dict[str, float | bool] = {}
            for part in ("out_of_fold", "test"):
                score = parts[part] or {measure: None, "interval": (None, None), "precision": None, "recall": None}
                row |= {part: score[measure], f"{part}_low": score["interval"][0], f"{part}_high": score["interval"][1]}
                row |= {f"{part}_precision": score["precision"], f"{part}_recall": score["recall"]}
            rows[name] = {**row, "leaky": name in self.job.leaky}
        frame = pd.DataFrame.from_dict(rows, orient="index")
        return frame.astype({name: float for name in frame.columns if name != "leaky"} | {"leaky": bool})

    def out_of_fold(self) -> pd.DataFrame:
        """Return a row a labelled tweet: `row`, `id`, `gold` and, of each member and label, `MEMBER p_LABEL`."""
        return pd.read_parquet(self.job.plan.out_of_fold_file)
