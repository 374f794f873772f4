"""Draft of a task file: which columns of a table hold text, label, id and user, and what the labels are."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from smm4h.data.readers.formats import read_table
from smm4h.data.readers.labels import MARKS, mark_of
from smm4h.data.readers.tables import Table, is_value
from smm4h.models.label_spaces import SEPARATORS, LabelSetSpace
from smm4h.utils.errors import InputError, nearest

# Names that such columns often have, in lower case; the first one that a file has wins over what its cells look like.
NAMES = {
    "text": ("tweet", "text", "post", "message", "content", "sentence", "comment", "review", "body", "tweet_text"),
    "label": ("label", "class", "labels", "target", "gold", "annotation", "category", "stance", "sentiment", "y"),
    "id": ("tweet_id", "id", "post_id", "note_id", "doc_id", "docid", "uid", "message_id", "status_id"),
    "user": ("user_id", "user", "author", "author_id", "screen_name", "username", "user_name"),
}
MOST_LABELS = 20  # distinct values of a column of labels
LONGEST_LABEL = 40  # characters; a longer value may be a tweet
FEWEST_OF_A_LABEL = 2  # rows on average, else a column holds names or numbers; of lists, else it holds sentences
ANY_LABELS = LabelSetSpace(())  # which cuts a cell at any separator
COMMON = 0.5  # share of one label beyond which the others are called rare

TEMPLATE = """\
# Drafted from {{ file }}: {{ n_rows }} rows. Read it once; a wrong guess is mended here.
name: {{ name }}
about: ""                # what is looked for, in one line, for report and model card

# In the order of the class indices. {{ holds }}: {{ counts }}{{ "; no label: %d" % n_empty if n_empty }}.
labels: {{ labels }}
{% if form %}
# A tweet has several labels, or none; {{ "a cell lists them" if columns.label else "each has a column of 1 and 0" }}.
multi_label: {{ form }}
# f1 (micro-averaged over tweets and labels) or macro_f1 (the mean over the labels).
{% else %}
# The labels that the metric is about{{ ": all but the most common one" if is_rare }}.
positive: {{ positive }}
# f1 (micro-averaged over the positive labels), macro_f1 or accuracy.
{% endif %}
measure: {{ measure }}

