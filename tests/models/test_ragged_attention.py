"""Padding-free encoders as a GPU computes them, without a GPU: ragged attention, the residual path, and what is sent.

torch has FlashAttention's operators for CUDA alone. Here a CPU gets them in plain torch, by torch's own registry, with
the arguments and results that the CUDA ones have; and the `meta` device, whose tensors have no values, shows that
nothing waits for one.
"""

from contextlib import nullcontext

import pytest
import torch
from small_encoders import CountingMode, gradients, small_classifier, without_dropout
from test_padding_free import batch, check_gradients_under_dropout, relative_error
from transformers import BertConfig, RobertaConfig

from heads import HEADS, TweetClassifier, TweetClassifierConfig
from smm4h.models.padding_free.attention import GroupedAttention, RaggedAttention
from smm4h.models.padding_free.choice import inexactness
from smm4h.models.padding_free.encoder import PaddingFreeEncoder
from smm4h.models.padding_free.layout import Layout


def _weights(query, key, scale):
    """Return the attention weights (n_heads, n_queries, n_keys) of one tweet's (n, n_heads, head_size)."""
    return torch.einsum("qhd,khd->hqk", query, key).mul(scale).softmax(-1)


def _tweets(asked, ends):
    return zip(asked.tolist(), asked.tolist()[1:], ends.tolist(), ends.tolist()[1:], strict=False)


def _kept(state, number, shape, p):
    generator = torch.Generator().manual_seed(int(state[0]) + number)
    return (torch.rand(shape, generator=generator) >= p).double() / (1 - p)


def flash_forward(query, key, value, asked, ends, most_asked, longest, p, causal, debug, *, scale=None, **_):
    assert not causal
    assert asked.dtype == ends.dtype == torch.int32
    assert (longest, most_asked) == (ends.diff().max(), asked.diff().max())
    attended, state = torch.empty_like(query, memory_format=torch.contiguous_format), torch.randint(2**30, (2,))
    for number, (a, b, c, d) in enumerate(_tweets(asked, ends)):
        weights = _weights(query[a:b].double(), key[c:d].double(), scale)
        weights = weights * _kept(state, number, weights.shape, p)
        attended[a:b] = torch.einsum("hqk,khd->qhd", weights, value[c:d].double()).to(value.dtype)
    nothing = query.new_empty(0)
    return attended, nothing.float(), state, nothing, nothing


def flash_backward(
    grad, query, key, value, attended, lse, asked, ends, nq, nk, p, causal, state, unused, *, scale=None, **_
):
    grads = [torch.full_like(part, torch.nan, memory_format=torch.contiguous_format) for part in (query, key, value)]
    for number, (a, b, c, d) in enumerate(_tweets(asked, ends)):
        q, k, v, g = (part.double() for part in (query[a:b], key[c:d], value[c:d], grad[a:b]))
        weights = _weights(q, k, scale)
        kept = _kept(state, number, weights.shape, p)
        of_weights = torch.einsum("qhd,khd->hqk", g, v) * kept
        of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * scale
        grads[0][a:b] = torch.einsum("hqk,khd->qhd", of_scores, k)
        grads[1][c:d] = torch.einsum("hqk,qhd->khd", of_scores, q)
        grads[2][c:d] = torch.einsum("hqk,qhd->khd", weights * kept, g)
    return tuple(grads)


@pytest.fixture(scope="module")
def flash_attention_on_cpu():
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", flash_forward, "CPU")
    library.impl("_flash_attention_backward", flash_backward, "CPU")
    yield
    library._destroy()


def as_on_a_gpu(model, dtype=torch.float32) -> PaddingFreeEncoder:
    return PaddingFreeEncoder(model.encoder, dtype, RaggedAttention(), residual_dtype=model.classifier.weight.dtype)


