"""Gradients of a batch: summed over microbatches, and over the devices that have different rows.

The devices of the mesh's data and fsdp axes each work on their own rows, as one device would, and what they computed is
summed at the end: one reduction of each gradient, however often a parameter is used (FAM uses every matrix once a
block). Parameters that are cut over the fsdp axis are gathered by the layer, and their gradients summed into parts.
The model axis is the compiler's.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from famjax.models.dims import Leaf, SavedFam
from famjax.models.memory import State, state_axes
from famjax.models.sharding import KEPT_AXIS, Axes, constrain, mesh_axes
from famjax.training.parameter_paths import path_name
from famjax.training.state_passing import PassedFam
from famjax.training.streaming import cut_rows, join_rows

Batch = Mapping[str, jax.Array]
# A (micro)batch, what its rows carry, and its key.
Part = tuple[Batch, State | None, jax.Array]


class Scores(Protocol):
    """What the forward pass over a (micro)batch gives besides its loss."""

    @property
    def summed(self) -> Any:
        """What adds up over microbatches, and over rows."""

    @property
    def fam(self) -> PassedFam:
        """The FAM that the first row ends with."""

    @property
    def stream(self) -> State | None:
        """What the rows carry into the next step, where documents are streamed."""


@struct.dataclass
class Accumulated:
    """What the rows of a batch give.

    Attributes:
      gradients: of the summed loss with respect to what is trained; in between, with respect to the FAM that texts
        begin with besides.
      summed: see `Scores`.
      fam: that the first row of the batch ends with.
      stream: see `Scores`.
    """

    gradients: Any
    summed: Any
    fam: Leaf
    stream: Any


# (trained parameters, the FAM that texts begin with, all parameters, (micro)batch, its rows' state, key) -> the summed
# loss and scores.
LossOf = Callable[[Any, SavedFam, Any, Batch, State | None, jax.Array], tuple[Float[Array, ""], Scores]]


def accumulate(
    loss_of: LossOf,
    start_of: Callable[[Any], SavedFam],
    trained: Any,
    params: Any,
    part: Part,
    *,
    num_microbatches: int,
    axes: Mapping[str, Axes],
) -> Accumulated:
    """Sums gradients and scores over microbatches and devices.

    Args:
      loss_of: of the rows that it is given, summed over them; what it closes over is the same on every device.
      start_of: makes the FAM that texts begin with [L, F, D] of the trained parameters: once, being the same for all
        rows.
      trained: the parameters that are differentiated by (None, which is no leaf, in place of the others).
      params: all parameters.
      part: the whole batch, arrays whose first axis is that of the rows; what these carry; the key of the step.
      num_microbatches: parts that are computed one after the other.
      axes: logical axes of the parameters, by path.
    """

    def of_rows(trained: Any, fam: SavedFam, params: Any, part: Part) -> Accumulated:
        return _over_microbatches(loss_of, trained, fam, params, part, num_microbatches)

    mapped = _over_devices(of_rows, axes) if mesh_axes("batch") else of_rows
    fam, back_from_start = jax.vjp(start_of, trained)
    given = mapped(trained, fam, params, part)
    of_trained, of_fam = given.gradients
    gradients = jax.tree_util.tree_map_with_path(
        lambda path, gradient, through_start: constrain(gradient + through_start, axes[path_name(path)]),
        of_trained,
        *back_from_start(of_fam),
    )
    return dataclasses.replace(given, gradients=gradients)


def _over_devices(of_rows: Callable[..., Accumulated], axes: Mapping[str, Axes]) -> Callable[..., Accumulated]:
    """Maps a function of rows over the devices that have different ones, and sums what it gives."""
    rows = mesh_axes("batch")
    by_row, everywhere = PartitionSpec(rows), PartitionSpec()

    def spec_of(path: jax.tree_util.KeyPath, _: Any) -> PartitionSpec:
        names = axes[path_name(path)]
        return PartitionSpec(*(tuple(axis for axis in _kept_on(name) if axis in rows) or None for name in names))

    def stream_specs(stream: State | None) -> Any:
        if stream is None:
            return None
        return jax.tree.map(
            lambda _, names: PartitionSpec(*(rows if name == "batch" else None for name in names)),
            stream,
            state_axes(stream),
        )

    def summed(gradients: Any, specs: Any) -> Any:
        return jax.tree.map(
            lambda leaf, spec: _sum_over(leaf, [axis for axis in rows if axis not in _names(spec)]), gradients, specs
        )

    def mapped(trained: Any, fam: SavedFam, params: Any, part: Part) -> Accumulated:
        _, stream, _ = part
        trained_specs, params_specs = (jax.tree_util.tree_map_with_path(spec_of, tree) for tree in (trained, params))

        def on_device(trained: Any, fam: SavedFam, params: Any, part: Part) -> Accumulated:
            given = of_rows(trained, fam, params, part)
            of_trained, of_fam = given.gradients
            return dataclasses.replace(
                given,
                gradients=(summed(of_trained, trained_specs), _sum_over(of_fam, rows)),
                summed=jax.tree.map(lambda leaf: _sum_over(leaf, rows), given.summed),
                fam=jax.tree.map(lambda leaf: leaf[None], given.fam),
            )

        shard_map = jax.shard_map(
            on_device,
            in_specs=(trained_specs, everywhere, params_specs, (by_row, stream_specs(stream), everywhere)),
            out_specs=Accumulated(
                gradients=(trained_specs, everywhere), summed=everywhere, fam=by_row, stream=stream_specs(stream)
            ),
            axis_names=set(rows),
            check_vma=False,
        )
        given = shard_map(trained, fam, params, part)
        return dataclasses.replace(given, fam=jax.tree.map(lambda leaf: leaf[0], given.fam))

    return mapped


def _kept_on(name: str | None) -> tuple[str, ...]:
    """The mesh axes that a parameter's dimension is cut over where it is kept only."""
    return mesh_axes(name) if name == KEPT_AXIS else ()


