"""The console that all messages go to, and silence for the libraries."""

import os

from rich.console import Console

LOG_WIDTH = 140  # characters in a line of a log file


def make_console(*, stderr: bool = False) -> Console:
    """Return a console; in a log file, which has no width, lines are `LOG_WIDTH` characters long.

    Names such as `:100:`, which rich would replace with an emoji, are printed as they are.
    """
    console = Console(highlight=False, emoji=False, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, emoji=False, stderr=stderr, width=LOG_WIDTH)


console = make_console()


def silence_libraries() -> None:
    """Turn off the libraries' messages and progress bars; the job has its own display."""
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    if not torch.cuda.device_count():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, once imported, warns that it found no GPU
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
