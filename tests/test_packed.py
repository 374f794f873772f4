"""Every fast path against the plain one: packed encoders, used rows, masks, clipping, padding, and a whole run."""

import numpy as np
import pytest
import torch
import transformers
from conftest import job_words, save_tiny_encoder
from test_heads import ENCODERS, classifier
from torch import nn
from transformers import DataCollatorWithPadding

import run_classification
from heads import HEADS
from smm4h.config.job import run_arguments
from smm4h.config.plan import make_plan
from smm4h.config.recipe import read_command_line
from smm4h.data.folds import write_folds
from smm4h.data.prediction_files import read_predictions
from smm4h.models.batching import PaddingCollator
from smm4h.models.padding_free import FAMILY, Dropout, PaddingFreeEncoder, supports_padding_free
from smm4h.training.optim import RAdam, SparseRowEmbedding
from smm4h.training.run import build_model, is_padding_free, train_run


def batch(n_tweets, seed=0, pad=0, longest=40):
    """Token ids, padded on the right, the mask, and labels, of tweets of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest, (n_tweets,), generator=generator)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.randint(3, 60, mask.shape, generator=generator)
    return {
        "input_ids": torch.where(mask.bool(), ids, pad),
        "attention_mask": mask,
        "labels": torch.randint(0, 3, (n_tweets,), generator=generator),
    }


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def gradients(model, inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("n_tweets", [1, 5, 16])
@pytest.mark.parametrize("head", [*HEADS, "bigru over tokens"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_packed_gives_the_loss_and_gradients_of_the_plain_encoder(tmp_path, kind, head, n_tweets):
    settings = {"bigru_input": "tokens"} if " " in head else {}
    model = without_dropout(classifier(tmp_path, head.split()[0], kind, **settings))
    inputs = batch(n_tweets, pad=model.config.pad_token_id)
    loss, plain = gradients(model, inputs)
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float32)
    packed_loss, packed = gradients(model, inputs)
    assert packed_loss == pytest.approx(loss, abs=1e-6)
    assert packed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-6, rtol=1e-3, msg=name)


def relative_error(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


def test_in_bf16_predictions_are_as_good_as_autocasts_and_gradients_point_the_same_way(tmp_path):
    model = without_dropout(classifier(tmp_path, "last2_pooler"))
    inputs = batch(16)
    with torch.no_grad():
        exact = model(**inputs).logits
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model(**inputs).logits
    exact_gradients = gradients(model, inputs)[1]
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.bfloat16)
    with torch.no_grad():
        packed = model(**inputs).logits
    assert 0 < relative_error(packed, exact) < 3 * relative_error(autocast, exact)
    pairs = [(found, exact_gradients[name]) for name, found in gradients(model, inputs)[1].items()]
    found, exact = (torch.cat([part.flatten() for part in side]) for side in zip(*pairs, strict=True))
    assert 0 < relative_error(found, exact) < 0.02


def test_gradients_add_up_over_micro_batches(tmp_path):
    model = without_dropout(classifier(tmp_path, "last3"))
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float32)
    parts = [gradients(model, batch(4, seed))[1] for seed in (1, 2, 3)]
    model.zero_grad()
    for seed in (1, 2, 3):
        model(**batch(4, seed)).loss.backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, sum(part[name] for part in parts), atol=1e-6, rtol=1e-4, msg=name)


def test_weights_that_an_optimizer_or_a_file_changed_are_used_at_once(tmp_path):
    """Torch's fused kernels change weights without counting a version."""
    model, twin = (without_dropout(classifier(tmp_path, "last2_pooler")) for _ in range(2))
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float32)
    optimizer, inputs = RAdam(model.parameters(), lr=0.01), batch(6)
    for _ in range(8):  # the first ones don't go through the fused kernel
        gradients(model, inputs)
        optimizer.step()
        twin.load_state_dict(model.state_dict())
        for one in (model, twin):
            one.eval()
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).logits, twin(**inputs).logits, atol=1e-6, rtol=1e-4)
            changed = {name: weights + 0.1 for name, weights in twin.state_dict().items()}
            for one in (model, twin):
                one.load_state_dict(changed)
            torch.testing.assert_close(model(**inputs).logits, twin(**inputs).logits, atol=1e-6, rtol=1e-4)
        for one in (model, twin):
            one.train()


