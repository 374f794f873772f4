"""Losses for rare classes: logits and targets in, one loss per tweet out."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from smm4h.config.job import Member
from smm4h.config.task import Task
from smm4h.training.sampler import ClassSampling

IGNORED = -100  # label without a loss, torch's `ignore_index`


def targets_of(labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return target probabilities (n_tweets, n_classes): class indices (n_tweets,) one-hot, soft labels unchanged.

    The row of an `IGNORED` label is zero.
    """
    if labels.dim() == 2:
        return labels.float() * (labels[:, :1] != IGNORED)
    counted = labels != IGNORED
    return nn.functional.one_hot(labels.where(counted, 0), n_classes).float() * counted.unsqueeze(1)


@dataclass(frozen=True)
class Loss:
    """Cross-entropy with optional class weights, focal term, logit adjustment and label smoothing.

    Args:
        weights: (n_classes,) factor of each class's loss.
        focal_gamma: exponent of the factor (1 - p)^gamma, which lowers the loss of easy tweets (Lin et al. 2017,
            equation 4).
        adjustment: (n_classes,) added to the logits while training: tau log prior (Menon et al. 2021, equation 10).
        smoothing: share of each target that is spread over all classes.
    """

    weights: torch.Tensor | None = None
    focal_gamma: float = 0.0
    adjustment: torch.Tensor | None = None
    smoothing: float = 0.0

    def targets(self, labels: torch.Tensor, n_classes: int) -> torch.Tensor:
        """Return the targets (n_tweets, n_classes) of a batch's labels; see `targets_of`."""
        return targets_of(labels, n_classes)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss (n_tweets,) of each tweet; 0 for a row of zero targets.

        Args:
            logits: (n_tweets, n_classes).
            targets: (n_tweets, n_classes) probabilities, see `targets_of`.
        """
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
            parts = parts * (-log_p.expm1()).clamp_min(1e-7) ** self.focal_gamma  # 1 - p, with a finite slope at 0
        return -parts.sum(dim=-1)

    def to(self, device: torch.device) -> "Loss":
        """Return the loss with its weights and adjustment on a device, in the precision of the logits."""
        moved = {name: getattr(self, name) for name in ("weights", "adjustment")}
        return replace(self, **{name: None if t is None else t.to(device).float() for name, t in moved.items()})

    def normalizer(self, targets: torch.Tensor) -> torch.Tensor:
        """Return the scalar that divides summed losses: the number of tweets, or the sum of their class weights.

        This is the divisor of torch's weighted cross-entropy. For the mean over an accumulated step, pass the targets
        of the whole step: means of micro-batches of unequal weight would average to another loss.
        """
        return targets.sum() if self.weights is None else (targets * self.weights.to(targets)).sum()


def label_set_targets(labels: torch.Tensor, n_labels: int) -> torch.Tensor:
    """Return whether each tweet has each label, (n_tweets, n_labels), of classes (n_tweets,); soft labels unchanged.

    The row of an `IGNORED` class has `IGNORED` everywhere.
    """
    if labels.dim() == 2:
        return labels.float()
    bits = labels.unsqueeze(1) >> torch.arange(n_labels, device=labels.device) & 1
    return bits.float().where((labels != IGNORED).unsqueeze(1), float(IGNORED))


@dataclass(frozen=True)
class LabelSetLoss(Loss):
    """Binary cross-entropy over the labels of a set, with the options of `Loss` for each label on its own.

    Args:
        weights: (n_labels,) factor of a label's loss where a tweet has it.
        focal_gamma: exponent of the factor (1 - p)^gamma, p the probability of what is right (Lin et al. 2017).
        adjustment: (n_labels,) added to the logits while training: tau times the log odds of the label's share, the
            rule of Menon et al. 2021 for two classes.
        smoothing: share of each target that is spread over presence and absence.
    """

    def targets(self, labels: torch.Tensor, n_labels: int) -> torch.Tensor:
        """Return the targets (n_tweets, n_labels) of a batch's labels; see `label_set_targets`."""
        return label_set_targets(labels, n_labels)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss (n_tweets,) of each tweet, the mean over its labels; 0 for a row of `IGNORED` targets."""
        if self.adjustment is not None:
            logits = logits + self.adjustment.to(logits)
        counted = targets[:, 0] != IGNORED
        smoothed = targets * (1 - self.smoothing) + self.smoothing / 2
        log_p, log_not = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
        given, absent = smoothed * log_p, (1 - smoothed) * log_not
        if self.weights is not None:
            given = given * self.weights.to(given)
        if self.focal_gamma:
            given = given * (-log_p.expm1()).clamp_min(1e-7) ** self.focal_gamma  # 1 - p, with a finite slope at 0
            absent = absent * (-log_not.expm1()).clamp_min(1e-7) ** self.focal_gamma
        return torch.where(counted, -(given + absent).mean(dim=-1), 0.0)

    def normalizer(self, targets: torch.Tensor) -> torch.Tensor:
        """Return the scalar that divides summed losses: the number of tweets."""
        return (targets[:, 0] != IGNORED).sum().to(targets.dtype)


def label_odds(counts: torch.Tensor, n_tweets: torch.Tensor) -> torch.Tensor:
    """Return each label's odds (n_labels,), tweets with it to tweets without it; no count is below one tweet."""
    return counts.clamp_min(1) / (n_tweets - counts).clamp_min(1)


def balanced_weights(counts: torch.Tensor) -> torch.Tensor:
    """Return class weights (n_classes,) n / (n_classes n_c), as scikit-learn's `class_weight="balanced"`."""
    return counts.sum() / (len(counts) * counts.clamp_min(1))


def log_prior(counts: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of each class's share (n_classes,) of the tweets, given counts (n_classes,).

    An empty class counts as one tweet, since the logarithm of 0 is not finite.
    """
    return (counts.clamp_min(1) / counts.sum()).log()


def loss_of(member: Member, task: Task, labels: np.ndarray, sampling: ClassSampling | None, smoothing: float) -> Loss:
    """Return the member's loss, with class weights and priors of the tweets as sampled.

    Args:
        labels: (n_tweets,) class indices, or (n_tweets, n_classes) probabilities.
        smoothing: label smoothing, the share of each target that is spread over all classes.
    """
    kind = LabelSetLoss if task.multi_label else Loss
    targets = kind().targets(torch.from_numpy(labels), task.n_classes).double()
    shown = torch.ones(len(targets)).double() if sampling is None else torch.from_numpy(sampling.shown())
    counts, class_weights = (targets * shown.unsqueeze(1)).sum(dim=0), member.class_weights()
    odds = label_odds(counts, shown.sum())
    weights = None
    if class_weights == "balanced":
        weights = 1 / odds if task.multi_label else balanced_weights(counts)
    if isinstance(class_weights, dict):
        weights = torch.tensor([float(class_weights.get(label, 1.0)) for label in task.labels])
    tau = member.args.logit_adjustment
    priors = odds.log() if task.multi_label else log_prior(counts)
    return kind(weights, member.args.focal_gamma, tau * priors if tau else None, smoothing)
