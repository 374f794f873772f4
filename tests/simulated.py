"""Simulated probabilities of members that see the same classes through noise of their own, and the gold labels."""

import numpy as np

from smm4h import metrics
from smm4h.models import voting

RARE = metrics.Objective(metrics.f1, (1,))
TWO_RARE = metrics.Objective(metrics.f1, (0, 1))


def binary(seed=0, n_tweets=2000, share=0.05, shift=1.5, n_members=1):
    """Return probs (n_members, n_tweets, 2), of the rare class 1 far too low for argmax, and gold (n_tweets,).

    Args:
        share: of the rare tweets.
        shift: of their logits; 0: nobody can tell them apart.
    """
    rng = np.random.default_rng(seed)
    gold = (rng.random(n_tweets) < share).astype(int)
    logits = shift * gold + rng.normal(size=(n_members, n_tweets)) - 4
    positive = 1 / (1 + np.exp(-logits))
    return np.stack([1 - positive, positive], axis=2), gold


def three_classes(seed=0, n_tweets=1500):
    """Return one model's probs (n_tweets, 3), of which classes 0 and 1 are rare, and gold (n_tweets,)."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, n_tweets, p=[0.05, 0.06, 0.89])
    logits = 2.0 * np.eye(3)[gold] + rng.normal(size=(n_tweets, 3)) + np.array([-3.0, -2.0, 2.0])
    return voting.softmax(logits), gold


def gold_and_predictions(seed, n_classes, n_tweets=300):
    """Return gold labels, and predictions (n_tweets,) that are right two times of three."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, n_classes, n_tweets)
    return gold, np.where(rng.random(n_tweets) < 0.6, gold, rng.integers(0, n_classes, n_tweets))


def noisy_folds(n_classes, n_folds=5, n_members=2, n_tweets=3000):
    """Return probs (n_folds, n_members, n_tweets, n_classes) of models that agree but for much noise, and gold."""
    rng = np.random.default_rng(0)
    prior = np.array([0.95, 0.05]) if n_classes == 2 else np.array([0.05, 0.06, 0.89])
    gold = rng.choice(n_classes, n_tweets, p=prior)
    noise = 2.0 * rng.normal(size=(n_folds, n_members, n_tweets, n_classes))
    return voting.softmax(1.5 * np.eye(n_classes)[gold] + noise + 3 * np.log(prior)), gold


def two_groups(shift=1.8, n_tweets=4000):
    """Return binary probs (1, n_tweets, 2), gold and groups: in group `b` the rare class gets far lower ones."""
    probs, gold = binary(n_tweets=n_tweets, share=0.1, shift=shift)
    groups = np.where(np.arange(n_tweets) % 2 == 0, "a", "b")
    logits = np.log(probs) + 2.5 * ((groups == "b")[:, None] & [True, False])
    return voting.softmax(logits), gold, groups
