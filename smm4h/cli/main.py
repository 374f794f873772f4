"""The command `smm4h`: a subcommand for each script, with the same code and flags."""

import importlib
import sys
from collections.abc import Sequence

from smm4h import __version__
from smm4h.utils.errors import InputError, nearest, run_main

COMMANDS = {
    "train": ("smm4h.cli.train", "train the runs of a recipe, vote, and write the submission"),
    "adapt": ("smm4h.cli.adapt", "adapt an encoder to unlabelled texts, by masked words"),
    "vote": ("smm4h.cli.vote", "vote over the predictions of a job, or over label files"),
    "pseudo-label": ("smm4h.cli.pseudo_label", "cut a vote on unlabelled tweets into pseudo-labelled parts"),
    "predict": ("smm4h.cli.predict", "label new tweets by a finished job's ensemble"),
    "label-next": ("smm4h.cli.label_next", "choose the new tweets whose labels help a finished job most"),
    "publish": ("smm4h.cli.publish", "publish an ensemble or a student on the Hub, or in a folder"),
    "distill": ("smm4h.cli.distill", "train one small model on a job's ensemble"),
    "demo": ("smm4h.cli.demo", "open a page on this machine that labels what is typed in"),
    "report": ("smm4h.cli.report", "write a finished job's report.html"),
}


def main() -> None:
    run_main(lambda: run_command(sys.argv[1:]))


def run_command(words: Sequence[str]) -> None:
    """Run the subcommand that the first word names; raise `InputError` for a name that there is not."""
    if not words or words[0] in ("-h", "--help"):
        print(usage())
    elif words[0] == "--version":
        print(f"smm4h {__version__}")
    elif words[0] in COMMANDS:
        importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])
    else:
        raise InputError(f"there is no command {words[0]}{nearest(words[0], COMMANDS)}; {usage()}")


def usage() -> str:
    """Return the list of subcommands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {meaning}" for name, (_, meaning) in COMMANDS.items()]
    return "\n".join(["usage: smm4h COMMAND ..., with --help after a command for its flags", *lines])
