"""Member predictions: combine the predictions of a member's runs, or read label files, for a vote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from smm4h.config.plans.plan import fold_runs, new_tweet_runs
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.data.dataset import GROUP
from smm4h.data.outputs.label_files import read_labels
from smm4h.data.outputs.labels import first_difference, in_order_of, labels_of
from smm4h.data.outputs.predictions import MAKER, PROBLEM_TYPE, Predictions, read_predictions
from smm4h.data.readers.tables import Finding
from smm4h.models import voting
from smm4h.models.label_spaces import LabelSpace, space_named
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_atomically
from smm4h.utils.wording import are, counted

VOTE = "final vote"  # of all members; a space, which no member's name has


@dataclass(frozen=True)
class MemberPredictions:
    """Predictions of several members on the same tweets, in the tweets' order."""

    members: list[str]
    ids: pa.ChunkedArray
    labels: list[str]
    votes: np.ndarray  # (n_members, n_tweets) class indices
    probabilities: np.ndarray | None  # (n_members, n_tweets, n_classes); None for label files
    findings: Sequence[Finding] = ()  # about label files
    groups: np.ndarray | None = None  # (n_tweets,) of strings, for cuts by group; None: not known
    problem_type: str | None = None  # of label sets, see `LabelSpace`

    @property
    def space(self) -> LabelSpace:
        """What a tweet's labels can be."""
        return space_named(self.problem_type, self.labels)

    def vote(self, method: str, ties: str) -> np.ndarray:
        """Return the predicted class indices (n_tweets,).

        Args:
            method: `soft`, or any other name for a hard vote.
            ties: of a hard vote, `probability` for the highest mean probability, else the lowest class.

        Raises `InputError` where the method or the tie rule needs probabilities and there are none.
        """
        if self.probabilities is None and (method == "soft" or ties == "probability"):
            flag = "--method soft" if method == "soft" else "--ties probability"
            raise InputError(
                f"{flag} needs probabilities of every label (columns p_{', p_'.join(self.labels)}), and not all files "
                "have them; use --method hard --ties lowest"
            )
        space, n_tweets = self.space, len(self.ids)
        if method == "soft":
            return space.most_probable(voting.mean_probabilities(self.probabilities))
        means = space.to_decide(voting.mean_probabilities(self.probabilities)) if ties == "probability" else None
        return space.of_decided(voting.hard_vote(self._ballots(), len(space.decided), means), n_tweets)

    def _ballots(self) -> np.ndarray:
        """Return the members' votes (n_members, n_decisions) on what is decided."""
        return np.stack([self.space.decided_classes(votes) for votes in self.votes])

    def of_members(self, names: Sequence[str]) -> "MemberPredictions":
        """Return the predictions of some of the members, in this order."""
        rows = [self.members.index(name) for name in names]
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        return replace(self, members=list(names), votes=self.votes[rows], probabilities=probabilities)

    def count_ties(self) -> int:
        """Return the number of tweets, or of tweets' labels, for which several classes share the most votes."""
        leading = voting.tied(voting.count_votes(self._ballots(), len(self.space.decided)))
        return int((leading.sum(axis=1) > 1).sum())

    def names(self, classes: np.ndarray) -> list[str]:
        """Return the labels of class indices (n_tweets,)."""
        return self.space.names(classes)


def check_done(runs: Sequence[Run]) -> None:
    """Raise `InputError` if any of the runs is not done."""
    missing = [run.name for run in runs if not run.is_done()]
    if missing:
        raise InputError(
            f"{len(missing)} of {counted(len(runs), 'run')} {are(len(missing))} missing ({missing[0]}, ...); "
            "train them, or vote with --members that are done"
        )