@pytest.mark.parametrize("kind", ENCODERS)
def test_only_encoders_that_are_written_out_are_packed(tmp_path, kind):
    assert supports_padding_free(classifier(tmp_path, "bigru", kind).encoder) == (kind in ("bert", "roberta"))


@pytest.mark.parametrize(
    "flags", [[], ["--no_packed"], ["--gradient_checkpointing"], ["--neftune_noise_alpha", "5"], ["--torch_compile"]]
)
def test_settings_that_change_the_encoders_own_forward_are_honoured(tiny_encoder, tmp_path, flags):
    job = read_command_line(job_words(tiny_encoder, tmp_path / "out", *flags))
    member = job.members[0]
    arguments = run_arguments(member, tmp_path)
    assert is_padding_free(member, arguments, build_model(member, job.task)) == (not flags)


def test_encoders_that_differ_in_their_config_are_not_packed():
    config_class, small = ENCODERS["bert"]
    for difference in ({"hidden_act": "relu"}, {"is_decoder": True}):
        assert not supports_padding_free(transformers.AutoModel.from_config(config_class(**small, **difference)))
    assert all(kind.__name__.endswith("Model") for kind in FAMILY)


def test_masks_drop_their_share_and_know_nothing_of_each_other():
    torch.manual_seed(0)
    dropout = Dropout(torch.float32)
    masks = torch.stack([dropout.mask(0.1, 500, 400).flatten() for _ in range(8)])
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    n, spread = masks.shape[1], 0.3  # standard deviation of a value
    assert (masks.mean(dim=1) - 0.9).abs().max() < 5 * spread / n**0.5
    assert (masks.view(8, 500, 400).mean(dim=1) - 0.9).abs().max() < 6 * spread / 500**0.5
    lanes = masks.view(8, -1, 4).mean(dim=(0, 1))  # four values share a hash
    assert (lanes - 0.9).abs().max() < 5 * spread / (8 * n / 4) ** 0.5
    centred = (masks - 0.9) / spread
    correlations = torch.corrcoef(masks) - torch.eye(8)
    assert correlations.abs().max() < 6 / n**0.5
    for lag in (1, 2, 3, 4, 5, 16, 400):
        assert (centred[:, lag:] * centred[:, :-lag]).mean().abs() < 6 / (8 * n) ** 0.5
    assert dropout.mask(0.0, 3) is None
    torch.manual_seed(0)
    assert torch.equal(Dropout(torch.float32).mask(0.1, 500, 400).flatten(), masks[0])


def test_dropout_is_drawn_anew_at_each_step_and_off_in_evaluation(tmp_path):
    model = classifier(tmp_path, "last2_pooler")
    inputs = batch(8)
    with torch.no_grad():
        plain = model(**inputs).logits
        model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float32)
        torch.testing.assert_close(model(**inputs).logits, plain, atol=1e-6, rtol=1e-4)
        model.train()
        model.dropout.p = 0.0
        drawn = torch.stack([model(**inputs).logits for _ in range(400)])
    assert not torch.equal(drawn[0], drawn[1])
    assert (drawn.mean(dim=0) - plain).abs().max() < 0.1 * (plain.std() + drawn.std(dim=0).max())


def test_gradients_are_to_be_had_in_evaluation_too(tmp_path):
    model = classifier(tmp_path, "last3")
    inputs, found = batch(5), []
    for dtype in (None, torch.float32, torch.bfloat16):
        model.encoder_override = dtype and PaddingFreeEncoder(model.encoder, dtype)
        found.append(torch.cat([g.flatten() for g in gradients(model, inputs)[1].values()]))
    plain, packed, packed_bf16 = found
    torch.testing.assert_close(packed, plain, atol=1e-6, rtol=1e-3)
    assert relative_error(packed_bf16, plain) < 0.02


