"""Tweets for people to read: label issues, which the members contradict, and the vote's errors out of fold."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
from datasets import Dataset

from smm4h.config.task import Task
from smm4h.data.dataset import column
from smm4h.data.readers.spreadsheets import protect
from smm4h.data.readers.tables import wrap_quotes
from smm4h.ensemble.fitting import fit_calibration
from smm4h.ensemble.member_predictions import VOTE, read_out_of_fold
from smm4h.models.voting import calibrate, mean_log_odds
from smm4h.utils.files import write_text

HEADER = ("row", "id", "label", "members_say", "p_label", "p_members_say", "text")


def find_label_issues(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return rows (n_issues,) of tweets whose gold label is probably wrong, the least probable label first.

    Confident learning (Northcutt et al. 2021) by cleanlab.

    Args:
        probabilities: (n_tweets, n_classes), out of fold.
        gold: class indices (n_tweets,).
    """
    from cleanlab.filter import find_label_issues  # a slow import that nothing else needs

    with redirect_stdout(io.StringIO()):
        rows = find_label_issues(gold, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return np.asarray(rows, dtype=np.int64)


def write_label_issues(path: Path, out_of_fold: Path, labelled: Dataset) -> None:
    """Write a table of label issues with the tweets' text; the file must not leave the machine, as the tweets must not.

    Args:
        out_of_fold: the out-of-fold table.
        labelled: the labelled tweets, in the table's order.
    """
    predictions, classes = read_out_of_fold(out_of_fold)
    space, n_tweets = predictions.space, len(classes)
    members, gold = space.to_decide(predictions.probabilities), space.decided_classes(classes)
    probabilities = mean_log_odds(calibrate(members, fit_calibration(members, gold)))
    predicted = probabilities.argmax(axis=1)
    ids, texts = (column(labelled, name).to_pylist() for name in ("id", "text"))
    lines = ["\t".join(HEADER)]
    for decision in find_label_issues(probabilities, gold).tolist():
        row = decision * n_tweets // len(gold)
        labels = (space.decided_name(decision, choice) for choice in (gold[decision], predicted[decision]))
        shares = (f"{probabilities[decision, label]:.3f}" for label in (gold[decision], predicted[decision]))
        cells = [str(row), ids[row], *labels, *shares, wrap_quotes(" ".join(texts[row].split()))]
        lines.append("\t".join(map(protect, cells)))
    write_text(path, "\n".join(lines) + "\n", private=True)


ERROR_HEADER = ("error", "row", "id", "label", "predicted", "p_label", "p_predicted", "text")
ERRORS = ("missed", "confused", "false")  # a positive label not given, given for another positive one, given falsely


def find_errors(
    gold: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, positive: Sequence[int]
) -> list[tuple[str, int]]:
    """Return kind and row of each wrong label: missed ones, confused ones, false ones; the most certain first.

    Wrong labels among labels that are not positive are `false`, too.

    Args:
        gold, predicted: class indices (n_tweets,).
        probabilities: (n_tweets, n_classes), by which an error is certain.
    """
    is_rare, gives_rare = np.isin(gold, positive), np.isin(predicted, positive)
    kinds = np.where(is_rare, np.where(gives_rare, 1, 0), 2)
    rows = np.flatnonzero(gold != predicted)
    certainty = probabilities[rows, predicted[rows]] - probabilities[rows, gold[rows]]
    order = np.lexsort((-certainty, kinds[rows]))
    return [(ERRORS[kinds[row]], row) for row in rows[order].tolist()]


def write_errors(path: Path, out_of_fold: Path, labelled: Dataset, task: Task) -> None:
    """Write a table of the tweets that the ensemble labels wrongly out of fold, with their text; see `find_errors`.

    Args:
        out_of_fold: the out-of-fold table, with the ensemble's columns.
        labelled: the labelled tweets, in the table's order.
    """
    table = pd.read_parquet(out_of_fold)
    space, n_tweets = task.space, len(table)
    gold, predicted = (space.decided_classes(task.indices(table[name])) for name in ("gold", VOTE))
    probabilities = space.to_decide(table[[f"{VOTE} p_{label}" for label in task.labels]].to_numpy())
    ids, texts = (column(labelled, name).to_pylist() for name in ("id", "text"))
    lines = ["\t".join(ERROR_HEADER)]
    for kind, decision in find_errors(gold, predicted, probabilities, task.objective.positive):
        row = decision * n_tweets // len(gold)
        labels = (space.decided_name(decision, choice) for choice in (gold[decision], predicted[decision]))
        shares = (f"{probabilities[decision, label]:.3f}" for label in (gold[decision], predicted[decision]))
        cells = [kind, str(row), ids[row], *labels, *shares, wrap_quotes(" ".join(texts[row].split()))]
        lines.append("\t".join(map(protect, cells)))
    write_text(path, "\n".join(lines) + "\n", private=True)


def has_vote(out_of_fold: Path) -> bool:
    """Return whether the out-of-fold table has the ensemble's columns, which those of older jobs lack."""
    return VOTE in pyarrow.parquet.read_schema(out_of_fold).names
