"""One number for all parameters of a model, to tell whether a snapshot, or an adapter, is of the same."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from famjax.training.parameter_paths import path_name

_MULTIPLIER = 2654435761  # Knuth's multiplicative hash: spreads neighbouring bit patterns over 32 bits


def params_fingerprint(params: Any) -> str:
    """A digest of every bit of every parameter, with its path, shape and dtype.

    It is computed where the parameters are, shard by shard: sums of whole numbers, which no order of summation changes,
    so that it is the same on every mesh.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sums = jax.device_get(jax.jit(lambda arrays: [_mix(array) for array in arrays])([leaf for _, leaf in leaves]))
    described = [
        f"{path_name(path)} {leaf.shape} {leaf.dtype} {int(total)}"
        for (path, leaf), total in zip(leaves, sums, strict=True)
    ]
    return hashlib.sha256("\n".join(sorted(described)).encode()).hexdigest()[:32]


def _mix(array: Array) -> UInt32[Array, ""]:
    """Sum over an array's elements of their bits, mixed with their place."""
    bits = jax.lax.bitcast_convert_type(array, jnp.uint16 if array.dtype.itemsize == 2 else jnp.uint32)
    bits = bits.astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(array.shape):
        place = place * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    mixed = (bits ^ (place * jnp.uint32(_MULTIPLIER))) * jnp.uint32(_MULTIPLIER)
    return jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)
