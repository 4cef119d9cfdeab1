"""A permutation with random access: shuffles any number of examples in constant memory."""

import numpy as np

_ROUNDS = 4  # the least for a strong pseudo-random permutation (Luby and Rackoff 1988)
_TABLE = 1 << 12  # a network over few bits would favour some permutations
_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """splitmix64's finaliser (Steele et al. 2014): every input bit moves every output bit."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Permutation:
    """A pseudo-random permutation of range(size), in constant memory: a table while that is small, beyond it a cipher.

    The cipher is a Feistel network over the smallest even number of bits that holds `size`, walked until it lands
    inside (cycle walking, Black and Rogaway 2002): bijective by construction.
    """

    def __init__(self, size: int, *key: int) -> None:
        """Chooses the permutation of range(size) that belongs to `key`."""
        seeds = np.random.SeedSequence(key, spawn_key=(1,))  # not those of an example with the same numbers
        self._size = size
        self._table: list[int] | None = None
        if size <= _TABLE:
            self._table = np.random.default_rng(seeds).permutation(size).tolist()
            return
        self._half = max((size - 1).bit_length() + 1, 2) // 2
        self._round_keys = [int(k) for k in seeds.generate_state(_ROUNDS, np.uint64)]

    def __getitem__(self, index: int) -> int:
        """Where `index` goes."""
        if not 0 <= index < self._size:
            raise IndexError(f"{index} is not in range({self._size})")
        if self._table is not None:
            return self._table[index]
        mask, value = (1 << self._half) - 1, index
        while True:
            left, right = value >> self._half, value & mask
            for key in self._round_keys:
                left, right = right, left ^ (_mix(right ^ key) & mask)
            value = (left << self._half) | right
            if value < self._size:
                return value


class EpochOrder:
    """The order in which a finite number of things is taken, epoch after epoch."""

    def __init__(self, size: int, shuffle: bool, *key: int) -> None:
        """Takes `size` things in their own order, or, shuffled, in an order that `key` and the epoch choose."""
        self._size, self._shuffle, self._key = size, shuffle, key
        self._epoch, self._permutation = -1, Permutation(1)

    def __getitem__(self, index: int) -> int:
        """What is taken at `index`, counted over all epochs."""
        epoch, rank = divmod(index, self._size)
        if not self._shuffle:
            return rank
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, Permutation(self._size, *self._key, epoch)
        return self._permutation[rank]
