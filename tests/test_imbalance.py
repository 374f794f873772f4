"""Training for rare classes: losses against torch's and the papers' formulas, what an epoch shows, depth, collapse."""

import json

import numpy as np
import pytest
import torch
from conftest import job_words, recipe_of
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

import run_classification
from smm4h.config.job import Member
from smm4h.config.task import read_task
from smm4h.training.losses import IGNORED, Loss, balanced_weights, log_prior, targets_of
from smm4h.training.run import loss_of
from smm4h.training.sampler import ClassSampling, ResumableBatchSampler
from smm4h.training.trainer import layer_depths

LOGITS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 2, 1, 2, IGNORED, 0])
WEIGHTS = torch.tensor([3.0, 0.5, 1.0])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_smoothed_cross_entropy_is_torchs(weights, smoothing):
    loss, targets = Loss(weights=weights, smoothing=smoothing), targets_of(LABELS, 3)
    expected = nn.functional.cross_entropy(LOGITS, LABELS, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, targets).sum() / loss.normalizer(targets), expected)


def test_soft_labels_have_torchs_cross_entropy():
    targets = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    expected = nn.functional.cross_entropy(LOGITS, targets, weight=WEIGHTS, reduction="none")
    torch.testing.assert_close(Loss(weights=WEIGHTS)(LOGITS, targets_of(targets, 3)), expected)


def test_focal_loss_is_the_papers():
    """Lin et al. 2017, equation 4: -(1 - p)^gamma log p of the right class."""
    labels = LABELS[LABELS != IGNORED]
    p = LOGITS[LABELS != IGNORED].softmax(dim=1)[range(len(labels)), labels]
    found = Loss(focal_gamma=2.0)(LOGITS, targets_of(LABELS, 3))
    torch.testing.assert_close(found[LABELS != IGNORED], -((1 - p) ** 2) * p.log())
    assert found[LABELS == IGNORED].tolist() == [0.0]


def test_logit_adjustment_is_the_papers():
    """Menon et al. 2021, equation 10: cross-entropy of logits + tau log prior."""
    prior = torch.tensor([0.05, 0.06, 0.89])
    found = Loss(adjustment=1.5 * log_prior(prior * 100))(LOGITS, targets_of(LABELS, 3))
    expected = nn.functional.cross_entropy(LOGITS + 1.5 * prior.log(), LABELS, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(found, expected)


def test_a_focal_loss_of_a_certain_tweet_has_a_finite_gradient():
    logits = torch.tensor([[40.0, -40.0]], requires_grad=True)
    Loss(focal_gamma=0.5)(logits, targets_of(torch.tensor([0]), 2)).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 2], [5, 6, 89])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(torch.bincount(torch.from_numpy(labels))), expected)


IS_RARE = np.arange(100) % 20 == 0


def test_an_epoch_shows_every_rare_tweet_and_as_many_others_as_asked():
    sampling = ClassSampling(IS_RARE, negatives_per_positive=3, positive_copies=2)
    shown = sampling.draw(seed=1, epoch=0)
    assert len(shown) == len(sampling) == 2 * 5 + 30
    assert np.bincount(shown, minlength=100)[IS_RARE].tolist() == [2] * 5
    assert np.bincount(shown, minlength=100)[~IS_RARE].max() == 1
    assert sampling.shown()[~IS_RARE] == pytest.approx(30 / 95)


def test_no_negative_is_shown_again_before_all_were_shown():
    sampling = ClassSampling(IS_RARE, negatives_per_positive=4)
    for epochs, most in ((4, 1), (9, 2)):
        counts = sum(np.bincount(sampling.draw(3, epoch), minlength=100) for epoch in range(epochs))[~IS_RARE]
        assert counts.max() == most
        assert counts.min() >= most - 1


def test_there_are_never_more_negatives_than_there_are():
    assert len(ClassSampling(IS_RARE, negatives_per_positive=1000)) == 100
    assert len(ClassSampling(np.zeros(10, dtype=bool), negatives_per_positive=3)) == 10


def test_batches_of_an_epoch_are_what_the_sampling_draws_whatever_the_number_of_processes():
    sampling, lengths = ClassSampling(IS_RARE, negatives_per_positive=3), list(range(1, 101))

    def batches(**share):
        made = ResumableBatchSampler(lengths, 8, strategy="random", seed=5, sampling=sampling, **share)
        made.epoch = 2
        return list(made)

    alone, parts = batches(), [batches(rank=rank, n_processes=2) for rank in range(2)]
    assert sorted(place for batch in alone for place in batch) == sampling.draw(5, 2).tolist()
    for batch, *halves in zip(alone, *parts, strict=True):
        assert sorted(batch) == sorted(place for half in halves for place in half if place >= 0)


def test_weights_and_shares_are_those_of_the_tweets_as_shown():
    task, labels = read_task("tasks/task2_en.yaml"), IS_RARE.astype(int)
    member = Member("m", {"class_weights": "balanced", "logit_adjustment": 1.0})
    shown = ClassSampling(IS_RARE, negatives_per_positive=3)
    loss = loss_of(member, task, labels, shown, 0.0)
    np.testing.assert_allclose(loss.weights, [20 / (2 * 15), 20 / (2 * 5)])
    np.testing.assert_allclose(loss.adjustment, np.log([0.75, 0.25]))
    plain = loss_of(Member("m", {"class_weights": "{1: 5}"}), task, labels, None, 0.0)
    assert plain.weights.tolist() == [1.0, 5.0]


