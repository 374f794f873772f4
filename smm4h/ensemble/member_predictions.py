"""Predictions of a member's folds -> its ballot on every tweet; label files of anyone -> ballots too."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from smm4h.config.plan import Run, fold_runs
from smm4h.data.prediction_files import (
    MAKER,
    Predictions,
    check_same_tweets,
    first_difference,
    read_labels,
    read_predictions,
)
from smm4h.models import voting
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically


@dataclass(frozen=True)
class MemberPredictions:
    """What some members say of the same tweets, in the tweets' order."""

    members: list[str]
    ids: pa.ChunkedArray
    labels: list[str]
    votes: np.ndarray  # (n_members, n_tweets) class indices
    probabilities: np.ndarray | None  # (n_voters, n_tweets, n_classes); label files have none

    def vote(self, method: str, ties: str) -> np.ndarray:
        """The elected class indices (n_tweets,).

        Raises `InputError` where the method or the tie rule needs probabilities and the ballots have none.
        """
        if self.probabilities is None and (method == "soft" or ties == "probability"):
            asked = "--method soft" if method == "soft" else "--ties probability"
            raise InputError(f"{asked} needs probabilities, and label files have none; use --method hard --ties lowest")
        if method == "soft":
            return voting.soft_vote(self.probabilities)
        means = voting.mean_probabilities(self.probabilities) if ties == "probability" else None
        return voting.hard_vote(self.votes, len(self.labels), means)

    def count_ties(self) -> int:
        """How many tweets have more than one class with the most ballots."""
        leading = voting.tied(voting.count_votes(self.votes, len(self.labels)))
        return int((leading.sum(axis=1) > 1).sum())

    def names(self, choices: np.ndarray) -> list[str]:
        """Labels of class indices."""
        return np.asarray(self.labels, dtype=object)[choices].tolist()


def _by_member(runs: Sequence[Run]) -> dict[str, list[Run]]:
    missing = [run.name for run in runs if not run.is_done()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(runs)} runs are missing ({missing[0]}, ...); "
            "train them, or vote with --members that are done"
        )
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.member.name, []).append(run)
    return members


def _read(path: Path, run: Run) -> Predictions:
    predictions = read_predictions(path)
    if predictions.maker["fingerprint"] != run.fingerprint:
        raise InputError(
            f"{path} was made by another recipe, task or data; remove {run.directory} to have it made anew"
        )
    return predictions


def stack_predictions(
    members: list[str], ids: pa.ChunkedArray, labels: list[str], probabilities: list[np.ndarray]
) -> MemberPredictions:
    """Ballots of probabilities (n_tweets, n_classes), one array a voter."""
    stacked = np.stack(probabilities)
    return MemberPredictions(members, ids, labels, stacked.argmax(axis=2), stacked)


def mean_predictions(runs: Sequence[Run], part: str = "test", mean: str = "probability") -> MemberPredictions:
    """Each member's probabilities of the test tweets, or of the `unlabelled` ones: the mean over its runs.

    A `mean` of `voting.MEANS`: the paper's is that of probabilities. A refitted run counts as much as all folds.

    Raises `InputError` for a missing run and for files that predict other tweets than the first one.
    """
    members = _by_member(runs)
    return _means(members, run_predictions(runs, part), mean)


def fold_and_mean_predictions(runs: Sequence[Run], part: str, mean: str) -> tuple[np.ndarray, MemberPredictions]:
    """Each fold's probabilities (n_folds, n_members, n_tweets, n_classes), and the ballots of `mean_predictions`."""
    members, each = _by_member(runs), run_predictions(runs, part)
    of_run = dict(zip(each.members, each.probabilities, strict=True))
    folds = [[of_run[run.name] for run in fold_runs(of_member)] for of_member in members.values()]
    return np.stack(folds).swapaxes(0, 1), _means(members, each, mean)


def _means(members: dict[str, list[Run]], each: MemberPredictions, mean: str) -> MemberPredictions:
    of_run = dict(zip(each.members, each.probabilities, strict=True))
    means = [
        voting.mean_of_models(mean, [of_run[run.name] for run in of_member], [run.is_refit for run in of_member])
        for of_member in members.values()
    ]
    return stack_predictions(list(members), each.ids, each.labels, means)


