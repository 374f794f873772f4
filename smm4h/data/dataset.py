"""Tables -> one HF Dataset of tweets (row, id, user, text, label, source), and its columns as arrays.

No message contains a tweet's text: messages name file and line instead.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value

from smm4h.config.job import TweetFile
from smm4h.config.task import Task
from smm4h.data.readers.files import kind_of
from smm4h.data.readers.formats import input_files, read_tables
from smm4h.data.readers.ids import checked_ids
from smm4h.data.readers.labels import UNKNOWN, KnownLabels, LabelJoin, label_classes
from smm4h.data.readers.tables import LONGEST_NAME, Finding, Findings, Table, Wanted, unwrap_quotes
from smm4h.utils.errors import InputError


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Return a column as Arrow holds it, (n_rows,); `dataset[name]` would decode row by row, a hundred times slower."""
    return dataset.select_columns(name).with_format("arrow")[:][name]


def groups_of(dataset: Dataset) -> pa.ChunkedArray | None:
    """Return the tweets' groups (n_rows,), or None where the task has none."""
    return column(dataset, GROUP) if GROUP in dataset.column_names else None


def contexts_of(dataset: Dataset) -> list[str] | None:
    """Return the tweets' second texts (n_rows,), or None where the task has none."""
    return column(dataset, CONTEXT).to_pylist() if CONTEXT in dataset.column_names else None


def group_names(dataset: Dataset) -> np.ndarray | None:
    """Return the tweets' groups (n_rows,) as an array of strings, or None where the task has none."""
    groups = groups_of(dataset)
    return None if groups is None else np.array(groups.to_pylist(), dtype=object)


GROUP = "group"  # column of a Dataset and of files of predictions; empty for a tweet of no group
CONTEXT = "context"  # column of a Dataset with the tweets' second texts
MOST_GROUPS = 100
SPREADSHEET_ERRORS = {"#NAME?", "#VALUE!", "#REF!", "#N/A", "#NUM!", "#NULL!", "#DIV/0!", "#ERROR!"}
PART = "part"  # column of labelled tweets, where the validation tweets are to be handed in: training or validation
NUMBERED = "tweets are numbered from 0, because the file has no column of ids"
LOST_TEXTS = "tweets are errors of a spreadsheet such as #NAME?; compare them with another copy"
CUT_IDS = "ids have 16 digits or more and end in 000, as a spreadsheet leaves them; compare them with another copy"


def wanted_columns(task: Task, *, labelled: bool, ids_may_lack: bool = False) -> Wanted:
    """Return the columns that are read of a file of tweets."""
    columns = task.columns if labelled else replace(task.columns, label=[])
    names = [*task.labels, *task.label_of_spelling]
    of_labels = {}
    if labelled and task.multi_label:
        marks = [*task.multi_label.columns.values()]
        of_labels, names = {"marks": marks, "lists": task.columns.label}, [n for n in names if n not in marks]
    options = {"header": task.header, "one_text_per_file": task.one_text_per_file}
    return Wanted(columns, names, ids_may_lack, **options, **of_labels)


