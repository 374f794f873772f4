"""The benchmarks run from end to end and print all of their rows."""

import re
import runpy
import sys

import pytest
from conftest import INVENTED, ROOT, TASK5, python

pytestmark = pytest.mark.slow


def test_the_speed_benchmark_measures_all_contenders_phases_and_predictions():
    result = python("benchmarks/speed.py", "--shape", "tiny", "--tweets", 240, "--repeats", 1, "--no_start")
    assert result.code == 0, result.err
    for contender in ("the authors' settings", "stock Trainer", "ours, --no_packed", "ours "):
        assert re.search(rf"^{contender}.* \d+\.\d+ x +\d+ +\d+ %$", result.out, re.MULTILINE), result.out
    for phase in ("read", "tokenise", "forward", "backward", "optimizer", "evaluate"):
        assert re.search(rf"^{phase} +\d+\.\d+", result.out, re.MULTILINE), result.out
    assert "x the time of 2 x weights x word pieces" in result.out


def test_the_size_benchmark_measures_all_parts_and_kills_and_resumes_a_prediction():
    result = python("benchmarks/size.py", "--tweets", 40_000)
    assert result.code == 0, result.err
    for part in ("read", "vote", "vote_probabilities", "predict"):
        row = rf"^40,000 tweets  {part} +\d+\.\d s  \d\.\d GB at most$"
        assert re.search(row, result.out, re.MULTILINE), result.out
    assert re.search(r"^killed after [123] of 4 blocks; most GB in each fifth", result.err, re.MULTILINE), result.err


def test_the_benchmark_of_labelling_prints_both_arms_and_their_difference(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    words = ["--tiny", "--task", str(TASK5), "--data_dir", str(INVENTED)]
    monkeypatch.setattr(sys, "argv", ["label_next.py", *words])
    runpy.run_path(str(ROOT / "benchmarks" / "label_next.py"), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| the 40 tweets", "| gain", "| random", "| gain against random"]
    assert all(len(row.split(" | ")) == 4 for row in rows)