def run_predictions(runs: Sequence[Run], part: str) -> MemberPredictions:
    """Each run's own probabilities of the test tweets, or of the `unlabelled` ones; raises like `mean_predictions`."""
    found, first = [], None
    for run in runs:
        path = run.test_file if part == "test" else run.unlabelled_file
        predictions = _read(path, run)
        first = first or (path, predictions)
        row = first_difference(predictions.ids, first[1].ids)
        if row is not None:
            raise InputError(f"{path} predicts other tweets than {first[0]}: they differ at row {row}")
        found.append(predictions.probabilities)
    return stack_predictions([run.name for run in runs], first[1].ids, first[1].labels, found)


def out_of_fold_predictions(runs: Sequence[Run]) -> MemberPredictions:
    """Each member's out-of-fold probabilities: every labelled tweet by the one run that held it out.

    Raises `InputError` unless a member's folds hold every labelled tweet out exactly once.
    """
    members, tables, ids, labels = _by_member(fold_runs(runs)), [], None, []
    for name, of_member in members.items():
        parts = [_read(run.held_out_file, run) for run in of_member]
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows, kind="stable")
        if not np.array_equal(rows[order], np.arange(len(rows))):
            raise InputError(f"the folds of {name} do not hold every tweet out exactly once; train all of them")
        tables.append(np.concatenate([part.probabilities for part in parts])[order])
        ids = pa.chunked_array([chunk for part in parts for chunk in part.ids.chunks], pa.string()).take(
            pa.array(order)
        )
        labels = parts[0].labels
    return stack_predictions(list(members), ids, labels, tables)


def predictions_from_files(paths: Sequence[Path], labels: Sequence[str] | None) -> MemberPredictions:
    """Ballots of label files, or of predictions files, that all speak of the same tweets in the same order.

    Without a task's `labels` the classes are those that the label files name, in ascending order. Raises `InputError`
    with the file and the first differing row where they disagree on the tweets.
    """
    if all(path.suffix == ".parquet" for path in paths):
        made = [read_predictions(path) for path in paths]
        for path, one in zip(paths, made, strict=True):
            row = first_difference(one.ids, made[0].ids)
            if row is not None:
                raise InputError(f"{path} predicts other tweets than {paths[0]}: they differ at row {row}")
            if one.labels != made[0].labels or (labels is not None and one.labels != list(labels)):
                raise InputError(
                    f"{path} has classes {', '.join(one.labels)}, not {', '.join(labels or made[0].labels)}"
                )
        return stack_predictions(
            [str(p) for p in paths], made[0].ids, made[0].labels, [one.probabilities for one in made]
        )
    files = [read_labels(path) for path in paths]
    for file in files[1:]:
        check_same_tweets(file, files[0].ids, files[0].path)
    if labels is None:
        labels = sorted({label for file in files for label in file.labels.unique().to_pylist()})
    choices = np.stack([file.indices(labels) for file in files])
    return MemberPredictions([str(path) for path in paths], files[0].ids, list(labels), choices, None)


def write_out_of_fold(path: Path, ballots: MemberPredictions, gold: np.ndarray) -> None:
    """Writes the table of members' held-out probabilities and gold class indices (n_tweets,), all or nothing."""
    columns = {"row": pa.array(np.arange(len(gold))), "id": ballots.ids, "gold": pa.array(ballots.names(gold))}
    for member, probabilities in zip(ballots.members, ballots.probabilities, strict=True):
        for label, column in zip(ballots.labels, probabilities.T, strict=True):
            columns[f"{member} p_{label}"] = pa.array(column, pa.float32())
    about = {"members": ballots.members, "labels": ballots.labels}
    table = pa.table(columns).replace_schema_metadata({MAKER: json.dumps(about)})
    write_atomically(path, lambda partial: pa.parquet.write_table(table, partial))


def read_out_of_fold(path: Path) -> tuple[MemberPredictions, np.ndarray]:
    """The members' held-out ballots and the gold class indices (n_tweets,).

    Raises `InputError` for a file of another kind, and for one whose rows are not every tweet once, in order.
    """
    try:
        table = pa.parquet.read_table(path)
        about = json.loads((table.schema.metadata or {})[MAKER])
        members, labels = about["members"], about["labels"]
        parts = [[table.column(f"{member} p_{label}").to_numpy() for label in labels] for member in members]
        rows, gold = table.column("row").to_numpy(), table.column("gold").to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError):
        raise InputError(f"{path} is not an out-of-fold table; give the job's command again to have it made") from None
    if not np.array_equal(rows, np.arange(len(rows))):
        raise InputError(f"{path} does not hold every tweet exactly once; remove it and give the job's command again")
    index = {label: place for place, label in enumerate(labels)}
    probabilities = [np.stack(part, axis=1) for part in parts]
    return stack_predictions(members, table.column("id"), labels, probabilities), np.array(
        [index[label] for label in gold]
    )