def tweets_of(
    table: Table, task: Task, *, labelled: bool, ids_may_lack: bool = False, first_number: int = 0
) -> pd.DataFrame:
    """Return a frame of tweets with columns id, user, text, perhaps source, and of a labelled file label (class index).

    A row without a label has the index -1. What is odd but usable is added to the table's findings.

    Args:
        ids_may_lack: whether tweets are numbered where the file lacks the task's column of ids, as they are where the
            task names none.
        first_number: of tweets without ids.

    Raises:
        InputError: with file and line, for a missing id, an id that a spreadsheet has spoilt, and an unknown label.
    """
    where = table.path if table.unit == "row" else f"{table.path}, line 1"
    found = wanted_columns(task, labelled=labelled, ids_may_lack=ids_may_lack).check(table.names, where)
    n_tweets = len(table.lines)
    texts = list(table.columns[found["text"]])
    if table.quotes_are_text:
        unwrapped = [unwrap_quotes(text) if text[:1] == '"' else text for text in texts]
        changed = sum(a is not b and a != b for a, b in zip(texts, unwrapped, strict=True))
        if changed:
            table.findings.append(Finding(table.path, changed, "tweets were wrapped in quotes; they were unwrapped"))
        texts = unwrapped
    if "id" in found:
        ids = checked_ids(table, found["id"])
    else:
        ids = [str(row) for row in range(first_number, first_number + n_tweets)]
        if task.columns.id:
            table.findings.append(Finding(table.path, n_tweets, NUMBERED))
    users = list(table.columns[found["user"]]) if "user" in found else [""] * n_tweets
    # As objects: pandas would copy the strings to Arrow, and from there again for the dataset.
    tweets = {name: pd.Series(values, dtype=object) for name, values in (("id", ids), ("user", users), ("text", texts))}
    if labelled:
        tweets["label"] = label_classes(table, found["label"], task)
    if "source" in found:
        tweets["source"] = pd.Series(list(table.columns[found["source"]]), dtype=object)
    if CONTEXT in found:
        tweets[CONTEXT] = pd.Series(list(table.columns[found[CONTEXT]]), dtype=object)
        if empty := sum(not text or text.isspace() for text in tweets[CONTEXT]):
            table.findings.append(Finding(table.path, empty, f"tweets have no {task.context}"))
    if task.by:
        of_source = found.get("source") if task.by == "source" else None
        tweets[GROUP] = pd.Series(_groups(table, found.get(GROUP, of_source), task), dtype=object)
    for is_odd, what in (
        (lambda text: not text or text.isspace(), "tweets have no text"),
        (SPREADSHEET_ERRORS.__contains__, LOST_TEXTS),
    ):
        if count := sum(map(is_odd, texts)):
            table.findings.append(Finding(table.path, count, what))
    return pd.DataFrame(tweets)


def _groups(table: Table, column: int | None, task: Task) -> list[str]:
    """Return the group of each row; raise `InputError` for a value that is longer than a name.

    Args:
        column: None: the file has none.
    """
    if column is None:
        if task.by != "source":  # which the task may name for the file
            table.findings.append(Finding(table.path, 0, f"the file has no column {task.by}: its tweets have no group"))
        return [""] * len(table.lines)
    groups = [value.strip() for value in table.columns[column]]
    for index, group in enumerate(groups):
        if len(group) > LONGEST_NAME:
            raise InputError(
                f"{table.where(index)}: column {table.names[column]} holds {len(group)} characters, more than a "
                f"group's name of {LONGEST_NAME}; name another column as `by:`"
            )
    if empty := sum(not group for group in groups):
        table.findings.append(Finding(table.path, empty, f"tweets have no {task.by}"))
    return groups


def check_groups(dataset: Dataset, task: Task) -> None:
    """Raise `InputError` where labelled tweets have no groups, or so many that they are none."""
    if not task.by:
        return
    names = set(group_names(dataset).tolist()) - {""}
    if not names:
        raise InputError(f"no labelled tweet has a {task.by}, which the task groups by; name the right column as `by:`")
    if not any(task.objective.is_scored(name) for name in names):
        raise InputError(
            f"`unscored: {', '.join(task.unscored)}` leaves all groups out of the score "
            f"({', '.join(sorted(names)[:5])}); leave one to score"
        )
    if len(names) > MOST_GROUPS:
        raise InputError(
            f"the labelled tweets have {len(names)} different values of {task.by}, and at most {MOST_GROUPS} groups "
            "are scored; name another column as `by:`"
        )


def count_cut_ids(ids: Iterable[str]) -> tuple[int, int]:
    """Return how many ids have 16 digits or more, and how many of these end in 000: all do that Excel has saved."""
    long = [tweet_id for tweet_id in ids if len(tweet_id) >= 16 and tweet_id.isdigit()]
    return len(long), sum(tweet_id.endswith("000") for tweet_id in long)


def to_dataset(tweets: pd.DataFrame, task: Task) -> Dataset:
    """Return the HF Dataset of a frame of tweets, in the frame's order, with row numbers from 0."""
    features = {"row": Value("int64"), "id": Value("string"), "user": Value("string"), "text": Value("string")}
    arrays = {"row": pa.array(np.arange(len(tweets)))}
    for name in ("id", "user", "text"):
        arrays[name] = pa.array(tweets[name].tolist(), pa.string())
    for name in ("source", PART, GROUP, CONTEXT):
        if name in tweets:
            features[name] = Value("string")
            arrays[name] = pa.array(tweets[name].tolist(), pa.string())
    if "label" in tweets:
        features["label"] = Value("int64") if task.multi_label else ClassLabel(names=task.labels)
        arrays["label"] = pa.array(tweets["label"].to_numpy(), pa.int64())
    features = Features(features)
    return Dataset(pa.table(arrays).cast(features.arrow_schema))


