"""The command `smm4h train` as a script: smm4h/cli/train.py."""

from smm4h.cli.train import main
from smm4h.utils.errors import run_main

if __name__ == "__main__":
    run_main(main)
