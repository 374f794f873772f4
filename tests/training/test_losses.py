"""Losses for rare classes against torch's and the papers' formulas."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from smm4h.training.losses import IGNORED, Loss, balanced_weights, log_prior, targets_of

LOGITS = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 2, 1, 2, IGNORED, 0])
WEIGHTS = torch.tensor([3.0, 0.5, 1.0])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_smoothed_cross_entropy_is_torchs(weights, smoothing):
    loss, targets = Loss(weights=weights, smoothing=smoothing), targets_of(LABELS, 3)
    expected = nn.functional.cross_entropy(LOGITS, LABELS, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, targets).sum() / loss.normalizer(targets), expected)


def test_soft_labels_have_torchs_cross_entropy():
    targets = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    expected = nn.functional.cross_entropy(LOGITS, targets, weight=WEIGHTS, reduction="none")
    torch.testing.assert_close(Loss(weights=WEIGHTS)(LOGITS, targets_of(targets, 3)), expected)


def test_focal_loss_is_the_papers():
    """Lin et al. 2017, equation 4: -(1 - p)^gamma log p of the right class."""
    labels = LABELS[LABELS != IGNORED]
    p = LOGITS[LABELS != IGNORED].softmax(dim=1)[range(len(labels)), labels]
    losses = Loss(focal_gamma=2.0)(LOGITS, targets_of(LABELS, 3))
    torch.testing.assert_close(losses[LABELS != IGNORED], -((1 - p) ** 2) * p.log())
    assert losses[LABELS == IGNORED].tolist() == [0.0]


def test_logit_adjustment_is_the_papers():
    """Menon et al. 2021, equation 10: cross-entropy of logits + tau log prior."""
    prior = torch.tensor([0.05, 0.06, 0.89])
    losses = Loss(adjustment=1.5 * log_prior(prior * 100))(LOGITS, targets_of(LABELS, 3))
    expected = nn.functional.cross_entropy(LOGITS + 1.5 * prior.log(), LABELS, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(losses, expected)


def test_a_focal_loss_of_a_certain_tweet_has_a_finite_gradient():
    logits = torch.tensor([[40.0, -40.0]], requires_grad=True)
    Loss(focal_gamma=0.5)(logits, targets_of(torch.tensor([0]), 2)).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 2], [5, 6, 89])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(torch.bincount(torch.from_numpy(labels))), expected)
