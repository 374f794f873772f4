"""Label files, in the official format or any other that tweets are read from."""

import codecs
import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from smm4h.config.task import Task
from smm4h.data.outputs.labels import LabelFile
from smm4h.data.outputs.predictions import MAKER, PROBABILITY, Predictions, read_predictions
from smm4h.data.readers.files import Source, kind_of, reading
from smm4h.data.readers.formats import READERS, read_table, read_tables
from smm4h.data.readers.labels import headed, label_classes
from smm4h.data.readers.spreadsheets import unprotect
from smm4h.data.readers.tables import LONGEST_NAME, NUMBER, SPOILT_ID, SPREADSHEET_ID, Table, looks_like_header
from smm4h.data.streaming import WRITABLE, Writer
from smm4h.utils.errors import CONTROL, HAS_CONTROL, InputError
from smm4h.utils.files import check_is_file, file_above, write_atomically

ID_NAMES, LABEL_NAMES = ("tweet_id", "id"), ("Class", "class", "label")  # columns of label files
TEXT_NAMES = {"text", "tweet", "full_text"}  # of columns that hold no labels, whatever stands beside them
QUOTED = re.compile(r'^"([^"]*)"$')  # a field as R and spreadsheets write it


def read_labels(path: str | Path, task: Task | None = None, encoding: str | None = None) -> LabelFile:
    """Read a label file of any kind that tweets are read from, compressed or not, or the single file within a zip.

    Of two columns, the first holds ids and the second labels, unless their names say otherwise. Of more columns, those
    that the task or its submission names are read, or else `tweet_id` or `id`, and `Class`, `class` or `label`.

    Args:
        task: whose names of columns are looked for first.
        encoding: of files that are not UTF-8 (default: cp1252).

    Raises:
        InputError: for a missing file, and for a file without a column of ids or of labels, or without rows.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists() or file_above(path):
            check_is_file(path)
        raise InputError(f"{path} is not there; name an existing label file (tweet_id and Class, tab-separated)")
    if encoding is not None:
        check_encoding(encoding)
    if (predictions := _own_predictions(path)) is not None:
        rows = range(len(predictions.ids))
        return LabelFile(
            str(path), predictions.ids, None, rows, "row", tuple(predictions.labels), predictions.probabilities
        )
    table = _quick_table(path) or _table(path, encoding)
    table = replace(table, names=[QUOTED.sub(r"\1", name.strip()) for name in table.names])
    table = table if task is None else with_label_sets(headed(table, task), task)
    ids, labels, classes = _label_columns(table, task)
    if len(table.lines) == 0:
        raise InputError(f"{path} has a header and no rows; one tweet a line is expected below it")
    columns = dict(zip(table.names, table.columns, strict=True))
    is_for_people = kind_of(path) == ".csv"
    file = LabelFile(
        str(path),
        _trimmed(columns[ids], is_protected=is_for_people),
        None if labels is None else _trimmed(columns[labels], is_protected=is_for_people),
        table.lines,
        table.unit,
        tuple(name.removeprefix(PROBABILITY) for name in classes),
        _probabilities(table, classes) if classes else None,
        table.findings,
    )
    _check_ids(file)
    if task is not None and file.labels is not None:
        file = replace(file, labels=_as_named(file.labels, task))
    may_lack = task is not None and task.multi_label is not None
    for name, values in (("id", file.ids), ("label", file.labels)):
        is_needed = values is not None and not (name == "label" and may_lack)
        if is_needed and (row := pa.compute.index(values, "").as_py()) >= 0:
            raise InputError(f"{file.where(row)}: no {name}; every tweet needs one")
        if values is not None and (row := first_unwritable(values)) is not None:
            raise InputError(f"{file.where(row)}: {HAS_CONTROL.format(name)}")
    return file


LABEL_SET = "labels of the row"  # column that `with_label_sets` adds


def with_label_sets(table: Table, task: Task) -> Table:
    """Return a table of a multi-label task with a column of label sets as texts, where it has a column a label.

    Raises `InputError` as `label_classes` does.
    """
    marks = task.multi_label.columns.values() if task.multi_label else ()
    if not marks or not set(marks) <= set(table.names):
        return table
    classes = label_classes(table, 0, task)
    if -1 in classes:
        raise InputError(f"{table.where(classes.index(-1))}: no label is marked; write 1 or 0 for each")
    texts = task.space.names(np.array(classes, dtype=np.int64))
    return replace(table, names=[*table.names, LABEL_SET], columns=[*table.columns, texts])


def _as_named(labels: pa.ChunkedArray, task: Task) -> pa.ChunkedArray:
    """Return labels by the task's names, whose further spellings and whose form in the submission are known, too."""
    written = {name: label for label, name in task.submission.labels.items()}
    names = {**written, **task.label_of_spelling, **{label: label for label in task.labels}}
    if len(names) == len(task.labels):
        return labels

    def named(label: str) -> str:
        parts = task.space.split(label)
        return task.space.joined([names.get(part, part) for part in parts])

    distinct = pa.compute.unique(labels)
    renamed = pa.array([named(label) for label in distinct.to_pylist()], pa.string())
    return pa.chunked_array([renamed.take(pa.compute.index_in(labels, value_set=distinct).combine_chunks())])


