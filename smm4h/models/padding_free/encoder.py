"""Padding-free BERT-family encoders: no padding, no states that the head does not read, manual gradients.

In a small batch, an encoder's own modules spend half of their time beside the matrix products: on padding, on random
numbers for dropout, on casting weights and gradients, and on last-layer states of tokens that the head does not read.
Here the tweets of a batch form one long row of tokens, and only attention treats them separately. The modules keep
their weights, their names and their gradients; only the computation of states and gradients is replaced.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import BertModel, CamembertModel, PreTrainedModel, RobertaModel, XLMRobertaModel
from transformers.activations import GELUActivation

from heads import Head
from smm4h.models.padding_free.attention import Attention, attention_for
from smm4h.models.padding_free.dropout import Dropout, dropout_scale
from smm4h.models.padding_free.layers import PaddingFreeLayer
from smm4h.models.padding_free.layout import Layout
from smm4h.models.padding_free.weights import LayerWeights

PADDED_POSITIONS = (RobertaModel, CamembertModel, XLMRobertaModel)  # position ids start after the padding id
FAMILY = (BertModel, *PADDED_POSITIONS)


def supports_padding_free(encoder: nn.Module, head: Head | None = None) -> bool:
    """Return whether `PaddingFreeEncoder` can compute the encoder's states, and those that the head reads, if given.

    The encoder must be of the family, with nothing in its config that changes what its layers compute, and no adapter
    beside them. A head that needs all tokens of more than the last layer is not supported.
    """
    if getattr(encoder, "peft_config", None):
        return False
    if head is not None and head.needs_tokens and head.n_layers > 1:
        return False
    if type(encoder) not in FAMILY or encoder.config.is_decoder or encoder.config.add_cross_attention:
        return False
    return all(type(layer.intermediate.intermediate_act_fn) is GELUActivation for layer in encoder.encoder.layer)


class _Stack(torch.autograd.Function):
    """All layers as one autograd function; its last inputs are the layers' parameters."""

    @staticmethod
    def forward(
        ctx, states, encoder: "PaddingFreeEncoder", layout: Layout, n_read: int, all_tokens: bool, dropout, keep, *_
    ):
        layers, attention = encoder.layers_for(all_tokens), encoder.attention_for(layout)
        saved_layers, outputs = [], []
        for number, layer in enumerate(layers):
            states, saved = layer.forward(states, layout, attention, dropout, keep)
            if keep:
                saved_layers.append(saved)
            if number >= len(layers) - n_read:
                outputs.append(states if layer.cls_only else states[layout.starts])
        ctx.saved_layers, ctx.encoder, ctx.layers, ctx.places = saved_layers, encoder, layers, (layout, attention)
        return states if all_tokens else torch.stack(outputs)

    @staticmethod
    def backward(ctx, grad_outputs):
        encoder, layers, saved_layers, (layout, attention) = ctx.encoder, ctx.layers, ctx.saved_layers, ctx.places
        all_tokens = not layers[-1].cls_only
        grads = encoder.gradients()
        grad = grad_outputs.contiguous() if all_tokens else grad_outputs[-1]
        ones = torch.ones(1, len(layout.tokens), dtype=encoder.dtype, device=grad.device)
        first_read = len(layers) if all_tokens else len(layers) - len(grad_outputs)
        for number in reversed(range(len(layers))):
            if first_read <= number < len(layers) - 1:
                grad.index_add_(0, layout.starts, grad_outputs[number - first_read])
            grad = layers[number].backward(grad, saved_layers.pop(), layout, attention, grads[number], ones)
        returned = () if encoder.fills_gradients else (part for layer in grads for part in layer)
        return grad, None, None, None, None, None, None, *returned


