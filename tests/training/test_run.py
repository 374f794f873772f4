"""One run: its metric, loss, predictions and model, and what a run leaves in its folder."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import history, job_words, recipe_of
from simulated import gold_and_predictions
from sklearn import metrics as sklearn_metrics

from heads import TweetClassifier
from smm4h.cli.train import main
from smm4h.config.job import Member
from smm4h.config.recipe import read_command_line
from smm4h.config.task_file import read_task
from smm4h.data.outputs.predictions import read_predictions
from smm4h.training import run as training_run
from smm4h.training.building.model import build_model, is_padding_free
from smm4h.training.building.scoring import TaskMetric
from smm4h.training.losses import loss_of
from smm4h.training.resumable import run_arguments
from smm4h.training.run import train_run
from smm4h.training.run_data import training_part
from smm4h.training.sampler import ClassSampling
from smm4h.training.trainer import predict_proba
from smm4h.utils.errors import InputError


@pytest.mark.parametrize("task", ["task1", "task2_en", "task5"])
@pytest.mark.parametrize("seed", range(5))
def test_the_official_metric_equals_scikit_learns(task, seed):
    task = read_task(f"tasks/{task}.yaml")
    gold, predicted = gold_and_predictions(seed, task.n_classes)
    metric = TaskMetric(task)
    scores = metric.compute(predictions=predicted, references=gold)
    options = {"labels": task.positive_indices, "average": "micro", "zero_division": 0}
    assert scores["f1"] == pytest.approx(sklearn_metrics.f1_score(gold, predicted, **options), abs=1e-12)
    assert scores["precision"] == pytest.approx(sklearn_metrics.precision_score(gold, predicted, **options), abs=1e-12)
    assert scores["recall"] == pytest.approx(sklearn_metrics.recall_score(gold, predicted, **options), abs=1e-12)


IS_RARE = np.arange(100) % 20 == 0


def test_class_weights_and_prior_are_those_of_the_sampled_tweets():
    task, labels = read_task("tasks/task2_en.yaml"), IS_RARE.astype(int)
    member = Member("m", {"class_weights": "balanced", "logit_adjustment": 1.0})
    sampling = ClassSampling(IS_RARE, negatives_per_positive=3)
    loss = loss_of(member, task, labels, sampling, 0.0)
    np.testing.assert_allclose(loss.weights, [20 / (2 * 15), 20 / (2 * 5)])
    np.testing.assert_allclose(loss.adjustment, np.log([0.75, 0.25]))
    plain = loss_of(Member("m", {"class_weights": "{1: 5}"}), task, labels, None, 0.0)
    assert plain.weights.tolist() == [1.0, 5.0]


@pytest.mark.slow
def test_runs_train_whole_epochs_until_min_steps_is_reached(tiny_encoder, tmp_path, call):
    sampled = "negatives_per_positive: 1, checkpoint: last"
    recipe = recipe_of(tmp_path, few=f"{{head: mean, {sampled}}}", more=f"{{head: mean, {sampled}, min_steps: 9}}")
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, folds=0))
    assert result.code == 0, result.err
    few, more = (
        json.loads((tmp_path / "out" / member / "fold-0" / "metrics.json").read_text())["steps"]
        for member in ("few", "more")
    )
    assert 0 < few < 6
    assert more == math.ceil(9 / few) * few


@pytest.fixture
def unlearnable(tmp_path):
    """A file of tweets with the same words under all labels."""
    path = tmp_path / "same.tsv"
    rows = [f"{number}\tu{number}\tthe same words\t{1 if number % 5 == 0 else 3 - number % 2}" for number in range(60)]
    path.write_text("tweet_id\tuser_id\ttweet\tclass\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.slow
def test_a_collapsed_run_is_retrained_with_another_seed_and_named(tiny_encoder, tmp_path, call, unlearnable):
    recipe = recipe_of(tmp_path, one="{head: mean, retrain_collapsed: true}")
    flags = {"retrain_collapsed": True, "train_file": unlearnable}
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, **flags))
    assert result.code == 0, result.err
    assert "5 runs collapsed" in result.out
    for fold in range(5):
        folder = tmp_path / "out" / "one" / f"fold-{fold}"
        collapsed = json.loads((folder / "metrics.json").read_text())["collapsed"]
        assert collapsed == {"seed": 42, "auc_of_training_tweets": 0.5}
        assert not (folder / "COLLAPSED").exists()
    assert [event["event"] for event in history(folder)] == ["begun", "trained", "done"]


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_predictions_are_in_input_order_whatever_the_training_order(prepare_job, strategy):
    job = prepare_job(train_sampling_strategy=strategy)
    trainer = job.trainer(20)
    dataset = training_part(job.runs[0], job.data, None)
    probs = predict_proba(trainer, dataset)
    trainer.model.eval()
    for row in range(0, len(dataset), 5):
        with torch.no_grad():
            logits = trainer.model(torch.tensor([dataset[row]["input_ids"]])).logits[0]
        np.testing.assert_allclose(probs[row], logits.softmax(0), atol=1e-5)


def test_evaluations_pair_labels_with_their_own_tweets(prepare_job):
    """A model that is scored on its own predictions as gold must score 1.0 (0.0 where it predicts nothing rare)."""
    job = prepare_job(train_sampling_strategy="group_by_length")
    trainer = job.trainer(20)
    dataset = training_part(job.runs[0], job.data, None)
    with torch.no_grad():  # centred, so that it predicts several classes
        logits = np.log(predict_proba(trainer, dataset))
        trainer.model.classifier.bias -= torch.from_numpy(logits.mean(axis=0))
    predicted = predict_proba(trainer, dataset).argmax(axis=1)
    assert len(set(predicted.tolist())) > 1
    relabelled = dataset.remove_columns("labels").add_column("labels", predicted)
    scores = trainer.evaluate(relabelled)
    assert scores["eval_f1"] == (1.0 if set(predicted.tolist()) & {0, 1} else 0.0)


@pytest.mark.slow
def test_a_run_is_the_same_bits_alone_and_after_another_one(prepare_job):
    job = prepare_job()
    run, another = job.runs[3], job.runs[10]
    train_run(run, job.data)
    alone = run.test_file.read_bytes(), (run.model / "model.safetensors").read_bytes()
    train_run(another, job.data)
    train_run(run, job.data)
    again = run.test_file.read_bytes(), (run.model / "model.safetensors").read_bytes()
    assert alone == again


def test_incomplete_files_of_an_interrupted_run_are_replaced(prepare_job):
    job = prepare_job()
    run = job.runs[0]
    (run.directory / "checkpoint-3").mkdir(parents=True)
    (run.directory / "checkpoint-3" / "model.safetensors").write_text("incomplete")
    (run.directory / ".trained.partial").mkdir()
    (run.directory / "held_out.parquet").write_text("incomplete")
    assert not run.is_done()
    train_run(run, job.data)
    assert run.is_done()
    assert read_predictions(run.held_out_file).maker["fingerprint"] == run.fingerprint


def test_last_needs_no_evaluation_and_best_does(prepare_job):
    job = prepare_job(checkpoint="last", eval_strategy="no")
    train_run(job.runs[0], job.data)
    assert job.runs[0].measures()["checkpoint"] == "last"
    with pytest.raises(ValueError, match="checkpoint best needs"):
        prepare_job(checkpoint="best", eval_strategy="no")


def test_a_run_that_is_never_scored_is_refused(prepare_job):
    with pytest.raises(InputError, match="--eval_delay 1000 leaves none of 1 epochs to be scored"):
        prepare_job(eval_delay=1000)
    job = prepare_job(eval_delay=1000, eval_strategy="steps", eval_steps=1)
    with pytest.raises(InputError, match=r"not scored in its \d+ steps; lower --eval_delay"):
        train_run(job.runs[0], job.data)
    assert not job.runs[0].is_done()


def test_max_eval_samples_reduces_evaluations_and_no_predictions(prepare_job):
    job = prepare_job(max_eval_samples=6)
    train_run(job.runs[0], job.data)
    assert len(read_predictions(job.runs[0].held_out_file).rows) == 12


@pytest.mark.parametrize(
    "flags", [[], ["--no_packed"], ["--gradient_checkpointing"], ["--neftune_noise_alpha", "5"], ["--torch_compile"]]
)
def test_a_run_is_padding_free_unless_a_setting_changes_the_encoders_forward(tiny_encoder, tmp_path, flags):
    job = read_command_line(job_words(tiny_encoder, tmp_path / "out", *flags))
    member = job.members[0]
    arguments = run_arguments(member, tmp_path)
    assert is_padding_free(member, arguments, build_model(member, job.task)) == (not flags)


def test_a_padding_free_run_gives_the_predictions_of_a_padded_one(prepare_job, still_encoder):
    """Trained, evaluated, its best epoch restored, predicted: in fp32 and without dropout nothing else may differ."""
    flags = {"classifier_dropout": 0, "learning_rate": 0.02, "num_train_epochs": 6, "adam_beta2": 0.8}
    probs = []
    for packed in (True, False):
        job = prepare_job(f"packed-{packed}", still_encoder, packed=packed, **flags)
        run = next(run for run in job.runs if run.member.name == "last2-pooler-42")
        train_run(run, job.data)
        probs.append([read_predictions(file).probabilities for file in (run.held_out_file, run.test_file)])
    for padding_free, padded in zip(*probs, strict=True):
        spread = padded.std(axis=0).max()
        assert spread > 1e-3
        np.testing.assert_allclose(padding_free, padded, atol=0.05 * spread)


def test_the_logits_of_the_best_evaluation_are_the_held_out_predictions(prepare_job, monkeypatch):
    reused = []

    def compared(trainer, tokens, logits=None):
        fresh = predict_proba(trainer, tokens)
        if logits is not None:
            np.testing.assert_array_equal(predict_proba(trainer, tokens, logits), fresh)
            reused.append(len(tokens))
        return fresh

    monkeypatch.setattr(training_run, "predict_proba", compared)
    job = prepare_job(num_train_epochs=2, learning_rate=0.02)
    train_run(job.runs[0], job.data)
    assert reused == [12]
    few = prepare_job("few", max_eval_samples=6)
    train_run(few.runs[0], few.data)
    assert reused == [12]


@pytest.mark.parametrize("flags", [{}, {"keep_models": "none"}, {"keep_models_in": "bfloat16"}])
def test_no_optimizer_state_is_kept_after_a_run(prepare_job, flags):
    job = prepare_job(save_strategy="steps", save_steps=1, **flags)
    train_run(job.runs[0], job.data)
    names = {path.name for path in job.runs[0].directory.iterdir()}
    kept = {"DONE", "held_out.parquet", "metrics.json", "model", "test.parquet"}
    assert names == (kept - {"model"} if "keep_models" in flags else kept)


@pytest.mark.slow
def test_weights_kept_in_bfloat16_take_half_the_room_and_load(prepare_job):
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        job = prepare_job(dtype, keep_models_in=dtype)
        run = job.runs[0]
        train_run(run, job.data)
        sizes[dtype] = (run.model / "model.safetensors").stat().st_size
        model = TweetClassifier.from_pretrained(run.model)
        assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}
        assert "tokenizer.json" in {path.name for path in run.model.iterdir()}
    assert sizes["bfloat16"] < 0.7 * sizes["float32"]
