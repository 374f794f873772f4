"""BERT-family encoders over tweets laid end to end: no padding, no work that no head reads, gradients written out.

An encoder's own modules spend half of a small batch's time beside the matrix products: on padding, on random numbers
for dropout, on casting weights and gradients, on the last layer's states of tokens that no head looks at. Here the
tweets of a batch are one long row of tokens; only attention sees them one by one. The modules keep their weights,
their names and their place in autograd; what is replaced is how states and gradients are computed.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BertModel, CamembertModel, PreTrainedModel, RobertaModel, XLMRobertaModel
from transformers.activations import GELUActivation

PADDED_POSITIONS = (RobertaModel, CamembertModel, XLMRobertaModel)  # count positions from behind the padding's
FAMILY = (BertModel, *PADDED_POSITIONS)
# A matrix product of a new shape costs up to a millisecond of preparation, so that shapes are made to come back.
TILE = 8  # numbers of tokens are rounded up to a multiple of it
N_GROUPS, SMALLEST_GROUP = 4, 4  # tweets of like lengths that attend side by side


def supports_padding_free(encoder: nn.Module) -> bool:
    """Whether the encoder is of the family, and nothing in its config changes what its layers compute."""
    if type(encoder) not in FAMILY or encoder.config.is_decoder or encoder.config.add_cross_attention:
        return False
    return all(type(layer.intermediate.intermediate_act_fn) is GELUActivation for layer in encoder.encoder.layer)


@dataclass(frozen=True)
class Group:
    """Neighbours that attend side by side: their tokens `start:end` of the row, and where padding puts them."""

    start: int
    end: int
    first: int  # of its tweets
    n_tweets: int
    longest: int
    sources: torch.Tensor  # (n_tweets * longest,) a token of the row, or the row's last filler
    places: torch.Tensor  # (end - start,)
    bias: torch.Tensor  # (n_tweets, longest): 0 for a token, -inf for padding

    @property
    def tweets(self) -> slice:
        """Its tweets' places in the row."""
        return slice(self.first, self.first + self.n_tweets)

    def pad(self, row: torch.Tensor) -> torch.Tensor:
        """The group's part (n_tweets * longest, width) of a row (n_tokens, width)."""
        return row.index_select(0, self.sources)

    def unpad(self, padded: torch.Tensor, row: torch.Tensor) -> None:
        """Writes (n_tweets * longest, width) states to their tokens in the row."""
        torch.index_select(padded, 0, self.places, out=row[self.start : self.end])


