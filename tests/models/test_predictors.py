"""The number format in which predictors compute."""

import numpy as np
import pandas as pd
import pytest
import torch

from smm4h.cli.predict import main
from smm4h.config.plans.plan import read_plan
from smm4h.config.recipe import read_command_line
from smm4h.ensemble.fitted_ensemble import FittedEnsemble
from smm4h.ensemble.member_predictions import mean_predictions
from smm4h.models import predictors
from smm4h.models.predictors import has_bf16
from smm4h.training.resumable import run_arguments


@pytest.mark.parametrize("cpu_has_it", [True, False])
def test_bf16_on_a_cpu_depends_on_the_cpu_whatever_the_gpu_has(monkeypatch, tmp_path, cpu_has_it):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_has_it)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not cpu_has_it)
    words = ["recipes/smm4h2020.yaml", "--task", "tasks/task5.yaml", "--output_dir", "out", "--use_cpu"]
    member = read_command_line(words).members[0]
    assert run_arguments(member, tmp_path).bf16 is cpu_has_it
    assert has_bf16("cuda") is not cpu_has_it
    assert has_bf16("mps") is False


def test_a_job_trained_in_float32_is_predicted_in_float32(finished_job, new_tweets, tmp_path, call, monkeypatch):
    monkeypatch.setattr(predictors, "has_bf16", lambda device: True)  # a CPU without it would prove nothing
    plan, _ = read_plan(finished_job.folder)
    assert plan.runs[0].member.args.bf16 is False
    call(main, finished_job.folder, new_tweets, "--output", tmp_path / "labels.parquet")
    ensemble = FittedEnsemble.read(plan.ensemble_file)
    predictions = mean_predictions(plan.runs, mean=ensemble.rule.mean)
    in_job = ensemble.rule.combine(predictions.probabilities)[np.arange(40), ensemble.predict(predictions)]
    np.testing.assert_allclose(pd.read_parquet(tmp_path / "labels.parquet")["probability"], in_job, atol=1e-6)
