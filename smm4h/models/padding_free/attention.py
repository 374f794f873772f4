"""Attention within the tweets of a row: by groups that are padded to one length, or by kernels for ragged lengths."""

from typing import Any, Protocol

import torch

from smm4h.models.padding_free.dropout import Dropout, dropout_scale
from smm4h.models.padding_free.layout import Group, Layout
from smm4h.models.padding_free.weights import LayerWeights

# FlashAttention's backward pass splits keys into blocks of 128 (head size 64) or fewer; with one block each gradient
# is written once, and with more they are added up in any order: other bytes each time.
MOST_TOKENS_OF_ONE_BLOCK = 128
MOST_HEAD_SIZE_OF_ONE_BLOCK = 64


class Attention(Protocol):
    """Attention of a layer. Rows are projected keys and values, behind queries unless these are given on their own.

    `queries` (n_tweets, width), if any, ask for each tweet's first token only; else all tokens ask.
    """

    def forward(
        self,
        weights: LayerWeights,
        queries: torch.Tensor | None,
        projected: torch.Tensor,
        context: torch.Tensor,
        layout: Layout,
        dropout: Dropout | None,
    ) -> Any:
        """Write the context, a row or (n_tweets, width); return what `backward` needs."""
        ...

    def backward(
        self,
        weights: LayerWeights,
        saved: Any,
        grad_context: torch.Tensor,
        grad_queries: torch.Tensor | None,
        grad_projected: torch.Tensor,
        layout: Layout,
    ) -> None:
        """Write the gradients with respect to `queries`, if there were any, and to `projected`."""
        ...


class GroupedAttention:
    """Attention of groups of tweets of like lengths, each padded to its longest tweet: any device, any dtype."""

    def forward(self, weights, queries, projected, context, layout, dropout) -> list[tuple[torch.Tensor, ...]]:
        return [self._attend(weights, group, queries, projected, context, dropout) for group in layout.groups]

    def backward(self, weights, saved, grad_context, grad_queries, grad_projected, layout) -> None:
        for group, parts in zip(layout.groups, saved, strict=True):
            self._attend_backward(weights, group, parts, grad_context, grad_queries, grad_projected)

    def _attend(self, w: LayerWeights, group: Group, queries, projected, context, dropout) -> tuple[torch.Tensor, ...]:
        """Write the group's part of the context; return the tensors that `_attend_backward` needs."""
        parts = group.pad(projected).view(group.n_tweets, group.longest, -1, w.n_heads, w.head_size)
        parts = parts.permute(2, 0, 3, 1, 4).reshape(parts.shape[2], -1, group.longest, w.head_size)
        if queries is None:
            query, key, value = parts
        else:
            key, value = parts
            query = queries[group.tweets].view(-1, 1, w.head_size)
        bias = group.bias.repeat_interleave(w.n_heads, 0)[:, None]
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=w.scaling)
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(w.dtype)
        mask = dropout and dropout.mask(w.attention_dropout.p, *weights.shape)
        kept = weights if mask is None else weights * mask
        attended = torch.bmm(kept, value)
        attended.mul_(dropout_scale(mask, w.attention_dropout.p))
        attended = attended.view(group.n_tweets, w.n_heads, -1, w.head_size).transpose(1, 2)
        if queries is None:
            group.unpad(attended.reshape(-1, context.shape[1]), context)
        else:
            context[group.tweets].copy_(attended.reshape(group.n_tweets, -1))
        return query, key, value, weights, mask, kept

    def _attend_backward(self, w: LayerWeights, group: Group, parts, grad_context, grad_queries, grad_projected):
        """Write the group's gradients with respect to projected queries, keys and values."""
        query, key, value, weights, mask, kept = parts
        if grad_queries is None:
            grad = group.pad(grad_context).view(group.n_tweets, group.longest, w.n_heads, w.head_size)
            grad = grad.transpose(1, 2).reshape(-1, group.longest, w.head_size)
        else:
            grad = grad_context[group.tweets].view(-1, 1, w.head_size)
        scale = dropout_scale(mask, w.attention_dropout.p)
        grads = value.new_empty(3 if grad_queries is None else 2, *value.shape)
        torch.bmm(kept.transpose(1, 2), grad, out=grads[-1]).mul_(scale)
        grad_weights = torch.bmm(grad, value.transpose(1, 2))
        if mask is not None:
            grad_weights.mul_(mask)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, w.dtype)
        grad_scores.mul_(scale * w.scaling)
        torch.bmm(grad_scores.transpose(1, 2), query, out=grads[-2])
        if grad_queries is None:
            torch.bmm(grad_scores, key, out=grads[0])
        else:
            grad_query = torch.bmm(grad_scores, key).view(group.n_tweets, -1)
            grad_queries[group.tweets].copy_(grad_query)
        grads = grads.view(len(grads), group.n_tweets, w.n_heads, group.longest, w.head_size).permute(1, 3, 0, 2, 4)
        group.unpad(grads.reshape(group.n_tweets * group.longest, -1), grad_projected)