@dataclass(frozen=True)
class Layout:
    """Where the tweets of a padded batch stand in the row: the longest first, then a few tokens that nobody reads.

    Of these fillers there is at least one. No gradient reaches them, so that theirs is the zero for padding.
    """

    n_tokens: int  # without the last ones
    tokens: torch.Tensor  # (length of the row,) places in the flattened batch
    positions: torch.Tensor  # (length of the row,) of each token in its tweet
    starts: torch.Tensor  # (n_tweets,) the first token of each tweet of the row
    back: torch.Tensor  # (n_tweets,) the place in the row of each tweet of the batch
    groups: list[Group]

    @classmethod
    def from_mask(cls, attention_mask: torch.Tensor, dtype: torch.dtype) -> "Layout":
        """Of a mask (n_tweets, n_positions) that pads on the right."""
        lengths = attention_mask.sum(dim=1).numpy()
        order = np.argsort(-lengths, kind="stable")
        ordered = lengths[order]
        starts = np.concatenate([[0], np.cumsum(ordered)])
        tweets = np.repeat(np.arange(len(ordered)), ordered)
        positions = np.arange(starts[-1]) - starts[tweets]
        length = _rounded(int(starts[-1]) + 1)
        size = max(SMALLEST_GROUP, -(-len(ordered) // N_GROUPS))
        groups = []
        for first in range(0, len(ordered), size):
            last = min(first + size, len(ordered))
            start, end, longest = int(starts[first]), int(starts[last]), _rounded(int(ordered[first]))
            places = (tweets[start:end] - first) * longest + positions[start:end]
            padding = np.arange(longest) >= ordered[first:last, None]
            bias = torch.zeros(padding.shape, dtype=dtype).masked_fill_(torch.from_numpy(padding), float("-inf"))
            sources = np.full(padding.size, length - 1)
            sources[places] = np.arange(start, end)
            indices = torch.from_numpy(sources), torch.from_numpy(places)
            groups.append(Group(start, end, first, last - first, longest, *indices, bias))
        filling = np.zeros(length - int(starts[-1]), dtype=np.int64)
        return cls(
            n_tokens=int(starts[-1]),
            tokens=torch.from_numpy(np.concatenate([order[tweets] * attention_mask.shape[1] + positions, filling])),
            positions=torch.from_numpy(np.concatenate([positions, filling])),
            starts=torch.from_numpy(starts[:-1]),
            back=torch.from_numpy(np.argsort(order)),
            groups=groups,
        )

    def padded(self, row: torch.Tensor, n_positions: int) -> torch.Tensor:
        """A row's states (n_tokens, width) as those (n_tweets, n_positions, width) of the batch."""
        shape = len(self.starts), n_positions, row.shape[1]
        batch = row.new_zeros(shape[0] * shape[1], shape[2])
        return batch.index_copy(0, self.tokens[: self.n_tokens], row[: self.n_tokens]).view(shape)


def _rounded(n_tokens: int) -> int:
    return -(-n_tokens // TILE) * TILE


class Dropout:
    """Random masks for a CPU, where torch draws one number after the other: a hash of each place's number.

    The hash is MurmurHash3's 64-bit finalizer (without its first shift, which a counter has no use for), over a counter
    that torch's generator starts; each of its four 16-bit parts decides on one value, so that a probability is met to
    1 / 65,536.
    """

    MULTIPLIERS = (0xFF51AFD7ED558CCD - 2**64, 0xC4CEB9FE1A85EC53 - 2**64)

    def __init__(self, dtype: torch.dtype) -> None:
        self.counter = torch.randint(2**62, (1,)).item()
        self.dtype = dtype

    def mask(self, p: float, *shape: int) -> torch.Tensor | None:
        """Ones for what is kept, zeros for what is dropped; None where nothing is dropped."""
        if p == 0:
            return None
        kept = torch.empty(shape, dtype=self.dtype)
        n_words = -(-kept.numel() // 4)
        words = torch.arange(self.counter, self.counter + n_words)
        self.counter += n_words
        shifted = torch.empty_like(words)
        for multiplier in self.MULTIPLIERS:
            torch.bitwise_right_shift(words.mul_(multiplier), 33, out=shifted)
            words.bitwise_xor_(shifted.bitwise_and_(2**31 - 1))  # the shift of a signed number brings its sign along
        bits = words.view(torch.int16)[: kept.numel()].view(shape)
        return torch.ge(bits, round(p * 2**16) - 2**15, out=kept)


class LayerWeights:
    """A layer's matrices and vectors as the matrix products want them: in their dtype, joined where used as one."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        attention, self.dtype = layer.attention, dtype
        heads = attention.self
        self.n_heads, self.head_size = heads.num_attention_heads, heads.attention_head_size
        self.scaling = heads.scaling
        self.attention_dropout, self.hidden_dropout = heads.dropout, (attention.output.dropout, layer.output.dropout)
        joined = [heads.query, heads.key, heads.value]
        linear = [attention.output.dense, layer.intermediate.dense, layer.output.dense]
        self.norms = [attention.output.LayerNorm, layer.output.LayerNorm]
        # In this order come the layer's gradients, too.
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
        """Takes the weights over."""
        torch._foreach_copy_(self.copies, self.parameters[: len(self.copies)])


def _scaled(mask: torch.Tensor | None, p: float) -> float:
    return 1.0 if mask is None else 1.0 / (1.0 - p)


class PaddingFreeLayer:
    """One encoder layer, forward and backward.

    With `cls_only`, states are computed for each tweet's first token alone; keys and values still come from all.
    """

    def __init__(self, shadow: LayerWeights, *, cls_only: bool) -> None:
        self.weights, self.cls_only = shadow, cls_only

    def forward(
        self, states: torch.Tensor, layout: Layout, dropout: Dropout | None, keep: bool
    ) -> tuple[torch.Tensor, list[Any]]:
        """The layer's output for (n_tokens, width) states, and what gradients need, where they are to `keep` it."""
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
        """The feed-forward part's inner states before and after GELU; the former only where gradients `keep` them."""
        w = self.weights
        if not keep and w.dtype is torch.bfloat16 and torch.backends.mkldnn.is_available():
            return None, torch.ops.mkldnn._linear_pointwise(inputs, w.linear[1], w.bias[1], "gelu", [], "none")
        inner = torch.addmm(w.bias[1], inputs, w.linear[1].t())
        return inner, nn.functional.gelu(inner)

    def _attend(self, group: Group, queries, projected, context, dropout) -> tuple[torch.Tensor, ...]:
        """Writes the group's part of the context; returns queries, keys, values and attention weights."""
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
        found = torch.bmm(kept, value)
        found.mul_(_scaled(mask, w.attention_dropout.p))
        found = found.view(group.n_tweets, w.n_heads, -1, w.head_size).transpose(1, 2)
        if queries is None:
            group.unpad(found.reshape(-1, context.shape[1]), context)
        else:
            context[group.tweets].copy_(found.reshape(group.n_tweets, -1))
        return query, key, value, weights, mask, kept

    def _sublayer_end(self, number: int, inputs, residual, dropout):
        """Linear, dropout, residual, norm: the end of the attention (0) and of the feed-forward part (1)."""
        w, norm = self.weights, self.weights.norms[number]
        p = w.hidden_dropout[number].p
        added = torch.addmm(w.bias[2 * number], inputs, w.linear[2 * number].t())
        mask = dropout and dropout.mask(p, *added.shape)
        added = residual + added if mask is None else torch.addcmul(residual, added, mask, value=_scaled(mask, p))
        out, mean, rstd = torch.native_layer_norm(added, (added.shape[1],), norm.weight, norm.bias, norm.eps)
        return out, (added, mean, rstd, mask)

    def backward(self, grad: torch.Tensor, saved: list[Any], layout: Layout, grads: list[torch.Tensor]) -> torch.Tensor:
        """The gradient (n_tokens, width) by the layer's input, of that by its output; fills the parameters' `grads`."""
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
            _joined_gradients(grad_projected, states, g_qkv, g_qkv_bias)
            return torch.addmm(grad, grad_projected, w.qkv)
        _joined_gradients(grad_projected, states, g_qkv[1:], g_qkv_bias[1:])
        _linear_gradients(grad_queries, residual, g_qkv[0], g_qkv_bias[0])
        grad_states = grad_projected @ w.qkv[width:]
        return grad_states.index_add_(0, layout.starts, torch.addmm(grad, grad_queries, w.qkv[:width]))

    def _sublayer_end_backward(self, number: int, grad, inputs, saved, g_linear, g_norm):
        """Gradients by the residual and by the linear part's input."""
        w, norm = self.weights, self.weights.norms[number]
        added, mean, rstd, mask = saved
        grad, norm_weight, norm_bias = torch.ops.aten.native_layer_norm_backward(
            grad, added, (added.shape[1],), mean, rstd, norm.weight, norm.bias, [True, True, True]
        )
        g_norm[0].copy_(norm_weight)
        g_norm[1].copy_(norm_bias)
        grad_added = grad if mask is None else (grad * mask).mul_(_scaled(mask, w.hidden_dropout[number].p))
        _linear_gradients(grad_added, inputs, *g_linear)
        return grad, grad_added @ w.linear[2 * number]

    def _attend_backward(self, group: Group, parts, grad_context, grad_queries, grad_projected) -> None:
        w = self.weights
        query, key, value, weights, mask, kept = parts
        if grad_queries is None:
            grad = group.pad(grad_context).view(group.n_tweets, group.longest, w.n_heads, w.head_size)
            grad = grad.transpose(1, 2).reshape(-1, group.longest, w.head_size)
        else:
            grad = grad_context[group.tweets].view(-1, 1, w.head_size)
        scale = _scaled(mask, w.attention_dropout.p)
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
    """Of a linear part's weight and bias, by the gradient (n, n_out) of its output for (n, n_in) inputs."""
    weight.copy_(grad.t() @ inputs)
    bias.copy_(grad.sum(0))


def _joined_gradients(grad, inputs, weights: list[torch.Tensor], biases: list[torch.Tensor]) -> None:
    """The same for linear parts that were computed as one."""
    joined = (grad.t() @ inputs).chunk(len(weights))
    summed = grad.sum(0).chunk(len(biases))
    for found, into in zip((*joined, *summed), (*weights, *biases), strict=True):
        into.copy_(found)


class _Stack(torch.autograd.Function):
    """All layers as one step of autograd; its last inputs are the layers' parameters."""

    @staticmethod
    def forward(ctx, states, packed: "PaddingFreeEncoder", layout: Layout, read: int, whole: bool, dropout, keep, *_):
        layers = packed.layers_for(whole)
        tape, found = [], []
        for number, layer in enumerate(layers):
            states, saved = layer.forward(states, layout, dropout, keep)
            if keep:
                tape.append(saved)
            if number >= len(layers) - read:
                found.append(states if layer.cls_only else states[layout.starts])
        ctx.tape, ctx.packed, ctx.layout, ctx.layers = tape, packed, layout, layers
        return states if whole else torch.stack(found)

    @staticmethod
    def backward(ctx, grad_found):
        packed, layers, layout, tape = ctx.packed, ctx.layers, ctx.layout, ctx.tape
        whole = not layers[-1].cls_only
        grads = packed.gradients()
        grad = grad_found.contiguous() if whole else grad_found[-1]
        first_read = len(layers) if whole else len(layers) - len(grad_found)
        for number in reversed(range(len(layers))):
            if first_read <= number < len(layers) - 1:
                grad.index_add_(0, layout.starts, grad_found[number - first_read])
            grad = layers[number].backward(grad, tape.pop(), layout, grads[number])
        return grad, None, None, None, None, None, None, *(part for layer in grads for part in layer)


@dataclass
class PaddingFreeEncoder:
    """Computes an encoder's states, with the weights of its modules, for tweets laid end to end.

    Args:
        encoder: one that `supports_padding_free`.
        dtype: of the matrix products, and while training of the states between them; weights, gradients and norms keep
            theirs. Predictions keep the states that skip a layer in the weights' dtype, as autocast does.
    """

    encoder: PreTrainedModel
    dtype: torch.dtype
    layer_weights: list[LayerWeights] = field(init=False)

    def __post_init__(self) -> None:
        self.layer_weights = [LayerWeights(layer, self.dtype) for layer in self.encoder.encoder.layer]
        self.parameters = [parameter for shadow in self.layer_weights for parameter in shadow.parameters]
        self.buffer: torch.Tensor | None = None
        self.fresh_for: tuple[int, ...] | None = None

    def _refresh(self, training: bool) -> None:
        """Takes the weights over: before each training step, and before an evaluation if they have changed since.

        Versions tell of every change but one: torch's fused optimizers don't count theirs.
        """
        versions = tuple(parameter._version for parameter in self.parameters)
        if training or versions != self.fresh_for:
            for shadow in self.layer_weights:
                shadow.refresh()
        self.fresh_for = None if training else versions

    def layers_for(self, whole: bool) -> list[PaddingFreeLayer]:
        last = len(self.layer_weights) - 1
        return [
            PaddingFreeLayer(s, cls_only=number == last and not whole) for number, s in enumerate(self.layer_weights)
        ]

    def gradients(self) -> list[list[torch.Tensor]]:
        """Room for each layer's gradients, the same at every step unless gradients are being accumulated."""
        n_values = sum(parameter.numel() for parameter in self.parameters)
        if self.buffer is None or any(parameter.grad is not None for parameter in self.parameters):
            self.buffer = torch.empty(n_values, dtype=self.parameters[0].dtype)
        parts = iter(self.buffer.split([parameter.numel() for parameter in self.parameters]))
        return [[next(parts).view(p.shape) for p in shadow.parameters] for shadow in self.layer_weights]

    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, read: int, whole: bool
    ) -> list[torch.Tensor]:
        """States of the last layers, as many as are `read`, of the first token alone: (n_tweets, 1, width) each.

        Where `whole`, the last layer's states of all tokens, (n_tweets, n_positions, width).
        """
        layout = Layout.from_mask(attention_mask, self.dtype)
        training = self.encoder.training
        dropout = Dropout(self.dtype) if training else None
        with torch.autocast("cpu", enabled=False):
            states = self._embed(input_ids.reshape(-1)[layout.tokens], layout.positions, dropout)
            self._refresh(training)
            keep = torch.is_grad_enabled()
            found = _Stack.apply(states, self, layout, read, whole, dropout, keep, *self.parameters)
        if whole:
            return [layout.padded(found, attention_mask.shape[1])]
        return [layer[layout.back].unsqueeze(1) for layer in found]

    def _embed(self, tokens: torch.Tensor, positions: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
        """The embeddings (n_tokens, width), in float until they are normalised."""
        parts = self.encoder.embeddings
        if isinstance(self.encoder, PADDED_POSITIONS):
            positions = positions + self.encoder.config.pad_token_id + 1
        summed = parts.word_embeddings(tokens) + parts.token_type_embeddings.weight[0]
        states = parts.LayerNorm(summed + parts.position_embeddings(positions))
        if torch.is_grad_enabled():
            states = states.to(self.dtype)
        mask = dropout and dropout.mask(parts.dropout.p, *states.shape)
        return states if mask is None else states * mask * _scaled(mask, parts.dropout.p)
