"""Pseudo-labeling: write the pseudo-labelled part of each fold from the teachers' predictions, with counts."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from smm4h.config.arguments import JobSettings
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data import pseudo_labels
from smm4h.data.dataset import column
from smm4h.data.folds import folds_of
from smm4h.data.pseudo_labels import PseudoLabels
from smm4h.ensemble.member_predictions import MemberPredictions, mean_predictions, run_predictions
from smm4h.utils.derived import DerivedFiles
from smm4h.utils.durable import sync_tree
from smm4h.utils.files import check_fence, read_json, sync_names, write_json
from smm4h.utils.temporaries import private_folder

HOLDS_NONE = pseudo_labels.HeldOutKeys(set(), set())  # of a refit
COUNTS = "counts.json"  # in the folder of a fold seed's parts


def never_trained_on(run: Run, held_out: np.ndarray, labelled: Dataset) -> bool:
    """Return True if none of the held-out tweets was in the run's training part.

    What a model from elsewhere was trained on is not known, so that it never counts as one that saw none of them.

    Tweets are compared by row, because a fold's number means other tweets with another fold seed. In later rounds the
    runs have pseudo labels in their training set, too, whose teachers were chosen by this same check.

    Args:
        held_out: mask (n_tweets,).
    """
    if run.member.is_outside:
        return False
    trained_on = ~run.holds_out(folds_of(labelled, run.member.args.fold_seed))
    return not (trained_on & held_out).any()


class PseudoLabeler:
    """Writes the pseudo-labelled tweets of a stage's runs.

    Args:
        pool: the tweets to be labelled.
        teachers: the runs whose predictions label them.
        vote: takes `test` or `unlabelled`, and returns the teachers' predictions on these tweets and the voted class
            indices (n_tweets,); called for `--pseudo_from vote` only.
    """

    def __init__(
        self,
        settings: JobSettings,
        task: Task,
        labelled: Dataset,
        pool: Dataset,
        teachers: Sequence[Run],
        vote: Callable[[str], tuple[MemberPredictions, np.ndarray]],
    ) -> None:
        self.settings, self.task, self.labelled, self.pool = settings, task, labelled, pool
        self.teachers, self.vote = teachers, vote
        self.part = "unlabelled" if settings.unlabelled_file else "test"
        prior = None
        if settings.pseudo_prior:
            prior = task.space.counts(column(labelled, "label").to_numpy()) / len(labelled)
        self.filters = pseudo_labels.Filters(settings.pseudo_confidence, settings.pseudo_agreement, prior, task.space)

    def write(
        self, folder: Path, stage: int, fold_seed: int, derived: DerivedFiles, inputs: str, *, for_refit: bool = False
    ) -> bool:
        """Write each fold's part, in a folder that appears once it is complete.

        Args:
            folder: of all pseudo labels of the job.
            derived: the job's derived files, to which this folder belongs.
            inputs: a hash of the teachers' predictions.
            for_refit: whether there is a part for refits, too.

        Returns True if this process wrote the parts, False if they were there or another process wrote them.
        """
        target, written = pseudo_labels.part_file(folder, stage, fold_seed, 0).parent, []
        parts = [*range(self.settings.n_folds), *([None] if for_refit else [])]
        derived.make(target, lambda: written.append(self._write_parts(target, fold_seed, parts)), inputs)
        return bool(written)

    def _write_parts(self, target: Path, fold_seed: int, parts: Sequence[int | None]) -> None:
        """Write the parts and their counts to a temporary folder, and rename it to `target`."""
        with private_folder(target.parent) as temporary:
            partial = temporary / target.name
            self._write_to(partial, fold_seed, parts)
            sync_tree(partial)
            check_fence()
            partial.rename(target)
            sync_names(target.parent)

    def _write_to(self, folder: Path, fold_seed: int, parts: Sequence[int | None]) -> None:
        """Write the parts and their counts to a folder."""
        counts = {}
        by_vote = self.vote(self.part) if self.settings.pseudo_from == "vote" else None
        held_out = pseudo_labels.held_out_keys_by_fold(self.labelled, self.task, fold_seed, self.settings.n_folds)
        for fold, rows in zip(parts, self._drawn(parts), strict=True):
            predictions, voted = by_vote or (self._unseen(fold, fold_seed), None)
            part, of_part = self._select(rows, predictions, voted, HOLDS_NONE if fold is None else held_out[fold])
            name = pseudo_labels.part_name(fold)
            counts[name] = {**of_part, "teachers": predictions.members}
            pseudo_labels.write_part(folder / f"{name}.tsv", self.pool, part, self.task)
        write_json(folder / COUNTS, counts)

    def _drawn(self, parts: Sequence[int | None]) -> list[np.ndarray]:
        """Return the rows of the pool that each part gets: for folds by vote disjoint ones, else random ones."""
        settings, n_tweets = self.settings, len(self.pool)
        fraction, n_folds = settings.pseudo_fraction, settings.n_folds
        seeds = [settings.pseudo_seed + (n_folds if fold is None else fold) for fold in parts]
        drawn = [pseudo_labels.draw_random_part(n_tweets, fraction, seed) for seed in seeds]
        if settings.pseudo_from == "vote":
            drawn[:n_folds] = pseudo_labels.cut_disjoint_parts(n_tweets, fraction, n_folds, settings.pseudo_seed)
        return drawn

    def _unseen(self, fold: int | None, fold_seed: int) -> MemberPredictions:
        """Return the predictions of the runs that saw no tweet that a fold holds out; for a refit, of all members."""
        if fold is None:
            return mean_predictions(self.teachers, self.part)
        is_held_out = folds_of(self.labelled, fold_seed) == fold
        return run_predictions(
            [run for run in self.teachers if never_trained_on(run, is_held_out, self.labelled)], self.part
        )

    def _select(
        self,
        rows: np.ndarray,
        predictions: MemberPredictions,
        voted: np.ndarray | None,
        held_out: pseudo_labels.HeldOutKeys,
    ) -> tuple[PseudoLabels, dict[str, Any]]:
        """Return the accepted pseudo labels of some rows of the pool, and the counts for `COUNTS`.

        Args:
            rows: (n_drawn,) indices in the pool.
            voted: class indices (n_tweets,) of the whole pool; None: labels by the teachers' probabilities.
            held_out: keys of the tweets that the fold holds out, which are rejected.
        """
        probabilities = predictions.probabilities[:, rows]
        by_probability = voted is None or self.filters.prior is not None
        labels = self.filters.labels(probabilities) if by_probability else voted[rows]
        leaks = pseudo_labels.is_held_out(self.pool.select(rows), held_out)
        passed = self.filters.believed(probabilities, labels)
        accepted = passed & ~leaks
        part = PseudoLabels(rows, probabilities.mean(axis=0) if self.settings.pseudo_soft else labels).select(accepted)
        return part, {
            "drawn": len(rows),
            "held_out": int(leaks.sum()),
            "doubted": int((~passed & ~leaks).sum()),
            "accepted": pseudo_labels.counts_by_label(labels[accepted], self.task.space),
        }


def counts_of(folder: Path, stage: int, fold_seed: int) -> dict[str, Any]:
    """Read by fold how many tweets were drawn, held out, rejected and accepted, as `PseudoLabeler.write` counted."""
    return read_json(pseudo_labels.part_file(folder, stage, fold_seed, 0).parent / COUNTS)
