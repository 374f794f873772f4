"""The command `smm4h distill` as a script: smm4h/cli/distill.py."""

from smm4h.cli.distill import main
from smm4h.utils.errors import run_main

if __name__ == "__main__":
    run_main(main)
