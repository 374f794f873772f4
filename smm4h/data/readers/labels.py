"""Labels of tweets: from cells to class indices, and from files of their own, joined by id.

No message contains a tweet's text.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from smm4h.config.task import Task
from smm4h.data.readers.formats import read_table
from smm4h.data.readers.ids import checked_ids
from smm4h.data.readers.tables import NUMBER, Finding, Table
from smm4h.models.label_spaces import JSON_LIST, LabelSetSpace
from smm4h.utils.errors import InputError, nearest

LONGEST_SHOWN = 20  # characters of an unknown label in a message; a longer value may be a tweet
N_SHOWN = 5  # unknown labels in a message
COMMON_IDS, COMMON_LABELS = ("tweet_id", "id"), ("label", "class", "Class")  # columns of files of labels
UNKNOWN = -2  # class of a label that is none of the task's


def label_classes(table: Table, column: int, task: Task) -> list[int]:
    """Return the classes of a table's labels, -1 for an empty one, `UNKNOWN` for one that the task lets drop.

    A label is one of the task's or of its spellings, as written there but for spaces around it, or the same number, or
    the same truth value: `1.0` is 1, and JSON's true is True or 1. Of a multi-label task an empty cell is the empty
    set, and -1 stands for a row with no mark in any of its columns of labels.

    Raises:
        InputError: for labels that are none of the task's, with the first one's line.
    """
    if task.multi_label and task.multi_label.columns:
        return _marked_classes(table, task)
    known = KnownLabels(task)
    values = [label.strip() for label in table.columns[column]]
    if task.multi_label:
        if not any(values):
            raise InputError(
                f"{table.path} has no label in any row of column {table.names[column]}; leave the file out, or name "
                "the right column"
            )
        check_joint(table, values, task, known.space)
        found = {value: known.class_of_set(value) for value in set(values)}
    else:
        found = {value: known.class_of(value) if value else -1 for value in set(values)}
    classes = [found[value] for value in values]
    if UNKNOWN in classes:
        refused = [value for value, i in zip(values, classes, strict=True) if i == UNKNOWN]
        unknown = Counter(part for value in refused for part in known.unknown(value))
        says = f"none of {', '.join(task.labels)}, but {_shown(unknown, task)}"
        if task.unknown_labels == "drop":
            what = f"rows left out, whose label is {says}"
            table.findings.append(Finding(table.path, classes.count(UNKNOWN), what))
            return classes
        remedy = "correct the file, or the labels of the task file, or have such rows left out by its"
        raise InputError(
            f"{table.where(classes.index(UNKNOWN))}: the label is {says}; {remedy} `unknown_labels: drop`"
            f"{_several(unknown, known)}"
        )
    return classes


def check_joint(table: Table, values: Sequence[str], task: Task, space: LabelSetSpace) -> None:
    """Raise `InputError` where the submission would list labels in another way than the files do, and nobody says so.

    A scorer that expects `A|B` counts `A;B` as wrong, without a word.
    """
    if task.multi_label.separator or not (task.has_submission and task.submission.joins_labels):
        return
    form_of = {value: space.form_of(value) for value in set(values)}
    odd = next((value for value in values if form_of[value] not in ("", task.submission.joint)), None)
    if odd is None:
        return
    form, joint = form_of[odd], task.submission.joint
    here = "as JSON" if form == JSON_LIST else f"with {form} between them"
    kept = f"`joint: {JSON_LIST}`" if form == JSON_LIST else f'`joint: "{form}"`'
    raise InputError(
        f"{table.where(values.index(odd))}: labels are listed {here}, and the submission would have {joint} between "
        f'them; write {kept} below `submission:` in the task file, or `multi_label: "{joint}"` if {joint} is asked for'
    )


class KnownLabels:
    """What a task's labels may be written as: themselves, their spellings, the same number or truth value."""

    def __init__(self, task: Task) -> None:
        index = {label: i for i, label in enumerate(task.labels)}
        self.index = {name: index[label] for name, label in task.label_of_spelling.items()} | index
        self.space = LabelSetSpace(tuple(self.index), task.multi_label.separator if task.multi_label else "")
        self.is_set = task.multi_label is not None
        self.by_key: dict[Decimal | str, int] = {}
        for label, i in reversed(self.index.items()):
            self.by_key[label_key(label)] = i
        for word, digit in (("true", Decimal(1)), ("false", Decimal(0))):
            if digit in self.by_key:
                self.by_key.setdefault(word, self.by_key[digit])

    def class_of(self, value: str) -> int:
        """Return the index of the label that a value stands for, or `UNKNOWN`."""
        return self.index.get(value, self.by_key.get(label_key(value), UNKNOWN))

    def class_of_set(self, value: str) -> int:
        """Return the class of a list of labels, or `UNKNOWN` where any of them is unknown."""
        parts = {self.class_of(part) for part in self.space.split(value)}
        return UNKNOWN if UNKNOWN in parts else sum(1 << part for part in parts)

    def unknown(self, value: str) -> list[str]:
        """Return the unknown labels of a cell."""
        parts = self.space.split(value) if self.is_set else [value]
        return [part for part in parts if self.class_of(part) == UNKNOWN]

    def is_list(self, value: str) -> bool:
        """Return whether a value lists several known labels."""
        parts = self.space.split(value)
        return len(parts) > 1 and all(self.class_of(part) != UNKNOWN for part in parts)