def test_dropped_gradients_are_those_of_the_same_masks(tmp_path):
    """By finite differences in a random direction, with the masks held fast."""
    model = classifier(tmp_path, "last3_pooler").double().train()
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float64)
    inputs = batch(5)

    def loss():
        torch.manual_seed(3)
        return model(**inputs).loss

    model.zero_grad()
    loss().backward()
    torch.manual_seed(4)
    directions = {p: torch.randn_like(p) for p in model.parameters() if p.grad is not None}
    expected = sum((p.grad * d).sum() for p, d in directions.items()).item()
    values, eps = [], 1e-5
    with torch.no_grad():
        for sign in (1, -1):
            for p, d in directions.items():
                p.add_(d, alpha=sign * eps)
            values.append(loss().item())
            for p, d in directions.items():
                p.sub_(d, alpha=sign * eps)
    assert (values[0] - values[1]) / (2 * eps) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("padding_idx", [None, 0])
def test_rows_that_no_tweet_uses_need_no_optimizer(padding_idx):
    torch.manual_seed(0)
    whole = nn.Embedding(50, 4, padding_idx=padding_idx)
    plain = nn.Embedding.from_pretrained(whole.weight.detach().clone(), freeze=False, padding_idx=padding_idx)
    rows = SparseRowEmbedding(whole, torch.tensor([0, 3, 7, 20, 49]))
    optimizers = [RAdam(part.parameters(), lr=0.1) for part in (plain, rows)]
    for _ in range(12):
        ids = torch.tensor([0, 3, 7, 20, 49])[torch.randint(0, 5, (9,))]
        weights = torch.randn(9, 4)
        for part, optimizer in zip((plain, rows), optimizers, strict=True):
            optimizer.zero_grad()
            (part(ids) * weights).sum().backward()
            optimizer.step()
    assert sum(p.numel() for p in rows.parameters()) == 5 * 4
    assert torch.equal(rows.state_dict()["weight"], plain.weight)
    rows.eval()
    assert torch.equal(rows(torch.arange(50)), plain(torch.arange(50)))
    fresh = SparseRowEmbedding(nn.Embedding(50, 4, padding_idx=padding_idx), torch.tensor([3, 7])).eval()
    fresh.load_state_dict(plain.state_dict())
    assert torch.equal(fresh(torch.arange(50)), plain.weight)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_clipping_within_the_optimizer_is_clipping_before_it(weight_decay):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(20, 30)) for _ in range(3)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 1e-2, "eps": 1e-6, "weight_decay": weight_decay}
    one, other = RAdam(ours, **options), torch.optim.RAdam(theirs, decoupled_weight_decay=True, **options)
    for step in range(200):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p) * 0.02 * (1 + 99 * (step % 7 == 0))  # most steps are not clipped
            q.grad = p.grad.clone()
        norm = nn.utils.clip_grad_norm_(theirs, 1.0)
        one.clip = min(1.0, 1.0 / (norm.item() + 1e-6))
        one.step()
        other.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, atol=2e-6, rtol=0)


def test_padding_is_that_of_transformers(tiny_encoder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoder)
    rows = [{"input_ids": list(range(5, 5 + n)), "labels": n % 3} for n in (4, 9, 1)]
    ours, theirs = PaddingCollator(tokenizer.pad_token_id)(rows), DataCollatorWithPadding(tokenizer)(rows)
    assert ours.keys() == set(theirs.keys())
    for name, values in ours.items():
        assert torch.equal(values, theirs[name])
    assert "labels" not in PaddingCollator(0)([{"input_ids": [1, 2]}])


def test_a_whole_run_gives_the_plain_paths_predictions(tmp_path):
    """Trained, evaluated, its best epoch restored, predicted: in fp32 and without dropout nothing else may differ."""
    encoder = save_tiny_encoder(tmp_path / "encoder", dropout=0.0)
    found = []
    for packed in ("--packed", "--no_packed"):
        flags = ("--classifier_dropout", 0, "--learning_rate", "0.02", packed)
        words = job_words(encoder, tmp_path / packed, "--num_train_epochs", 6, "--adam_beta2", 0.8, *flags)
        job = read_command_line(words)
        tweets = run_classification.load_splits(job)
        plan = make_plan(job, tweets.content_hashes())
        write_folds(tweets.labelled, plan.folds_file)
        run = plan.runs_of(["last2-pooler-42"])[0]
        train_run(run, run_classification.run_data(plan, job, tweets))
        found.append([read_predictions(file).probabilities for file in (run.held_out_file, run.test_file)])
    for packed, plain in zip(*found, strict=True):
        spread = plain.std(axis=0).max()
        assert spread > 1e-3
        np.testing.assert_allclose(packed, plain, atol=0.05 * spread)
