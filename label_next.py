"""The command `smm4h label-next` as a script: smm4h/cli/label_next.py."""

from smm4h.cli.label_next import main
from smm4h.utils.errors import run_main

if __name__ == "__main__":
    run_main(main)
