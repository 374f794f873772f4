"""Dropout masks in one piece: of a hash on a CPU, where torch's generator is slow, and of the generator on a GPU."""

import torch


class Dropout:
    """Dropout masks of a training step.

    On a CPU, torch's own generator draws one number after the other; there the masks come from a hash of a counter. The
    hash is MurmurHash3's 64-bit finalizer, without its first shift, which does not matter for a counter. torch's
    generator draws the counter's start. Each of the four 16-bit parts of a hash decides on one value, so that a
    probability is met to 1 / 65,536.
    """

    MULTIPLIERS = (0xFF51AFD7ED558CCD - 2**64, 0xC4CEB9FE1A85EC53 - 2**64)

    def __init__(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.dtype, self.device = dtype, torch.device(device)
        self.counter = torch.randint(2**62, (1,)).item() if self.device.type == "cpu" else 0

    def mask(self, p: float, *shape: int) -> torch.Tensor | None:
        """Return ones for kept values and zeros for dropped ones, of this shape; None where p is 0."""
        if p == 0:
            return None
        kept = torch.empty(shape, dtype=self.dtype, device=self.device)
        return self._hashed(p, kept) if self.device.type == "cpu" else kept.bernoulli_(1 - p)

    def _hashed(self, p: float, kept: torch.Tensor) -> torch.Tensor:
        n_words = -(-kept.numel() // 4)
        words = torch.arange(self.counter, self.counter + n_words)
        self.counter += n_words
        shifted = torch.empty_like(words)
        for multiplier in self.MULTIPLIERS:
            torch.bitwise_right_shift(words.mul_(multiplier), 33, out=shifted)
            words.bitwise_xor_(shifted.bitwise_and_(2**31 - 1))  # the shift copies the sign bit, & clears the copies
        bits = words.view(torch.int16)[: kept.numel()].view(kept.shape)
        return torch.ge(bits, round(p * 2**16) - 2**15, out=kept)


def dropout_scale(mask: torch.Tensor | None, p: float) -> float:
    """Return the factor for kept values."""
    return 1.0 if mask is None else 1.0 / (1.0 - p)
