"""Inputs and outputs of a run: shared files, the training set, predictions and metrics."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from smm4h.config.job import Job
from smm4h.config.plans.adaptation import adaptations_of
from smm4h.config.plans.identity import identity_hash, identity_in
from smm4h.config.plans.plan import Plan, derived_files, fold_runs
from smm4h.config.plans.run import Run
from smm4h.config.task import Task
from smm4h.config.versions import OWN, own_version
from smm4h.data.dataset import column, group_names, groups_of
from smm4h.data.extra_tweets import extra_rows, write_extra_tweets
from smm4h.data.folds import fold_column
from smm4h.data.outputs.predictions import PROBLEM_TYPE, Predictions, read_predictions, write_predictions
from smm4h.data.pseudo_labels import PseudoLabels, part_file, read_part
from smm4h.data.splits import Splits
from smm4h.data.tokenization import token_table, tokenise
from smm4h.metrics import rare_average_precision
from smm4h.training import checkpoints
from smm4h.training.adaptation.texts import file_part, prepare_texts
from smm4h.training.captured.turns import aside
from smm4h.training.checkpoints import ResultFiles
from smm4h.utils.durable import listing, remove, write_checked_json
from smm4h.utils.errors import InputError
from smm4h.utils.files import write_json

REMOVAL_SECONDS = 0.5  # that somebody who removes a folder takes for its other files
HELD_OUT = "held_out"  # part of the tweets that a run holds out
PART_OF = {HELD_OUT: "out_of_fold"}  # where a member from elsewhere has the probabilities of a run's part


class PseudoLabelsRemoved(Exception):
    """Raised where a run's pseudo labels were removed after it was found ready: it waits until they are made again."""


@dataclass(frozen=True)
class RunData:
    """Inputs shared by all runs of a job, as paths and settings: small enough to be pickled to every worker.

    Args:
        pool: the tweets that may be pseudo-labelled: `test`, or `unlabelled` for a file of unlabelled tweets.
        teachers: names of the members that label the pool.
        max_eval_samples: held-out tweets that an evaluation during training uses at most; None: all.
        keep_models: `all`, `best` of each member, `refits`, or `none`.
        keep_models_in: the dtype of kept weights.
        keep_baselines: whether the models of baselines are kept, too.
        best_by: the held-out score by which a member's best run is chosen: the task's metric, or average precision
            where the decision is tuned, since the metric is that of labels by argmax.
        save_minutes: minutes between checkpoints.
        outside_folder: predictions of members from elsewhere; None without such a member.
        extra_file: which extra tweets each run trains on; None without any.
    """

    task: Task
    folds_file: Path
    token_folder: Path
    pseudo_folder: Path
    has_test: bool
    pool: str = "test"
    teachers: frozenset[str] = frozenset()
    max_eval_samples: int | None = None
    keep_models: str = "all"
    keep_models_in: str = "float32"
    keep_baselines: bool = False
    best_by: str = "average_precision"
    save_minutes: float = 5.0
    extra_file: Path | None = None
    outside_folder: Path | None = None
    plan_file: Path | None = None
    identity: str = ""  # hash of the recipe, task and data that the folder must be of

    def check_claimed(self) -> None:
        """Raise `InputError` where another job took the folder over, while this one was stopped."""
        if self.plan_file is not None and identity_in(self.plan_file) not in (None, self.identity):
            raise InputError(
                f"{self.plan_file.parent} was taken over by a job of another recipe, task or data while this one was "
                "stopped; choose another --output_dir"
            )

    def keeps_model(self, run: Run) -> bool:
        """Return whether a run's model outlasts its training; with `best`, a member's other ones are removed later."""
        return run.is_refit if self.keep_models == "refits" else self.keep_models != "none"

    def pseudo_labels(self, run: Run) -> PseudoLabels | None:
        """Return the pseudo-labelled tweets in the run's training set; None for a run of stage 1.

        Raises `PseudoLabelsRemoved` where they were there a moment ago.
        """
        if run.stage == 1:
            return None
        try:
            return self._checked_pseudo_labels(run)
        except (InputError, FileNotFoundError):
            time.sleep(REMOVAL_SECONDS)
        path = self.pseudo_file(run)
        if not path.is_file():
            raise PseudoLabelsRemoved(f"{path} was removed; it is made again")
        return self._checked_pseudo_labels(run)  # they may have been made again meanwhile

    def _checked_pseudo_labels(self, run: Run) -> PseudoLabels:
        tweets, path = token_table(self.token_folder, self.pool, run.member), self.pseudo_file(run)
        derived_files(self.pseudo_folder.parent).check(path)
        return read_part(path, column(tweets, "id"), self.task)

    def pseudo_file(self, run: Run) -> Path:
        """Return the path of the pseudo-labelled tweets for the run's stage and fold."""
        return part_file(self.pseudo_folder, run.stage, run.member.args.fold_seed, run.fold)

    def is_ready(self, run: Run) -> bool:
        """Return whether all is there that the run waits for: its pseudo labels, and its adapted encoder."""
        return self.is_taught(run) and (run.adaptation is None or run.adaptation.is_done())

    def is_taught(self, run: Run) -> bool:
        """Return whether the run's pseudo labels are written, which runs of stage 1 do not need."""
        return run.stage == 1 or self.pseudo_file(run).is_file()

    def folds(self, seed: int) -> np.ndarray:
        """Return the fold (n_tweets,) that holds each labelled tweet out."""
        return pd.read_parquet(self.folds_file, columns=[fold_column(seed)]).to_numpy()[:, 0]

    def extra_rows(self, run: Run) -> np.ndarray:
        """Return the extra tweets (n_rows,) that the run trains on, by row."""
        return np.zeros(0, dtype=np.int64) if self.extra_file is None else extra_rows(self.extra_file, run)

    def outside_predictions(self, member: str) -> dict[str, np.ndarray]:
        """Return a member's probabilities (n_tweets, n_classes) from elsewhere by part, in the order of the tweets."""
        files = sorted((self.outside_folder / member).glob("[!.]*.parquet"))
        return {file.stem: read_predictions(file).probabilities for file in files}

    def held_out(self, run: Run) -> np.ndarray:
        """Return a mask (n_tweets,) of the labelled tweets that the run holds out."""
        return run.holds_out(self.folds(run.member.args.fold_seed))


