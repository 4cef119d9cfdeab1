"""How the model's arrays lie over devices, by the logical names of their axes. Mesh and rules are the caller's.

The caller sets a mesh (`jax.set_mesh`) and flax's rules (`flax.linen.logical_axis_rules`), and then runs the model in
one of two ways. Either the compiler partitions it, and arrays are constrained; or the caller maps it over the devices
that have different rows (`jax.shard_map`), so that the axes of the mesh over which the batch lies are manual: there an
array is a device's own part, and a gather is a collective. Without a mesh nothing here does anything.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int

from famjax.models.dims import Leaf

# The axis along which parameters are cut where they are kept, and only there: products use whole ones.
KEPT_AXIS = "embed"
# What leads from a parameter as it is kept to the operand of a product. None of it is saved for the backward pass, or a
# whole parameter would be.
_GATHERING = frozenset(
    (
        "all_gather",
        "shard_map",
        "sharding_constraint",
        "convert_element_type",
        "reshape",
        "transpose",
        "squeeze",
        "broadcast_in_dim",
    )
)

Axes = Sequence[str | None]


def mesh_axes(logical: str | None) -> tuple[str, ...]:
    """The axes of the present mesh, of two devices or more, over which a logical axis lies."""
    mesh, rules = jax.sharding.get_abstract_mesh(), dict(reversed(nn.get_logical_axis_rules()))
    places = None if logical is None else rules.get(logical)
    names = (places,) if isinstance(places, str) else places or ()
    return tuple(name for name in names if mesh.shape.get(name, 1) > 1)


def constrain(x: Array, axes: Axes) -> Array:
    """Has the compiler lay an array over the devices as the rules say.

    A dimension that does not divide (a few key heads, one row) is whole on every device. Manual axes are no concern of
    the compiler's.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not nn.get_logical_axis_rules() or all(size == 1 for size in mesh.shape.values()):
        return x
    if mesh.manual_axes and set(mesh.axis_names) <= {*mesh.manual_axes, *_of_one_device(mesh)}:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*_places(x, axes)))


def _places(x: Array, axes: Axes) -> list[tuple[str, ...] | None]:
    """The compiler's axes of the mesh that each dimension is cut over."""
    mesh = jax.sharding.get_abstract_mesh()

    def place(name: str | None, size: int) -> tuple[str, ...] | None:
        free = _free_axes(name)
        divides = size % math.prod(mesh.shape[axis] for axis in free) == 0
        return free if free and divides else None

    return [place(name, size) for name, size in zip(axes, x.shape, strict=True)]


