"""Tests of famjax.data.packing."""

import itertools

import numpy as np

from famjax.data.packing import PackedOrder, pack

LENGTHS = np.random.default_rng(0).integers(1, 40, 200)
ROOM = 100


def epochs(order, count):
    """The parts of each example, epoch by epoch; how many examples an epoch has is found by counting parts."""
    found, index = [], 0
    for _ in range(count):
        examples, taken = [], 0
        while taken < len(LENGTHS):
            examples.append(order[index].tolist())
            taken += len(examples[-1])
            index += 1
        found.append(examples)
    return found


def test_an_example_is_closed_only_when_the_next_part_has_no_room():
    """Guards against examples above the room, and against room left that the next part would have fitted into."""
    starts = pack(LENGTHS, ROOM)
    assert (starts[0], starts[-1]) == (0, len(LENGTHS))
    sums = [LENGTHS[a:b].sum() for a, b in itertools.pairwise(starts)]
    assert max(sums) <= ROOM
    assert all(filled + LENGTHS[b] > ROOM for filled, b in zip(sums[:-1], starts[1:-1], strict=True))
    assert pack(np.array([ROOM, ROOM, 1, ROOM - 1, 1]), ROOM).tolist() == [0, 1, 2, 4, 5]


def test_an_epoch_has_every_part_once():
    """Guards against parts that an epoch repeats or loses, and epochs that repeat one order."""
    order = PackedOrder(LENGTHS, ROOM, True, 1, 2)
    first, second, third = epochs(order, 3)
    for examples in (first, second, third):
        assert sorted(itertools.chain(*examples)) == list(range(len(LENGTHS)))
        assert all(LENGTHS[part].sum() <= ROOM for part in examples)
    assert order.size == len(first)
    assert len({str(examples) for examples in (first, second, third)}) == 3
    assert {len(first), len(second), len(third)} != {len(first)}  # the numbers of examples differ, or this shows little


def test_without_shuffling_the_order_stays():
    """Guards against parts in another order than that of their files."""
    order = PackedOrder(LENGTHS, ROOM, False, 1, 2)
    first, second = epochs(order, 2)
    assert list(itertools.chain(*first)) == list(range(len(LENGTHS)))
    assert first == second


def test_any_example_is_found_at_once():
    """Guards against a resumed run, or a host with other rows, that gets other examples."""
    whole = list(itertools.chain(*epochs(PackedOrder(LENGTHS, ROOM, True, 1, 2), 4)))
    for index in (len(whole) - 1, 0, len(whole) // 2):
        assert PackedOrder(LENGTHS, ROOM, True, 1, 2)[index].tolist() == whole[index]
    assert PackedOrder(LENGTHS, ROOM, True, 1, 3)[0].tolist() != whole[0]
