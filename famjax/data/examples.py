"""An example, and what a task must offer: its example i as a pure function of i.

Random access by index is what makes the rest exact: shuffling permutes indices, mixing deals them out, hosts take
their rows of them, and the state of a stream is one count.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from famjax.data.task_config import TaskConfig
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Example:
    """One example before padding; n tokens.

    Attributes:
      targets: int [n], what is to be predicted, in order.
      weights: float32 [n], of each target in the loss.
      answers: bool [n], the targets that exact match is counted on.
    """

    targets: NDArray[np.integer]
    weights: NDArray[np.float32]
    answers: NDArray[np.bool_]


@runtime_checkable
class Examples(Protocol):
    """The examples of one split of one task.

    Attributes:
      size: examples until the end; None where there is none, as on every training split.
      skipped: bad records that were left out, counted by reason.
    """

    size: int | None
    skipped: dict[str, int]

    def __getitem__(self, index: int) -> Example:
        """Example number `index`, counted from 0."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a task is read.

    Attributes:
      name: of the task.
      split: "train" or "validation".
      shuffle: whether a finite number of examples, or the parts of a mixture, come in a drawn order.
      seed: of everything drawn.
      shortest: tokens of the shortest example; None leaves it to the task.
      longest: tokens of the longest example.
      vocabulary: of the tokens.
      task_config: the settings of another task by its name.
    """

    name: str
    split: str
    shuffle: bool
    seed: int
    shortest: int | None
    longest: int
    vocabulary: Vocabulary
    task_config: Callable[[str], TaskConfig]

    @property
    def key(self) -> tuple[int, int]:
        """A seed for this task and split; the same on every machine."""
        return self.seed, zlib.crc32(f"{self.name}/{self.split}".encode())

    @property
    def ends(self) -> bool:
        """Whether the split has an end."""
        return self.split != "train"

    def random(self, index: int) -> np.random.Generator:
        """The random numbers of example `index`."""
        return np.random.default_rng((*self.key, index))

    def draw_length(self, random: np.random.Generator, least: int, default: int | None, multiple: int) -> int:
        """Draws an example's length.

        Args:
          random: draws.
          least: below this there can be no example of the task.
          default: the task's own shortest length, where the reader asks for none; None: the longest.
          multiple: what the length is a multiple of.

        Returns:
          Uniform over the multiples from the shortest, but at least `least`, to the longest.

        Raises:
          ConfigError: there is no such multiple.
        """
        shortest = self.shortest if self.shortest is not None else (default or self.longest)
        low = min(max(shortest, least), self.longest)
        first, last = -(-low // multiple), self.longest // multiple
        if first > last:
            raise ConfigError(
                f"{self.name}: no multiple of {multiple} (length_multiple) lies in the lengths {low} to {self.longest}."
            )
        return multiple * int(random.integers(first, last + 1))
