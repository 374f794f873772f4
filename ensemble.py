"""The command `smm4h vote` as a script: smm4h/cli/vote.py."""

from smm4h.cli.vote import main
from smm4h.utils.errors import run_main

if __name__ == "__main__":
    run_main(main)
