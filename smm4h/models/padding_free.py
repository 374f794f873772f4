"""Padding-free BERT-family encoders for a CPU: no padding, no states that the head does not read, manual gradients.

In a small batch, an encoder's own modules spend half of their time beside the matrix products: on padding, on random
numbers for dropout, on casting weights and gradients, and on last-layer states of tokens that the head does not read.
Here the tweets of a batch form one long row of tokens, and only attention treats them separately. The modules keep
their weights, their names and their gradients; only the computation of states and gradients is replaced.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertModel, CamembertModel, PreTrainedModel, RobertaModel, XLMRobertaModel
from transformers.activations import GELUActivation

from heads import Head

PADDED_POSITIONS = (RobertaModel, CamembertModel, XLMRobertaModel)  # position ids start after the padding id
FAMILY = (BertModel, *PADDED_POSITIONS)
# A matrix product of a new shape costs up to a millisecond of preparation, so sizes are rounded up and shapes recur.
TILE = 8  # tokens; sizes are rounded up to multiples
N_GROUPS, SMALLEST_GROUP = 4, 4  # groups of tweets of like lengths, padded to the group's longest for attention


def supports_padding_free(encoder: nn.Module, head: Head | None = None) -> bool:
    """Return whether `PaddingFreeEncoder` can compute the encoder's states, and those that the head reads, if given.

    The encoder must be of the family, with nothing in its config that changes what its layers compute. A head that
    needs all tokens of more than the last layer is not supported.
    """
    if head is not None and head.needs_tokens and head.n_layers > 1:
        return False
    if type(encoder) not in FAMILY or encoder.config.is_decoder or encoder.config.add_cross_attention:
        return False
    return all(type(layer.intermediate.intermediate_act_fn) is GELUActivation for layer in encoder.encoder.layer)


@dataclass(frozen=True)
class Group:
    """Neighbouring tweets of the row, tokens `start:end`, that are padded to one length for attention."""

    start: int
    end: int
    first_tweet: int  # number of the group's first tweet in the row
    n_tweets: int
    longest: int  # tokens of the padded tweets
    row_indices: torch.Tensor  # (n_tweets * longest,) of each padded position, its token in the row or the last filler
    padded_indices: torch.Tensor  # (end - start,) padded position of each token
    bias: torch.Tensor  # (n_tweets, longest): 0 for a token, -inf for padding

    @property
    def tweets(self) -> slice:
        """The group's tweets, as a slice of the row's tweets."""
        return slice(self.first_tweet, self.first_tweet + self.n_tweets)

    def pad(self, row: torch.Tensor) -> torch.Tensor:
        """Return the group's part (n_tweets * longest, width) of a row (n_tokens, width)."""
        return row.index_select(0, self.row_indices)

    def unpad(self, padded: torch.Tensor, row: torch.Tensor) -> None:
        """Write states (n_tweets * longest, width) to their tokens in the row."""
        torch.index_select(padded, 0, self.padded_indices, out=row[self.start : self.end])