AnyFile = str | Path | TweetFile


def read_tweets(
    paths: Sequence[AnyFile],
    task: Task,
    *,
    labelled: bool,
    encoding: str | None = None,
    encoding_flag: str | None = "--encoding",
    ids_may_lack: bool = False,
    unused_labels: str | None = None,
) -> tuple[Dataset, list[Finding]]:
    """Return the tweets of some files, in the order of the files, and the findings about them.

    Of labelled files, rows without a label are left out.

    Args:
        paths: files, compressed or not, and folders of files, which are read by name.
        encoding_flag: the command's flag for the encoding, for messages; None: it has none, nor flags for columns.
        ids_may_lack: see `tweets_of`.
        unused_labels: of unlabelled files, the finding about tweets that have one of the task's labels, or any label
            where the task names none; None: no finding.
    """
    tables = _tables(paths, task, labelled, encoding, encoding_flag, ids_may_lack, unused_labels)
    dataset, _, findings = tweets_of_tables(
        tables, task, labelled=labelled, encoding=encoding, ids_may_lack=ids_may_lack
    )
    return dataset, findings


def read_labelled_tweets(
    paths: Sequence[AnyFile], task: Task, *, encoding: str | None = None
) -> tuple[Dataset, Dataset | None, list[Finding]]:
    """Return the labelled tweets of some files, the tweets whose label is empty, if any, and the findings."""
    return tweets_of_tables(_tables(paths, task, True, encoding, "--encoding"), task, labelled=True, encoding=encoding)


def _tables(
    paths: Sequence[AnyFile],
    task: Task,
    labelled: bool,
    encoding: str | None,
    encoding_flag: str | None,
    ids_may_lack: bool = False,
    unused_labels: str | None = None,
) -> Iterator[tuple[Table, TweetFile, bool]]:
    """Yield each table, the file as it was named, and whether it goes on where the one before ended.

    The parts of a folder go on.
    """
    for path in paths:
        named = path if isinstance(path, TweetFile) else TweetFile(Path(path))
        wanted = wanted_columns(task, labelled=labelled and named.labels is None, ids_may_lack=ids_may_lack)
        wanted = replace(
            wanted, has_flags=encoding_flag is not None, passed=task.columns.label if unused_labels else []
        )
        files = input_files(named.path)
        if task.one_text_per_file and named.path.is_dir():
            files = [file for file in files if kind_of(file) == ".txt"] or files
        for number, file in enumerate(files):
            for table in read_tables(file, encoding, wanted=wanted, encoding_flag=encoding_flag):
                if unused_labels and (count := _count_labels(table, task)):
                    table.findings.append(Finding(table.path, count, unused_labels))
                yield table, named, number > 0


def _count_labels(table: Table, task: Task) -> int:
    """Return how many tweets of a table have one of the task's labels, or a list of them, in its column of labels.

    Of a task that names no labels, whatever the column holds is one.
    """
    known = KnownLabels(task)
    class_of, without = (known.class_of_set, 0) if task.multi_label else (known.class_of, -1)

    def is_label(cell: str) -> bool:
        return not task.labels or class_of(cell) not in (UNKNOWN, without)

    def count(name: str) -> int:
        counts = Counter(cell.strip() for cell in table.columns[table.names.index(name)])
        return sum(n for cell, n in counts.items() if cell and is_label(cell))

    return max((count(name) for name in task.columns.label if name in table.names), default=0)


