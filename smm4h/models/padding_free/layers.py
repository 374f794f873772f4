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
    ) -> torch.Tensor:
        """Return the gradient (n_tokens, width) with respect to the layer's input; fill the parameters' `grads`.

        Args:
            grad: gradient with respect to the layer's output, (n_tokens, width), or with `cls_only` (n_tweets, width).
            saved: the tensors that `forward` returned.
            grads: in the order of `LayerWeights.parameters`.
        """
        w, width = self.weights, grad.shape[1]
        inputs, attended, context, saved_attention, read, inner, active, saved_out = saved
        g_qkv, g_qkv_bias, g_linear, g_norm = grads[:3], grads[3:6], grads[6:12], grads[12:]
        grad, grad_active = self._sublayer_end_backward(1, grad, active, saved_out, g_linear[4:], g_norm[2:])
        grad_inner = torch.ops.aten.gelu_backward(grad_active, inner)
        _linear_gradients(grad_inner, read, g_linear[2], g_linear[3])
        grad = _add_product(grad, grad_inner, w.linear[1])
        grad, grad_context = self._sublayer_end_backward(0, grad, context, saved_attention, g_linear[:2], g_norm[:2])
        grad_projected = inputs.new_empty(len(inputs), (2 if self.cls_only else 3) * width)
        grad_projected[layout.n_tokens :].zero_()
        grad_queries = inputs.new_empty(grad.shape) if self.cls_only else None
        attention.backward(w, attended, grad_context, grad_queries, grad_projected, layout)
        if not self.cls_only:
            _fused_gradients(grad_projected, inputs, g_qkv, g_qkv_bias)
            return _add_product(grad, grad_projected, w.qkv)
        _fused_gradients(grad_projected, inputs, g_qkv[1:], g_qkv_bias[1:])
        _linear_gradients(grad_queries, inputs[layout.starts], g_qkv[0], g_qkv_bias[0])
        grad_states = (grad_projected @ w.qkv[width:]).to(grad.dtype)
        return grad_states.index_add_(0, layout.starts, _add_product(grad, grad_queries, w.qkv[:width]))

    def _sublayer_end_backward(self, number: int, grad, inputs, saved, g_linear, g_norm):
        """Return gradients with respect to the residual and to the linear part's input; fill `g_linear`, `g_norm`."""
        w, norm = self.weights, self.weights.norms[number]
        added, mean, rstd, mask = saved
        grad, norm_weight, norm_bias = torch.ops.aten.native_layer_norm_backward(
            grad, added, (added.shape[1],), mean, rstd, norm.weight, norm.bias, [True, True, True]
        )
        g_norm[0].copy_(norm_weight)
        g_norm[1].copy_(norm_bias)
        grad_added = grad if mask is None else (grad * mask).mul_(dropout_scale(mask, w.hidden_dropout[number].p))
        grad_added = grad_added.to(w.dtype)
        _linear_gradients(grad_added, inputs, *g_linear)
        return grad, grad_added @ w.linear[2 * number]


def _add_product(grad: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return `grad + left @ right`, in the gradient's dtype."""
    return torch.addmm(grad, left, right) if grad.dtype == left.dtype else grad + left @ right


def _linear_gradients(grad: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Write gradients of a linear part's weight and bias, from its output's (n, n_out), for inputs (n, n_in)."""
    weight.copy_(grad.t() @ inputs)
    bias.copy_(grad.sum(0))


def _fused_gradients(grad, inputs, weights: list[torch.Tensor], biases: list[torch.Tensor]) -> None:
    """Write gradients of linear parts that were computed as one, from their joined output's."""
    joined = (grad.t() @ inputs).chunk(len(weights))
    summed = grad.sum(0).chunk(len(biases))
    for gradient, target in zip((*joined, *summed), (*weights, *biases), strict=True):
        target.copy_(gradient)
