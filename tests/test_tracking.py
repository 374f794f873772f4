"""--report_to: a run of the tracker's for each run of ours, with its scores, in warm workers too."""

import importlib.util
import json
import sys

import pytest
from conftest import job_words, recipe_of, shell

import run_classification
from smm4h.training.tracking import PACKAGES


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {tag: [event.value for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_each_run_has_its_own_with_loss_and_scores(tiny_encoder, tmp_path):
    pytest.importorskip("tensorboard")
    words = job_words(
        tiny_encoder, tmp_path / "out", "--folds", 0, 1, "--report_to", "tensorboard", "--logging_steps", 1
    )
    words[0] = recipe_of(tmp_path, a="{head: mean}", b="{head: last3}", counts="{classifier: tfidf-logistic}")
    outcome = shell(sys.executable, "run_classification.py", *words)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "out" / "tensorboard"
    runs = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*"))
    assert runs == sorted(f"{member}/fold-{fold}" for member in ("a", "b", "counts") for fold in (0, 1))
    for run in runs:
        told = scalars(folder / run)
        metrics = json.loads((tmp_path / "out" / run / "metrics.json").read_text())
        assert told["held_out/f1"] == pytest.approx([metrics["held_out"]["f1"]], abs=1e-6)
        if not run.startswith("counts"):
            assert len(told["train/loss"]) == metrics["steps"]
            assert len(told["eval/f1"]) == 1


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named_before_anything_is_trained(tiny_encoder, tmp_path, call, name):
    if importlib.util.find_spec(PACKAGES[name]):
        pytest.skip(f"{name} is here")
    outcome = call(run_classification.main, *job_words(tiny_encoder, tmp_path / "out", "--report_to", name))
    assert outcome.code == 2
    assert f"--report_to {name} needs a package that is not here: pip install {name}" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_misspelt_tracker_is_named(tiny_encoder, tmp_path, call):
    outcome = call(run_classification.main, *job_words(tiny_encoder, tmp_path / "out", "--report_to", "tensorbord"))
    assert outcome.code == 2
    assert "no such tracker (did you mean tensorboard?)" in outcome.err
