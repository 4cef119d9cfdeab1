"""What a model has read, as a value: rows, each with its state and what it needs to say the next token."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import NDArray

from famjax.models.dims import Leaf
from famjax.models.memory import State, state_axes


@struct.dataclass
class Rows:
    """The part of a `Context` that lies on the devices. Its size does not depend on how much was read.

    Attributes:
      state: of the model; never `aligned`, so that one compiled step serves every place in a block.
      hidden: activations of the last token of each row [B, D]: the output layer makes of them the next token's logits.
    """

    state: State
    hidden: Leaf


@dataclasses.dataclass(frozen=True)
class Context:
    """Rows that have read something. Nothing changes it: what reads on, or answers, returns another.

    Attributes:
      rows: on the devices.
      num_tokens: tokens that each row has read, the beginning token included [rows].
    """

    rows: Rows
    num_tokens: NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.num_tokens)


def select(context: Context, indices: list[int]) -> Context:
    """The rows `indices`, in this order; a row may come several times."""
    index = jnp.asarray(indices, jnp.int32)
    return Context(
        rows=_map_rows(lambda arrays, axis: jnp.take(arrays[0], index, axis=axis), context.rows),
        num_tokens=context.num_tokens[indices],
    )


def join(contexts: list[Context]) -> Context:
    """The rows of all contexts, one behind the other."""
    return Context(
        rows=_map_rows(lambda arrays, axis: jnp.concatenate(arrays, axis=axis), *(each.rows for each in contexts)),
        num_tokens=np.concatenate([each.num_tokens for each in contexts]),
    )


def _map_rows(function: Any, *rows: Rows) -> Rows:
    """Applies (arrays, row axis) -> array to the same array of each."""
    return jax.tree.map(
        lambda names, *arrays: function(arrays, names.index("batch")),
        rows_axes(rows[0]),
        *rows,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def rows_axes(rows: Rows) -> Rows:
    """Logical axis names of every array."""
    return Rows(state=state_axes(rows.state), hidden=("batch", "activation_embed"))


def ones(num_rows: int) -> NDArray[np.int64]:
    """The counts of rows that have read one token."""
    return np.ones(num_rows, np.int64)
