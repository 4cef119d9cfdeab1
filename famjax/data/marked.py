"""Tokens of which some are marked as an answer."""

import dataclasses

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Marked:
    """Tokens, and which of them are to be learnt.

    Attributes:
      tokens: int32 [n].
      answers: bool [n].
    """

    tokens: NDArray[np.int32]
    answers: NDArray[np.bool_]

    def packed(self) -> NDArray[np.uint32]:
        """Both in one number a token [n]: twice the id, and 1 more in an answer."""
        return self.tokens.astype(np.uint32) * 2 + self.answers


def unpacked(values: NDArray[np.unsignedinteger]) -> Marked:
    """The inverse of `Marked.packed`."""
    return Marked((values >> 1).astype(np.int32), (values & 1).astype(np.bool_))