class RaggedAttention:
    """FlashAttention-2 over tweets of any lengths, in torch's own kernels: GPUs of compute capability 8.0 on, 16 bits.

    Its dropout decides by a byte: of p = 0.1 it drops 26 of 256 values, 10.2 %, and scales the kept by 1 / 0.9.
    """

    def forward(self, weights, queries, projected, context, layout, dropout) -> tuple:
        w, n = weights, layout.n_tokens
        *own_queries, key, value = projected.view(len(projected), -1, w.n_heads, w.head_size)[:n].unbind(1)
        query = own_queries[0] if queries is None else queries.view(-1, w.n_heads, w.head_size)
        ends = layout.ends.int()
        if queries is None:
            asked, most_asked = ends, layout.longest
        else:
            asked, most_asked = torch.arange(len(ends), dtype=torch.int32, device=ends.device), 1
        p = w.attention_dropout.p if dropout else 0.0
        sizes = asked, ends, most_asked, layout.longest, p, False
        attended, logsumexp, state, unused, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, *sizes, False, scale=w.scaling
        )
        context[: len(attended)].copy_(attended.flatten(1))
        return query, key, value, attended, logsumexp, sizes, state, unused

    def backward(self, weights, saved, grad_context, grad_queries, grad_projected, layout) -> None:
        w, (query, key, value, attended, logsumexp, sizes, state, unused) = weights, saved
        grad = grad_context[: len(attended)].view(attended.shape)
        *grads, grad_key, grad_value = torch.ops.aten._flash_attention_backward(
            grad, query, key, value, attended, logsumexp, *sizes, state, unused, scale=w.scaling
        )
        if grad_queries is None:
            written = [*grads, grad_key, grad_value]
        else:
            grad_queries.copy_(grads[0].flatten(1))
            written = [grad_key, grad_value]
        torch.stack([part.flatten(1) for part in written], 1, out=_rows(grad_projected, len(written), layout.n_tokens))


def _rows(row: torch.Tensor, n_parts: int, n_tokens: int) -> torch.Tensor:
    """Return a row's tokens without fillers as (n_tokens, n_parts, width)."""
    return row.view(len(row), n_parts, -1)[:n_tokens]


def has_ragged_attention(weights: LayerWeights) -> bool:
    """Return whether FlashAttention computes a layer on its device, in its dtype."""
    device = weights.qkv.device
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and weights.dtype in (torch.bfloat16, torch.float16)
        and weights.head_size % 8 == 0
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def attention_for(weights: LayerWeights, layout: Layout) -> Attention:
    """Return the attention for a batch: the ragged one where the device has it and gives the same bytes each time."""
    is_one_block = layout.longest <= MOST_TOKENS_OF_ONE_BLOCK and weights.head_size <= MOST_HEAD_SIZE_OF_ONE_BLOCK
    return RaggedAttention() if is_one_block and has_ragged_attention(weights) else GroupedAttention()
