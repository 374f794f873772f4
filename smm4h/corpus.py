"""Files, or a data set of the Hub, -> one HF Dataset of tweets (row, id, user, text, label), and what was odd.

Nothing here prints or raises a tweet's text: messages name file and line instead.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from datasets import ClassLabel, Dataset, Features, Value

from smm4h.arrow import column
from smm4h.cleaning import twin_key
from smm4h.errors import InputError
from smm4h.folds import folds_of, joined_groups
from smm4h.tasks import Columns, Task

SPREADSHEET_ID = re.compile(r"\d+(\.\d+)?[eE]\+?\d+|\d+\.0+")
WRAPPED = re.compile(r'"((?:[^"]|"")*)"')


class Finding(NamedTuple):
    """One line of the report on the input: where, how many, and what."""

    where: str
    count: int
    what: str


@dataclass
class Table:
    """A file as columns of strings, and the line that each row stands on."""

    path: str
    names: list[str]
    columns: list[list[str]]
    lines: Sequence[int]
    findings: list[Finding] = field(default_factory=list)
    unit: str = "line"  # what `lines` counts; tables that have no lines count rows

    def where(self, index: int) -> str:
        """The place of a row, for a message."""
        return f"{self.path}, {self.unit} {self.lines[index]}"


def decode(content: bytes, path: str, encoding: str | None = None) -> tuple[str, str]:
    """Text and the encoding it was in: the given one, or UTF-8 where it is valid, or else cp1252.

    Raises `InputError` with the line where no encoding fits.
    """
    for candidate in [encoding] if encoding else ["utf-8-sig", "cp1252"]:
        try:
            return content.decode(candidate), candidate.removesuffix("-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
        except LookupError:
            raise InputError(f"--encoding {encoding} is no encoding that Python knows; utf-8 or cp1252?") from None
    raise InputError(f"{path}, line {line}: not valid {encoding or 'UTF-8 or cp1252'}; name the file's --encoding")


def unwrap_quotes(text: str) -> str:
    """A tweet wholly wrapped as a CSV field, `"a ""b"" c"`, gets back the text it had: `a "b" c`."""
    match = WRAPPED.fullmatch(text) if text[:1] == '"' else None
    return match[1].replace('""', '"') if match else text


def wrap_quotes(text: str) -> str:
    """The inverse of `unwrap_quotes`, for writing: only what reading would unwrap is wrapped."""
    return '"' + text.replace('"', '""') + '"' if WRAPPED.fullmatch(text) else text


def read_tsv(path: Path, encoding: str | None, content: bytes | None = None, first_line: int = 2) -> Table:
    """One tweet a physical line, fields between tabs; quotes are text, and so are U+0085 and U+2028.

    Fields beyond the header's are dropped and counted. A wrapped field is unwrapped and counted. `content`, where it is
    given, is the header and the lines from `first_line` on.
    """
    text, used = decode(path.read_bytes() if content is None else content, str(path), encoding)
    findings = [Finding(str(path), 0, f"read as {used}")]
    raw_lines = text.split("\n")
    if raw_lines[-1] == "":
        raw_lines.pop()
    if not raw_lines:
        raise InputError(f"{path} is empty; a header line and one tweet a line are expected")
    rows, lines, extra, blank = [], [], 0, 0
    names = [name.strip() for name in raw_lines[0].removesuffix("\r").split("\t")]
    width = len(names)
    while width and not names[width - 1]:  # columns without a name hold nothing that anyone asks for
        width -= 1
    for number, line in enumerate(raw_lines[1:], start=first_line):
        fields = line.removesuffix("\r").split("\t")
        if len(fields) != width:
            if len(fields) == 1 and not fields[0].strip():
                blank += 1
                continue
            if len(fields) < width:
                raise InputError(
                    f"{path}, line {number}: {len(fields)} fields where the header names {width}; "
                    "write one tweet a line, tabs between its fields and none inside"
                )
            extra += any(value.strip() for value in fields[width:])
            del fields[width:]
        rows.append(fields)
        lines.append(number)
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
    if extra:
        findings.append(Finding(str(path), extra, "lines had more fields than the header; the extra ones were dropped"))
    if blank:
        findings.append(Finding(str(path), blank, "blank lines were passed over"))
    return Table(str(path), names[:width], columns, lines, findings)


def read_csv(path: Path, encoding: str | None) -> Table:
    """Comma-separated, quoted as spreadsheets do; a quoted field may hold line ends."""
    text, used = decode(path.read_bytes(), str(path), encoding)
    (table,) = csv_tables(io.StringIO(text, newline=""), str(path))
    table.findings.append(Finding(str(path), 0, f"read as {used}"))
    return table


def csv_tables(lines: Iterable[str], path: str, size: int | None = None) -> Iterator[Table]:
    """Tables of so many rows each, or a single one, of comma-separated lines with their ends."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, strict=True)
    rows, numbers, names = [], [], None

    def table() -> Table:
        return Table(path, names, [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names], numbers)

    try:
        for fields in reader:
            if not fields:
                continue
            if names is None:
                names = [name.strip() for name in fields]
            elif len(fields) != len(names):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields where the header names {len(names)}; "
                    "put quotes around a tweet that holds a comma"
                )
            else:
                rows.append(fields)
                numbers.append(reader.line_num)
                if len(rows) == size:
                    yield table()
                    rows, numbers = [], []
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}; is this comma-separated with closed quotes?"
        ) from None
    if names is None:
        raise InputError(f"{path} is empty; a header line and the tweets are expected")
    if rows or size is None:
        yield table()


