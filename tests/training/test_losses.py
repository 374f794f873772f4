"""Losses for rare classes against torch's and the papers' formulas."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from smm4h.training.losses import IGNORED, LabelSetLoss, Loss, balanced_weights, label_odds, log_prior, targets_of

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


CLASSES = torch.tensor([5, 0, 2])  # label sets: the labels 0 and 2, none, the label 1
INDICATORS = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
SET_LOGITS = torch.tensor([[1.5, -0.3, 0.2], [-2.0, 0.4, 0.1], [0.3, 0.9, -1.1]])


def test_the_loss_of_label_sets_is_torchs_binary_cross_entropy():
    loss = LabelSetLoss(weights=torch.tensor([2.0, 1.0, 0.5]))
    targets = loss.targets(CLASSES, 3)
    torch.testing.assert_close(targets, INDICATORS)
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=loss.weights)(SET_LOGITS, INDICATORS)
    torch.testing.assert_close(loss(SET_LOGITS, targets).sum() / loss.normalizer(targets), expected)
    smoothed = torch.nn.BCEWithLogitsLoss()(SET_LOGITS, INDICATORS * 0.8 + 0.1)
    torch.testing.assert_close(LabelSetLoss(smoothing=0.2)(SET_LOGITS, targets).mean(), smoothed)


def test_an_easy_label_of_a_set_counts_less_by_the_focal_term():
    p_right = torch.where(INDICATORS > 0, SET_LOGITS.sigmoid(), 1 - SET_LOGITS.sigmoid())
    expected = (-((1 - p_right) ** 2) * p_right.log()).mean(dim=1)
    torch.testing.assert_close(LabelSetLoss(focal_gamma=2.0)(SET_LOGITS, INDICATORS), expected)


def test_a_filler_is_no_tweet_without_labels():
    """A process without a tweet in a short batch gets a row that must not teach that no label is given."""
    loss = LabelSetLoss()
    for labels in (torch.tensor([5, IGNORED]), torch.tensor([[1.0, 0, 1], [float(IGNORED)] * 3])):
        targets = loss.targets(labels, 3)
        losses = loss(SET_LOGITS[:2], targets)
        assert losses[1] == 0
        assert loss.normalizer(targets) == 1
        torch.testing.assert_close(losses[0], loss(SET_LOGITS[:1], INDICATORS[:1])[0])


def test_the_logits_of_label_sets_are_adjusted_by_the_odds_of_each_label():
    odds = label_odds(torch.tensor([30.0, 10.0, 0.0]), torch.tensor(40.0))
    torch.testing.assert_close(odds, torch.tensor([3.0, 1 / 3, 1 / 40]))
