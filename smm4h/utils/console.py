"""The terminal: one console for all messages, and silence for the libraries."""

import os

import torch
from datasets import disable_progress_bars as quieten_datasets
from rich.console import Console
from transformers.utils import logging as transformers_logging

console = Console(highlight=False)
if not console.is_terminal:  # a log file: no width to obey
    console = Console(highlight=False, width=140)


def silence_libraries() -> None:
    """Leaves the screen to the job's own display."""
    if not torch.cuda.device_count():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, once imported, warns that it found no other
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    quieten_datasets()
