"""Mixtures: deals the examples of several tasks out in fixed proportion, with random access."""

import collections
from collections.abc import Hashable, Sequence

from famjax.data.examples import Example, Examples
from famjax.data.shuffling import EpochOrder, Permutation

_DEAL = 256  # the order is shuffled inside deals of so many examples
_ONE = 1 << 32  # shares are fixed-point numbers, so that dealing is exact at any index


class MixedExamples:
    """Examples of several tasks.

    The first i examples of a dealt order hold i * share of the first task, rounded down, and so on down the list: so
    the number within its task of any example is a formula, and every example of every task comes exactly once. Where
    there is no end deals of 256 are shuffled, so that no task keeps to certain rows of a batch.

    Attributes:
      parts: the examples of each task.
    """

    def __init__(self, parts: Sequence[Examples], rates: Sequence[float], shuffle: bool, key: tuple[int, int]) -> None:
        """Mixes `parts` at `rates` (any positive numbers), in an order that `key` chooses if `shuffle`."""
        self.parts, self._shuffle, self._key = tuple(parts), shuffle, key
        # Of what the tasks before it leave over; the last one takes all of that.
        shares = [round(rate / sum(rates[number:]) * _ONE) for number, rate in enumerate(rates)]
        self._shares = [min(max(share, 1), _ONE - 1) for share in shares[:-1]] + [_ONE]
        self.size = self._first_end()
        self._order = None if self.size is None else EpochOrder(self.size, shuffle, *key)
        self._deal, self._permutation = -1, Permutation(_DEAL)
        self.skipped = _skipped(parts)

    def __getitem__(self, index: int) -> Example:
        """See `famjax.data.examples.Examples`."""
        if self._order is not None:
            index = self._order[index]
        elif self._shuffle:
            index = self._shuffled(index)
        part, number = self.dealt(index)
        return self.parts[part][number]

    def dealt(self, index: int) -> tuple[int, int]:
        """Which task the example `index` of the dealt order is of, and its number there."""
        for part, share in enumerate(self._shares):
            taken = index * share // _ONE
            if (index + 1) * share // _ONE > taken:
                return part, taken
            index -= taken
        raise AssertionError("the last share is the whole")

    def _shuffled(self, index: int) -> int:
        deal, rank = divmod(index, _DEAL)
        if deal != self._deal:
            self._deal, self._permutation = deal, Permutation(_DEAL, *self._key, deal)
        return deal * _DEAL + self._permutation[rank]

    def _first_end(self) -> int | None:
        """How many examples come before the first finite task would start again; None if none is finite."""
        if all(part.size is None for part in self.parts):
            return None
        low, high = 0, 1
        while not self._ended(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._ended(middle) else (middle, high)
        return low

    def _ended(self, count: int) -> bool:
        """Whether `count` examples in dealt order take more of some task than it has."""
        for share, part in zip(self._shares, self.parts, strict=True):
            taken = count * share // _ONE
            if part.size is not None and taken > part.size:
                return True
            count -= taken
        return False


def _skipped(parts: Sequence[Examples]) -> dict[str, int]:
    """What was left out, summed over the corpora.

    Parts that read one corpus (`documents`, and the text around the keys of `passkey_documents`) left out the same
    records, which count once: of each reason, the most that one of them counted.
    """
    by_source: dict[Hashable, collections.Counter[str]] = {}
    for number, part in enumerate(parts):
        source = getattr(part, "corpus", None) or number
        by_source[source] = by_source.get(source, collections.Counter()) | collections.Counter(part.skipped)
    return dict(sum(by_source.values(), collections.Counter()))
