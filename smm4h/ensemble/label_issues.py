"""Label issues: labelled tweets whose gold label the members contradict out of fold, written for manual review."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from datasets import Dataset

from smm4h.data.dataset import column
from smm4h.data.readers.spreadsheets import protect
from smm4h.data.readers.tables import wrap_quotes
from smm4h.ensemble.fitting import fit_calibration
from smm4h.ensemble.member_predictions import read_out_of_fold
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
    predictions, gold = read_out_of_fold(out_of_fold)
    calibration = fit_calibration(predictions.probabilities, gold)
    probabilities = mean_log_odds(calibrate(predictions.probabilities, calibration))
    predicted = probabilities.argmax(axis=1)
    ids, texts = (column(labelled, name).to_pylist() for name in ("id", "text"))
    lines = ["\t".join(HEADER)]
    for row in find_label_issues(probabilities, gold).tolist():
        labels = predictions.labels[gold[row]], predictions.labels[predicted[row]]
        shares = (f"{probabilities[row, label]:.3f}" for label in (gold[row], predicted[row]))
        cells = [str(row), ids[row], *labels, *shares, wrap_quotes(" ".join(texts[row].split()))]
        lines.append("\t".join(map(protect, cells)))
    write_text(path, "\n".join(lines) + "\n", private=True)
