"""Losses for rare classes: logits and targets in, one loss a tweet out."""

from dataclasses import dataclass

import torch
from torch import nn

IGNORED = -100  # the label that no loss counts


def targets_of(labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Target probabilities (n_tweets, n_classes) of class indices (n_tweets,); soft labels already are some.

    The row of an `IGNORED` label is zero.
    """
    if labels.dim() == 2:
        return labels.float()
    counted = labels != IGNORED
    return nn.functional.one_hot(labels.where(counted, 0), n_classes).float() * counted.unsqueeze(1)


@dataclass(frozen=True)
class Loss:
    """Cross-entropy with class weights, focus, logit adjustment and label smoothing, each of which may be absent.

    Args:
        weights: (n_classes,) of each class's part in the loss.
        focal_gamma: how much a tweet counts less for being easy: (1 - p)^gamma (Lin et al. 2017, equation 4).
        adjustment: (n_classes,) added to the logits while training: tau log prior (Menon et al. 2021, equation 10).
        smoothing: the share of each target that is spread over all classes.
    """

    weights: torch.Tensor | None = None
    focal_gamma: float = 0.0
    adjustment: torch.Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss (n_tweets,) of each tweet; 0 where its targets are."""
        if self.adjustment is not None:
            logits = logits + self.adjustment.to(logits)
        log_p = logits.log_softmax(dim=-1)
        smoothed = targets
        if self.smoothing:
            n_classes = targets.shape[-1]
            smoothed = targets * (1 - self.smoothing) + targets.sum(-1, keepdim=True) * self.smoothing / n_classes
        parts = smoothed * log_p
        if self.weights is not None:
            parts = parts * self.weights.to(parts)
        if self.focal_gamma:
            parts = parts * (-log_p.expm1()).clamp_min(1e-7) ** self.focal_gamma  # 1 - p; its power has a slope at 0
        return -parts.sum(dim=-1)

    def normalizer(self, targets: torch.Tensor) -> torch.Tensor:
        """What the losses of these tweets are to be divided by for a mean: their number, or the sum of their weights.

        The divisor of torch's weighted cross-entropy. A mean over a step needs it of the whole step, not of each part.
        """
        return targets.sum() if self.weights is None else (targets * self.weights.to(targets)).sum()


def balanced_weights(counts: torch.Tensor) -> torch.Tensor:
    """Weights (n_classes,) by which all classes have the same part: n / (n_classes n_c), as in scikit-learn."""
    return counts.sum() / (len(counts) * counts.clamp_min(1))


def log_prior(counts: torch.Tensor) -> torch.Tensor:
    """Logarithm of each class's share (n_classes,) of the tweets; a class without any counts as one tweet."""
    return (counts.clamp_min(1) / counts.sum()).log()
