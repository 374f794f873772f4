"""Copies of an encoder layer's weights for matrix products."""

import torch
from torch import nn


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
        width, made = heads.query.weight.shape[1], {"dtype": dtype, "device": heads.query.weight.device}
        self.qkv = torch.empty(3 * width, width, **made)
        self.qkv_bias = torch.empty(3 * width, **made)
        self.linear = [torch.empty(part.weight.shape, **made) for part in linear]
        self.bias = [torch.empty(part.bias.shape, **made) for part in linear]
        self.zero = torch.zeros((), device=made["device"])
        copies = [p for pair in zip(self.linear, self.bias, strict=True) for p in pair]
        self.copies = [*self.qkv.split(width), *self.qkv_bias.split(width), *copies]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the layer's current weights."""
        torch._foreach_copy_(self.copies, self.parameters[: len(self.copies)])
