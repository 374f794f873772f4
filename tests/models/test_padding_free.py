"""Padding-free encoders against padded ones: losses, gradients, dropout, and which encoders are supported."""

import pytest
import torch
import transformers
from conftest import standard_errors
from small_encoders import ENCODERS, gradients, small_classifier, without_dropout

from heads import HEADS
from smm4h.models.padding_free.dropout import Dropout
from smm4h.models.padding_free.encoder import FAMILY, PaddingFreeEncoder, supports_padding_free
from smm4h.training.optim import RAdam


def batch(n_tweets, seed=0, pad=0, longest=40):
    """Return token ids, padded on the right, their mask, and labels, of tweets of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest, (n_tweets,), generator=generator)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.randint(3, 60, mask.shape, generator=generator)
    return {
        "input_ids": torch.where(mask.bool(), ids, pad),
        "attention_mask": mask,
        "labels": torch.randint(0, 3, (n_tweets,), generator=generator),
    }


@pytest.mark.parametrize("n_tweets", [1, 5, 16])
@pytest.mark.parametrize("head", [*HEADS, "bigru over tokens"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_loss_and_gradients_are_those_of_the_padded_encoder(tmp_path, kind, head, n_tweets):
    settings = {"bigru_input": "tokens"} if " " in head else {}
    model = without_dropout(small_classifier(tmp_path, head.split()[0], kind, **settings))
    inputs = batch(n_tweets, pad=model.config.pad_token_id)
    loss, padded = gradients(model, inputs)
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float32)
    padding_free_loss, padding_free = gradients(model, inputs)
    assert padding_free_loss == pytest.approx(loss, abs=1e-6)
    assert padding_free.keys() == padded.keys()
    for name, gradient in padded.items():
        torch.testing.assert_close(padding_free[name], gradient, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("head", ["bigru", "mean"])
def test_second_segments_are_those_of_the_padded_encoder(tmp_path, head):
    model = without_dropout(small_classifier(tmp_path, head))
    inputs = batch(6, pad=model.config.pad_token_id)
    inputs["token_type_ids"] = (torch.arange(inputs["input_ids"].shape[1]) >= 3).long() * inputs["attention_mask"]
    loss, padded = gradients(model, inputs)
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float32)
    padding_free_loss, padding_free = gradients(model, inputs)
    assert padding_free_loss == pytest.approx(loss, abs=1e-6)
    for name, gradient in padded.items():
        torch.testing.assert_close(padding_free[name], gradient, atol=1e-6, rtol=1e-3, msg=name)
    inputs.pop("token_type_ids")
    assert gradients(model, inputs)[0] != pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "deberta-v2"])
def test_an_encoder_of_one_segment_reads_pairs_without_types(tmp_path, monkeypatch, kind):
    config, settings = ENCODERS[kind]
    monkeypatch.setitem(ENCODERS, kind, (config, {**settings, "type_vocab_size": {"deberta-v2": 0}.get(kind, 1)}))
    model = small_classifier(tmp_path, "mean", kind)
    inputs = batch(2, pad=model.config.pad_token_id or 0)
    plain = model(**inputs).logits
    assert torch.equal(model(**inputs, token_type_ids=inputs["attention_mask"]).logits, plain)


def relative_error(approximate, exact):
    return ((approximate - exact).norm() / exact.norm()).item()


def test_in_bf16_predictions_are_as_close_as_autocasts_and_gradients_nearly_exact(tmp_path):
    model = without_dropout(small_classifier(tmp_path, "last2_pooler"))
    inputs = batch(16)
    with torch.no_grad():
        exact = model(**inputs).logits
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model(**inputs).logits
    exact_gradients = gradients(model, inputs)[1]
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.bfloat16)
    with torch.no_grad():
        padding_free = model(**inputs).logits
    assert 0 < relative_error(padding_free, exact) < 3 * relative_error(autocast, exact)
    pairs = [(gradient, exact_gradients[name]) for name, gradient in gradients(model, inputs)[1].items()]
    rounded, exact = (torch.cat([part.flatten() for part in side]) for side in zip(*pairs, strict=True))
    assert 0 < relative_error(rounded, exact) < 0.02


def test_gradients_add_up_over_micro_batches(tmp_path):
    model = without_dropout(small_classifier(tmp_path, "last3"))
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float32)
    parts = [gradients(model, batch(4, seed))[1] for seed in (1, 2, 3)]
    model.zero_grad()
    for seed in (1, 2, 3):
        model(**batch(4, seed)).loss.backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, sum(part[name] for part in parts), atol=1e-6, rtol=1e-4, msg=name)


def test_weights_changed_by_an_optimizer_or_a_file_are_used_at_once(tmp_path):
    """Torch's fused kernels change weights without counting a version."""
    model, padded = (without_dropout(small_classifier(tmp_path, "last2_pooler")) for _ in range(2))
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float32)
    optimizer, inputs = RAdam(model.parameters(), lr=0.01), batch(6)
    for _ in range(8):  # the first ones don't go through the fused kernel
        gradients(model, inputs)
        optimizer.step()
        padded.load_state_dict(model.state_dict())
        for classifier in (model, padded):
            classifier.eval()
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).logits, padded(**inputs).logits, atol=1e-6, rtol=1e-4)
            changed = {name: weights + 0.1 for name, weights in padded.state_dict().items()}
            for classifier in (model, padded):
                classifier.load_state_dict(changed)
            torch.testing.assert_close(model(**inputs).logits, padded(**inputs).logits, atol=1e-6, rtol=1e-4)
        for classifier in (model, padded):
            classifier.train()