def read_jsonl(path: Path, encoding: str | None, content: bytes | None = None, first_line: int = 1) -> Table:
    """One JSON object a line; numbers must be whole. `content`, where it is given, begins at `first_line`."""
    text, used = decode(path.read_bytes() if content is None else content, str(path), encoding)
    rows, lines, names = [], [], None
    for number, line in enumerate(text.split("\n"), start=first_line):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg}); write one object a line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: an object {{...}} is expected")
        names = names or list(row)
        if not set(names) <= set(row):
            missing = next(name for name in names if name not in row)
            raise InputError(f"{path}, line {number}: no key {missing}, which line {lines[0]} has")
        rows.append([_as_text(row[name], name, f"{path}, line {number}") for name in names])
        lines.append(number)
    if names is None:
        raise InputError(f"{path} is empty; one JSON object a line is expected")
    columns = [list(column) for column in zip(*rows, strict=True)]
    return Table(str(path), names, columns, lines, [Finding(str(path), 0, f"read as {used}")])


def read_parquet(path: Path, encoding: str | None) -> Table:
    """Parquet; a row's number stands for its line."""
    try:
        table = pa.parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a Parquet file ({str(error).splitlines()[0]})") from None
    return arrow_table(table, str(path))


def arrow_table(table: pa.Table, path: str, first_row: int = 0) -> Table:
    """Arrow's columns as strings."""
    columns = []
    for name in table.column_names:
        values = enumerate(table.column(name).to_pylist(), start=first_row)
        columns.append([_as_text(value, name, f"{path}, row {row}") for row, value in values])
    return Table(path, table.column_names, columns, range(first_row, first_row + table.num_rows), unit="row")