def _several(unknown: Counter, known: KnownLabels) -> str:
    """Return a hint where unknown labels of a task of one label a tweet are lists of known ones."""
    if known.is_set or not any(known.is_list(value) for value in unknown):
        return ""
    return "; where a tweet can have several labels, the task file says so by `multi_label: true`"


MARKS = {"1": 1, "yes": 1, "true": 1, "0": 0, "no": 0, "false": 0}  # in columns of a label each


def mark_of(cell: str) -> str:
    """Return a cell as `MARKS` has it."""
    return cell.strip().lower().removesuffix(".0")


def _marked_classes(table: Table, task: Task) -> list[int]:
    """Return the classes of a table with a column of marks for each label; -1 for a row without any mark.

    Raises:
        InputError: where a column is missing, and with the line for a cell that is no mark, or empty beside others.
    """
    codes = [0] * len(table.lines)
    n_empty = [0] * len(table.lines)
    columns = task.multi_label.columns
    for bit, (label, name) in enumerate(columns.items()):
        if table.names.count(name) != 1:
            raise InputError(f"{table.path}, line 1: no column {name}, which holds the label {label}; add it")
        for row, cell in enumerate(table.columns[table.names.index(name)]):
            mark = mark_of(cell)
            if not mark:
                n_empty[row] += 1
            elif mark not in MARKS:
                raise InputError(f"{table.where(row)}: column {name} must hold 1 or 0 (yes or no, true or false)")
            else:
                codes[row] |= MARKS[mark] << bit
    for row, count in enumerate(n_empty):
        if 0 < count < len(columns):
            raise InputError(f"{table.where(row)}: only some labels are marked; write 1 or 0 for each, or for none")
    return [-1 if count else code for code, count in zip(codes, n_empty, strict=True)]


def label_key(label: str) -> Decimal | str:
    """Return what labels are compared by: a number's value, so that `1` and `1.0` are one label; else the text.

    Truth values are compared in lower case, because spreadsheets write TRUE.
    """
    text = label.strip()
    if NUMBER.fullmatch(text):
        return Decimal(text)
    return text.lower() if text.lower() in ("true", "false") else text


def _shown(unknown: Counter, task: Task) -> str:
    """Return unknown labels with how often each was found, as far as they can be no tweets."""
    shown, n_long, n_others = [], 0, 0
    for value, count in unknown.most_common():
        near = nearest(value, task.labels)
        if len(value) > LONGEST_SHOWN or (" " in value and not near):
            n_long += count
        elif len(shown) == N_SHOWN:
            n_others += count
        else:
            shown.append(f"{value} {_times(count)}{near}")
    for words, count in (("(long values)", n_long), ("(others)", n_others)):
        shown += [f"{words} {_times(count)}"] * bool(count)
    return ", ".join(shown)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