@pytest.mark.usefixtures("flash_attention_on_cpu")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_ragged_attention_gives_the_loss_and_the_gradients_of_the_padded_encoder(tmp_path, kind, head):
    model = without_dropout(small_classifier(tmp_path, head, kind))
    for n_tweets in (1, 5, 16):
        inputs = batch(n_tweets, pad=model.config.pad_token_id)
        model.encoder_override = None
        loss, padded = gradients(model, inputs)
        model.encoder_override = as_on_a_gpu(model)
        ragged_loss, ragged = gradients(model, inputs)
        assert ragged_loss == pytest.approx(loss, abs=1e-6)
        assert ragged.keys() == padded.keys()
        for name, gradient in padded.items():
            torch.testing.assert_close(ragged[name], gradient, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.usefixtures("flash_attention_on_cpu")
@pytest.mark.parametrize("head", ["last3_pooler", "mean"])
def test_ragged_attention_passes_the_gradients_of_its_own_dropout(tmp_path, head):
    model = small_classifier(tmp_path, head).double().train()
    model.encoder_override = as_on_a_gpu(model, torch.float64)
    check_gradients_under_dropout(model, batch(5))


@pytest.mark.usefixtures("flash_attention_on_cpu")
def test_in_bf16_the_residual_path_keeps_the_weights_dtype_as_under_autocast(tmp_path):
    model = small_classifier(tmp_path, "last2_pooler")
    encoder = as_on_a_gpu(model, torch.bfloat16)
    states = encoder(
        **{name: batch(6)[name] for name in ("input_ids", "attention_mask")}, n_layers=2, needs_tokens=False
    )
    assert all(layer.dtype is torch.float32 for layer in states)
    error, allowed = inexactness(model, encoder)
    assert 1e-4 < error < allowed
    model.train()
    exact = gradients(without_dropout(model), batch(16))[1]
    model.encoder_override = encoder
    rounded = gradients(model, batch(16))[1]
    together = [torch.cat([side[name].flatten() for name in exact]) for side in (rounded, exact)]
    assert relative_error(*together) < 0.02


class Halved(GroupedAttention):
    """Attention of wrong gradients, as a broken kernel might give."""

    def backward(self, weights, saved, grad_context, grad_queries, grad_projected, layout) -> None:
        super().backward(weights, saved, grad_context / 2, grad_queries, grad_projected, layout)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_comparison_with_the_encoders_own_modules_tells_wrong_gradients_from_rounding(tmp_path, kind):
    model = small_classifier(tmp_path, "last3", kind).train()
    for dtype in (torch.float32, torch.bfloat16):
        for attention, is_right in ((GroupedAttention(), True), (Halved(), False)):
            encoder = PaddingFreeEncoder(model.encoder, dtype, attention, residual_dtype=torch.float32)
            error, allowed = inexactness(model, encoder)
            assert (error <= allowed) is is_right, (dtype, attention, error, allowed)
    assert (model.training, model.encoder_override) == (True, None)


def launches(model, inputs) -> int:
    with CountingMode() as counted:
        model(**inputs).logits.sum().backward()
    return counted.n_launches


@pytest.mark.parametrize("config_class", [BertConfig, RobertaConfig])
def test_a_step_of_twelve_layers_asks_the_device_for_no_value_and_launches_half_as_much(monkeypatch, config_class):
    config = config_class(hidden_size=96, intermediate_size=192)
    settings = TweetClassifierConfig(encoder=config, head="last3_pooler", num_labels=3)
    mask = batch(16, longest=60)["attention_mask"]
    with torch.autocast("cpu", torch.bfloat16):
        own = launches(TweetClassifier(settings).train(), {"input_ids": torch.ones_like(mask), "attention_mask": mask})
    model = TweetClassifier(settings).train().to("meta")
    model.encoder_override = as_on_a_gpu(model, torch.bfloat16)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no `meta`
    padding_free = launches(model, {"input_ids": torch.ones_like(mask, device="meta"), "attention_mask": mask})
    assert 100 < padding_free < 0.6 * own, (padding_free, own)


def test_a_layout_is_the_same_wherever_the_mask_is():
    mask = batch(7)["attention_mask"]
    layout, on_meta = (Layout.from_mask(mask, torch.device(name), torch.float32) for name in ("cpu", "meta"))
    assert layout.n_tokens == on_meta.n_tokens == mask.sum()
    lengths = sorted(mask.sum(dim=1).tolist(), reverse=True)
    assert (layout.longest, layout.ends.diff().tolist()) == (lengths[0], lengths)
    assert (on_meta.tokens.device.type, on_meta.tokens.shape) == ("meta", layout.tokens.shape)