@dataclass(frozen=True)
class Layout:
    """Where the tweets of a padded batch stand in the row: the longest first, then at least one filler token.

    Attention's padding reads the last filler and is masked. No gradient reaches fillers: theirs is 0, like padding's.
    """

    n_tokens: int  # without fillers
    tokens: torch.Tensor  # (row_length,) index of each token in the flattened batch
    positions: torch.Tensor  # (row_length,) position of each token in its tweet
    starts: torch.Tensor  # (n_tweets,) first token of each tweet of the row
    order_of_batch: torch.Tensor  # (n_tweets,) number in the row of each tweet of the batch
    groups: list[Group]

    @classmethod
    def from_mask(cls, attention_mask: torch.Tensor, dtype: torch.dtype) -> "Layout":
        """Return the layout of a mask (n_tweets, n_positions) that pads on the right."""
        lengths = attention_mask.sum(dim=1).numpy()
        order = np.argsort(-lengths, kind="stable")
        ordered_lengths = lengths[order]
        starts = np.concatenate([[0], np.cumsum(ordered_lengths)])
        tweets = np.repeat(np.arange(len(ordered_lengths)), ordered_lengths)
        positions = np.arange(starts[-1]) - starts[tweets]
        row_length = _round_up(int(starts[-1]) + 1)
        size = max(SMALLEST_GROUP, -(-len(ordered_lengths) // N_GROUPS))
        groups = []
        for first in range(0, len(ordered_lengths), size):
            last = min(first + size, len(ordered_lengths))
            start, end, longest = int(starts[first]), int(starts[last]), _round_up(int(ordered_lengths[first]))
            padded_indices = (tweets[start:end] - first) * longest + positions[start:end]
            padding = np.arange(longest) >= ordered_lengths[first:last, None]
            bias = torch.zeros(padding.shape, dtype=dtype).masked_fill_(torch.from_numpy(padding), float("-inf"))
            row_indices = np.full(padding.size, row_length - 1)
            row_indices[padded_indices] = np.arange(start, end)
            indices = torch.from_numpy(row_indices), torch.from_numpy(padded_indices)
            groups.append(Group(start, end, first, last - first, longest, *indices, bias))
        fillers = np.zeros(row_length - int(starts[-1]), dtype=np.int64)
        return cls(
            n_tokens=int(starts[-1]),
            tokens=torch.from_numpy(np.concatenate([order[tweets] * attention_mask.shape[1] + positions, fillers])),
            positions=torch.from_numpy(np.concatenate([positions, fillers])),
            starts=torch.from_numpy(starts[:-1]),
            order_of_batch=torch.from_numpy(np.argsort(order)),
            groups=groups,
        )

    def padded(self, row: torch.Tensor, n_positions: int) -> torch.Tensor:
        """Return a row's states (n_tokens, width) as the batch's, (n_tweets, n_positions, width); padding is 0."""
        shape = len(self.starts), n_positions, row.shape[1]
        batch = row.new_zeros(shape[0] * shape[1], shape[2])
        return batch.index_copy(0, self.tokens[: self.n_tokens], row[: self.n_tokens]).view(shape)


def _round_up(n_tokens: int) -> int:
    return -(-n_tokens // TILE) * TILE


class Dropout:
    """Dropout masks for a CPU from a hash of a counter; torch's own generator draws one number after the other.

    The hash is MurmurHash3's 64-bit finalizer, without its first shift, which does not matter for a counter. torch's
    generator draws the counter's start. Each of the four 16-bit parts of a hash decides on one value, so that a
    probability is met to 1 / 65,536.
    """

    MULTIPLIERS = (0xFF51AFD7ED558CCD - 2**64, 0xC4CEB9FE1A85EC53 - 2**64)

    def __init__(self, dtype: torch.dtype) -> None:
        self.counter = torch.randint(2**62, (1,)).item()
        self.dtype = dtype

    def mask(self, p: float, *shape: int) -> torch.Tensor | None:
        """Return ones for kept values and zeros for dropped ones, of this shape; None where p is 0."""
        if p == 0:
            return None
        kept = torch.empty(shape, dtype=self.dtype)
        n_words = -(-kept.numel() // 4)
        words = torch.arange(self.counter, self.counter + n_words)
        self.counter += n_words
        shifted = torch.empty_like(words)
        for multiplier in self.MULTIPLIERS:
            torch.bitwise_right_shift(words.mul_(multiplier), 33, out=shifted)
            words.bitwise_xor_(shifted.bitwise_and_(2**31 - 1))  # the shift copies the sign bit, & clears the copies
        bits = words.view(torch.int16)[: kept.numel()].view(shape)
        return torch.ge(bits, round(p * 2**16) - 2**15, out=kept)


class LayerWeights:
    """Copies of a layer's weights for the matrix products: in their dtype, query, key and value joined."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        attention, self.dtype = layer.attention, dtype
        heads = attention.self
        self.n_heads, self.head_size = heads.num_attention_heads, heads.attention_head_size
        self.scaling = heads.scaling
        self.attention_dropout, self.hidden_dropout = heads.dropout, (attention.output.dropout, layer.output.dropout)
        joined = [heads.query, heads.key, heads.value]
        linear = [attention.output.dense, layer.intermediate.dense, layer.output.dense]
        self.norms = [attention.output.LayerNorm, layer.output.LayerNorm]
        # `PaddingFreeLayer.backward` fills its gradients in this order.
        self.parameters = [
            *(part.weight for part in joined),
            *(part.bias for part in joined),
            *(parameter for part in linear for parameter in (part.weight, part.bias)),
            *(parameter for norm in self.norms for parameter in (norm.weight, norm.bias)),
        ]
        width = heads.query.weight.shape[1]
        self.qkv = torch.empty(3 * width, width, dtype=dtype)
        self.qkv_bias = torch.empty(3 * width, dtype=dtype)
        self.linear = [torch.empty_like(part.weight, dtype=dtype, requires_grad=False) for part in linear]
        self.bias = [torch.empty_like(part.bias, dtype=dtype, requires_grad=False) for part in linear]
        copies = [p for pair in zip(self.linear, self.bias, strict=True) for p in pair]
        self.copies = [*self.qkv.split(width), *self.qkv_bias.split(width), *copies]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the layer's current weights."""
        torch._foreach_copy_(self.copies, self.parameters[: len(self.copies)])


def _dropout_scale(mask: torch.Tensor | None, p: float) -> float:
    """Return the factor for kept values."""
    return 1.0 if mask is None else 1.0 / (1.0 - p)


class PaddingFreeLayer:
    """One encoder layer, forward and backward.

    With `cls_only`, states are computed for each tweet's first token only; keys and values still come from all tokens.
    """

    def __init__(self, weights: LayerWeights, *, cls_only: bool) -> None:
        self.weights, self.cls_only = weights, cls_only

    def forward(
        self, states: torch.Tensor, layout: Layout, dropout: Dropout | None, keep: bool
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
        attended = [self._attend(group, queries, projected, context, dropout) for group in layout.groups]
        attention, saved = self._sublayer_end(0, context, residual, dropout)
        inner, active = self._activate(attention.to(w.dtype), keep)
        out, saved_out = self._sublayer_end(1, active, attention, dropout)
        return out, [inputs, residual, attended, context, saved, attention, inner, active, saved_out]

    def _activate(self, inputs, keep):
        """Return the feed-forward part's inner states before GELU, None unless `keep`, and after GELU."""
        w = self.weights
        if not keep and w.dtype is torch.bfloat16 and torch.backends.mkldnn.is_available():
            return None, torch.ops.mkldnn._linear_pointwise(inputs, w.linear[1], w.bias[1], "gelu", [], "none")
        inner = torch.addmm(w.bias[1], inputs, w.linear[1].t())
        return inner, nn.functional.gelu(inner)

    def _attend(self, group: Group, queries, projected, context, dropout) -> tuple[torch.Tensor, ...]:
        """Write the group's part of the context; return the tensors that `_attend_backward` needs."""
        w = self.weights
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
        attended.mul_(_dropout_scale(mask, w.attention_dropout.p))
        attended = attended.view(group.n_tweets, w.n_heads, -1, w.head_size).transpose(1, 2)
        if queries is None:
            group.unpad(attended.reshape(-1, context.shape[1]), context)
        else:
            context[group.tweets].copy_(attended.reshape(group.n_tweets, -1))
        return query, key, value, weights, mask, kept

    def _sublayer_end(self, number: int, inputs, residual, dropout):
        """Apply linear, dropout, residual and norm: the end of attention (number 0) or of the feed-forward part (1)."""
        w, norm = self.weights, self.weights.norms[number]
        p = w.hidden_dropout[number].p
        added = torch.addmm(w.bias[2 * number], inputs, w.linear[2 * number].t())
        mask = dropout and dropout.mask(p, *added.shape)
        added = (
            residual + added if mask is None else torch.addcmul(residual, added, mask, value=_dropout_scale(mask, p))
        )
        out, mean, rstd = torch.native_layer_norm(added, (added.shape[1],), norm.weight, norm.bias, norm.eps)
        return out, (added, mean, rstd, mask)

    def backward(self, grad: torch.Tensor, saved: list[Any], layout: Layout, grads: list[torch.Tensor]) -> torch.Tensor:
        """Return the gradient (n_tokens, width) with respect to the layer's input; fill the parameters' `grads`.

        Args:
            grad: gradient with respect to the layer's output, (n_tokens, width), or with `cls_only` (n_tweets, width).
            saved: the tensors that `forward` returned.
            grads: in the order of `LayerWeights.parameters`.
        """
        w, width = self.weights, grad.shape[1]
        states, residual, attended, context, saved_attention, attention, inner, active, saved_out = saved
        g_qkv, g_qkv_bias, g_linear, g_norm = grads[:3], grads[3:6], grads[6:12], grads[12:]
        grad, grad_active = self._sublayer_end_backward(1, grad, active, saved_out, g_linear[4:], g_norm[2:])
        grad_inner = torch.ops.aten.gelu_backward(grad_active, inner)
        _linear_gradients(grad_inner, attention, g_linear[2], g_linear[3])
        grad = torch.addmm(grad, grad_inner, w.linear[1])
        grad, grad_context = self._sublayer_end_backward(0, grad, context, saved_attention, g_linear[:2], g_norm[:2])
        grad_projected = states.new_empty(len(states), (2 if self.cls_only else 3) * width)
        grad_projected[layout.n_tokens :].zero_()
        grad_queries = torch.empty_like(residual) if self.cls_only else None
        for group, parts in zip(layout.groups, attended, strict=True):
            self._attend_backward(group, parts, grad_context, grad_queries, grad_projected)
        if not self.cls_only:
            _fused_gradients(grad_projected, states, g_qkv, g_qkv_bias)
            return torch.addmm(grad, grad_projected, w.qkv)
        _fused_gradients(grad_projected, states, g_qkv[1:], g_qkv_bias[1:])
        _linear_gradients(grad_queries, residual, g_qkv[0], g_qkv_bias[0])
        grad_states = grad_projected @ w.qkv[width:]
        return grad_states.index_add_(0, layout.starts, torch.addmm(grad, grad_queries, w.qkv[:width]))

    def _sublayer_end_backward(self, number: int, grad, inputs, saved, g_linear, g_norm):
        """Return gradients with respect to the residual and to the linear part's input; fill `g_linear`, `g_norm`."""
        w, norm = self.weights, self.weights.norms[number]
        added, mean, rstd, mask = saved
        grad, norm_weight, norm_bias = torch.ops.aten.native_layer_norm_backward(
            grad, added, (added.shape[1],), mean, rstd, norm.weight, norm.bias, [True, True, True]
        )
        g_norm[0].copy_(norm_weight)
        g_norm[1].copy_(norm_bias)
        grad_added = grad if mask is None else (grad * mask).mul_(_dropout_scale(mask, w.hidden_dropout[number].p))
        _linear_gradients(grad_added, inputs, *g_linear)
        return grad, grad_added @ w.linear[2 * number]

    def _attend_backward(self, group: Group, parts, grad_context, grad_queries, grad_projected) -> None:
        """Write the group's gradients with respect to projected queries, keys and values."""
        w = self.weights
        query, key, value, weights, mask, kept = parts
        if grad_queries is None:
            grad = group.pad(grad_context).view(group.n_tweets, group.longest, w.n_heads, w.head_size)
            grad = grad.transpose(1, 2).reshape(-1, group.longest, w.head_size)
        else:
            grad = grad_context[group.tweets].view(-1, 1, w.head_size)
        scale = _dropout_scale(mask, w.attention_dropout.p)
        grads = value.new_empty(2 if self.cls_only else 3, *value.shape)
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


class _Stack(torch.autograd.Function):
    """All layers as one autograd function; its last inputs are the layers' parameters."""

    @staticmethod
    def forward(
        ctx, states, encoder: "PaddingFreeEncoder", layout: Layout, n_read: int, all_tokens: bool, dropout, keep, *_
    ):
        layers = encoder.layers_for(all_tokens)
        saved_layers, outputs = [], []
        for number, layer in enumerate(layers):
            states, saved = layer.forward(states, layout, dropout, keep)
            if keep:
                saved_layers.append(saved)
            if number >= len(layers) - n_read:
                outputs.append(states if layer.cls_only else states[layout.starts])
        ctx.saved_layers, ctx.encoder, ctx.layout, ctx.layers = saved_layers, encoder, layout, layers
        return states if all_tokens else torch.stack(outputs)

    @staticmethod
    def backward(ctx, grad_outputs):
        encoder, layers, layout, saved_layers = ctx.encoder, ctx.layers, ctx.layout, ctx.saved_layers
        all_tokens = not layers[-1].cls_only
        grads = encoder.gradients()
        grad = grad_outputs.contiguous() if all_tokens else grad_outputs[-1]
        first_read = len(layers) if all_tokens else len(layers) - len(grad_outputs)
        for number in reversed(range(len(layers))):
            if first_read <= number < len(layers) - 1:
                grad.index_add_(0, layout.starts, grad_outputs[number - first_read])
            grad = layers[number].backward(grad, saved_layers.pop(), layout, grads[number])
        return grad, None, None, None, None, None, None, *(part for layer in grads for part in layer)


@dataclass
class PaddingFreeEncoder:
    """Computes an encoder's states padding-free, with the weights of its modules; a `TweetClassifier.encoder_override`.

    Args:
        encoder: an encoder for which `supports_padding_free` is True.
        dtype: of matrix products, and of the states between them where gradients are recorded; weights, gradients and
            norms keep their own. In prediction, the residual path keeps the weights' dtype, as under autocast.
    """

    encoder: PreTrainedModel
    dtype: torch.dtype
    layer_weights: list[LayerWeights] = field(init=False)

    def __post_init__(self) -> None:
        self.layer_weights = [LayerWeights(layer, self.dtype) for layer in self.encoder.encoder.layer]
        self.parameters = [parameter for weights in self.layer_weights for parameter in weights.parameters]
        self.buffer: torch.Tensor | None = None
        self.copied_versions: tuple[int, ...] | None = None

    def _refresh(self, training: bool) -> None:
        """Copy the weights: before every training step, and before an evaluation if they have changed since the last.

        Changes are recognised by tensor versions. Training steps always copy, because torch's fused optimizers change
        weights without counting a version.
        """
        versions = tuple(parameter._version for parameter in self.parameters)
        if training or versions != self.copied_versions:
            for weights in self.layer_weights:
                weights.refresh()
        self.copied_versions = None if training else versions

    def layers_for(self, all_tokens: bool) -> list[PaddingFreeLayer]:
        """Return the layers; the last one computes the first tokens only, unless `all_tokens`."""
        last = len(self.layer_weights) - 1
        return [
            PaddingFreeLayer(weights, cls_only=number == last and not all_tokens)
            for number, weights in enumerate(self.layer_weights)
        ]

    def gradients(self) -> list[list[torch.Tensor]]:
        """Return memory for each layer's gradients, reused at every step unless gradients are being accumulated."""
        n_values = sum(parameter.numel() for parameter in self.parameters)
        if self.buffer is None or any(parameter.grad is not None for parameter in self.parameters):
            self.buffer = torch.empty(n_values, dtype=self.parameters[0].dtype)
        parts = iter(self.buffer.split([parameter.numel() for parameter in self.parameters]))
        return [[next(parts).view(p.shape) for p in weights.parameters] for weights in self.layer_weights]

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        n_layers: int,
        needs_tokens: bool,
        token_type_ids: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Return states of the last layers for token ids and a mask (n_tweets, n_positions) that pads on the right.

        Args:
            n_layers: how many last layers to return, of each tweet's first token only, (n_tweets, 1, width) each.
            needs_tokens: return all tokens of the last layer instead, (n_tweets, n_positions, width).
            token_type_ids: (n_tweets, n_positions) the segment of each token; None: all are of the first.

        Raises:
            ValueError: for all tokens of several layers, which `supports_padding_free` refuses.
        """
        if needs_tokens and n_layers > 1:
            raise ValueError(
                f"all tokens of {n_layers} layers: a padding-free encoder returns those of the last layer only"
            )
        layout = Layout.from_mask(attention_mask, self.dtype)
        training = self.encoder.training
        dropout = Dropout(self.dtype) if training else None
        with torch.autocast("cpu", enabled=False):
            types = None if token_type_ids is None else token_type_ids.reshape(-1)[layout.tokens]
            states = self._embed(input_ids.reshape(-1)[layout.tokens], layout.positions, types, dropout)
            self._refresh(training)
            keep = torch.is_grad_enabled()
            outputs = _Stack.apply(states, self, layout, n_layers, needs_tokens, dropout, keep, *self.parameters)
        if needs_tokens:
            return [layout.padded(outputs, attention_mask.shape[1])]
        return [layer[layout.order_of_batch].unsqueeze(1) for layer in outputs]

    def _embed(
        self, tokens: torch.Tensor, positions: torch.Tensor, types: torch.Tensor | None, dropout: Dropout | None
    ) -> torch.Tensor:
        """Return the embeddings (n_tokens, width), normalised in the weights' dtype."""
        parts = self.encoder.embeddings
        if isinstance(self.encoder, PADDED_POSITIONS):
            positions = positions + self.encoder.config.pad_token_id + 1
        segments = parts.token_type_embeddings
        summed = parts.word_embeddings(tokens) + (segments.weight[0] if types is None else segments(types))
        states = parts.LayerNorm(summed + parts.position_embeddings(positions))
        if torch.is_grad_enabled():
            states = states.to(self.dtype)
        mask = dropout and dropout.mask(parts.dropout.p, *states.shape)
        return states if mask is None else states * mask * _dropout_scale(mask, parts.dropout.p)