columns:
  text: {{ columns.text }}
{% if columns.label %}  label: {{ columns.label }}
{% endif %}
{% if "id" in columns %}  id: {{ columns.id }}
{% else %}  # id: tweet_id     # {{ file }} has no column of ids; tweets are numbered from 0
{% endif %}{% if "user" in columns %}  user: {{ columns.user }}        # counts users whose tweets are in several folds
{% endif %}
submission:
  file: prediction.tsv
  columns: [{{ columns.id or "id" }}, {{ columns.label or "labels" }}]
{% if joint %}  joint: {{ joint }}           # how a cell lists labels
{% endif %}
"""


@dataclass(frozen=True)
class FoundSets:
    """Label sets of a table.

    Args:
        column: that lists the labels; empty: each label has a column of its name.
        counts: tweets with each label.
        n_empty: rows without any label.
        joint: how most cells list several labels: what stands between them, or `JSON_LIST`; empty without a column.
    """

    column: str
    counts: dict[str, int]
    n_empty: int
    joint: str = ""

    @property
    def form(self) -> str:
        """What `multi_label:` of the task file says."""
        return "true" if self.column else "columns"


def listed_sets(name: str, values: Sequence[str], most: int, longest: int) -> FoundSets | None:
    """Return the label sets of a column in which some cells list several labels; None for any other column.

    Commas within labels or sentences are told from those between labels by what they separate: the parts of lists are
    fewer than the different cells, and come again.

    Args:
        most: labels at most.
        longest: characters of a label.
    """
    lists = [set(ANY_LABELS.split(value)) for value in values]
    counts = Counter(label for labels in lists for label in labels)
    n_distinct = len({value.strip() for value in values} - {""})
    if max(map(len, lists), default=0) < 2 or not 2 <= len(counts) <= min(most, n_distinct):
        return None
    if max(map(len, counts)) > longest or min(counts.values()) < FEWEST_OF_A_LABEL:
        return None
    counts = dict(sorted(counts.items()))
    forms = Counter(LabelSetSpace(tuple(counts)).form_of(value.strip()) for value in values)
    joint = max((form for form in forms if form), key=forms.__getitem__)
    return FoundSets(name, counts, sum(not labels for labels in lists), joint)


def marked_sets(cells: Mapping[str, Sequence[str]], most: int) -> FoundSets | None:
    """Return the label sets of all columns that hold two kinds of marks; None for fewer than two such columns."""
    marked = {name: [mark_of(value) for value in values] for name, values in cells.items() if _are_marks(values)}
    named = {name: marks for name, marks in marked.items() if not any(separator in name for separator in SEPARATORS)}
    if not 2 <= len(named) <= most:
        return None
    counts = {name: sum(MARKS.get(mark, 0) for mark in marks) for name, marks in named.items()}
    rows = zip(*named.values(), strict=True)
    return FoundSets("", counts, sum(not any(MARKS.get(mark, 0) for mark in row) for row in rows))


def _are_marks(values: Sequence[str]) -> bool:
    found = {mark_of(value) for value in values} - {""}
    return len(found) == 2 and found <= MARKS.keys()


@dataclass(frozen=True)
class TaskDraft:
    """What a table's columns and labels seem to be.

    Args:
        columns: the names of the columns for text, label and, if there are any, id and user.
        counts: how often each label occurs, in the order in which they are proposed.
        n_empty: rows without a label.
        others: columns that could hold the labels, too.
    """

    file: str
    n_rows: int
    columns: dict[str, str]
    counts: dict[str, int]
    n_empty: int
    others: list[str]
    sets: FoundSets | None = None  # where tweets have several labels; then `n_empty` counts those without any

    @property
    def positive(self) -> list[str]:
        """All labels but one that more than half of the rows have; all labels where there is none."""
        if self.sets:
            return list(self.counts)
        most_common = max(self.counts, key=self.counts.__getitem__)
        if self.counts[most_common] <= COMMON * sum(self.counts.values()):
            return list(self.counts)
        return [label for label in self.counts if label != most_common]

    @property
    def measure(self) -> str:
        """The metric: F1 of the rare labels, of label sets micro F1, or macro F1 where none is common."""
        if self.sets:
            return "f1"
        return "f1" if len(self.positive) < len(self.counts) else "macro_f1"

    def to_yaml(self, name: str) -> str:
        """Return the task file's text, with comments.

        Args:
            name: of the task.
        """
        environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
        return environment.from_string(TEMPLATE).render(
            file=self.file,
            name=_scalar(name),
            n_rows=self.n_rows,
            n_empty=self.n_empty,
            holds=f"{self.columns['label']} holds" if "label" in self.columns else "Columns of their names hold",
            form=self.sets.form if self.sets else "",
            joint=_scalar(self.sets.joint) if self.sets and self.sets.joint else "",
            counts=", ".join(
                f"{label} {count} ({count / self.n_labelled:.2%})" for label, count in self.counts.items()
            ),
            labels=_sequence(self.counts),
            positive=_sequence(self.positive),
            is_rare=len(self.positive) < len(self.counts),
            measure=self.measure,
            columns={kind: _scalar(column) for kind, column in self.columns.items()},
        )

    @property
    def n_labelled(self) -> int:
        return self.n_rows if self.sets else sum(self.counts.values())


def _scalar(text: str) -> str:
    """Return a string in YAML, always quoted: `no` and `1.0` would not stay strings."""
    return json.dumps(text, ensure_ascii=False)


def _sequence(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_scalar, texts))}]"


def draft_task(path: Path, encoding: str | None = None, **named: str | None) -> TaskDraft:
    """Return the draft for a file of labelled tweets.

    Args:
        named: `text`, `label`, `id` or `user`: the column that holds it, where the user says so.

    Raises:
        InputError: for a file that can't be read, has no header, or in which no column can be texts or labels.
    """
    table = read_table(path, encoding, encoding_flag="--encoding")
    where = table.path if table.unit == "row" else f"{table.path}, line 1"
    columns = {kind: name for kind, name in named.items() if name is not None}
    if any(map(is_value, table.names)):
        raise InputError(f"{where}: no header here; the first line must name the columns")
    for name in columns.values():
        if name not in table.names:
            raise InputError(f"{where}: no column {name}{nearest(name, table.names)} among {', '.join(table.names)}")
    if not table.lines:
        raise InputError(f"{table.path} holds no tweet; one a line is expected below the header")
    cells = {name: _cells(table, name) for name in table.names if table.names.count(name) == 1}
    columns.setdefault("text", _text_column(cells, columns, where))
    candidates = _label_columns(cells, columns)
    if (sets := _label_sets(cells, columns, candidates)) is not None:
        return _draft_of_sets(Path(path).name, len(table.lines), cells, columns, sets)
    if "label" not in columns:
        if not candidates:
            raise InputError(
                f"{where}: no column of labels, which have 2 to {MOST_LABELS} short values; name it with "
                "--label_column_name"
            )
        columns["label"] = candidates[0]
    _add_id_and_user(cells, columns)
    counts = Counter(cell.strip() for cell in cells[columns["label"]])
    n_empty = counts.pop("", 0)
    _check_labels(counts, columns["label"], where)
    labels = sorted(counts, key=_order)
    order = {kind: columns[kind] for kind in ("text", "label", "id", "user") if kind in columns}
    others = [name for name in candidates if name not in columns.values()]
    return TaskDraft(
        Path(path).name, len(table.lines), order, {label: counts[label] for label in labels}, n_empty, others
    )


def _add_id_and_user(cells: "Cells", columns: dict[str, str]) -> None:
    for kind in ("id", "user"):
        if kind not in columns and (name := _named_as(kind, cells, columns)):
            columns[kind] = name


def _label_sets(cells: "Cells", columns: dict[str, str], candidates: Sequence[str]) -> FoundSets | None:
    """Return the label sets of a column of lists, or of columns of marks; None where each tweet has one label.

    A column that the user names, or that has a usual name, is looked at alone.
    """
    free = {name: values for name, values in cells.items() if values and name not in columns.values()}
    usual = [name for kind in NAMES["label"] for name in free if name.lower() == kind]
    chosen = [columns["label"]] if "label" in columns else usual or [*free]
    for name in chosen:
        if cells[name] and (sets := listed_sets(name, cells[name], MOST_LABELS, LONGEST_LABEL)):
            return sets
    if "label" in columns or any(name in usual for name in candidates):
        return None
    return marked_sets(free, MOST_LABELS)


def _draft_of_sets(file: str, n_rows: int, cells: "Cells", columns: dict[str, str], sets: FoundSets) -> TaskDraft:
    """Return the draft of a table with label sets."""
    marks = [] if sets.column else [*sets.counts]
    columns = {**columns, **({"label": sets.column} if sets.column else {})}
    _add_id_and_user({name: values for name, values in cells.items() if name not in marks}, columns)
    order = {kind: columns[kind] for kind in ("text", "label", "id", "user") if kind in columns}
    return TaskDraft(file, n_rows, order, sets.counts, sets.n_empty, [], sets)


def _check_labels(counts: Counter, name: str, where: str) -> None:
    """Raise `InputError` for a column, named by the user, that holds no labels."""
    if len(counts) < 2:
        raise InputError(f"{where}: column {name} has {len(counts)} distinct labels; at least two are needed")
    if any(len(label) > LONGEST_LABEL for label in counts):
        raise InputError(f"{where}: column {name} holds longer values than {LONGEST_LABEL} characters, and no labels")


def _order(label: str) -> tuple[int, float, str]:
    """Return a sort key: numbers by value, then texts by alphabet."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _cells(table: Table, name: str) -> list[str]:
    """Return a column's cells; none of a column that holds no text, such as lists."""
    try:
        return list(table.columns[table.names.index(name)])
    except InputError:
        return []


