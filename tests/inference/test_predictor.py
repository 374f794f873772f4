"""Predictions of a finished ensemble, killed and resumed, by one process or two."""

import shutil
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import session_of, shell, start, wait_for

from smm4h.cli.predict import main
from smm4h.config.plans.plan import read_plan
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.inference import predictor
from smm4h.models.voting import mean_of_models
from smm4h.training.run_data import keep_best_model


def test_blocks_predicted_before_a_kill_are_not_predicted_again(tuned_job, new_tweets, tmp_path, call):
    many = tmp_path / "many.tsv"
    lines = new_tweets.read_text().splitlines()
    many.write_text("\n".join([lines[0], *(lines[1:] * 60)]) + "\n")
    words = [sys.executable, "predict.py", tuned_job.folder, many, "--columns", "label", "--block", 200]
    undisturbed = call(main, *words[2:], "--output", tmp_path / "undisturbed.tsv")
    assert undisturbed.code == 0, undisturbed.err
    job = start([*words, "--output", tmp_path / "labels.tsv"])
    parts = tmp_path / ".labels.tsv.parts"
    assert wait_for(lambda: len(list(parts.glob("0*.parquet"))) > 2, 120)
    for process in session_of(job):
        process.send_signal(signal.SIGKILL)
    job.wait(300)
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("0*.parquet")}
    assert 2 < len(kept) < 12
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".smm4h") and any(path.iterdir())]
    job = start([*words, "--output", tmp_path / "labels.tsv"])
    assert wait_for(lambda: len(list(parts.glob("0*.parquet"))) > len(kept), 120)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert job.wait(300) == 0
    assert (tmp_path / "labels.tsv").read_bytes() == (tmp_path / "undisturbed.tsv").read_bytes()


@pytest.mark.slow
def test_two_processes_share_the_blocks(tuned_job, new_tweets, tmp_path, call):
    many = tmp_path / "many.tsv"
    lines = new_tweets.read_text().splitlines()
    many.write_text("\n".join([lines[0], *(lines[1:] * 30)]) + "\n")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_config.yaml"]
    words = ["predict.py", tuned_job.folder, many, "--columns", "label", "--block", 40, "--use_cpu", "--output"]
    both = shell(*launcher, "--num_processes", 2, *words, tmp_path / "both.tsv")
    assert both.code == 0, both.err
    alone = call(main, *words[1:], tmp_path / "alone.tsv")
    assert alone.code == 0, alone.err
    assert (tmp_path / "both.tsv").read_bytes() == (tmp_path / "alone.tsv").read_bytes()


def test_free_memory_is_shared_by_the_processes_of_a_device(monkeypatch):
    """Two GPUs of 20 GB, of which 16 are free; 64 GB of free memory."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (16e9, 20e9))
    monkeypatch.setattr(predictor, "available_memory", lambda: 64e9)
    assert [predictor.free_memory("cuda:1", n) for n in (1, 2, 3, 4)] == [16e9, 16e9, 8e9, 8e9]
    assert [predictor.free_memory("cpu", n) for n in (1, 4)] == [64e9, 16e9]


def test_a_job_without_models_is_refused(tuned_job, new_tweets, tmp_path, call):
    shutil.copytree(tuned_job.folder, tmp_path / "job", ignore=shutil.ignore_patterns("model"))
    result = call(main, tmp_path / "job", new_tweets, "--output", tmp_path / "l.tsv")
    assert result.code == 2
    assert "17 of the ensemble's models were not kept; train with --keep_models all" in result.err


def test_of_a_job_that_keeps_its_best_models_each_member_answers_by_one_fold(tuned_job, tmp_path, call):
    """The models are removed as `--keep_models best` does; the probabilities are those of the same runs, by hand."""
    job, output, new_tweets = tmp_path / "job", tmp_path / "labels.csv", tmp_path / "new.csv"
    texts = ["my son was born with a cleft palate", "no news", "they suspect a heart defect, we pray", "sunny again"]
    pd.DataFrame({"tweet_id": range(4), "text": texts}).to_csv(new_tweets, index=False)
    shutil.copytree(tuned_job.folder, job)
    plan, task = read_plan(job)
    for member in plan.members:
        keep_best_model(plan.runs_of([member]), "average_precision")
    rule = FittedEnsemble.read(plan.ensemble_file, with_models=True).rule.drop_zero_weight()
    result = call(main, job, new_tweets, "--columns", "probabilities", "--output", output)
    assert result.code == 0, result.err
    assert "one fold's model was kept (--keep_models best) and answers alone" in " ".join(result.err.split())
    of_members = []
    for name in rule.members:
        runs = [run for run in plan.runs_of([name]) if run.model.is_dir()]
        assert [run.is_refit for run in runs].count(False) == 1
        answers = [predictor.load_run(run, "cpu").predict_proba(texts, {}) for run in runs]
        of_members.append(mean_of_models(rule.mean, answers, [run.is_refit for run in runs]))
    expected = rule.combine(np.stack(of_members))
    found = pd.read_csv(output)[[f"p_{label}" for label in task.labels]].to_numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    shutil.rmtree(runs[-1].model)
    result = call(main, job, new_tweets, "--output", output, "--overwrite")
    assert result.code == 2
    assert "of the ensemble's models were not kept" in result.err


def test_a_damaged_file_of_a_published_folder_is_named_and_not_used(published_job, tmp_path, new_tweets, call):
    folder = tmp_path / "published"
    shutil.copytree(published_job.folder, folder)
    (folder / "README.md").write_text("a card that was edited on the Hub")
    weights = next(folder.glob("members/*/model.safetensors"))
    for path in (weights, folder / "config.json", weights.parent / "config.json", folder / "voting.py"):
        whole = path.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
            path.write_bytes(damaged)
            result = call(main, folder, new_tweets, "--output", tmp_path / "labels.tsv")
            assert result.code == 2
            assert f"error: {path} has another content than was published" in result.err
        path.write_bytes(whole)
    weights.unlink()
    result = call(main, folder, new_tweets, "--output", tmp_path / "labels.tsv")
    assert f"error: {weights} is gone" in result.err
