"""Teachers' probabilities of unlabelled tweets -> the pseudo-labelled part of each fold, and a count of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from smm4h.config.arguments import JobSettings
from smm4h.config.plan import Run
from smm4h.config.task import Task
from smm4h.data import pseudo_labels
from smm4h.data.dataset import column
from smm4h.data.folds import folds_of
from smm4h.data.pseudo_labels import PseudoLabels
from smm4h.ensemble.member_predictions import MemberPredictions, run_predictions
from smm4h.utils.files import read_json, write_json
from smm4h.utils.leases import make_once

COUNTS = "counts.json"  # beside a seed's parts


def never_trained_on(run: Run, held_out: np.ndarray, labelled: Dataset) -> bool:
    """Whether no held-out tweet, of a mask (n_tweets,), was in the run's training part; by rows, not by fold numbers.

    What a later round's run learnt from pseudo labels, it learnt from teachers of whom the same was asked.
    """
    trained_on = ~run.holds_out(folds_of(labelled, run.member.get("fold_seed")))
    return not (trained_on & held_out).any()


class PseudoLabeler:
    """Labels the pool for a stage's runs.

    Args:
        teachers: the runs whose word counts.
        elect: the teachers' ballots on the test tweets or on the `unlabelled` ones, and the elected class indices
            (n_tweets,); for `--pseudo_from vote`.
    """

    def __init__(
        self,
        settings: JobSettings,
        task: Task,
        labelled: Dataset,
        pool: Dataset,
        teachers: Sequence[Run],
        elect: Callable[[str], tuple[MemberPredictions, np.ndarray]],
    ) -> None:
        self.settings, self.task, self.labelled, self.pool = settings, task, labelled, pool
        self.teachers, self.elect = teachers, elect
        self.part = "unlabelled" if settings.unlabelled_file else "test"
        prior = None
        if settings.pseudo_prior:
            counts = np.bincount(column(labelled, "label").to_numpy(), minlength=task.n_classes)
            prior = counts / counts.sum()
        self.filters = pseudo_labels.Filters(settings.pseudo_confidence, settings.pseudo_agreement, prior)

    def write(self, folder: Path, stage: int, fold_seed: int) -> bool:
        """Writes each fold's part, in a folder that appears when it is whole; says whether this process had to."""
        place, made = pseudo_labels.part_file(folder, stage, fold_seed, 0).parent, []
        make_once(place, lambda: made.append(self._write_parts(place, fold_seed)))
        return bool(made)

    def _write_parts(self, place: Path, fold_seed: int) -> None:
        settings, partial = self.settings, place.with_name(f".{place.name}.partial")
        n_tweets, folds = len(self.pool), range(settings.n_folds)
        if settings.pseudo_from == "vote":
            drawn = pseudo_labels.cut_disjoint_parts(
                n_tweets, settings.pseudo_fraction, settings.n_folds, settings.pseudo_seed
            )
            ballots, elected = self.elect(self.part)
        else:
            seeds = [settings.pseudo_seed + fold for fold in folds]
            drawn = [pseudo_labels.draw_random_part(n_tweets, settings.pseudo_fraction, seed) for seed in seeds]
            elected = None
        counts = {}
        held_out = pseudo_labels.held_out_keys_by_fold(self.labelled, self.task, fold_seed, settings.n_folds)
        for fold in folds:
            if settings.pseudo_from == "unseen":
                is_held_out = folds_of(self.labelled, fold_seed) == fold
                unseeing = [run for run in self.teachers if never_trained_on(run, is_held_out, self.labelled)]
                ballots = run_predictions(unseeing, self.part)
            part, counts[f"fold-{fold}"] = self._choose(drawn[fold], ballots, elected, held_out[fold])
            counts[f"fold-{fold}"]["teachers"] = ballots.members
            pseudo_labels.write_part(partial / f"fold-{fold}.tsv", self.pool, part, self.task)
        write_json(partial / COUNTS, counts)
        partial.rename(place)

    def _choose(
        self,
        rows: np.ndarray,
        ballots: MemberPredictions,
        elected: np.ndarray | None,
        held_out: pseudo_labels.HeldOutKeys,
    ) -> tuple[PseudoLabels, dict[str, Any]]:
        """The accepted ones of some rows of the pool, and what became of all."""
        probabilities = ballots.probabilities[:, rows]
        known = elected is None or self.filters.prior is not None
        labels = self.filters.labels(probabilities) if known else elected[rows]
        leaks = pseudo_labels.is_held_out(self.pool.select(rows), held_out)
        believed = self.filters.believed(probabilities, labels)
        accepted = believed & ~leaks
        part = PseudoLabels(rows, probabilities.mean(axis=0) if self.settings.pseudo_soft else labels).select(accepted)
        return part, {
            "drawn": len(rows),
            "held_out": int(leaks.sum()),
            "doubted": int((~believed & ~leaks).sum()),
            "accepted": pseudo_labels.counts_by_label(labels[accepted], self.task.labels),
        }


def counts_of(folder: Path, stage: int, fold_seed: int) -> dict[str, Any]:
    """What became of the tweets of each fold's part, as `PseudoLabeler.write` found it."""
    return read_json(pseudo_labels.part_file(folder, stage, fold_seed, 0).parent / COUNTS)