def _check_ids(file: LabelFile) -> None:
    """Raise `InputError` with the line for an id that a spreadsheet has spoilt: votes would be joined by such ids."""
    may_be = pa.compute.match_substring_regex(file.ids, "[.eE]")
    for row in np.flatnonzero(may_be.to_numpy()):
        if SPREADSHEET_ID.fullmatch(file.ids[int(row)].as_py()):
            raise InputError(f"{file.where(int(row))}: {SPOILT_ID}")


def first_unwritable(values: pa.ChunkedArray) -> int | None:
    """Return the first row whose value a line of a file cannot hold, or None."""
    is_wrong = pa.compute.match_substring_regex(values, CONTROL.pattern)
    row = pa.compute.index(is_wrong, True).as_py()
    return row if row >= 0 else None


def _own_predictions(path: Path) -> Predictions | None:
    """Return the content of a run's predictions file, which needs no parsing; None for any other file."""
    if path.suffix.lower() != ".parquet":
        return None
    try:
        schema = pa.parquet.read_schema(path)
    except (OSError, pa.ArrowInvalid):
        return None
    is_own = MAKER in (schema.metadata or {}) and {"row", "id"} < set(schema.names)
    return read_predictions(path) if is_own and any(name.startswith(PROBABILITY) for name in schema.names) else None


def _quick_table(path: Path) -> Table | None:
    """Return a tidy tab-separated file's table, ten times as fast as `read_tsv`; None for any other file."""
    if path.suffix.lower() not in (".tsv", ".txt"):
        return None
    try:
        content = path.read_bytes()
        if b"\0" in content:
            return None
        names = content.split(b"\n", 1)[0].decode().split("\t")
        table = pa.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    is_text = all(pa.types.is_string(column.type) for column in table.columns)
    if table.column_names != [name.strip() for name in names] or not is_text or not all(names):
        return None
    return Table(str(path), table.column_names, table.columns, range(2, table.num_rows + 2))


def _table(path: Path, encoding: str | None) -> Table:
    """Return a file's table; of a zip, that of its single file."""
    if path.suffix.lower() != ".zip":
        if encoding is not None:
            with reading(path), Source(path).open() as stream:
                encoding = _encoding_of(stream.read(), encoding)
        return read_table(path, encoding, encoding_flag="--encoding")
    name, content = _unzipped(path)
    encoding = encoding and _encoding_of(content, encoding)
    name = name if kind_of(Path(name)) in READERS else f"{name}.tsv"
    (table,) = read_tables(path / name, encoding, encoding_flag="--encoding", content=content)
    return table


def check_encoding(name: str) -> None:
    """Raise `InputError` for an encoding that Python does not know."""
    try:
        codecs.lookup(name)
    except LookupError:
        raise InputError(f"--encoding {name} is no encoding that Python knows; utf-8 or cp1252?") from None