@dataclass
class PaddingFreeEncoder:
    """Computes an encoder's states padding-free, with the weights of its modules; a `TweetClassifier.encoder_override`.

    Args:
        encoder: an encoder for which `supports_padding_free` is True.
        dtype: of matrix products, and on a CPU of the states between them where gradients are recorded; weights,
            gradients and norms keep their own. In prediction, and on a GPU, whose norms take weights of the states'
            dtype alone, the residual path keeps the weights' dtype, as under autocast.
        attention: of every batch; None: the best one for the device and the batch.
        residual_dtype: of states where gradients are recorded; None: as said above.
        fills_gradients: the backward pass writes the layers' gradients into their parameters' `grad`, where they must
            have one, and autograd gets none of them.
    """

    encoder: PreTrainedModel
    dtype: torch.dtype
    attention: Attention | None = None
    residual_dtype: torch.dtype | None = None
    fills_gradients: bool = False
    layer_weights: list[LayerWeights] = field(init=False)

    def __post_init__(self) -> None:
        self.layer_weights = [LayerWeights(layer, self.dtype) for layer in self.encoder.encoder.layer]
        self.parameters = [parameter for weights in self.layer_weights for parameter in weights.parameters]
        on_cpu = self.parameters[0].device.type == "cpu"
        self.residual_dtype = self.residual_dtype or (self.dtype if on_cpu else self.parameters[0].dtype)
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

    def forget_copies(self) -> None:
        """Note that the weights have changed in a way that their versions do not tell."""
        self.copied_versions = None

    def attention_for(self, layout: Layout) -> Attention:
        """Return the attention that computes a batch."""
        return self.attention or attention_for(self.layer_weights[0], layout)

    def layers_for(self, all_tokens: bool) -> list[PaddingFreeLayer]:
        """Return the layers; the last one computes the first tokens only, unless `all_tokens`."""
        last = len(self.layer_weights) - 1
        return [
            PaddingFreeLayer(weights, cls_only=number == last and not all_tokens)
            for number, weights in enumerate(self.layer_weights)
        ]

    def gradients(self) -> list[list[torch.Tensor]]:
        """Return memory for each layer's gradients, reused at every step unless gradients are being accumulated."""
        if self.fills_gradients:
            return [[parameter.grad for parameter in weights.parameters] for weights in self.layer_weights]
        n_values = sum(parameter.numel() for parameter in self.parameters)
        if self.buffer is None or any(parameter.grad is not None for parameter in self.parameters):
            self.buffer = torch.empty(n_values, dtype=self.parameters[0].dtype, device=self.parameters[0].device)
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
            attention_mask: on the CPU, or on the device, which is then waited for.
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
        layout = Layout.from_mask(attention_mask, input_ids.device, self.dtype)
        types = None if token_type_ids is None else token_type_ids.reshape(-1)[layout.tokens]
        outputs = self.states(input_ids.reshape(-1)[layout.tokens], types, layout, n_layers, needs_tokens)
        if needs_tokens:
            return [layout.padded(outputs, attention_mask.shape[1])]
        return [layer[layout.order_of_batch].unsqueeze(1) for layer in outputs]

    def states(
        self, tokens: torch.Tensor, types: torch.Tensor | None, layout: Layout, n_layers: int, needs_tokens: bool
    ) -> torch.Tensor:
        """Return states of a row of token ids (n_tokens,): of the last layer (n_tokens, width) if all are needed.

        Else those of each tweet's first token in the last layers, (n_layers, n_tweets, width), in the row's order.
        """
        training = self.encoder.training
        dropout = Dropout(self.dtype, tokens.device) if training else None
        parameters = [] if self.fills_gradients else self.parameters
        with torch.autocast(tokens.device.type, enabled=False):
            states = self._embed(tokens, layout.positions, types, dropout)
            self._refresh(training)
            keep = torch.is_grad_enabled()
            return _Stack.apply(states, self, layout, n_layers, needs_tokens, dropout, keep, *parameters)

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
            states = states.to(self.residual_dtype)
        mask = dropout and dropout.mask(parts.dropout.p, *states.shape)
        return states if mask is None else states * mask * dropout_scale(mask, parts.dropout.p)
