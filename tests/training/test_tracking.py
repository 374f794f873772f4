"""--report_to: the tracker gets a run for each of ours, with its scores."""

import importlib.util
import json

import pytest
from conftest import job_words, recipe_of

from smm4h.cli.train import main
from smm4h.training.tracking import PACKAGES


def scalars(folder):
    """Return all values of a TensorBoard run by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_each_run_has_a_tensorboard_run_with_loss_and_scores(tiny_encoder, tmp_path, call):
    pytest.importorskip("tensorboard")
    recipe = recipe_of(tmp_path, a="{head: mean}", b="{head: last3}", counts="{classifier: tfidf-logistic}")
    flags = {"folds": [0, 1], "report_to": "tensorboard", "logging_steps": 1}
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, **flags))
    assert result.code == 0, result.err
    folder = tmp_path / "out" / "tensorboard"
    runs = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*"))
    assert runs == sorted(f"{member}/fold-{fold}" for member in ("a", "b", "counts") for fold in (0, 1))
    for run in runs:
        tracked = scalars(folder / run)
        metrics = json.loads((tmp_path / "out" / run / "metrics.json").read_text())
        assert tracked["held_out/f1"] == pytest.approx([metrics["held_out"]["f1"]], abs=1e-6)
        if not run.startswith("counts"):
            assert len(tracked["train/loss"]) == metrics["steps"]
            assert len(tracked["eval/f1"]) == 1


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named_before_anything_is_trained(tiny_encoder, tmp_path, call, name):
    if importlib.util.find_spec(PACKAGES[name]):
        pytest.skip(f"{name} is here")
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", report_to=name))
    assert result.code == 2
    assert f"--report_to {name} needs a package that is not here: pip install {name}" in result.err
    assert not (tmp_path / "out").exists()


def test_a_misspelt_tracker_is_named(tiny_encoder, tmp_path, call):
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", report_to="tensorbord"))
    assert result.code == 2
    assert "no such tracker (did you mean tensorboard?)" in result.err