def _names(spec: PartitionSpec) -> set[str]:
    return {axis for places in spec if places for axis in ((places,) if isinstance(places, str) else places)}


def _sum_over(leaf: jax.Array, axes: Any) -> jax.Array:
    return jax.lax.psum(leaf, tuple(axes)) if axes else leaf


def _over_microbatches(
    loss_of: LossOf, trained: Any, fam: SavedFam, params: Any, part: Part, num_microbatches: int
) -> Accumulated:
    """Sums gradients and scores over microbatches. The FAM is that of the first row of all."""
    gradient_of = jax.grad(loss_of, argnums=(0, 1), has_aux=True)
    batch, stream, key = part
    if num_microbatches == 1:
        gradients, scored = gradient_of(trained, fam, params, batch, stream, key)
        return Accumulated(gradients, scored.summed, scored.fam, scored.stream)
    parts = cut(batch, stream, num_microbatches, key)

    def add(total: Any, part: Part) -> tuple[Any, tuple[PassedFam, State | None]]:
        gradients, scored = gradient_of(trained, fam, params, *part)
        return jax.tree.map(jnp.add, total, (gradients, scored.summed)), (scored.fam, scored.stream)

    first = jax.tree.map(lambda array: array[0], parts)
    shapes = jax.eval_shape(gradient_of, trained, fam, params, *first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes[0], shapes[1].summed))
    (gradients, summed), (fams, streams) = jax.lax.scan(add, zeros, parts)
    first_fam = jax.tree.map(lambda array: array[0], fams)
    return Accumulated(gradients, summed, first_fam, streams and join_rows(streams))


def cut(batch: Batch, stream: State | None, num_microbatches: int, key: jax.Array) -> Part:
    """The microbatches and their keys, stacked on a new first axis."""

    def cut_array(array: jax.Array) -> jax.Array:
        # Every microbatch takes rows from every device's part of the batch, so nothing moves between devices.
        return jnp.moveaxis(array.reshape(-1, num_microbatches, *array.shape[1:]), 1, 0)

    keys = jax.random.split(key, num_microbatches)
    return jax.tree.map(cut_array, dict(batch)), stream and cut_rows(stream, num_microbatches), keys