def training_part(run: Run, data: RunData, pseudo: PseudoLabels | None) -> Dataset:
    """Return a run's training set (token ids, labels).

    It holds the labelled tweets of the other folds, the extra tweets that are no twins of held-out tweets, and the
    pseudo-labelled tweets.
    """
    known = {"labelled": np.flatnonzero(~data.held_out(run)), "extra": data.extra_rows(run)}
    tables = {part: token_table(data.token_folder, part, run.member) for part, rows in known.items() if len(rows)}
    parts = [_gold_part(table, known[part], data.task, pseudo) for part, table in tables.items()]
    if pseudo is not None:
        pool = token_table(data.token_folder, data.pool, run.member)
        parts.append(_with_labels(pool, pseudo.rows, pseudo.labels).cast(parts[0].features))
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _gold_part(tweets: Dataset, rows: np.ndarray, task: Task, pseudo: PseudoLabels | None) -> Dataset:
    """Return some rows of a table with gold labels; as targets beside soft pseudo labels, as a column has one type."""
    if pseudo is None or pseudo.labels.ndim == 1:
        return tweets.select(rows)
    targets = task.space.targets(column(tweets, "labels").to_numpy()[rows])
    return _with_labels(tweets.remove_columns("labels"), rows, targets)


def _with_labels(tweets: Dataset, rows: np.ndarray, labels: np.ndarray) -> Dataset:
    """Return some rows of a token table, in memory, with labels (n_rows,) or soft labels (n_rows, n_classes)."""
    kind = pa.int64() if labels.ndim == 1 else pa.list_(pa.float32())
    table = tweets.data.table.take(pa.array(rows)).append_column("labels", pa.array(labels.tolist(), kind))
    return Dataset(table.replace_schema_metadata(None))


def _in_this_process(action: Callable[[], None]) -> None:
    action()