def _by_member(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs by member; raise `InputError` if any of them is not done."""
    check_done(runs)
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.member.name, []).append(run)
    return members


def _read(path: Path, run: Run) -> Predictions:
    """Read a run's predictions file; raise `InputError` if it is damaged, or its fingerprint is not the run's."""
    run.check_file(path)
    predictions = read_predictions(path)
    if predictions.maker.get("fingerprint") != run.fingerprint:
        raise InputError(
            f"{path} was made by another recipe, task or data; remove {run.directory} to have it made anew"
        )
    return predictions


def stack_predictions(
    members: list[str],
    ids: pa.ChunkedArray,
    labels: list[str],
    probabilities: list[np.ndarray],
    groups: np.ndarray | None = None,
    problem_type: str | None = None,
) -> MemberPredictions:
    """Return member predictions from one array of probabilities (n_tweets, n_classes) per member."""
    stacked = np.stack(probabilities)
    votes = space_named(problem_type, labels).most_probable(stacked)
    return MemberPredictions(members, ids, labels, votes, stacked, groups=groups, problem_type=problem_type)


def _group_array(groups: pa.ChunkedArray | None) -> np.ndarray | None:
    """Return groups (n_tweets,) as an array of strings."""
    return None if groups is None else np.array(groups.to_pylist(), dtype=object)


def mean_predictions(runs: Sequence[Run], part: str = "test", mean: str = "probability") -> MemberPredictions:
    """Return each member's mean probabilities over its runs, on the `test` tweets or on the `unlabelled` tweets.

    Args:
        mean: a key of `voting.MEANS`; the paper takes the mean of probabilities.

    A refitted run has the weight of all folds together.

    Raises `InputError` for a missing run, and for a file that predicts other tweets than the first file.
    """
    members = _by_member(runs)
    return _means(members, run_predictions(runs, part), mean)


def fold_and_mean_predictions(
    runs: Sequence[Run], part: str, mean: str, *, refits_alone: bool = False
) -> tuple[np.ndarray, MemberPredictions]:
    """Return the folds' probabilities (n_folds, n_members, n_tweets, n_classes), and the members' means.

    Args:
        refits_alone: of each member that has refits, only these are in the mean.
    """
    members, by_run = _by_member(runs), run_predictions(runs, part)
    probs = dict(zip(by_run.members, by_run.probabilities, strict=True))
    folds = [[probs[run.name] for run in fold_runs(member_runs)] for member_runs in members.values()]
    used = {name: new_tweet_runs(of_member, refits_alone=refits_alone) for name, of_member in members.items()}
    return np.stack(folds).swapaxes(0, 1), _means(used, by_run, mean)


def _means(members: dict[str, list[Run]], by_run: MemberPredictions, mean: str) -> MemberPredictions:
    """Return the members' means of `by_run`, the predictions of single runs."""
    probs = dict(zip(by_run.members, by_run.probabilities, strict=True))
    means = [
        by_run.space.mean_of_models(
            mean, [probs[run.name] for run in member_runs], [run.is_refit for run in member_runs]
        )
        for member_runs in members.values()
    ]
    return stack_predictions(list(members), by_run.ids, by_run.labels, means, by_run.groups, by_run.problem_type)


def run_predictions(runs: Sequence[Run], part: str) -> MemberPredictions:
    """Return each run's own probabilities on the `test` tweets or on the `unlabelled` tweets, under the runs' names.

    Raises `InputError` for a run of another recipe, and for a file that predicts other tweets than the first file.
    """
    probs, first = [], None
    for run in runs:
        path = run.test_file if part == "test" else run.unlabelled_file
        predictions = _read(path, run)
        first = first or (path, predictions)
        row = first_difference(predictions.ids, first[1].ids)
        if row is not None:
            raise InputError(f"{path} predicts other tweets than {first[0]}: they differ at row {row}")
        probs.append(predictions.probabilities)
    groups = _group_array(first[1].groups)
    return stack_predictions(
        [run.name for run in runs], first[1].ids, first[1].labels, probs, groups, first[1].problem_type
    )


def out_of_fold_predictions(runs: Sequence[Run]) -> MemberPredictions:
    """Return each member's out-of-fold probabilities: every labelled tweet predicted by the run that held it out.

    Raises `InputError` for a missing run, and unless a member's folds hold every labelled tweet out exactly once.
    """
    members, tables, ids, labels, groups = _by_member(fold_runs(runs)), [], None, [], None
    for name, member_runs in members.items():
        parts = [_read(run.held_out_file, run) for run in member_runs]
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows, kind="stable")
        if not np.array_equal(rows[order], np.arange(len(rows))):
            raise InputError(f"the folds of {name} do not hold every tweet out exactly once; train all of them")
        tables.append(np.concatenate([part.probabilities for part in parts])[order])
        ids = pa.chunked_array([chunk for part in parts for chunk in part.ids.chunks], pa.string()).take(
            pa.array(order)
        )
        labels = parts[0].labels
        if all(part.groups is not None for part in parts):
            groups = np.concatenate([_group_array(part.groups) for part in parts])[order]
    return stack_predictions(list(members), ids, labels, tables, groups, parts[0].problem_type)


