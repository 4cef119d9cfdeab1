"""Packs parts of any length into examples of one length, epoch after epoch, with random access."""

import functools

import numpy as np
from numpy.typing import NDArray


def pack(lengths: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Fills examples with parts in their order: a part that has no room left begins the next example.

    Args:
      lengths: of the parts [n], none above `room`.
      room: tokens of an example.

    Returns:
      Where each example begins in `lengths` [examples + 1]; the last entry is n.
    """
    ends = np.cumsum(lengths)
    starts, taken = [0], 0
    while starts[-1] < len(lengths):
        starts.append(int(np.searchsorted(ends, taken + room, side="right")))
        taken = int(ends[starts[-1] - 1])
    return np.array(starts)


class PackedOrder:
    """Which parts an example is made of; an epoch takes every part once, and is packed in an order of its own.

    What example i holds is a function of the key and i, but the number of examples differs from epoch to epoch: to find
    example i, every epoch before it is packed, once (a second or so for a million parts).

    Attributes:
      size: examples of the first epoch.
    """

    def __init__(self, lengths: NDArray[np.int64], room: int, shuffle: bool, *key: int) -> None:
        """Packs the first epoch.

        Args:
          lengths: of the parts [n], n > 0, none above `room`.
          room: tokens of an example.
          shuffle: whether the parts of an epoch come in an order that `key` and the epoch choose.
          key: of that order.
        """
        self._lengths, self._room, self._shuffle, self._key = lengths, room, shuffle, key
        self._epoch = functools.lru_cache(maxsize=2)(self._pack_epoch)  # a batch may lie across two
        self._firsts = [0]  # the number of the first example of each epoch that was packed, and of the next
        self._append_epoch()
        self.size = self._firsts[1]

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        """The numbers of the parts of example `index`, counted over all epochs, in order [parts]."""
        while index >= self._firsts[-1]:
            self._append_epoch()
        epoch = int(np.searchsorted(self._firsts, index, side="right")) - 1
        order, starts = self._epoch(epoch)
        number = index - self._firsts[epoch]
        return order[starts[number] : starts[number + 1]]

    def _append_epoch(self) -> None:
        _, starts = self._epoch(len(self._firsts) - 1)
        self._firsts.append(self._firsts[-1] + len(starts) - 1)

    def _pack_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The order of an epoch's parts, and where its examples begin in it."""
        order = np.arange(len(self._lengths))
        if self._shuffle:
            seeds = np.random.SeedSequence((*self._key, epoch), spawn_key=(2,))  # not those of `Permutation`
            order = np.random.default_rng(seeds).permutation(order)
        return order, pack(self._lengths[order], self._room)
