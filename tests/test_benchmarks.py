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


@pytest.mark.slow
def test_the_size_benchmark_measures_all_parts_and_kills_and_resumes_a_prediction():
    outcome = shell(sys.executable, "benchmarks/size.py", "--tweets", 40_000)
    assert outcome.code == 0, outcome.err
    for part in ("read", "vote", "vote_probabilities", "predict"):
        assert re.search(rf"^40,000 tweets  {part} +\d+\.\d s  \d\.\d GB at most$", outcome.out, re.MULTILINE), (
            outcome.out
        )
    assert re.search(r"^killed after [123] of 4 blocks; most GB in each fifth", outcome.err, re.MULTILINE), outcome.err