def predictions_from_files(
    paths: Sequence[Path], task: Task | None = None, encoding: str | None = None
) -> MemberPredictions:
    """Read label files, or predictions files, of the same tweets as one member each, in the order of the first file.

    Where every file has a probability of each label, the members have probabilities, too; their votes are the files'
    labels.

    Args:
        task: names the labels and columns; None: the labels are those that the files name, see `labels_of`.
        encoding: of text files that are not UTF-8.

    Raises `InputError` with file and line for a tweet that is not in all files, and for a label that the task lacks.
    """
    files = [read_labels(path, task, encoding) for path in paths]
    files = [files[0], *(in_order_of(file, files[0].ids, files[0].path, files[0].where) for file in files[1:])]
    labels = task.labels if task is not None else labels_of(files)
    space = LabelSpace(tuple(labels)) if task is None else task.space
    votes = np.stack([file.classes_in(space) for file in files])
    probabilities = [file.probabilities_of(labels) for file in files]
    stacked = None if any(probs is None for probs in probabilities) else np.stack(probabilities)
    findings = [finding for file in files for finding in file.findings]
    names = [str(path) for path in paths]
    return MemberPredictions(
        names, files[0].ids, list(labels), votes, stacked, findings, problem_type=space.problem_type
    )


def write_out_of_fold(
    path: Path,
    predictions: MemberPredictions,
    gold: np.ndarray,
    predicted: np.ndarray | None = None,
    probabilities: np.ndarray | None = None,
) -> None:
    """Write the table of members' out-of-fold probabilities and gold class indices (n_tweets,), atomically.

    Args:
        predicted, probabilities: the ensemble's own class indices (n_tweets,) and probabilities (n_tweets, n_classes),
            out of fold, for the columns `VOTE` and `VOTE p_LABEL`; None: there is no ensemble yet.
    """
    columns = {"row": pa.array(np.arange(len(gold))), "id": predictions.ids, "gold": pa.array(predictions.names(gold))}
    for member, own in zip(predictions.members, predictions.probabilities, strict=True):
        for label, column in zip(predictions.labels, own.T, strict=True):
            columns[f"{member} p_{label}"] = pa.array(column, pa.float32())
    if predictions.groups is not None:
        columns[GROUP] = pa.array(predictions.groups, pa.string())
    if predicted is not None:
        columns[VOTE] = pa.array(predictions.names(predicted))
        for label, column in zip(predictions.labels, probabilities.T, strict=True):
            columns[f"{VOTE} p_{label}"] = pa.array(column, pa.float32())
    metadata = {"members": predictions.members, "labels": predictions.labels}
    metadata |= {PROBLEM_TYPE: predictions.problem_type} if predictions.problem_type else {}
    table = pa.table(columns).replace_schema_metadata({MAKER: json.dumps(metadata)})
    write_atomically(path, lambda partial: pa.parquet.write_table(table, partial))


def read_out_of_fold(path: Path) -> tuple[MemberPredictions, np.ndarray]:
    """Return the members' out-of-fold predictions and the gold class indices (n_tweets,).

    Raises `InputError` for a file of another kind, and for a table whose rows are not every tweet once, in order.
    """
    try:
        table = pa.parquet.read_table(path, partitioning=None)
        metadata = json.loads((table.schema.metadata or {})[MAKER])
        members, labels = metadata["members"], metadata["labels"]
        parts = [[table.column(f"{member} p_{label}").to_numpy() for label in labels] for member in members]
        rows, gold = table.column("row").to_numpy(), table.column("gold").to_pylist()
        groups = table.column(GROUP) if GROUP in table.column_names else None
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        raise InputError(f"{path} is not an out-of-fold table; give the job's command again to have it made") from None
    if not np.array_equal(rows, np.arange(len(rows))):
        raise InputError(f"{path} does not hold every tweet exactly once; remove it and give the job's command again")
    probabilities = [np.stack(part, axis=1) for part in parts]
    known = _group_array(groups), metadata.get(PROBLEM_TYPE)
    predictions = stack_predictions(members, table.column("id"), labels, probabilities, *known)
    return predictions, predictions.space.classes(gold)
