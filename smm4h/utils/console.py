"""The console that all messages go to, and silence for the libraries."""

import logging
import os
import sys
import warnings
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smm4h.utils.wording import between_words

LOG_WIDTH = 140  # characters in a line of a log file
# bitsandbytes advises, as soon as it is imported, a package that would only make it faster. With peft and it installed,
# transformers imports both for every Trainer.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console; in a log file, which has no width, lines are `LOG_WIDTH` characters long.

    Names such as `:100:`, which rich would replace with an emoji, are printed as they are.
    """
    options = {"highlight": False, "emoji": False, "stderr": stderr}
    stream = sys.stderr if stderr else sys.stdout
    if stream is not None and stream.isatty():  # None: it was closed before the command began
        return PipedConsole(**options)
    # FORCE_COLOR, which notebooks set, would fill a pipe with the frames of progress bars
    return PipedConsole(**options, width=LOG_WIDTH, force_terminal=False)


class PipedConsole(Console):
    """Console whose reader may leave early: rich's own would end the command with exit code 1 then.

    What is printed with `soft_wrap` stays on one line in a file. In a terminal it is broken between words, where the
    terminal itself would break numbers and names; a long path is left whole.
    """

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        if soft_wrap and self.is_terminal:
            objects = tuple(between_words(one, self.width) if isinstance(one, str) else one for one in objects)
        super().print(*objects, soft_wrap=soft_wrap, **options)

    def print_command(self, text: str) -> None:
        """Print a line with a command, which must stay one line to be copied."""
        super().print(text, markup=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError from None


console = make_console()
GAP = 2  # columns of the terminal between two of a table


def print_table(
    title: str,
    groups: Sequence[Sequence[str]],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    to: Console = console,
) -> None:
    """Print a table; in a narrow terminal several, each with the first column, so that nothing is cut.

    Args:
        groups: headers; a group's columns stay in one table as long as they fit. The first group is the first column.
        rows: of cells, as many as headers.
        left: numbers of the columns that are aligned to the left.
    """
    headers = [header for group in groups for header in group]
    widths = [max(map(cell_len, cells)) for cells in zip(headers, *rows, strict=True)]
    if title:
        to.print(Text(title, style="italic"), soft_wrap=True)
    for part, numbers in enumerate(_tables(groups, widths, to.width)):
        if part:
            to.print()
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
        for number in numbers:
            justify = "left" if number in left else "right"
            table.add_column(Text(headers[number]), justify=justify, no_wrap=number not in left, overflow="fold")
        for row in rows:
            table.add_row(*(Text(row[number]) for number in numbers))
        to.print(table)


def _tables(groups: Sequence[Sequence[str]], widths: Sequence[int], room: int) -> list[list[int]]:
    """Return the column numbers of each table; the first column is in all of them, and has half of the room at most."""
    first, ends = min(widths[0], room // 2), list(accumulate(map(len, groups)))
    blocks = [list(range(start, end)) for start, end in pairwise(ends)]

    def size(columns: Sequence[int]) -> int:
        return first + sum(widths[column] + GAP for column in columns)

    tables: list[list[int]] = []
    for block in blocks:
        for columns in [block] if size(block) <= room else [[column] for column in block]:
            if tables and size([*tables[-1], *columns]) <= room:
                tables[-1] += columns
            else:
                tables.append(columns)
    return [[0, *columns] for columns in tables] or [[0]]


def silence_libraries() -> None:
    """Turn off the libraries' messages and progress bars; the job has its own display."""
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    if not torch.cuda.device_count():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, once imported, warns that it found no GPU
    # Parameters that share one memory (training.captured) do not lie in cuDNN's order, which costs a GRU little here.
    warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
    # Settings and layers that are what was asked for: transformers renames one, and peft sees to the other itself.
    warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated")
    warnings.filterwarnings("ignore", "fan_in_fan_out is set to False but the target module is `Conv1D`")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
