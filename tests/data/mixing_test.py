"""Tests of famjax.data.mixing."""

import collections

import numpy as np
import pytest

from famjax.data.examples import Example
from famjax.data.mixing import MixedExamples


class Numbered:
    """Examples whose only target is their own number."""

    def __init__(self, offset, size=None, skipped=None, corpus=None):
        self.offset, self.size, self.skipped, self.corpus = offset, size, skipped or {}, corpus

    def __getitem__(self, index):
        assert self.size is None or index < self.size
        return Example(np.array([self.offset + index]), np.ones(1, np.float32), np.zeros(1, np.bool_))


def take(examples, count):
    """The numbers of the first `count` examples."""
    return [int(examples[index].targets[0]) for index in range(count)]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rates", [(1.0, 1.0), (1.0, 2.0, 5.0), (0.1, 0.7, 1e-3), (3.0,)])
def test_each_example_comes_once_at_its_rate(shuffle, rates):
    """Guards against examples that a mixture repeats or loses, and rates that are not kept."""
    offsets = [100_000 * part for part in range(len(rates))]
    taken = take(MixedExamples([Numbered(offset) for offset in offsets], rates, shuffle, (0, 1)), 4096)
    for offset, rate in zip(offsets, rates, strict=True):
        mine = sorted(number - offset for number in taken if offset <= number < offset + 100_000)
        assert mine == list(range(len(mine)))
        assert abs(len(mine) - 4096 * rate / sum(rates)) <= len(rates)


def test_no_task_keeps_to_certain_rows():
    """Guards against state passing, which takes row 0 of the batch, that sees one task only."""
    taken = np.array(take(MixedExamples([Numbered(0), Numbered(100_000)], (1.0, 1.0), True, (0, 1)), 8192))
    share = (taken.reshape(-1, 8) >= 100_000).mean(axis=0)
    assert np.all(np.abs(share - 0.5) < 0.08)
    assert not np.array_equal(
        taken, take(MixedExamples([Numbered(0), Numbered(100_000)], (1.0, 1.0), True, (1, 1)), 8192)
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_it_ends_with_the_first_part(shuffle):
    """Guards against a validation split that reads over the end of a part, or stops early."""
    mixed = MixedExamples([Numbered(0, size=30), Numbered(1000)], (1.0, 2.0), shuffle, (0, 1))
    counts = collections.Counter(number >= 1000 for number in take(mixed, mixed.size))
    assert counts[False] == 30
    assert 58 <= counts[True] <= 63
    assert len(set(take(mixed, mixed.size))) == mixed.size


def test_skipped_records_are_summed():
    """Guards against records that are left out of one part unheard."""
    mixed = MixedExamples(
        [Numbered(0, skipped={"a": 1}), Numbered(9, skipped={"a": 2, "b": 3})], (1.0, 1.0), True, (0, 1)
    )
    assert mixed.skipped == {"a": 3, "b": 3}


def test_skipped_records_of_one_corpus_count_once():
    """Guards against a bad record counted by each task that reads it, and against two corpora taken for one."""
    parts = [
        Numbered(0, skipped={"a": 1}, corpus="shared"),
        Numbered(9, skipped={"a": 1, "b": 2}, corpus="shared"),
        Numbered(9, skipped={"a": 1}, corpus="another"),
        Numbered(9, skipped={"a": 1}),
    ]
    assert MixedExamples(parts, (1.0,) * 4, True, (0, 1)).skipped == {"a": 3, "b": 2}