def _as_text(value: object, name: str, where: str) -> str:
    """A cell as a string. Floats are refused where they could be ids or labels: they lose digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 2**53:
            return f"{value:.1f}"  # `1.0`, so that the id check speaks up
        return repr(value)
    return str(value)


READERS: dict[str, Callable[[Path, str | None], Table]] = {
    ".tsv": read_tsv,
    ".txt": read_tsv,
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".json": read_jsonl,
    ".parquet": read_parquet,
}


def read_table(path: str | Path, encoding: str | None = None) -> Table:
    """Reads a file by its extension; raises `InputError` for one that is missing or of another kind."""
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is none of {', '.join(READERS)}; convert it, or rename it to what it is")
    if not path.is_file():
        raise InputError(f"{path} is not there; name an existing file, or its folder with --data_dir")
    try:
        return reader(path, encoding)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from None


def _column(table: Table, wanted: Sequence[str], flag: str) -> list[str]:
    for name in wanted:
        if name in table.names:
            return table.columns[table.names.index(name)]
    header = ", ".join(table.names)
    if len(header) > 200 or any(name.isdigit() for name in table.names):  # a tweet, not a header: keep it to ourselves
        raise InputError(
            f"{table.path}, line 1: no header here; the first line must name the columns ({' or '.join(wanted)})"
        )
    raise InputError(
        f"{table.path}, line 1: no column {' or '.join(wanted)} among {header}; name it with --{flag}_column_name "
        "or in the task file"
    )


def tweets_of(table: Table, task: Task, *, labelled: bool) -> pd.DataFrame:
    """Columns id, user, text and, of a labelled file, label (class index), one row a tweet.

    Raises `InputError` with file and line for an id that a spreadsheet has spoilt and for an unknown label.
    """
    columns: Columns = task.columns
    n_tweets = len(table.lines)
    texts = _column(table, columns.text, "text")
    if table.path.lower().endswith((".tsv", ".txt")):
        unwrapped = [unwrap_quotes(text) for text in texts]
        changed = sum(a is not b and a != b for a, b in zip(texts, unwrapped, strict=True))
        if changed:
            table.findings.append(Finding(table.path, changed, "tweets were wrapped in quotes; they were unwrapped"))
        texts = unwrapped
    if columns.id:
        ids = [tweet_id.strip() for tweet_id in _column(table, columns.id, "id")]
        for index, tweet_id in enumerate(ids):
            if not tweet_id or "." in tweet_id or "E" in tweet_id or "e" in tweet_id:
                if not tweet_id:
                    raise InputError(f"{table.where(index)}: no id; every tweet needs one")
                if SPREADSHEET_ID.fullmatch(tweet_id):
                    raise InputError(
                        f"{table.where(index)}: the id is written as a decimal number, so its last digits are lost; "
                        "go back to a copy that no spreadsheet or float has touched"
                    )
    else:
        ids = [str(row) for row in range(n_tweets)]
    has_users = columns.user and any(name in table.names for name in columns.user)
    users = _column(table, columns.user, "user") if has_users else [""] * n_tweets
    tweets = {"id": ids, "user": users, "text": texts}
    if labelled:
        index = {label: i for i, label in enumerate(task.labels)}
        found = [index.get(label.strip(), -1) for label in _column(table, columns.label, "label")]
        if -1 in found:
            raise InputError(
                f"{table.where(found.index(-1))}: the label is none of {', '.join(task.labels)}; "
                "correct it, or the labels of the task file"
            )
        tweets["label"] = found
    empty = sum(not text.strip() for text in texts)
    if empty:
        table.findings.append(Finding(table.path, empty, "tweets have no text"))
    return pd.DataFrame(tweets)


def to_dataset(tweets: pd.DataFrame, task: Task) -> Dataset:
    """The HF Dataset of tweets, with row numbers from 0; its order is the input's."""
    features = {"row": Value("int64"), "id": Value("string"), "user": Value("string"), "text": Value("string")}
    arrays = {"row": pa.array(np.arange(len(tweets)))}
    for name in ("id", "user", "text"):
        arrays[name] = pa.array(tweets[name].tolist(), pa.string())
    if "label" in tweets:
        features["label"] = ClassLabel(names=task.labels)
        arrays["label"] = pa.array(tweets["label"].to_numpy(), pa.int64())
    features = Features(features)
    return Dataset(pa.table(arrays).cast(features.arrow_schema))


def read_tweets(
    paths: Sequence[str | Path], task: Task, *, labelled: bool, encoding: str | None = None
) -> tuple[Dataset, list[Finding]]:
    """The tweets of some files, one after the other, and what was odd about each file."""
    return _tweets([read_table(path, encoding) for path in paths], task, labelled=labelled)


def _tweets(tables: Iterable[Table], task: Task, *, labelled: bool) -> tuple[Dataset, list[Finding]]:
    parts, findings = [], []
    for table in tables:
        tweets = tweets_of(table, task, labelled=labelled)
        findings += [*table.findings, *_repeated_ids(table.path, tweets["id"])]
        parts.append(tweets)
    dataset = to_dataset(pd.concat(parts, ignore_index=True), task)
    if len(dataset) == 0:
        raise InputError(f"{tables[0].path} holds no tweet; one a line is expected below the header")
    return dataset, findings


def read_hub_tweets(
    name: str, config: str | None, task: Task, *, token: str | None = None, cache_dir: str | None = None
) -> tuple[Dataset, Dataset | None, list[Finding]]:
    """Labelled tweets (splits train and validation) and test tweets (split test, if any) of a data set of the Hub."""
    from datasets import load_dataset

    try:
        splits = load_dataset(name, config, token=token, cache_dir=cache_dir)
    except Exception as error:  # the libraries below raise a dozen kinds: no network, no such name, no permission
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"--dataset_name {name} can't be loaded: {reason} ({type(error).__name__})") from None
    tables = {
        part: _hub_table(splits[part], f"{name}/{part}") for part in ("train", "validation", "test") if part in splits
    }
    if "train" not in tables:
        raise InputError(f"--dataset_name {name} has no split train (it has {', '.join(splits)})")
    labelled, findings = _tweets([tables[p] for p in ("train", "validation") if p in tables], task, labelled=True)
    if "test" not in tables:
        return labelled, None, findings
    test, more = _tweets([tables["test"]], task, labelled=False)
    return labelled, test, findings + more


