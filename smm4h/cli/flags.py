"""Command lines of all commands: one parser whose complaints are one sentence with the nearest name."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smm4h.utils.errors import InputError, nearest
from smm4h.utils.files import PIPE, expand_home


def words_of(words: Sequence[str] | None) -> list[str]:
    """Return the words of a command line, by default this process's own.

    Raises `InputError` for a name that is not UTF-8, which few libraries can open.
    """
    words = list(sys.argv[1:] if words is None else words)
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            shown = word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            raise InputError(f"{shown} is not valid UTF-8; rename the file")
    return words


class CommandParser(argparse.ArgumentParser):
    """argparse without abbreviations, whose complaints are `InputError`s.

    Args:
        doc: the command's docstring, shown by `--help`.
    """

    def __init__(self, doc: str) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(_program(), description=doc, formatter_class=form, allow_abbrev=False)

    def add_overwrite(self) -> None:
        """Add the flag of commands that write where the user names a place."""
        self.add_argument("--overwrite", action="store_true", help="replace an output that is there; never an input")

    def add_tweet_columns(self) -> None:
        """Add the flags of commands that read files of tweets, for their columns and their encoding."""
        add = self.add_argument
        add("--id_column_name", help="column of the tweet id, instead of the task's")
        add("--text_column_name", help="column of the text, instead of the task's")
        add("--context_column_name", help="column of the second text (claim, title, ...), instead of the task's")
        add("--group_column_name", help="column of the group (language, claim, ...), instead of the task's")
        add("--encoding", help="encoding of the input (default: UTF-8 where valid, else cp1252)")

    def add_new_tweets(self, kind: str) -> None:
        """Add the input and the flags of commands that predict new tweets block by block; see `check_new_tweets`.

        Args:
            kind: of tweets, for the help.
        """
        add = self.add_argument
        add(
            "input", help=f"{kind} (.tsv, .csv, .jsonl, .parquet, each also .gz), a folder of such files, or - (a .tsv)"
        )
        self.add_tweet_columns()
        add("--block", type=int, default=10_000, help="tweets that are read and predicted at once (default: 10000)")
        self.add_use_cpu()

    def add_use_cpu(self) -> None:
        self.add_argument("--use_cpu", action="store_true", help="no GPU")

    def add_moved_files(self) -> None:
        """Add the flags of commands that read a job's own tweets once more, see `moved_files`."""
        for name in MOVABLE:
            self.add_argument(f"--{name}", nargs="+" if name in SEVERAL else None, help="where the job's own has moved")

    def error(self, message: str) -> None:
        raise InputError(message)

    def parse(self, words: Sequence[str] | None) -> argparse.Namespace:
        """Return the arguments; raise `InputError` for a flag or a value that there is not."""
        words = words_of(words)
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        for before, word in zip(["", *words], words, strict=False):
            flag, _, value = word.partition("=")
            if not word.strip() or (flag in known and flag != word and not value.strip()):
                named = before if before in known else flag.strip()
                raise InputError(f"{named or 'an argument'} is empty; is the variable of the shell set?")
            if flag.startswith("--") and flag != "--" and flag not in known:
                raise InputError(f"there is no flag {flag}{nearest(flag, known)}")
        arguments = self.parse_args(words)
        for name, value in vars(arguments).items():
            setattr(arguments, name, _with_home(value))
        return arguments


def check_new_tweets(arguments: argparse.Namespace) -> None:
    """Raise `InputError` for an input that is not there or a block that is none; `~` in the input is replaced."""
    arguments.input = expand_home(arguments.input)
    if arguments.block < 1:
        raise InputError(f"--block {arguments.block}: at least one tweet is read at once")
    if arguments.input != PIPE and not Path(arguments.input).exists():
        raise InputError(f"{arguments.input} is not there; name an existing file or folder, or - for a pipe")


MOVABLE = ("data_dir", "train_file", "validation_file", "test_file", "gold_file", "dataset_name")  # a job's tweets
SEVERAL = ("train_file",)  # of them, the flags that take several files


def moved_files(arguments: argparse.Namespace, *more: str) -> list[str]:
    """Return the flags for a job's own tweets that were given here, and some more, as the job's command takes them."""
    words = []
    for name in (*MOVABLE, *more):
        if (value := getattr(arguments, name, None)) is not None:
            words += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return words


def _with_home(value: Any) -> Any:
    """Return a path, or a list of paths, with a leading `~` replaced; any other value unchanged."""
    if isinstance(value, list):
        return [_with_home(one) for one in value]
    return Path(expand_home(str(value))) if isinstance(value, Path) else value


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Return an argument type that accepts some names only and answers another one with the nearest."""

    def parse(value: str) -> str:
        if value not in choices:
            raise argparse.ArgumentTypeError(
                f"invalid choice: {value!r}{nearest(value, choices)}; choose {', '.join(choices)}"
            )
        return value

    return parse


def _program() -> str | None:
    """Return what a usage line calls this command; None: as its script is called."""
    is_subcommand = Path(sys.argv[0]).stem in ("smm4h", "__main__") and len(sys.argv) > 1
    return f"smm4h {sys.argv[1]}" if is_subcommand else None


SCRIPTS = {
    "train": "run_classification.py",
    "label-next": "label_next.py",
}  # of subcommands whose scripts have other names


def command_name(subcommand: str) -> str:
    """Return how to call a command, as this one was called: by the script, or as a subcommand of `smm4h`."""
    if Path(sys.argv[0]).suffix == ".py" and Path(sys.argv[0]).name != "__main__.py":
        return f"python {SCRIPTS.get(subcommand, f'{subcommand}.py')}"
    return f"smm4h {subcommand}"
