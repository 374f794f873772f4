"""Columns of predictions: what each holds, and what it is called beside the input's own columns."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from smm4h.config.task import Task
from smm4h.data.outputs.predictions import PROBABILITY
from smm4h.utils.errors import InputError, nearest

LABEL, PROBABILITIES = "label", "probabilities"
PREDICTED = (LABEL, "probability", PROBABILITIES, "margin", "votes")
PASSED = "input "  # before the names of the input's columns among a block's
ROW_NUMBERS = "__index_level_"  # pandas' own columns in Parquet
INPUT = "input_"  # before an output name that a prediction has
MOST_NAMES = 20  # in a message


@dataclass(frozen=True)
class OutputColumns:
    """The columns of an output.

    Args:
        names: what each column is called, by its name in the blocks; the id first.
        passed: names of the input's columns that are passed on.
        notices: on columns with other names than the input has for them.
    """

    names: dict[str, str]
    passed: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def foreign(self) -> set[str]:
        """Output names of the columns that are passed on."""
        return {self.names[f"{PASSED}{name}"] for name in self.passed}


def predicted_names(task: Task, names: Sequence[str] | None = None) -> dict[str, str]:
    """Return the output names of all that can be predicted, by their names in the blocks; id and label first.

    Args:
        names: of the columns of ids and labels; None: as the task has them.
    """
    id_name, label_name = names or task.output_names
    probabilities = {f"{PROBABILITY}{label}": f"{PROBABILITY}{label}" for label in task.labels}
    return {"id": id_name, LABEL: label_name, "probability": "probability", "margin": "margin", "votes": "votes"} | {
        **probabilities
    }


def output_columns(
    asked: Sequence[str],
    kept: Sequence[str],
    headers: Mapping[str, Sequence[str]],
    task: Task,
    names: Sequence[str] | None = None,
) -> OutputColumns:
    """Return the columns of an output: the id, the columns that are kept, and those that are asked for.

    A column of the input whose name is a predicted column's is passed on as `input_NAME`, so that predictions have the
    same names whatever the input holds.

    Args:
        asked: predictions, of `PREDICTED`, and names of the input's columns, in the order of the output.
        kept: names of the input's columns, see `all_columns`.
        headers: names of the columns of each file of the input, as far as they are needed.
        names: see `predicted_names`.

    Raises:
        InputError: for an asked name that is neither a prediction nor a column of every file.
    """
    predicted = predicted_names(task, names)
    keys = {name: _predicted_keys(name, predicted, headers, task.multi_label is not None) for name in asked}
    taken = {predicted[key] for key in ["id", *(key for own in keys.values() for key in own)]}
    columns, passed = {"id": predicted["id"]}, {}

    def pass_on(name: str) -> None:
        if name not in passed and not _is_the_id(name, predicted["id"], headers, task):
            columns[f"{PASSED}{name}"] = passed[name] = _free_name(name, taken)
            taken.add(passed[name])

    for name in kept:
        pass_on(name)
    for name in asked:
        columns |= {key: predicted[key] for key in keys[name]}
        if not keys[name]:
            pass_on(_column_of(name, headers))
    notices = [
        f"the input's column {name} is called {new}, because predictions have a column of its name"
        for name, new in passed.items()
        if new != name
    ]
    return OutputColumns(columns, tuple(passed), tuple(notices))


def _predicted_keys(
    name: str, predicted: Mapping[str, str], headers: Mapping[str, Sequence[str]], of_sets: bool
) -> list[str]:
    """Return the predictions that a name asks for, by their names in the blocks; the label also by its output name.

    Of label sets, `probability` stands for a column of each label.
    """
    if name == PROBABILITIES or (name == "probability" and of_sets):
        return [key for key in predicted if key.startswith(PROBABILITY)]
    is_of_input = any(name in header for header in headers.values())
    if name in PREDICTED or (name == predicted[LABEL] and not is_of_input):
        return [name if name in PREDICTED else LABEL]
    return []


def _column_of(name: str, headers: Mapping[str, Sequence[str]]) -> str:
    """Return the column that a name asks for: its own, or `NAME` of `input_NAME`; raise `InputError` without one."""
    bare = name.removeprefix(INPUT)
    if all(name not in header and bare in header for header in headers.values()):
        name = bare
    check_passed(name, headers)
    return name


def is_passed(name: str) -> bool:
    """Return whether a name of --columns is a column of the input."""
    return name not in PREDICTED


def check_passed(name: str, headers: Mapping[str, Sequence[str]]) -> None:
    """Raise `InputError` for a column that some file of the input lacks, or has twice."""
    for file, header in headers.items():
        if name not in header:
            others = [other for other in header if other]
            listed = ", ".join(others[:MOST_NAMES]) + (", ..." if len(others) > MOST_NAMES else "")
            raise InputError(
                f"--columns {name}{nearest(name, [*PREDICTED, *others])}: predictions are {', '.join(PREDICTED)}, and "
                f"{file} has the columns {listed}"
            )
        if list(header).count(name) > 1:
            raise InputError(f"--columns {name}: {file} has several columns of this name; rename them")


def all_columns(headers: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names of all columns of an input's files, in their order, each once."""
    names = dict.fromkeys(name for header in headers.values() for name in header)
    return [name for name in names if name and not name.startswith(ROW_NUMBERS)]


def _is_the_id(name: str, id_name: str, headers: Mapping[str, Sequence[str]], task: Task) -> bool:
    """Return whether a column is the one of ids, in every file, and called so in the output, too."""
    if name != id_name:
        return False
    return all(next((own for own in task.columns.id if own in header), None) == name for header in headers.values())


def _free_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"{INPUT}{name}"
    return name
