"""LoRA adapters: small matrices that are trained beside frozen weights of an encoder.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models". In the end they are added to the weights, or saved
alone: `heads.TweetClassifier.from_pretrained` then loads the model that they stand beside. The package peft, an extra,
is imported here and in `heads.py` only.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from heads import AdapterError, TweetClassifier, add_lora, quantisation, weights_checksum
from smm4h.config.job import ALL_LINEAR, Adapter, Member
from smm4h.utils.errors import InputError

WEIGHTS = "model.safetensors"


def quantised(member: Member, device: torch.device) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that quantise a member's encoder on a device; none for most members."""
    try:
        return quantisation(member.args.quantise, device)
    except AdapterError as error:
        raise InputError(f"member {member.name}: {error}") from None


def add_adapter(encoder: PreTrainedModel, adapter: Adapter) -> None:
    """Freeze an encoder, and put new adapter weights beside its linear layers.

    They are drawn from torch's random numbers, in float32 whatever the encoder's own dtype is. An adapted encoder
    computes what it did before, until the adapter is trained.
    """
    add_lora(encoder, adapter.r, adapter.alpha, adapter.dropout, adapter.target_modules or ALL_LINEAR)
    encoder.enable_input_require_grads()  # or recomputed layers (gradient_checkpointing) would see nothing to train


def add_member_adapter(model: TweetClassifier, member: Member) -> None:
    """Add a member's adapter to its new model, whose config gets what an adapter that is saved alone needs."""
    adapter, encoder = member.adapter, model.encoder
    base = base_of(model, member) if member.saves_adapter_alone else None
    add_adapter(encoder, adapter)
    for name, weights in encoder.named_parameters():
        if name.startswith(tuple(model.new_parts)) and weights.is_floating_point():
            weights.requires_grad_(True)  # drawn just now: frozen, they would stay random
    if base is None:
        return
    layers = sorted({name.partition(".lora_A.")[0] for name, _ in encoder.named_parameters() if ".lora_A." in name})
    model.config.adapter = {
        **{"kind": adapter.kind, "r": adapter.r, "alpha": adapter.alpha, "dropout": adapter.dropout},
        **{"target_modules": layers, "quantise": member.args.quantise, "new": model.new_parts, "base": base},
    }


def base_of(model: TweetClassifier, member: Member) -> dict[str, Any]:
    """Return what identifies the encoder that a model's adapter will stand beside: name, revision and checksum.

    Its bytes in memory, too. The revision is the Hub's commit, where the encoder is from there.
    """
    name, encoder = member.args.model_name_or_path, model.encoder
    return {
        "name": str(Path(name).absolute()) if Path(name).is_dir() else name,
        "is_local": Path(name).is_dir(),
        "revision": getattr(encoder.config, "_commit_hash", None) or member.args.model_revision,
        "sha256": weights_checksum(encoder, model.new_parts),
        "bytes": sum(weights.nbytes for weights in encoder.parameters()),
    }


def has_adapter(model: nn.Module) -> bool:
    """Return whether adapter weights stand beside those of the model's encoder."""
    return bool(getattr(getattr(model, "encoder", None), "peft_config", None))


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's weights by name; of an adapted encoder without the frozen ones, which never change."""
    if not has_adapter(model):
        return model.state_dict()
    return {name: weights.detach() for name, weights in model.named_parameters() if weights.requires_grad}


def is_saved_alone(model: nn.Module) -> bool:
    """Return whether a model's adapter is saved without the weights that it stands beside."""
    return getattr(model.config, "adapter", None) is not None  # not every model that is trained is a TweetClassifier


def end_adapter(model: TweetClassifier) -> None:
    """Merge the adapter of a model that is trained, unless it is saved alone."""
    if not is_saved_alone(model):
        merge_adapter(model)


def load_trained(model: TweetClassifier, folder: Path) -> None:
    """Load the weights that a training saved into a new model of its run."""
    weights = load_file(folder / WEIGHTS)
    if is_saved_alone(model):
        model.load_own(weights)
        return
    merge_adapter(model)
    model.load_state_dict(weights)


def convert_saved(folder: Path, target: Path, dtype: torch.dtype) -> None:
    """Write the weights of a saved adapter in another dtype, without a look at the model that it stands beside."""
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})


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
