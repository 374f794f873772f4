"""One encoder layer over a row of tokens, forward and backward."""

from typing import Any

import torch
from torch import nn

from smm4h.models.padding_free.attention import Attention
from smm4h.models.padding_free.dropout import Dropout, dropout_scale
from smm4h.models.padding_free.layout import Layout
from smm4h.models.padding_free.weights import LayerWeights


class PaddingFreeLayer:
    """One encoder layer, forward and backward.

    States may have another dtype than the matrix products: the residual path and the norms then keep theirs.
    With `cls_only`, states are computed for each tweet's first token only; keys and values still come from all tokens.
    """

    def __init__(self, weights: LayerWeights, *, cls_only: bool) -> None:
        self.weights, self.cls_only = weights, cls_only

    def forward(
        self, states: torch.Tensor, layout: Layout, attention: Attention, dropout: Dropout | None, keep: bool
    ) -> tuple[torch.Tensor, list[Any]]:
        """Return the layer's output for states (n_tokens, width), and the tensors that `backward` needs.

        Args:
            keep: whether `backward` will be called; otherwise the inner states before GELU are not kept.
        """
        w, width = self.weights, states.shape[1]
        inputs = states.to(w.dtype)
        if self.cls_only:
            residual = states[layout.starts]
            queries = torch.addmm(w.qkv_bias[:width], inputs[layout.starts], w.qkv[:width].t())
            projected = torch.addmm(w.qkv_bias[width:], inputs, w.qkv[width:].t())
        else:
            residual, queries = states, None
            projected = torch.addmm(w.qkv_bias, inputs, w.qkv.t())
        context = projected.new_empty(residual.shape)
        context[layout.n_tokens :].zero_()
        attended = attention.forward(w, queries, projected, context, layout, dropout)
        middle, saved = self._sublayer_end(0, context, residual, dropout)
        read = middle.to(w.dtype)
        inner, active = self._activate(read, keep)
        out, saved_out = self._sublayer_end(1, active, middle, dropout)
        return out, [inputs, attended, context, saved, read, inner, active, saved_out]

    def _activate(self, inputs, keep):
        """Return the feed-forward part's inner states before GELU, None unless `keep`, and after GELU."""
        w = self.weights
        on_cpu = inputs.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if not keep and w.dtype is torch.bfloat16 and on_cpu:
            return None, torch.ops.mkldnn._linear_pointwise(inputs, w.linear[1], w.bias[1], "gelu", [], "none")
        inner = torch.addmm(w.bias[1], inputs, w.linear[1].t())
        return inner, nn.functional.gelu(inner)

    def _sublayer_end(self, number: int, inputs, residual, dropout):
        """Apply linear, dropout, residual and norm: the end of attention (number 0) or of the feed-forward part (1)."""
        w, norm = self.weights, self.weights.norms[number]
        p = w.hidden_dropout[number].p
        added = torch.addmm(w.bias[2 * number], inputs, w.linear[2 * number].t())
        mask = dropout and dropout.mask(p, *added.shape)
        added = residual + added if mask is None else torch.addcmul(residual, added, mask, value=dropout_scale(mask, p))
        out, mean, rstd = torch.native_layer_norm(added, (added.shape[1],), norm.weight, norm.bias, norm.eps)
        return out, (added, mean, rstd, mask)

    def backward(
        self,
        grad: torch.Tensor,
        saved: list[Any],
        layout: Layout,
        attention: Attention,
        grads: list[torch.Tensor],
        ones: torch.Tensor,
    ) -> torch.Tensor:
        """Return the gradient (n_tokens, width) with respect to the layer's input; fill the parameters' `grads`.

        Args:
            grad: gradient with respect to the layer's output, (n_tokens, width), or with `cls_only` (n_tweets, width).
            saved: the tensors that `forward` returned.
            grads: in the order of `LayerWeights.parameters`.
            ones: (1, n_tokens), for sums over tokens.
        """
        w, width = self.weights, grad.shape[1]
        inputs, attended, context, saved_attention, read, inner, active, saved_out = saved
        g_qkv, g_qkv_bias, g_linear, g_norm = grads[:3], grads[3:6], grads[6:12], grads[12:]
        small: Copies = []
        parts = g_linear[4:], g_norm[2:], ones, small
        grad, grad_active = self._sublayer_end_backward(1, grad, active, saved_out, *parts)
        grad_inner = torch.ops.aten.gelu_backward(grad_active, inner)
        _linear_gradients(grad_inner, read, g_linear[2], g_linear[3], ones, small)
        grad = _add_product(grad, grad_inner, w.linear[1])
        parts = g_linear[:2], g_norm[:2], ones, small
        grad, grad_context = self._sublayer_end_backward(0, grad, context, saved_attention, *parts)
        grad_projected = inputs.new_empty(len(inputs), (2 if self.cls_only else 3) * width)
        grad_projected[layout.n_tokens :].zero_()
        grad_queries = inputs.new_empty(grad.shape) if self.cls_only else None
        attention.backward(w, attended, grad_context, grad_queries, grad_projected, layout)
        if not self.cls_only:
            _fused_gradients(grad_projected, inputs, g_qkv, g_qkv_bias, ones, small)
            _copy_all(small)
            return _add_product(grad, grad_projected, w.qkv)
        _fused_gradients(grad_projected, inputs, g_qkv[1:], g_qkv_bias[1:], ones, small)
        _linear_gradients(grad_queries, inputs[layout.starts], g_qkv[0], g_qkv_bias[0], ones, small)
        _copy_all(small)
        grad_states = (grad_projected @ w.qkv[width:]).to(grad.dtype)
        return grad_states.index_add_(0, layout.starts, _add_product(grad, grad_queries, w.qkv[:width]))

    def _sublayer_end_backward(self, number: int, grad, inputs, saved, g_linear, g_norm, ones, small: "Copies"):
        """Return gradients with respect to the residual and to the linear part's input.

        Those of the parameters are written to `g_linear` and `g_norm`, or listed in `small`.
        """
        w, norm = self.weights, self.weights.norms[number]
        added, mean, rstd, mask = saved
        grad, norm_weight, norm_bias = torch.ops.aten.native_layer_norm_backward(
            grad, added, (added.shape[1],), mean, rstd, norm.weight, norm.bias, [True, True, True]
        )
        small += [(g_norm[0], norm_weight), (g_norm[1], norm_bias)]
        if mask is None:
            grad_added = grad.to(w.dtype)
        else:
            scale = dropout_scale(mask, w.hidden_dropout[number].p)
            grad_added = torch.empty(grad.shape, dtype=w.dtype, device=grad.device)
            torch.addcmul(w.zero, grad, mask, value=scale, out=grad_added)
        _linear_gradients(grad_added, inputs, *g_linear, ones, small)
        return grad, grad_added @ w.linear[2 * number]


