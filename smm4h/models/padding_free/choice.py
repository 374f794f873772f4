"""Which models are computed padding-free on their device."""

import logging

import numpy as np
import torch
from torch import nn

from heads import TweetClassifier
from smm4h.models.padding_free.attention import has_ragged_attention
from smm4h.models.padding_free.encoder import PaddingFreeEncoder, supports_padding_free

LENGTHS = (2, 3, 7, 16, 25, 40)  # tokens of the tweets of a comparison
MOST_OF_AUTOCAST = 4.0  # how many times as inexact as autocast a padding-free encoder may be

log = logging.getLogger(__name__)
_right: dict[tuple, bool] = {}  # what this process has compared, by kind of computation


def padding_free_encoder(model: TweetClassifier, dtype: torch.dtype) -> PaddingFreeEncoder | None:
    """Return what computes a model's encoder padding-free on the device where it is; None where its own modules do.

    That is a CPU, and a GPU whose kernels attend to ragged lengths, there after a comparison with the encoder's own
    modules: a driver, a card or a torch that nobody has tried must not train on wrong gradients.
    """
    if not supports_padding_free(model.encoder, model.head):
        return None
    encoder = PaddingFreeEncoder(model.encoder, dtype)
    if model.device.type == "cpu":
        return encoder
    if not has_ragged_attention(encoder.layer_weights[0]):
        return None
    kind = kind_of(model, dtype)
    if kind not in _right:
        _right[kind] = _is_right(model, encoder)
    return encoder if _right[kind] else None


def kind_of(model: TweetClassifier, dtype: torch.dtype) -> tuple:
    """Return what the kernels that compute a model depend on, but for the size of its batches."""
    config = model.encoder.config
    shape = config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size
    return type(model.encoder), model.config.head, dtype, shape


def _is_right(model: TweetClassifier, encoder: PaddingFreeEncoder) -> bool:
    """Return whether a padding-free encoder agrees with its model's own; log a warning where it does not."""
    try:
        error, allowed = inexactness(model, encoder)
    except RuntimeError as failure:
        reason = f"fails: {str(failure).splitlines()[0]}"
    else:
        if error <= allowed:
            return True
        reason = f"is off by {error:.2g} where {allowed:.2g} is rounding"
    log.warning("on %s the encoder is computed with padding, since computing it without %s", model.device, reason)
    return False


def inexactness(model: TweetClassifier, encoder: PaddingFreeEncoder) -> tuple[float, float]:
    """Return the relative error of a padding-free encoder's logits and gradients, and the one that is allowed.

    Both are against the encoder's own modules in the weights' dtype. Allowed is a multiple of the error of autocast.
    """
    was_training, before = model.training, model.encoder_override
    model.eval()
    try:
        model.encoder_override = None
        exact = _logits_and_gradients(model)
        with torch.autocast(model.device.type, encoder.dtype, enabled=encoder.dtype is not torch.float32):
            rounded = _logits_and_gradients(model)
        model.encoder_override = encoder
        packed = _logits_and_gradients(model)
    finally:
        model.encoder_override = before
        model.train(was_training)
    allowed = MOST_OF_AUTOCAST * max(_relative_error(rounded, exact), 1e-5)
    error = _relative_error(packed, exact)
    return (error if np.isfinite(error) else np.inf), allowed


def _logits_and_gradients(model: TweetClassifier) -> torch.Tensor:
    """Return the logits of invented tweets and gradients of two layers, each of length 1, as one row."""
    generator = torch.Generator().manual_seed(0)
    pad, n_ids = model.config.pad_token_id or 0, model.encoder.config.vocab_size
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    other = torch.randint(1, n_ids, mask.shape, generator=generator)  # from padding: RoBERTa counts no position for it
    ids = torch.where(mask.bool(), (pad + other) % n_ids, pad)
    # cuDNN has no gradients of a GRU outside training mode, where dropout would differ between the two.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits.float()
        layers = model.encoder.encoder.layer
        weights = [*layers[0].parameters(), *layers[-1].parameters()]  # the first one's depend on all above it
        gradients = torch.autograd.grad(logits.square().sum(), weights)
    parts = [logits.detach().flatten(), torch.cat([gradient.flatten() for gradient in gradients])]
    return torch.cat([nn.functional.normalize(part, dim=0) for part in parts])


def _relative_error(approximate: torch.Tensor, exact: torch.Tensor) -> float:
    return ((approximate - exact).norm() / exact.norm()).item()
