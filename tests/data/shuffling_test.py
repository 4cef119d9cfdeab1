"""Tests of famjax.data.shuffling."""

import itertools

import numpy as np
import pytest

from famjax.data.shuffling import EpochOrder, Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 4096, 4097, 5000])
def test_every_index_comes_once(size):
    """Guards against examples that a shuffled epoch repeats or loses."""
    permutation = Permutation(size, 0, 7)
    assert sorted(permutation[index] for index in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [50, 5000])
def test_keys_give_other_permutations(size):
    """Guards against epochs or seeds in the same order, and against an order that is none."""
    orders = []
    for seed, epoch in itertools.product(range(3), range(3)):
        permutation = Permutation(size, seed, epoch)
        orders.append(tuple(permutation[i] for i in range(50)))
    assert len(set(orders)) == len(orders)
    assert tuple(range(50)) not in orders


def test_all_orders_are_about_as_frequent():
    """Guards against a biased shuffle: 24 orders of 4 things, 100 times each expected, chi-square below its 99.9%."""
    orders = dict.fromkeys(itertools.permutations(range(4)), 0)
    for key in range(2400):
        permutation = Permutation(4, key)
        orders[tuple(permutation[i] for i in range(4))] += 1
    assert sum((count - 100) ** 2 / 100 for count in orders.values()) < 49.7


def test_neighbours_part():
    """Guards against a shuffle of a long range that keeps neighbours together."""
    permutation = Permutation(20_000, 3)
    places = np.array([permutation[i] for i in range(20_000)])
    assert np.mean(np.abs(np.diff(places)) < 200) < 0.04


@pytest.mark.parametrize("size", [5, 5000])
def test_outside_is_an_error(size):
    """Guards against an index beyond the end that comes back as some other example."""
    for index in (size, -1):
        with pytest.raises(IndexError):
            Permutation(size, 0)[index]


def test_epochs_take_everything_once_each():
    """Guards against an epoch that goes over its end, or repeats the order of the one before it."""
    order = EpochOrder(10, True, 1)
    epochs = [[order[10 * epoch + i] for i in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [order[i] for i in (3, 25, 3)] == [epochs[0][3], epochs[2][5], epochs[0][3]]
    plain = EpochOrder(4, False)
    assert [plain[i] for i in range(6)] == [0, 1, 2, 3, 0, 1]