Cells = dict[str, list[str]]


def _named_as(kind: str, cells: Cells, columns: dict[str, str], fits: Callable[[str], bool] = bool) -> str | None:
    """Return the first column with a usual name of its kind that fits; None without one."""
    by_name = {name.lower(): name for name in cells if name not in columns.values() and cells[name]}
    return next((by_name[name] for name in NAMES[kind] if name in by_name and fits(by_name[name])), None)


def _text_column(cells: Cells, columns: dict[str, str], where: str) -> str:
    """Return the column with a usual name, or else the one with the most words; raise `InputError` without words."""
    if name := _named_as("text", cells, columns):
        return name
    free = [name for name in cells if cells[name] and name not in columns.values()]
    words = {name: float(np.mean([len(cell.split()) for cell in cells[name]])) for name in free}
    best = max(words, key=words.__getitem__, default=None)
    if best is None or words[best] < 2:
        raise InputError(f"{where}: no column holds texts of several words; name it with --text_column_name")
    return best


def _label_columns(cells: Cells, columns: dict[str, str]) -> list[str]:
    """Return the columns that can hold labels: those with usual names first, then by falling number of rows a label."""

    def fits(name: str) -> bool:
        values = Counter(cell.strip() for cell in cells[name] if cell.strip())
        return (
            2 <= len(values) <= MOST_LABELS
            and max(map(len, values)) <= LONGEST_LABEL
            and sum(values.values()) >= FEWEST_OF_A_LABEL * len(values)
        )

    usual = {name: rank for rank, name in enumerate(NAMES["label"])}
    fitting = [name for name in cells if name not in columns.values() and cells[name] and fits(name)]
    return sorted(fitting, key=lambda name: (usual.get(name.lower(), len(usual)), len(set(cells[name]))))