@pytest.mark.parametrize("kind", ENCODERS)
def test_only_bert_and_roberta_are_supported(tmp_path, kind):
    assert supports_padding_free(small_classifier(tmp_path, "bigru", kind).encoder) == (kind in ("bert", "roberta"))


def test_encoders_with_another_activation_or_causal_attention_are_not_supported():
    config_class, small = ENCODERS["bert"]
    for difference in ({"hidden_act": "relu"}, {"is_decoder": True}):
        assert not supports_padding_free(transformers.AutoModel.from_config(config_class(**small, **difference)))
    assert all(kind.__name__.endswith("Model") for kind in FAMILY)


def test_dropout_masks_drop_their_share_and_are_independent():
    torch.manual_seed(0)
    dropout = Dropout(torch.float32)
    masks = torch.stack([dropout.mask(0.1, 500, 400).flatten() for _ in range(8)])
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    n_values, spread = masks.shape[1], 0.3  # standard deviation of a value
    assert (masks.mean(dim=1) - 0.9).abs().max() < standard_errors(5, spread, n_values)
    of_columns = masks.view(8, 500, 400).mean(dim=1)
    assert (of_columns - 0.9).abs().max() < standard_errors(6, spread, 500)
    of_lanes = masks.view(8, -1, 4).mean(dim=(0, 1))  # four values share a hash
    assert (of_lanes - 0.9).abs().max() < standard_errors(5, spread, 8 * n_values // 4)
    standardised = (masks - 0.9) / spread
    correlations = torch.corrcoef(masks) - torch.eye(8)
    assert correlations.abs().max() < standard_errors(6, 1.0, n_values)
    for lag in (1, 2, 3, 4, 5, 16, 400):
        correlation = (standardised[:, lag:] * standardised[:, :-lag]).mean()
        assert correlation.abs() < standard_errors(6, 1.0, 8 * n_values)
    assert dropout.mask(0.0, 3) is None
    torch.manual_seed(0)
    assert torch.equal(Dropout(torch.float32).mask(0.1, 500, 400).flatten(), masks[0])


def test_dropout_is_drawn_anew_at_each_step_and_off_in_evaluation(tmp_path):
    model = small_classifier(tmp_path, "last2_pooler")
    inputs = batch(8)
    with torch.no_grad():
        padded = model(**inputs).logits
        model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float32)
        torch.testing.assert_close(model(**inputs).logits, padded, atol=1e-6, rtol=1e-4)
        model.train()
        model.dropout.p = 0.0
        drawn = torch.stack([model(**inputs).logits for _ in range(400)])
    assert not torch.equal(drawn[0], drawn[1])
    assert (drawn.mean(dim=0) - padded).abs().max() < 0.1 * (padded.std() + drawn.std(dim=0).max())


def test_evaluation_mode_has_gradients_too(tmp_path):
    model = small_classifier(tmp_path, "last3")
    inputs, of_each = batch(5), []
    for dtype in (None, torch.float32, torch.bfloat16):
        model.encoder_override = dtype and PaddingFreeEncoder(model.encoder, dtype)
        of_each.append(torch.cat([g.flatten() for g in gradients(model, inputs)[1].values()]))
    padded, padding_free, in_bf16 = of_each
    torch.testing.assert_close(padding_free, padded, atol=1e-6, rtol=1e-3)
    assert relative_error(in_bf16, padded) < 0.02


def check_gradients_under_dropout(model, inputs):
    """Compare gradients with finite differences in a random direction, with the same masks each time."""

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


def test_gradients_under_dropout_are_those_of_the_masks_that_were_drawn(tmp_path):
    model = small_classifier(tmp_path, "last3_pooler").double().train()
    model.encoder_override = PaddingFreeEncoder(model.encoder, torch.float64)
    check_gradients_under_dropout(model, batch(5))
