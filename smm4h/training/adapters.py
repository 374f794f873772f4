"""LoRA adapters: small matrices that are trained beside frozen weights of an encoder, and added to them at the end.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models". The package peft, an extra, is imported here only.
"""

import torch
from torch import nn

from heads import TweetClassifier
from smm4h.config.job import Adapter


def add_adapter(encoder: nn.Module, adapter: Adapter) -> None:
    """Freeze an encoder, and put new adapter weights beside its linear layers.

    They are drawn from torch's random numbers, in float32 whatever the encoder's own dtype is. An adapted encoder
    computes what it did before, until the adapter is trained.
    """
    from peft import LoraConfig

    modules = list(adapter.target_modules) if adapter.target_modules else "all-linear"
    encoder.add_adapter(
        LoraConfig(r=adapter.r, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout, target_modules=modules)
    )
    for weights in encoder.parameters():
        if weights.requires_grad:
            weights.data = weights.data.float()
    encoder.enable_input_require_grads()  # or recomputed layers (gradient_checkpointing) would see nothing to train


def has_adapter(model: nn.Module) -> bool:
    """Return whether adapter weights stand beside those of the model's encoder."""
    return bool(getattr(getattr(model, "encoder", None), "peft_config", None))


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's weights by name; of an adapted encoder without the frozen ones, which never change."""
    weights = model.state_dict()
    if not has_adapter(model):
        return weights
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in weights.items() if name not in frozen}


@torch.no_grad()
def merge_adapter(model: TweetClassifier) -> None:
    """Add the adapter's products to the encoder's weights, which from now on are those of an ordinary encoder."""
    if not has_adapter(model):
        return
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.encoder.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.encoder.get_submodule(parent), own, layer.get_base_layer())
    del model.encoder.peft_config
    model.encoder._hf_peft_config_loaded = False
    model.encoder.disable_input_require_grads()
    model.encoder.requires_grad_(True)