def _encoding_of(content: bytes, asked: str) -> str | None:
    """Return None for valid UTF-8, as our own files are beside tweets of another encoding; else the one asked for."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return asked
    return asked if b"\0" in content else None  # UTF-16 without a byte order mark is valid UTF-8, too


def _label_columns(table: Table, task: Task | None) -> tuple[str, str | None, list[str]]:
    """Return the names of a table's columns of ids and of labels, and those of its classes' probabilities.

    Raises:
        InputError: where a column is missing, or the first line is no header.
    """
    ids, labels = list(ID_NAMES), list(LABEL_NAMES)
    if task is not None:
        ids = [*task.columns.id, task.submission.columns[0], *ids]
        labels = [LABEL_SET, *task.columns.label, task.submission.columns[1], *labels]
    names = table.names
    if len(names) < 2:
        raise InputError(f"{table.path}, line 1: a header and two columns are expected, tweet id and label")
    id_name, label_name = _named(names, ids), _named(names, labels)
    classes = [name for name in names if name.startswith(PROBABILITY) and name not in (id_name, label_name)]
    classes = classes if len(classes) > 1 else []
    is_found = id_name is not None and (label_name is not None or classes)
    if not is_found and any(NUMBER.fullmatch(name) for name in names):
        raise InputError(
            f"{table.path}, line 1: no header here; the first line must name the columns, such as tweet_id and Class"
        )
    texts = {*TEXT_NAMES, *(name.casefold() for name in (task.columns.text if task else ()))}
    if len(names) == 2 and not is_found and not texts & {name.casefold() for name in names}:
        id_name = names[1] if label_name == names[0] else names[0]
        label_name = names[1] if id_name == names[0] else names[0]
    elif not is_found:
        wanted = [name for name in dict.fromkeys(ids if id_name is None else labels) if name != LABEL_SET]
        if id_name is not None and task is not None:
            wanted.append(f"{PROBABILITY}{task.labels[0]} and one more of each label")
        header = f" among {', '.join(names)}" if looks_like_header(names) and len(names) < 20 else ""
        remedy = "name one of its columns so"
        if id_name is None and task is not None and not task.columns.id:
            remedy = "the task's tweets have no ids and are numbered from 0; add a column with these numbers"
        raise InputError(f"{table.path}, line 1: no column {' or '.join(wanted)}{header}; {remedy}")
    for name in (id_name, label_name, *classes):
        if names.count(name) > 1:
            shown = name if len(name) <= LONGEST_NAME else "the same"
            raise InputError(f"{table.path}, line 1: two columns are named {shown}; give each a name of its own")
    return id_name, label_name, classes


def _named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the first of the wanted names that a table has, else the first that it has in other case, or None."""
    exact = [name for name in wanted if name in names]
    folded = [name for want in wanted for name in names if name.casefold() == want.casefold()]
    return next(iter([*exact, *folded]), None)


def _trimmed(column: pa.ChunkedArray | list[str], *, is_protected: bool = False) -> pa.ChunkedArray:
    """Return a column of strings without quotes and spaces around its values.

    Args:
        is_protected: whether the values are those of a file for spreadsheets.
    """
    array = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([pa.array(list(column), pa.string())])
    if is_protected:
        array = pa.chunked_array([pa.array(map(unprotect, array.to_pylist()), pa.string())])
    trimmed = pa.compute.utf8_trim_whitespace(pa.compute.replace_substring_regex(array, '^\\s*="', '"'))
    return pa.compute.utf8_trim_whitespace(pa.compute.replace_substring_regex(trimmed, QUOTED.pattern, r"\1"))


def _probabilities(table: Table, names: Sequence[str]) -> np.ndarray:
    """Return the probabilities (n_rows, n_classes) of some columns; raise `InputError` with the line for what is none.

    They are single floats, as the predictions files' are, so that a vote is the same on either.
    """
    columns = dict(zip(table.names, table.columns, strict=True))
    values = np.empty((len(table.lines), len(names)), dtype=np.float32)
    for index, name in enumerate(names):
        for row, text in enumerate(_trimmed(columns[name]).to_pylist()):
            try:
                values[row, index] = float(text)
            except ValueError:
                values[row, index] = np.nan
    wrong = ~((values >= 0) & (values <= 1)).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{table.path}, {table.unit} {table.lines[row]}: the columns {', '.join(names)} must hold probabilities, "
            "numbers from 0 to 1; correct them, or leave these columns out"
        )
    return values


def check_label_output(path: Path, flag: str = "--output") -> None:
    """Raise `InputError` for the name of a label file that tells no format."""
    kind = kind_of(path)
    is_packed = path.suffix.lower() == ".gz"
    if path.suffix.lower() != ".zip" and (kind not in WRITABLE or (is_packed and kind == ".parquet")):
        raise InputError(f"{flag} {path}: choose a name that ends in {', '.join(WRITABLE)} or .zip")


def write_labels(
    path: Path, ids: pa.ChunkedArray, labels: Sequence[str], columns: Sequence[str] = ("tweet_id", "Class")
) -> None:
    """Write a label file atomically, in the format that its name ends in."""
    table = pa.table([ids, pa.array(labels, pa.string())], names=list(columns))

    def write(partial: Path) -> None:
        with Writer(partial, table.schema) as writer:
            writer.write(table)

    write_atomically(path, write)


def _unzipped(path: Path) -> tuple[str, bytes]:
    """Return name and content of the single file of a zip; raise `InputError` for another number of files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
            if len(names) != 1 or "/" in names[0]:
                raise InputError(f"{path} holds {len(names)} files; exactly one, in no folder, is expected")
            return names[0], archive.read(names[0])
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path} can't be read as a zip ({error})") from None
