"""Rotary position embedding (Su et al., arXiv 2104.09864), exact at any position.

The angle position * frequency, taken in float32, is off by 0.06 at position 1,000,000. Here a position is written in
base 256 and the angle of each digit comes from a table made in float64, reduced to one turn: the error stays below
1e-5 at any int32 position, so that a text of millions of tokens keeps its positions apart.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from famjax.models.config import RopeScaling
from famjax.models.dims import Leaf

_BASE = 256
_DIGITS = 4


@struct.dataclass
class Rotation:
    """Cosine and sine of every position and frequency [..., h / 2]; leading dimensions are those of the positions."""

    cos: Leaf
    sin: Leaf


def make_rotation(
    positions: Int[Array, "..."],
    head_dim: int,
    base: float,
    fraction: Float[Array, "..."] | None = None,
    scaling: RopeScaling | None = None,
) -> Rotation:
    """Returns the rotation of each position.

    Args:
      positions: whole positions; they may be negative.
      head_dim: h, even.
      base: of the wavelengths, which run from 2 pi to nearly 2 pi * base.
      fraction: added to the positions, broadcast against them.
      scaling: of the frequencies; None leaves them.
    """
    frequency = frequencies(head_dim, base, scaling)
    size = jnp.abs(positions)
    angle = jnp.zeros((*positions.shape, head_dim // 2), jnp.float32)
    for digit in range(_DIGITS):
        values = np.arange(_BASE, dtype=np.float64)[:, None] * _BASE**digit * frequency
        table = jnp.asarray(np.mod(values, 2 * np.pi), jnp.float32)
        angle = angle + table[(size >> (8 * digit)) & (_BASE - 1)]
    angle = jnp.where(positions[..., None] < 0, -angle, angle)
    if fraction is not None:
        angle = angle + jnp.einsum("...,f->...f", fraction, jnp.asarray(frequency, jnp.float32))
    return Rotation(cos=jnp.cos(angle), sin=jnp.sin(angle))


def frequencies(head_dim: int, base: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Radians that each pair of a head turns by from one position to the next, float64 [h / 2]; see `RopeScaling`."""
    frequency = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None:
        return frequency
    divided = frequency / scaling.factor
    if scaling.kind == "linear":
        return divided
    # How often a pair turns within the original length: few turns are divided, many are left.
    turns = scaling.original_length * frequency / (2 * np.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    left = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - left) * divided + left * frequency


def rotate(x: Float[Array, "... heads h"], rotation: Rotation) -> Float[Array, "... heads h"]:
    """Turns each pair (i, i + h/2) of a head by its position's angle; computed in float32."""
    cos, sin = rotation.cos[..., None, :], rotation.sin[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