def test_layers_count_their_depth_from_the_head():
    names = ["encoder.embeddings.word_embeddings.weight", "encoder.encoder.layer.0.output.dense.weight"]
    names += ["encoder.encoder.layer.11.output.dense.weight", "encoder.pooler.dense.weight", "classifier.weight"]
    assert layer_depths(names) == [13, 12, 1, 0, 0]
    assert layer_depths(["encoder.transformer.layer.5.x", "encoder.transformer.layer.0.x"]) == [1, 6]
    assert layer_depths(["encoder.layers.2.x", "encoder.layers.0.x", "head.gru.x"]) == [1, 3, 0]


def run_one(call, tiny_encoder, folder, recipe, *flags):
    words = job_words(tiny_encoder, folder, "--folds", 0, *flags)
    words[0] = recipe
    outcome = call(run_classification.main, *words)
    assert outcome.code == 0, outcome.err
    return {path.parent.parent.name: json.loads(path.read_text()) for path in folder.glob("*/fold-0/metrics.json")}


def test_runs_train_on_until_the_least_number_of_steps_is_made(tiny_encoder, tmp_path, call):
    sampled = "negatives_per_positive: 1, checkpoint: last"
    recipe = recipe_of(tmp_path, few=f"{{head: mean, {sampled}}}", more=f"{{head: mean, {sampled}, min_steps: 9}}")
    found = run_one(call, tiny_encoder, tmp_path / "out", recipe)
    per_epoch = found["few"]["steps"]
    assert 0 < per_epoch < 6
    assert found["more"]["steps"] == -(-9 // per_epoch) * per_epoch


def test_deeper_layers_move_less_and_wider_encoders_too(tiny_encoder, tmp_path, call):
    """One step of Adam moves every weight by about its learning rate."""
    from safetensors.torch import load_file

    shared = "max_steps: 1, optim: adamw_torch, learning_rate: 0.01, warmup_steps: 0, eval_strategy: 'no', "
    row = f"{{head: last3, {shared} lr_scheduler_type: constant, checkpoint: last, layer_decay: "
    narrow = row + "1.0, learning_rate_width: 32}"  # the encoder is 16 wide
    recipe = recipe_of(tmp_path, plain=row + "1.0}", decayed=row + "0.5}", narrow=narrow)
    run_one(call, tiny_encoder, tmp_path / "out", recipe)
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


@pytest.fixture
def unlearnable(tmp_path):
    """Tweets that nobody can tell apart."""
    path = tmp_path / "same.tsv"
    rows = [f"{number}\tu{number}\tthe same words\t{1 if number % 5 == 0 else 3 - number % 2}" for number in range(60)]
    path.write_text("tweet_id\tuser_id\ttweet\tclass\n" + "\n".join(rows) + "\n")
    return path


def test_a_collapsed_run_is_trained_once_more_with_another_seed_and_named(tiny_encoder, tmp_path, call, unlearnable):
    recipe = recipe_of(tmp_path, one="{head: mean, retrain_collapsed: true}")
    words = job_words(tiny_encoder, tmp_path / "out")
    words[0] = recipe
    words.remove("--no_retrain_collapsed")
    outcome = call(run_classification.main, *words, "--train_file", unlearnable)
    assert outcome.code == 0, outcome.err
    assert "5 runs collapsed" in outcome.out
    for fold in range(5):
        folder = tmp_path / "out" / "one" / f"fold-{fold}"
        assert json.loads((folder / "metrics.json").read_text())["collapsed"] == {
            "seed": 42,
            "auc_of_training_tweets": 0.5,
        }
        assert not (folder / "COLLAPSED").exists()
    events = [json.loads(line)["event"] for line in (folder / "attempts.jsonl").read_text().splitlines()]
    assert events == ["begun", "trained", "done"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("class_weights: {4: 2}", "class_weights: 4 is none of the labels 1, 2, 3"),
        ("class_weights: heavy", "write balanced, or a weight for each label, such as {1: 5}"),
        ("class_weights: {1: 0, 2: 0, 3: 0}", "at least one label must count"),
        ("negatives_per_positive: 0", "--negatives_per_positive"),
        ("positive_copies: 0", "--positive_copies 0 is out of its range: 1 or more"),
        ("layer_decay: 1.5", "--layer_decay 1.5 is out of its range: above 0, 1 at most"),
        ("learning_rate_width: -1", "--learning_rate_width -1 is out of its range: 0 or more"),
        ("focal_gamma: -1", "--focal_gamma -1.0 is out of its range"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_line(tiny_encoder, tmp_path, call, row, message):
    words = job_words(tiny_encoder, tmp_path / "out")
    words[0] = recipe_of(tmp_path, odd=f"{{head: mean, {row}}}")
    outcome = call(run_classification.main, *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert "recipe.yaml, line" in outcome.err
