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
from smm4h.utils.errors import InputError, nearest

LONGEST_SHOWN = 20  # characters of an unknown label in a message; a longer value may be a tweet
N_SHOWN = 5  # unknown labels in a message
COMMON_IDS, COMMON_LABELS = ("tweet_id", "id"), ("label", "class", "Class")  # columns of files of labels
UNKNOWN = -2  # class of a label that is none of the task's


def label_classes(table: Table, column: int, task: Task) -> list[int]:
    """Return the class indices of a table's labels, -1 for an empty one, `UNKNOWN` for one that the task lets drop.

    A label is one of the task's or of its spellings, as written there but for spaces around it, or the same number, or
    the same truth value: `1.0` is 1, and JSON's true is True or 1.

    Raises:
        InputError: for labels that are none of the task's, with the first one's line.
    """
    index = {label: i for i, label in enumerate(task.labels)}
    index = {name: index[label] for name, label in task.label_of_spelling.items()} | index
    values = [label.strip() for label in table.columns[column]]
    by_key: dict[Decimal | str, int] = {}
    for label, i in reversed(index.items()):
        by_key[_label_key(label)] = i
    for word, digit in (("true", Decimal(1)), ("false", Decimal(0))):
        if digit in by_key:
            by_key.setdefault(word, by_key[digit])
    of_value = {value: by_key.get(_label_key(value), UNKNOWN) for value in set(values) - {""}}
    of_value = {"": -1} | of_value | index
    classes = [of_value[value] for value in values]
    if UNKNOWN in classes:
        unknown = Counter(value for value, i in zip(values, classes, strict=True) if i == UNKNOWN)
        says = f"none of {', '.join(task.labels)}, but {_shown(unknown, task)}"
        if task.unknown_labels == "drop":
            table.findings.append(Finding(table.path, sum(unknown.values()), f"rows left out, whose label is {says}"))
            return classes
        raise InputError(
            f"{table.where(classes.index(UNKNOWN))}: the label is {says}; correct the file, or the labels of the task "
            "file, or have such rows left out by its `unknown_labels: drop`"
        )
    return classes


def _label_key(label: str) -> Decimal | str:
    """Return what labels are compared by: a number's value, a truth value in lower case, or else the text."""
    if NUMBER.fullmatch(label):
        return Decimal(label)
    return label.lower() if label.lower() in ("true", "false") else label


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
    usual = {*task.columns.id, *task.columns.label, *task.submission.layout, *COMMON_IDS, *COMMON_LABELS}
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
