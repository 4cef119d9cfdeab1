"""How a program's memory divides, a chip: from the shapes and shardings of its arrays and from the compiler's figures."""

import dataclasses
import math
import re
from typing import Any

import jax

_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# What libtpu says, by how far it has come: "... temporaries (31.11G) exceeds available HBM (15.75G)", before it has laid
# the arrays out, or "Used 20.65G of 15.75G hbm", with everything.
_TEMPORARIES = re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)")
_EVERYTHING = re.compile(rf"Used {_SIZE}i?B? of {_SIZE}i?B? hbm", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of HBM that a program takes of one chip.

    Attributes:
      parameters: of the model.
      optimizer: the optimizer's state.
      state: what the run carries besides: passed FAM, streamed or read rows, step and key.
      batch: the batch, and what the arrays above are filled up with to whole tiles.
      gradients: of the trained parameters; part of what the compiler counts as temporary.
      temporaries: activations and all else that lives within the program.
      program: its code.
    """

    parameters: int
    optimizer: int
    state: int
    batch: int
    gradients: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.asdict(self).values())

    @property
    def arguments(self) -> int:
        """What lies there before the program runs."""
        return self.parameters + self.optimizer + self.state + self.batch


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """What libtpu says of a program that does not fit.

    Attributes:
      needed: bytes of one chip: of `part`.
      available: bytes of one chip.
      part: "temporaries" or "everything".
    """

    needed: int
    available: int
    part: str


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Bytes a chip of a program's arguments, by their shapes and shardings."""

    parameters: int
    optimizer: int
    state: int
    batch: int
    gradients: int

    @property
    def total(self) -> int:
        """Of the arguments; gradients are none."""
        return self.parameters + self.optimizer + self.state + self.batch


def chip_bytes(abstract: Any) -> int:
    """Bytes that one chip holds of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract)
    )


def divide(arguments: Arguments, stats: Any) -> Memory:
    """Divides what the compiler counts.

    Args:
      arguments: what the arrays are, by their shapes.
      stats: `jax.stages.Compiled.memory_analysis()`.
    """
    temporary = stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    gradients = min(arguments.gradients, temporary)
    return Memory(
        parameters=arguments.parameters,
        optimizer=arguments.optimizer,
        state=arguments.state,
        batch=max(stats.argument_size_in_bytes - arguments.total + arguments.batch, 0),
        gradients=gradients,
        temporaries=temporary - gradients,
        program=stats.generated_code_size_in_bytes,
    )


def parse_too_large(message: str) -> TooLarge | None:
    """What the compiler's error says of sizes; None where it is another error.

    Raises nothing: an unknown wording of RESOURCE_EXHAUSTED is reported as it is.
    """
    for pattern, part in ((_TEMPORARIES, "temporaries"), (_EVERYTHING, "everything")):
        if found := pattern.search(message):
            needed, unit, available, available_unit = found.groups()
            return TooLarge(_bytes(needed, unit), _bytes(available, available_unit), part)
    return None


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _SIZES[unit])
