"""Long posts: a run reads them in windows, in training and in prediction."""

import json

import numpy as np
from conftest import INVENTED, TASK5, recipe_of

from smm4h.config.task_file import read_task
from smm4h.data.dataset import read_tweets
from smm4h.data.outputs.predictions import read_predictions
from smm4h.data.tokenization import token_findings
from smm4h.inference.predictor import load_run
from smm4h.models.encoding import TextEncoder
from smm4h.training.run import train_run


def test_a_run_reads_windows_in_training_and_prediction_and_its_posts_are_counted(prepare_job, tmp_path):
    row = "{head: mean, truncation: windows, max_windows: 3, checkpoint: last}"
    job = prepare_job(recipe=recipe_of(tmp_path, windows=row), max_seq_length=16)
    run = job.runs[0]
    train_run(run, job.data)
    stored = read_predictions(run.test_file).probabilities
    tweets, _ = read_tweets([INVENTED / "task5_test_participant.tsv"], read_task(TASK5), labelled=False)
    texts = tweets[: len(stored)]["text"]
    predictor = load_run(run, "cpu")
    np.testing.assert_allclose(predictor.predict_proba(texts, {}), stored, atol=1e-6)
    config = json.loads((run.model / "config.json").read_text())
    assert (config["truncation"], config["max_windows"], config["window_pooling"]) == ("windows", 3, "max")
    found = {
        (finding.where, finding.what.split(" and are ")[1].split("; ")[0])
        for finding in token_findings(job.data.token_folder, [run.member])
    }
    assert ("test", "read in windows") in found
    assert ("test", "cut (--max_windows leave gaps)") in found
    predictor.encoder = TextEncoder(predictor.encoder.tokenizer, 16)
    assert np.abs(predictor.predict_proba(texts, {}) - stored).max() > 1e-6
