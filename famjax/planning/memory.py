"""How a program's memory of one chip divides: by its arrays' shapes and shardings, and by the compiler's figures."""

import dataclasses
import math
import re
from typing import Any, Protocol, runtime_checkable

import jax

from famjax.pods.slices import GIB

# HBM of a chip that libtpu's compiler leaves to a program, by generation: what it says where it refuses one.
AVAILABLE = {"v4": 30.75 * GIB, "v5e": 15.75 * GIB, "v5p": 95.74 * GIB, "v6e": 31.25 * GIB}

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# libtpu's refusals, before and behind the laying out of arrays. The first says "temporaries", and counts arguments and
# results too: a program that doubles an argument of 10 GiB is refused with 20.00G.
_REFUSALS = (
    re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
)


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Bytes of HBM, of one chip, that a program's arguments take, by their shapes and shardings.

    Attributes:
      parameters: of the model.
      optimizer: the optimizer's state.
      state: what else is carried on: passed FAM, the state of rows that are read.
      batch: what is new in every call.
      gradients: of the trained parameters; no argument, but what the program makes at the least.
    """

    parameters: int
    optimizer: int
    state: int
    batch: int
    gradients: int

    @property
    def arguments(self) -> int:
        """What lies there before the program runs."""
        return self.parameters + self.optimizer + self.state + self.batch


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of HBM that a program takes of one chip, and what there is.

    Attributes:
      parameters, optimizer, state, batch: see `Arrays`.
      gradients: of the trained parameters, as far as the program has room for them: a part of what the compiler counts
        as temporary.
      temporaries: activations and all else that lives within a call.
      padding: what the arguments' arrays are filled up with to whole tiles.
      program: its code.
      available: what the compiler leaves to a program.
    """

    parameters: int
    optimizer: int
    state: int
    batch: int
    gradients: int
    temporaries: int
    padding: int
    program: int
    available: int

    @property
    def total(self) -> int:
        """All that is taken."""
        return sum(dataclasses.asdict(self).values()) - self.available

    @property
    def fits(self) -> bool:
        """Whether there is enough."""
        return self.total <= self.available


@runtime_checkable
class Stats(Protocol):
    """What `jax.stages.Compiled.memory_analysis` gives, as far as it is read here; bytes of one chip."""

    argument_size_in_bytes: int
    output_size_in_bytes: int
    alias_size_in_bytes: int
    temp_size_in_bytes: int
    generated_code_size_in_bytes: int


def chip_bytes(abstract: Any) -> int:
    """Bytes that one chip holds of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract)
    )


def divide(arrays: Arrays, stats: Stats, available: int) -> Memory:
    """Divides what the compiler counts of a program that fits."""
    own = stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    padding = max(stats.argument_size_in_bytes - arrays.arguments, 0)
    return _divided(arrays, own, padding, stats.generated_code_size_in_bytes, available)


def divide_refused(arrays: Arrays, message: str) -> Memory | None:
    """Divides what the compiler says of a program that does not fit; None where the message is of something else."""
    for pattern in _REFUSALS:
        if found := pattern.search(message):
            needed, available = _bytes(found[1], found[2]), _bytes(found[3], found[4])
            return _divided(arrays, max(needed - arrays.arguments, 0), 0, 0, available)
    return None


def _divided(arrays: Arrays, own: int, padding: int, program: int, available: int) -> Memory:
    gradients = min(arrays.gradients, own)
    return Memory(
        parameters=arrays.parameters,
        optimizer=arrays.optimizer,
        state=arrays.state,
        batch=arrays.batch,
        gradients=gradients,
        temporaries=own - gradients,
        padding=padding,
        program=program,
        available=available,
    )


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])
