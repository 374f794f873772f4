"""What this machine has."""

import torch


def has_bf16(device: str) -> bool:
    """Whether this machine's devices of a kind (`cuda`, `cpu`, ...) have bf16 matrix products in hardware."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported()
