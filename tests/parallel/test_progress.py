"""The list of runs during a job."""

import json
import platform
import re

import pytest
from conftest import job_words, recipe_of, session_of, start, train_words, wait_for

from smm4h.cli.train import main
from smm4h.parallel.progress import JobProgress


def test_the_time_left_is_not_worked_out_from_runs_that_take_seconds(prepare_job, tmp_path):
    recipe = recipe_of(tmp_path, counts="{classifier: tfidf-svm}", encoder="{head: last3}")
    runs = prepare_job(recipe=recipe).runs
    words = [run for run in runs if not run.member.has_encoder]
    encoders = [run for run in runs if run.member.has_encoder]
    assert words
    assert encoders
    progress = JobProgress(runs, {run.name: 1.0 if run in words else 1e6 for run in runs}, "f1", quiet=True)
    progress.finished.add(words[0].name)
    assert progress._time_left(1.0) == ""
    assert progress._time_left(1.0 + 5e5).endswith(" left")
    progress.finished.add(encoders[0].name)
    assert progress._time_left(1.0 + 1e6).endswith(" left")


@pytest.mark.slow
def test_list_shows_what_is_running_where_and_how_long_it_will_take(tiny_encoder, tmp_path, call):
    recipe = recipe_of(tmp_path, short="{head: last3}", long="{head: last3, num_train_epochs: 900}")
    words = job_words(tiny_encoder, tmp_path / "out", recipe=recipe, folds=0, runs_per_device=2)
    job = start(train_words(words), tmp_path / "log")
    try:
        running = tmp_path / "out" / "long" / "fold-0" / "RUNNING"
        assert wait_for(lambda: running.exists() and json.loads(running.read_text())["step"] > 100, 120)
        result = call(main, *words, "--list")
    finally:
        job.kill()
    assert result.code == 0, result.err
    assert re.search(rf"long +0 +1 +running +\d+% on {platform.node()} cpu, for 0 min \d\d s", result.out)
    assert re.search(r"2 runs in .*: 1 done, 1 running, 0 failed, 0 missing; about \d+ min \d\d s left", result.out)
    assert wait_for(lambda: not session_of(job), 10)
    # not at once: a killed process keeps its number until its parent has taken note
    assert wait_for(lambda: "1 done, 0 running, 0 failed, 1 missing" in call(main, *words, "--list").out, 10)