def _free_axes(logical: str | None) -> tuple[str, ...]:
    """Those of `mesh_axes` that are the compiler's."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return tuple(axis for axis in mesh_axes(logical) if axis not in manual)


def _of_one_device(mesh: Any) -> list[str]:
    return [name for name, size in mesh.shape.items() if size == 1]


def gather(params: Mapping[str, Any], axes: Mapping[str, Axes]) -> Any:
    """Makes parameters whole along the axis that they are cut on where they are kept.

    Args:
      params: a nested dict.
      axes: logical axes of each, by its path.
    """
    if not mesh_axes(KEPT_AXIS):
        return params
    flat = flatten_dict(params, sep="/")
    return unflatten_dict({path: _whole(param, axes[path]) for path, param in flat.items()}, sep="/")


def _whole(param: Array, axes: Axes) -> Array:
    if KEPT_AXIS not in axes:
        return param
    cut = mesh_axes(KEPT_AXIS)
    if set(cut) <= set(jax.sharding.get_abstract_mesh().manual_axes):
        return _gather_parts(param, axes, cut)
    return constrain(param, [None if name == KEPT_AXIS else name for name in axes])


def _gather_parts(param: Array, axes: Axes, cut: tuple[str, ...]) -> Array:
    """Gathers a device's part. Of a parameter that the compiler cuts too, every device gathers its own cut.

    (Left to the compiler, a collective over manual axes first makes its operand whole along the compiler's.)
    """

    def gathered(part: Array) -> Array:
        return jax.lax.all_gather(part, cut, axis=list(axes).index(KEPT_AXIS), tiled=True)

    places = _places(param, axes)
    names = {axis for place in places for axis in place or ()}
    if not names:
        return gathered(param)
    spec = PartitionSpec(*places)
    return jax.shard_map(gathered, in_specs=spec, out_specs=spec, axis_names=names, check_vma=False)(param)


def all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """A rematerialisation policy: saves all that has been computed, but gathers parameters again."""
    return primitive.name not in _GATHERING


@struct.dataclass
class Fanned:
    """The input of several products whose results are cut over devices that all have it whole.

    Its gradient is a sum over these devices. Of an array that they share, the compiler sums each product's part of the
    gradient by itself; of one that has a copy for each device it adds the parts up first, and sums once.

    Attributes:
      whole: the input [..., D].
      copies: one for each device [devices, ..., D]; None where it is one device's.
    """

    whole: Leaf
    copies: Leaf | None


def fan_out(x: Array, logical: str) -> Fanned:
    """Prepares an input for products whose results are cut along a logical axis."""
    mesh, axes = jax.sharding.get_abstract_mesh(), _free_axes(logical)
    if not axes:
        return Fanned(x, None)
    copies = jnp.broadcast_to(x[None], (math.prod(mesh.shape[axis] for axis in axes), *x.shape))
    return Fanned(x, constrain(copies, (logical, "batch", *[None] * (x.ndim - 1))))


def multiply(x: Array | Fanned, matrix: Array, outputs: int, dtype: jnp.dtype | None) -> Array:
    """The product of rows with a matrix [D, m].

    Args:
      x: the rows [..., D].
      matrix: the columns of `outputs` heads (or whatever is cut over devices), one behind the other.
      outputs: how many these are; where they do not divide over the devices, all devices have all of them.
      dtype: of the sum; None: as the operands.

    Returns:
      [n, m], n the product of the dimensions of `x` but the last.
    """
    whole = x.whole if isinstance(x, Fanned) else x
    copies = x.copies if isinstance(x, Fanned) else None
    if copies is None or outputs % copies.shape[0]:
        return jnp.einsum("nD,Dm->nm", whole.reshape(-1, matrix.shape[0]), matrix, preferred_element_type=dtype)
    devices, width = copies.shape[0], matrix.shape[0]
    parts = matrix.reshape(width, devices, -1)
    product = jnp.einsum("tnD,Dtm->ntm", copies.reshape(devices, -1, width), parts, preferred_element_type=dtype)
    return product.reshape(product.shape[0], matrix.shape[1])


def own_row_axes() -> tuple[str, ...]:
    """The manual axes of the mesh over which the batch lies: those that a sum over rows still has to go over."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return tuple(axis for axis in mesh_axes("batch") if axis in manual)


def row_shards() -> int:
    """How many parts of the batch there are where this device has one for itself; otherwise 1."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in own_row_axes())


def row_indices(rows: int) -> Int[Array, " B"]:
    """The place in the whole batch of each of the rows here."""
    axes = own_row_axes()
    first = jax.lax.axis_index(axes) * rows if axes else 0
    return first + jnp.arange(rows, dtype=jnp.int32)


class Dropout(nn.Module):
    """Dropout whose draw depends on the key and on a row's place in the batch, and so not on the devices.

    Attributes:
      rate: share of the values that become 0; the others grow to the same mean.
      deterministic: do nothing.
    """

    rate: float
    deterministic: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Drops values of `x`, whose first dimension is that of the rows."""
        if self.deterministic or self.rate == 0.0:
            return x
        key = self.make_rng("dropout")

        def draw(row: Array) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(key, row), 1 - self.rate, x.shape[1:])

        kept = jax.vmap(draw)(row_indices(x.shape[0]))
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros_like(x))