def _hub_table(split: Dataset, path: str) -> Table:
    for name, feature in split.features.items():
        if isinstance(feature, ClassLabel):  # the label's name, as the task file says it
            names = feature.names
            values = [names[i] if i is not None and i >= 0 else "" for i in split[name]]
            split = split.remove_columns(name).add_column(name, values)
    return arrow_table(split.with_format(None).data.table, path)


def _repeated_ids(path: str, ids: pd.Series) -> list[Finding]:
    repeated = int(ids.duplicated(keep=False).sum())
    return (
        [Finding(path, repeated, "tweets share their id with another one of the file; all are kept")]
        if repeated
        else []
    )


def text_keys(dataset: Dataset) -> np.ndarray:
    """`twin_key` of each tweet (n_tweets,); of two tweets with the same key, each is the other's near twin."""
    return np.array([twin_key(text) for text in column(dataset, "text").to_pylist()], dtype=object)


def leak_groups(labelled: Dataset, task: Task, *, by_user: bool) -> np.ndarray:
    """The group (n_tweets,) of each tweet: near twins and tweets of one id together; `by_user` a user's, too."""
    columns = (["id"] if task.columns.id else []) + (["user"] if by_user else [])  # numbers are nobody's ids
    return joined_groups(text_keys(labelled), *(_strings(labelled, name) for name in columns))


def _strings(dataset: Dataset, name: str) -> np.ndarray:
    return np.array(column(dataset, name).to_pylist(), dtype=object)


def cross_findings(labelled: Dataset, test: Dataset | None, seeds: Sequence[int], task: Task) -> list[Finding]:
    """What only shows between files and folds: repeated ids, near twins, contradicting labels, shared users.

    Tweets without any text left (nothing but a URL, say) are nobody's twins.
    """
    findings = []
    frame = pd.DataFrame({name: column(labelled, name).to_pylist() for name in ("id", "user", "label")})
    frame["key"] = text_keys(labelled)
    if test is not None and task.columns.id:
        shared = int(column(test, "id").to_pandas().isin(set(frame["id"])).sum())
        if shared:
            findings.append(Finding("test", shared, "test tweets have the id of a labelled tweet"))
    worded = frame[frame["key"] != ""]
    groups = worded.groupby("key", sort=False)
    twins = int((groups["id"].transform("size") > 1).sum())
    if twins:
        findings.append(
            Finding("labelled", twins, "labelled tweets have a near twin (the text but for case, URLs, @names)")
        )
    contradicted = int((groups["label"].transform("nunique") > 1).sum())
    if contradicted:
        findings.append(Finding("labelled", contradicted, "labelled tweets have a near twin with another label"))
    if test is not None:
        keys = pd.Series(text_keys(test))
        shared = int((keys.isin(set(worded["key"])) & (keys != "")).sum())
        if shared:
            findings.append(Finding("test", shared, "test tweets have a near twin among the labelled ones"))
    for seed in seeds:
        for what, across in across_folds(labelled, [seed]).items():
            if across.any():
                flatters = f"labelled tweets have {what} in another fold: the out-of-fold score flatters"
                findings.append(Finding(f"folds of seed {seed}", int(across.sum()), flatters))
    return findings


def across_folds(labelled: Dataset, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Which tweets (n_tweets,) have a near twin, or a tweet of the same user, in another fold of any of the seeds."""
    found = {}
    for what, keys in (("a near twin", text_keys(labelled)), ("a tweet of the same user", _strings(labelled, "user"))):
        keys = pd.Series(keys)
        known = keys[keys != ""]
        found[what] = np.zeros(len(keys), dtype=bool)
        for seed in seeds:
            fold = pd.Series(folds_of(labelled, seed))[known.index]
            found[what][known.index] |= (fold.groupby(known, sort=False).transform("nunique") > 1).to_numpy()
    return found


def renumbered(dataset: Dataset) -> Dataset:
    """The dataset with rows numbered from 0, after a choice of tweets."""
    schema, rows = dataset.features.arrow_schema, pa.array(np.arange(len(dataset)))
    table = dataset.flatten_indices().data.table
    return Dataset(table.set_column(table.column_names.index("row"), "row", rows).cast(schema))


def content_hash(dataset: Dataset) -> str:
    """SHA-256 of ids, texts and labels: the same tweets in another encoding are the same data."""
    digest = hashlib.sha256()
    for name in ("id", "text", "label"):
        if name in dataset.column_names:
            for value in column(dataset, name).to_pylist():
                digest.update(str(value).encode("utf-8", "surrogatepass"))
                digest.update(b"\x1f")
            digest.update(b"\x1e")
    return digest.hexdigest()
