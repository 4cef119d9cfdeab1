"""Rotary positions against float64, also where float32 has no digits left."""

import jax.numpy as jnp
import numpy as np
import pytest

from famjax.models.rope import make_rotation, rotate
from tolerances import FLOAT32, assert_close

HEAD_DIM, BASE = 8, 10_000.0
FREQUENCY = BASE ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
POSITIONS = np.array([0, 1, 7, 255, 256, 65_535, 65_536, 1_000_000, 5_000_000, 2**31 - 1])


@pytest.mark.parametrize("sign", [1, -1])
def test_exact_at_any_position(sign):
    """Guards against neighbours that coincide in a text of millions of tokens, and against the initial FAM's sign."""
    positions = sign * POSITIONS
    rotation = make_rotation(jnp.asarray(positions, jnp.int32), HEAD_DIM, BASE)
    angle = positions[:, None] * FREQUENCY
    np.testing.assert_allclose(rotation.cos, np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(rotation.sin, np.sin(angle), atol=1e-5)
    plain = np.float32(positions)[:, None] * np.float32(FREQUENCY)
    assert np.abs(np.cos(plain.astype(np.float64)) - np.cos(angle)).max() > 1e-2, "float32 alone would do"


def test_neighbours_keep_their_distance():
    """Guards against a reduction of the angle that is off by a turn between digits."""
    positions = jnp.arange(4_999_990, 5_000_010, dtype=jnp.int32)
    rotation = make_rotation(positions, HEAD_DIM, BASE)
    turn = rotation.cos[1:] * rotation.cos[:-1] + rotation.sin[1:] * rotation.sin[:-1]
    np.testing.assert_allclose(turn, np.broadcast_to(np.cos(FREQUENCY), turn.shape), atol=1e-5)


def test_fractions():
    """Guards against FAM between two blocks that stands on a token."""
    fraction = jnp.array([0.25, 0.5, 0.75])
    positions = jnp.array([1_000_000, -1, 3], jnp.int32)
    rotation = make_rotation(positions, HEAD_DIM, BASE, fraction)
    angle = (np.asarray(positions, np.float64) + np.asarray(fraction))[:, None] * FREQUENCY
    np.testing.assert_allclose(rotation.sin, np.sin(angle), atol=1e-5)


def test_rotates_pairs_of_halves():
    """Guards against another pairing than that of the checkpoints that are to be imported: (i, i + h/2)."""
    x = np.random.default_rng(0).normal(size=(3, 2, HEAD_DIM))
    positions = np.array([0, 5, -3])
    turned = rotate(jnp.asarray(x, jnp.float32), make_rotation(jnp.asarray(positions), HEAD_DIM, BASE))
    pairs = x[..., : HEAD_DIM // 2] + 1j * x[..., HEAD_DIM // 2 :]
    expected = pairs * np.exp(1j * positions[:, None] * FREQUENCY)[:, None, :]
    assert_close(turned, np.concatenate([expected.real, expected.imag], axis=-1), FLOAT32)
    assert turned.dtype == jnp.float32


def test_keeps_the_type_of_activations():
    """Guards against attention that falls back to float32 where bfloat16 is asked for."""
    x = jnp.ones((1, 1, HEAD_DIM), jnp.bfloat16)
    assert rotate(x, make_rotation(jnp.array([3]), HEAD_DIM, BASE)).dtype == jnp.bfloat16
