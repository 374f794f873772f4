"""Labelled tweets whose gold label the members contradict, out of fold: a file that a person can go through."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from datasets import Dataset

from smm4h.data.dataset import column
from smm4h.data.readers import wrap_quotes
from smm4h.ensemble.fitting import fit_calibration
from smm4h.ensemble.member_predictions import read_out_of_fold
from smm4h.models.voting import calibrate, mean_log_odds
from smm4h.utils.files import write_text

HEADER = ("row", "id", "label", "members_say", "p_label", "p_members_say", "text")


def find_label_issues(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Rows of the tweets whose gold label (n_tweets,) is contradicted with confidence, the most doubtful first.

    Confident learning (Northcutt et al. 2021) by cleanlab, on out-of-fold probabilities (n_tweets, n_classes).
    """
    from cleanlab.filter import find_label_issues  # here, because nothing else needs it

    with redirect_stdout(io.StringIO()):
        found = find_label_issues(gold, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return np.asarray(found, dtype=np.int64)


def write_label_issues(path: Path, out_of_fold: Path, labelled: Dataset) -> None:
    """Writes the doubtful labels with their tweets; the file is for the eyes of those who have the tweets."""
    ballots, gold = read_out_of_fold(out_of_fold)
    calibration = fit_calibration(ballots.probabilities, gold)
    probabilities = mean_log_odds(calibrate(ballots.probabilities, calibration))
    said = probabilities.argmax(axis=1)
    ids, texts = (column(labelled, name).to_pylist() for name in ("id", "text"))
    lines = ["\t".join(HEADER)]
    for row in find_label_issues(probabilities, gold).tolist():
        labels = ballots.labels[gold[row]], ballots.labels[said[row]]
        shares = (f"{probabilities[row, label]:.3f}" for label in (gold[row], said[row]))
        lines.append("\t".join([str(row), ids[row], *labels, *shares, wrap_quotes(" ".join(texts[row].split()))]))
    write_text(path, "\n".join(lines) + "\n")
