"""The command `smm4h report` as a script: smm4h/cli/report.py."""

from smm4h.cli.report import main
from smm4h.utils.errors import run_main

if __name__ == "__main__":
    run_main(main)