def write_results(
    run: Run,
    data: RunData,
    predict: Callable[[str, Dataset], np.ndarray] | dict[str, np.ndarray],
    result: dict[str, Any],
    written: ResultFiles,
    *,
    in_one_process: Callable[[Callable[[], None]], None] = _in_this_process,
    broadcast: Callable[[bool], bool] = bool,
) -> None:
    """Write a run's predictions and metrics.

    The run predicts the held-out fold, unless it is a refit, the test tweets and, as a teacher, a pool of unlabelled
    tweets. Files that are whole already are kept.

    Args:
        predict: returns the probabilities (n_tweets, n_classes) of a part's token table, by the part's name and the
            table; or probabilities of all tweets by part, of a member from elsewhere.
        result: facts about the training, added to the metrics.
        written: the run's files so far, to which those of this function are added.
        in_one_process: has one process write; where several train the run jointly, all predict.
        broadcast: returns the main process's value in all processes, so that all predict the same tables.
    """
    maker = {"member": run.member.name, "fold": run.fold, "fingerprint": run.fingerprint}
    maker |= kind_of(data.task)
    labelled = token_table(data.token_folder, "labelled", run.member)
    held_out = labelled.select(np.flatnonzero(data.held_out(run)))
    parts = []  # those first that are computed: the best evaluation has seen the held-out tweets already
    if data.has_test:
        parts.append(("test", run.test_file, token_table(data.token_folder, "test", run.member)))
    if data.pool == "unlabelled" and run.member.name in data.teachers:
        parts.append(("unlabelled", run.unlabelled_file, token_table(data.token_folder, "unlabelled", run.member)))
    if not run.is_refit:
        parts.append((HELD_OUT, run.held_out_file, held_out))
    for name, path, tweets in parts:
        part_maker = {**maker, "part": name}
        if broadcast(written.is_whole(path, part_maker)):
            continue
        predicted = predict(name, tweets) if callable(predict) else predict[PART_OF.get(name, name)]
        if not callable(predict):
            predicted = predicted[column(tweets, "row").to_numpy()]

        def write(path=path, tweets=tweets, predicted=predicted, part_maker=part_maker) -> None:
            rows, ids = column(tweets, "row").to_numpy(), column(tweets, "id")
            groups = groups_of(tweets)
            write_predictions(path, Predictions(rows, ids, predicted, data.task.labels, part_maker, groups))
            written.add(path)

        in_one_process(write)

    def write_metrics() -> None:
        facts = dict(result)
        facts |= {} if data.extra_file is None else {"extra_tweets": len(data.extra_rows(run))}
        facts |= {} if run.is_refit else {"held_out": _held_out_score(run, held_out, data.task)}
        write_json(run.metrics_file, {**maker, "held_out_tweets": len(held_out), **facts})
        written.add(run.metrics_file)

    in_one_process(write_metrics)


def kind_of(task: Task) -> dict[str, str]:
    """Return what the metadata of predictions say of their kind: nothing for one label a tweet."""
    problem_type = task.space.problem_type
    return {PROBLEM_TYPE: problem_type} if problem_type else {}


def write_done(run: Run, record: dict[str, Any], files: dict[str, dict[str, Any]]) -> None:
    """Write DONE, with what made the run and the list of its files, and remove what is not needed any more."""
    with aside():
        model = listing(run.directory, [run.model]) if run.model.is_dir() else {}
    made_by = {"fingerprint": run.fingerprint, OWN: own_version()}
    write_checked_json(run.done_file, {**made_by, **record, "files": {**files, **model}})
    remove_intermediate_files(run)


def _held_out_score(run: Run, held_out: Dataset, task: Task) -> dict[str, Any]:
    """Return the score of the run's held-out predictions by argmax, and their average precision."""
    gold, predicted = column(held_out, "labels").to_numpy(), read_predictions(run.held_out_file).probabilities
    score = task.score(gold, task.space.most_probable(predicted), group_names(held_out))
    decided = task.space.to_decide(predicted), task.space.decided_classes(gold)
    return {**score, "average_precision": rare_average_precision(*decided, task.objective.positive)}


