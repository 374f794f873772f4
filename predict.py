"""The command `smm4h predict` as a script: smm4h/cli/predict.py."""

from smm4h.cli.predict import main
from smm4h.utils.errors import run_main

if __name__ == "__main__":
    run_main(main)
