"""The benchmarks run: what they print is for people, and that they can be repeated is a promise."""

import re
import sys

import pytest
from conftest import shell


@pytest.mark.slow
def test_the_speed_benchmark_measures_all_contenders_phases_and_predictions():
    words = ("benchmarks/speed.py", "--tweets", 240, "--repeats", 1, "--no_start")
    outcome = shell(sys.executable, *words)
    assert outcome.code == 0, outcome.err
    for contender in ("the authors' settings", "stock Trainer", "ours, --no_packed", "ours "):
        assert re.search(rf"^{contender}.* \d+\.\d+ x +\d+ +\d+ %$", outcome.out, re.MULTILINE), outcome.out
    for phase in ("read", "tokenise", "forward", "backward", "optimizer", "evaluate"):
        assert re.search(rf"^{phase} +\d+\.\d+", outcome.out, re.MULTILINE), outcome.out
    assert "x the time of 2 x weights x word pieces" in outcome.out
