"""The command `smm4h publish` as a script: smm4h/cli/publish.py."""

from smm4h.cli.publish import main
from smm4h.utils.errors import run_main

if __name__ == "__main__":
    run_main(main)
