"""Several labels a tweet, as a draft of a task file finds them: a column of lists, or columns of marks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smm4h.data.readers.labels import MARKS, mark_of
from smm4h.models.label_spaces import SEPARATORS, LabelSetSpace

ANY_LABELS = LabelSetSpace(())  # which cuts a cell at any separator
FEWEST_OF_A_LABEL = 2  # tweets, else a column holds sentences with commas


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