def _is_widened(factor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return whether a product is computed in another dtype than its factors', which no CPU writes at once."""
    return factor.device.type == "cuda" and factor.dtype != dtype


def _add_product(grad: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return `grad + left @ right`, in the gradient's dtype."""
    if grad.dtype == left.dtype:
        return torch.addmm(grad, left, right)
    if _is_widened(left, grad.dtype):
        return torch.ops.aten.addmm.dtype(grad, left, right, grad.dtype)
    return grad + left @ right


Copies = list[tuple[torch.Tensor, torch.Tensor]]  # of small tensors: where to, and what


def _copy_all(small: Copies) -> None:
    targets, sources = zip(*small, strict=True)
    torch._foreach_copy_(targets, sources)


def _linear_gradients(
    grad: torch.Tensor,
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    ones: torch.Tensor,
    small: Copies,
) -> None:
    """Write the gradient of a linear part's weight, and list its bias's.

    Args:
        grad: of the part's output, (n, n_out).
        inputs: (n, n_in).
    """
    if weight.dtype == grad.dtype:
        torch.mm(grad.t(), inputs, out=weight)
    elif _is_widened(grad, weight.dtype):
        torch.ops.aten.mm.dtype_out(grad.t(), inputs, weight.dtype, out=weight)
    else:
        weight.copy_(grad.t() @ inputs)
    small.append((bias, _column_sums(grad, ones)))


def _fused_gradients(
    grad, inputs, weights: list[torch.Tensor], biases: list[torch.Tensor], ones, small: Copies
) -> None:
    """List the gradients of linear parts that were computed as one, from their joined output's."""
    if _is_widened(grad, weights[0].dtype):
        joined = torch.ops.aten.mm.dtype(grad.t(), inputs, weights[0].dtype)
    else:
        joined = grad.t() @ inputs
    small += zip(weights, joined.chunk(len(weights)), strict=True)
    small += zip(biases, _column_sums(grad, ones).chunk(len(biases)), strict=True)


def _column_sums(grad: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
    """Return the sums (n_out,) over a gradient's rows (n, n_out).

    A GPU computes them as a product, in float32: over few rows that takes a third of the time of its sum.
    """
    if _is_widened(grad, torch.float32):
        return torch.ops.aten.mm.dtype(ones[:, : len(grad)], grad, torch.float32)[0]
    return grad.sum(0)