def tweets_of_tables(
    tables: Iterable[tuple[Table, TweetFile, bool]],
    task: Task,
    *,
    labelled: bool,
    encoding: str | None = None,
    ids_may_lack: bool = False,
) -> tuple[Dataset, Dataset | None, list[Finding]]:
    """Return the tweets of some tables as one dataset, those whose label is empty, if any, and the findings."""
    parts, findings, n_before, path, joins = [], Findings(), 0, "", {}
    for table, file, goes_on in tables:
        path = path or table.path
        n_before = n_before if goes_on else 0
        is_joined = labelled and file.labels is not None
        options = {"ids_may_lack": ids_may_lack, "first_number": n_before}
        tweets = tweets_of(table, task, labelled=labelled and not is_joined, **options)
        n_before += len(tweets)
        if is_joined:
            join = joins.setdefault(file.labels, None) or LabelJoin.read(file.labels, task, encoding)
            joins[file.labels] = join
            tweets["label"] = join.classes_of(tweets["id"].tolist())
            own = next((name for name in task.columns.label if name in table.names), None)
            if own and (tweets["label"] == -1).all():
                raise InputError(
                    f"{table.path}: {join.path} has a label for none of its tweets, and the labels of its own column "
                    f"{own} are not read beside such a file; add them there"
                )
        if file.source:
            tweets["source"] = file.source
            if task.by == "source":
                tweets[GROUP] = file.source
        if labelled and task.submission.validation:
            tweets[PART] = file.part
        findings.add([*table.findings, *_repeated_ids(table.path, tweets["id"])])
        if table.unit != "file":
            findings.add(cut_id_findings(table.path, *count_cut_ids(tweets["id"])))
        if labelled and (n_empty := int((tweets["label"] == -1).sum())):
            findings.add([Finding(table.path, n_empty, "tweets have no label")])
        parts.append(tweets[tweets["label"] != UNKNOWN] if labelled else tweets)
    for join in joins.values():
        findings.add(join.findings(path))
    tweets, without_label = pd.concat(parts, ignore_index=True), None
    if "source" in tweets:
        tweets["source"] = tweets["source"].fillna("")  # some file has no such column
    if len(tweets) == 0:
        raise InputError(f"{path} holds no tweet; one a line is expected below the header")
    if labelled and (tweets["label"] < 0).any():
        is_empty = tweets["label"] < 0
        without_label = to_dataset(tweets[is_empty].drop(columns="label"), task)
        tweets = tweets[~is_empty]
        if len(tweets) == 0:
            raise InputError(f"{path} has no label in any row; fill in the column of labels")
    return to_dataset(tweets, task), without_label, findings.summed()


def cut_id_findings(path: str, n_long: int, n_cut: int) -> list[Finding]:
    """Return a finding where a file's long ids, by `count_cut_ids`, all look as if a spreadsheet had cut them."""
    return [Finding(path, n_cut, CUT_IDS)] if n_cut and n_cut == n_long else []


def why_not_scored(test: Dataset, task: Task) -> str | None:
    """Return why a task's metric has no value on any test tweets, whatever their labels are; None where it has one."""
    groups = group_names(test)
    if task.average == "groups" and not any(groups):
        return f"the test tweets have no {task.by}, and the metric is a mean over them"
    if groups is not None and not any(map(task.objective.is_scored, set(groups.tolist()))):
        return f"`unscored: {', '.join(task.unscored)}` leaves all test tweets out of the score"
    return None


def _repeated_ids(path: str, ids: pd.Series) -> list[Finding]:
    repeated = int(ids.duplicated(keep=False).sum())
    return (
        [Finding(path, repeated, "tweets share their id with another one of the file; all are kept")]
        if repeated
        else []
    )


def renumbered(dataset: Dataset) -> Dataset:
    """Return the dataset with rows numbered from 0, after a selection of tweets."""
    schema, rows = dataset.features.arrow_schema, pa.array(np.arange(len(dataset)))
    table = dataset.flatten_indices().data.table
    return Dataset(table.set_column(table.column_names.index("row"), "row", rows).cast(schema))


def content_hash(dataset: Dataset) -> str:
    """Return the SHA-256 of a dataset's values but users; it does not depend on a file's format or encoding."""
    digest = hashlib.sha256()
    for name in ("id", "text", "label", GROUP, CONTEXT):
        if name in dataset.column_names:
            for value in column(dataset, name).to_pylist():
                digest.update(str(value).encode("utf-8", "surrogatepass"))
                digest.update(b"\x1f")
            digest.update(b"\x1e")
    return digest.hexdigest()
