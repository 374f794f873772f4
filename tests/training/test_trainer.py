"""The trainer: its arguments, gradients over a step, layer-wise rates, and which epoch is kept."""

import pytest
import torch
from conftest import job_words, recipe_of
from safetensors.torch import load_file
from small_encoders import DECODERS, small_classifier
from torch import nn

from smm4h.cli.train import main
from smm4h.config.recipe import read_command_line
from smm4h.training.resumable import run_arguments
from smm4h.training.trainer import BestEpoch, layer_depths


@pytest.mark.parametrize("balance", [{}, {"class_weights": "{1: 3, 2: 0.5}", "label_smoothing_factor": 0.1}])
@pytest.mark.parametrize("n_tweets", [16, 10, 13])
def test_four_batches_of_four_give_the_gradients_of_one_of_sixteen(prepare_job, n_tweets, balance):
    """RAdam's first step is lr x gradient, so equal weights are equal gradients; 10 and 13 end in a short batch."""
    one_step = {"max_steps": 1, "learning_rate": 1.0, "classifier_dropout": 0, "train_sampling_strategy": "sequential"}
    changes = []
    for batch, accumulation in ((4, 4), (16, 1)):
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        job = prepare_job(**sizes, **one_step, **balance, eval_strategy="no", checkpoint="last")
        trainer = job.trainer(n_tweets)
        for module in trainer.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train()
        assert trainer.state.global_step == 1
        changes.append({name: p.detach() - before[name] for name, p in trainer.model.named_parameters()})
    assert max(float(change.abs().max()) for change in changes[0].values()) > 1e-3
    for name, change in changes[0].items():
        torch.testing.assert_close(change, changes[1][name], atol=2e-6, rtol=1e-4, msg=name)


def evaluate(callback, score, weight):
    """Tell the callback a score of a model that consists of one weight; return the model."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    state = type("State", (), {"epoch": weight, "global_step": int(weight)})()
    metrics = {"eval_f1": score, "eval_precision": 0.0, "eval_recall": 0.0, "eval_cross_entropy": 1.0}
    callback.on_evaluate(None, state, None, metrics=metrics, model=model)
    return model


@pytest.mark.parametrize(("scores", "kept"), [([0.2, 0.5, 0.3], 2), ([0.0, 0.0, 0.0], 3), ([0.5, 0.5, 0.4], 2)])
def test_the_best_epoch_is_kept_and_of_equals_the_later_one(scores, kept):
    callback = BestEpoch("f1")
    for epoch, score in enumerate(scores, start=1):
        model = evaluate(callback, score, float(epoch))
    callback.restore(model)
    assert model.weight.item() == kept


def test_layers_count_their_depth_from_the_head():
    names = ["encoder.embeddings.word_embeddings.weight", "encoder.encoder.layer.0.output.dense.weight"]
    names += ["encoder.encoder.layer.11.output.dense.weight", "encoder.pooler.dense.weight", "classifier.weight"]
    assert layer_depths(names) == [13, 12, 1, 0, 0]
    assert layer_depths(["encoder.transformer.layer.5.x", "encoder.transformer.layer.0.x"]) == [1, 6]
    assert layer_depths(["encoder.layers.2.x", "encoder.layers.0.x", "head.gru.x"]) == [1, 3, 0]


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_count_their_depth_too(tmp_path, kind):
    model = small_classifier(tmp_path, "last_token", kind)
    names = dict(model.named_parameters())
    depths = dict(zip(names, layer_depths(list(names)), strict=True))
    assert set(depths.values()) == {0, 1, 2, 3, 4}
    embedding = model.encoder.get_input_embeddings().weight
    (own,) = (name for name, weights in names.items() if weights is embedding)
    assert depths[own] == 4
    assert {depths[name] for name in names if ".0." in name} == {3}


@pytest.mark.slow
def test_deeper_layers_move_less_and_wider_encoders_too(tiny_encoder, tmp_path, call):
    """One step of Adam moves every weight by about its learning rate."""
    shared = "max_steps: 1, optim: adamw_torch, learning_rate: 0.01, warmup_steps: 0, eval_strategy: 'no', "
    row = f"{{head: last3, {shared} lr_scheduler_type: constant, checkpoint: last, layer_decay: "
    narrow = row + "1.0, learning_rate_width: 32}"  # the encoder is 16 wide
    recipe = recipe_of(tmp_path, plain=row + "1.0}", decayed=row + "0.5}", narrow=narrow)
    result = call(main, *job_words(tiny_encoder, tmp_path / "out", recipe=recipe, folds=0))
    assert result.code == 0, result.err
    before = load_file(tiny_encoder / "model.safetensors")
    moved = {}
    for member in ("plain", "decayed", "narrow"):
        after = load_file(tmp_path / "out" / member / "fold-0" / "model" / "model.safetensors")
        for layer in range(3):
            name = f"encoder.layer.{layer}.output.dense.weight"
            moved[member, layer] = float((after[f"encoder.{name}"] - before[name]).abs().max())
    for layer in range(3):
        assert moved["decayed", layer] == pytest.approx(moved["plain", layer] * 0.5 ** (3 - layer), rel=0.05)
        assert moved["narrow", layer] == pytest.approx(moved["plain", layer] * 2, rel=0.05)


def test_the_paper_recipes_training_arguments(tmp_path):
    words = ["recipes/smm4h2020.yaml", "--task", "tasks/task5.yaml", "--output_dir", "out"]
    member = read_command_line(words).members[0]
    arguments = run_arguments(member, tmp_path)
    tweets_a_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    assert (tweets_a_step, arguments.num_train_epochs) == (16, 3)
    assert (arguments.optim, arguments.adam_epsilon) == ("radam", 1e-6)
    assert (arguments.weight_decay, arguments.warmup_steps, arguments.max_grad_norm) == (0, 0, 1.0)
    assert arguments.lr_scheduler_type == "linear"
    assert member.name == "bigru-42"
    assert member.args.model_name_or_path == "dmis-lab/biobert-base-cased-v1.1"
    assert member.args.max_seq_length == 110