@dataclass
class LabelJoin:
    """Labels in a file of their own, joined to tweets by id."""

    path: str
    class_of: dict[str, int]
    found: list[Finding]
    used: set[str] = field(default_factory=set)  # ids that some tweet has

    @classmethod
    def read(cls, path: Path, task: Task, encoding: str | None) -> "LabelJoin":
        """Read ids and labels by the task's names of columns, or of a file of two columns the first and the second.

        Raises:
            InputError: for a file without these columns, an unknown label, and an id with two labels.
        """
        table = headed(read_table(path, encoding, encoding_flag="--encoding"), task)
        ids, label = _label_columns(table, task)
        classes, class_of = label_classes(table, label, task), {}
        for row, (tweet_id, index) in enumerate(zip(checked_ids(table, ids), classes, strict=True)):
            if class_of.setdefault(tweet_id, index) != index:
                raise InputError(f"{table.where(row)}: this id has another label further up; keep one of them")
        return cls(table.path, class_of, table.findings)

    def classes_of(self, ids: Sequence[str]) -> list[int]:
        """Return the class index of each id, -1 of an id that the file lacks."""
        self.used.update(ids)
        return [self.class_of.get(tweet_id, -1) for tweet_id in ids]

    def findings(self, tweets: str) -> list[Finding]:
        """Return what is odd about the file; raise `InputError` where none of its ids is a tweet's.

        Args:
            tweets: first file of tweets, for the message.
        """
        n_unused = len(self.class_of.keys() - self.used)
        if n_unused == len(self.class_of):
            raise InputError(f"{self.path}: none of its ids is a tweet's in {tweets}; name the labels of these tweets")
        unused = [Finding(self.path, n_unused, "labels are of no tweet")] if n_unused else []
        return [*self.found, *unused]


def headed(table: Table, task: Task) -> Table:
    """Return a table of labels with names of columns where its file has no header.

    The names are the task's `label_header`, or those of a submission without header. A file of two columns that names
    none of the usual columns, but a label in its first line, has none either.
    """
    first = [name.strip() for name in table.names]
    marks = task.multi_label.columns.values() if task.multi_label else ()
    usual = {*marks, *task.columns.id, *task.columns.label, *task.submission.layout, *COMMON_IDS, *COMMON_LABELS}
    if table.unit == "row" or usual.intersection(first):
        return table
    headers = [task.label_header, *([list(task.submission.layout)] if not task.submission.header else [])]
    is_label = len(first) == 2 and first[1] in {*task.labels, *task.label_of_spelling, *task.submission.labels.values()}
    headers += [[COMMON_IDS[0], COMMON_LABELS[0]]] if is_label else []
    header = next((names for names in headers if len(names) == len(first)), None)
    if header is None:
        return table
    columns = [[name, *map(str, column)] for name, column in zip(first, table.columns, strict=True)]
    return replace(table, names=list(header), columns=columns, lines=[1, *table.lines])


def _label_columns(table: Table, task: Task) -> tuple[int, int]:
    """Return the positions of ids and labels in a file of labels; raise `InputError` where it lacks them."""
    wanted = ([*task.columns.id, *COMMON_IDS], [*task.columns.label, *COMMON_LABELS])
    ids, labels = (next((name for name in names if name in table.names), None) for names in wanted)
    if len(table.names) == 2 and (ids is None) != (labels is None):
        ids, labels = (name or next(n for n in table.names if n not in (ids, labels)) for name in (ids, labels))
    for name, kind, names in ((ids, "ids", wanted[0]), (labels, "labels", wanted[1])):
        if name is None:
            wanted_names = " or ".join(dict.fromkeys(names))
            raise InputError(
                f"{table.path}, line 1: no column of {kind} ({wanted_names}); name it in the task's columns, or all "
                "columns of a file without header in `label_header:`"
            )
    return table.names.index(ids), table.names.index(labels)
