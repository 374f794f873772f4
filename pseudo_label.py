"""The command `smm4h pseudo-label` as a script: smm4h/cli/pseudo_label.py."""

from smm4h.cli.pseudo_label import main
from smm4h.utils.errors import run_main

if __name__ == "__main__":
    run_main(main)