def remove_intermediate_files(run: Run) -> None:
    """Remove what a finished run no longer needs: checkpoints, weights that are not to be kept, hidden leftovers."""
    checkpoints.remove_all(run.directory)
    for path in (run.trained_model, run.trained_file, run.collapsed_file, run.running_file):
        remove(path)
    for path in run.directory.glob(".*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def keep_best_model(runs: Sequence[Run], score: str) -> None:
    """Remove the weights of a member's fold runs except the highest-scoring held-out fold, the first of ties.

    A run that scores lower than another finished run cannot become the best, so any process may call this at any time,
    also before all folds are done. Runs are ordered by fold first, or two processes could break a tie differently and
    remove the weights of both runs.

    Args:
        runs: all runs of one member.
        score: key of the held-out score; see `RunData.best_by`.
    """
    done = sorted((run for run in fold_runs(runs) if run.is_done()), key=lambda run: run.fold)
    scores = [run.measures()["held_out"][score] for run in done]
    for index, run in enumerate(done):
        if index != scores.index(max(scores)):
            remove(run.model)


def prepare_run_data(plan: Plan, job: Job, splits: Splits) -> RunData:
    """Write the token tables of the job's tweets, and return the inputs that its runs share."""
    folder = plan.output_dir / "tokens"
    members = list({run.member.name: run.member for run in plan.wanted if not run.is_adaptation}.values())
    for part in ("labelled", "test", "unlabelled"):
        if (tweets := getattr(splits, part)) is not None:
            tokenise(folder, part, tweets, members, plan.derived)
    for run in adaptations_of(plan.wanted):
        prepare_texts(folder, run.member, adaptation_tweets(splits), plan.derived)
    if (extra := splits.extra) is not None:
        tokenise(folder, "extra", extra.tweets, members, plan.derived)
        seeds = sorted({member.args.fold_seed for member in job.members})
        given = extra, splits.labelled, splits.test, seeds, job
        plan.derived.make(plan.extra_file, lambda: write_extra_tweets(plan.extra_file, *given))
    for name, predictions in (splits.outside or {}).items():
        for part, probabilities in predictions.items():
            _write_outside(plan, name, part, probabilities, splits, job.task)
    return RunData(
        task=job.task,
        folds_file=plan.folds_file,
        token_folder=folder,
        pseudo_folder=plan.output_dir / "pseudo_labels",
        has_test=splits.test is not None,
        pool="test" if splits.unlabelled is None else "unlabelled",
        teachers=frozenset(m.name for stage in job.stages if stage > 1 for m in job.teachers_of(stage)),
        max_eval_samples=job.settings.max_eval_samples,
        keep_models=job.settings.keep_models,
        keep_models_in=job.settings.keep_models_in,
        keep_baselines=job.settings.keep_baselines,
        best_by="average_precision" if job.settings.decision in ("tuned", "pulled") else job.task.measure,
        save_minutes=job.settings.save_minutes,
        extra_file=None if splits.extra is None else plan.extra_file,
        outside_folder=plan.outside_folder if splits.outside else None,
        plan_file=plan.plan_file,
        identity=identity_hash(plan.identity),
    )


def adaptation_tweets(splits: Splits) -> dict[str, Dataset | None]:
    """Return the tweets that encoders may be adapted to, by the name of their part; see `texts.part_names`."""
    of_files = zip(splits.adaptation_hashes().values(), splits.adaptation.values(), strict=True)
    return {"labelled": splits.labelled, "test": splits.test} | {file_part(own): table for own, table in of_files}


def _write_outside(plan: Plan, name: str, part: str, probabilities: np.ndarray, splits: Splits, task: Task) -> None:
    """Write a member's predictions from elsewhere into the job's folder, in the first process that asks."""
    tweets = splits.labelled if part == "out_of_fold" else getattr(splits, part)
    rows, ids = column(tweets, "row").to_numpy(), column(tweets, "id")
    maker = {"member": name, "part": part, **kind_of(task)}
    predictions = Predictions(rows, ids, probabilities, task.labels, maker, groups_of(tweets))
    path = plan.outside_folder / name / f"{part}.parquet"
    plan.derived.make(path, lambda: write_predictions(path, predictions))
