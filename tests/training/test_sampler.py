"""Batch and class sampling: what an epoch shows, in which order, and to which process."""

import numpy as np
import pytest
from torch.utils.data import DataLoader

from smm4h.training.sampler import FILLER, ClassSampling, ResumableBatchSampler, epoch_order

IS_RARE = np.arange(100) % 20 == 0


def test_an_epoch_shows_every_rare_tweet_and_as_many_others_as_asked():
    sampling = ClassSampling(IS_RARE, negatives_per_positive=3, positive_copies=2)
    drawn = sampling.draw(seed=1, epoch=0)
    assert len(drawn) == len(sampling) == 2 * 5 + 30
    assert np.bincount(drawn, minlength=100)[IS_RARE].tolist() == [2] * 5
    assert np.bincount(drawn, minlength=100)[~IS_RARE].max() == 1
    assert sampling.shown()[~IS_RARE] == pytest.approx(30 / 95)


def test_no_negative_is_shown_again_before_all_were_shown():
    sampling = ClassSampling(IS_RARE, negatives_per_positive=4)
    for epochs, most in ((4, 1), (9, 2)):
        counts = sum(np.bincount(sampling.draw(3, epoch), minlength=100) for epoch in range(epochs))[~IS_RARE]
        assert counts.max() == most
        assert counts.min() >= most - 1


def test_there_are_never_more_negatives_than_there_are():
    assert len(ClassSampling(IS_RARE, negatives_per_positive=1000)) == 100
    assert len(ClassSampling(np.zeros(10, dtype=bool), negatives_per_positive=3)) == 10


def test_batches_hold_what_the_class_sampling_draws_whatever_the_number_of_processes():
    sampling, lengths = ClassSampling(IS_RARE, negatives_per_positive=3), list(range(1, 101))

    def batches(**process):
        sampler = ResumableBatchSampler(lengths, 8, strategy="random", seed=5, sampling=sampling, **process)
        sampler.epoch = 2
        return list(sampler)

    alone, parts = batches(), [batches(rank=rank, n_processes=2) for rank in range(2)]
    assert sorted(index for batch in alone for index in batch) == sampling.draw(5, 2).tolist()
    for batch, *halves in zip(alone, *parts, strict=True):
        assert sorted(batch) == sorted(index for half in halves for index in half if index >= 0)


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "sequential"])
def test_an_epochs_order_depends_on_seed_and_epoch_alone(strategy):
    lengths = np.random.default_rng(0).integers(5, 40, 203).tolist()
    orders = {(seed, epoch): epoch_order(lengths, 16, strategy, seed, epoch) for seed in (1, 2) for epoch in (0, 1)}
    assert all(sorted(order) == list(range(203)) for order in orders.values())
    assert epoch_order(lengths, 16, strategy, 1, 1) == orders[1, 1]
    assert len({tuple(order) for order in orders.values()}) == (1 if strategy == "sequential" else 4)


def test_grouping_by_length_leaves_hardly_any_padding():
    lengths = np.random.default_rng(0).integers(5, 90, 2000).tolist()
    padded = {}
    for strategy in ("random", "group_by_length"):
        batches = list(ResumableBatchSampler(lengths, 16, strategy=strategy))
        padded[strategy] = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) / sum(lengths)
    assert padded["random"] > 1.5
    assert padded["group_by_length"] < 1.1


@pytest.mark.parametrize("n_tweets", [32, 37, 33])
@pytest.mark.parametrize("n_processes", [2, 4])
def test_the_parts_of_all_processes_join_to_the_batch_of_one(n_tweets, n_processes):
    alone = list(ResumableBatchSampler([1] * n_tweets, 8, seed=3))
    parts = [
        list(ResumableBatchSampler([1] * n_tweets, 8, seed=3, rank=r, n_processes=n_processes))
        for r in range(n_processes)
    ]
    assert {len(part) for part in parts} == {len(alone)}
    for number, batch in enumerate(alone):
        shared = [part[number] for part in parts]
        assert len({len(piece) for piece in shared}) == 1  # or a process would wait for another one's step
        assert sorted(i for piece in shared for i in piece if i != FILLER) == sorted(batch)


def test_an_epoch_has_the_same_batches_each_time():
    batches = ResumableBatchSampler([1] * 40, 8, seed=1)
    batches.epoch = 2
    loader = DataLoader(list(range(40)), batch_sampler=batches)
    first = [batch.tolist() for batch in loader]
    assert [batch.tolist() for batch in loader] == first
