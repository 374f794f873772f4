"""What this machine has."""

import torch


def machine_has_bf16() -> bool:
    """Whether bf16 matrix products run in hardware here: asked from the GPU, or else from the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
