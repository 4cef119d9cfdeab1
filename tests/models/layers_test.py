"""Norm, projection, gated MLP and embedding against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from famjax.models.layers import Embedding, GatedMLP, Projection, RMSNorm
from tolerances import BFLOAT16, FLOAT32, assert_close

RANDOM = np.random.default_rng(0)
FLOAT, BFLOAT = jnp.dtype("float32"), jnp.dtype("bfloat16")


def initialized(module: nn.Module, *inputs: jax.Array):
    """Parameters, unboxed."""
    return nn.meta.unbox(module.init(jax.random.key(0), *inputs))["params"]


def normal(*shape: int) -> jax.Array:
    """Random numbers."""
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def test_norm():
    """Guards against a mean that is subtracted, and against a scale or an epsilon that is left out."""
    x, scale = normal(3, 5, 8) * 10, normal(8)
    actual = RMSNorm(0.5, FLOAT).apply({"params": {"scale": scale}}, x)
    array = np.asarray(x)
    expected = array / np.sqrt(np.mean(array**2, axis=-1, keepdims=True) + 0.5) * np.asarray(scale)
    assert_close(actual, expected, FLOAT32)


def test_norm_counts_in_float32():
    """Guards against a mean square, or a quotient, in bfloat16: the result is the exact one, rounded once."""
    x = normal(64, 48).astype(jnp.bfloat16)
    norm = RMSNorm(0.0, BFLOAT)
    params = initialized(norm, x)
    assert params["scale"].dtype == FLOAT
    actual = norm.apply({"params": params}, x)
    assert actual.dtype == BFLOAT
    exact = np.asarray(x, np.float64)
    exact = exact / np.sqrt(np.mean(exact**2, axis=-1, keepdims=True))
    np.testing.assert_array_equal(actual, exact.astype(BFLOAT))


@pytest.mark.parametrize(("shape", "num_inputs"), [((8, 3, 4), 1), ((3, 4, 8), 2), ((8, 8), 1)])
def test_projection(shape, num_inputs):
    """Guards against heads that mix when a kernel of three dimensions is used as a matrix."""
    module = Projection(shape, ("embed", "heads", "head_dim")[: len(shape)], num_inputs, FLOAT)
    x, kernel = normal(2, 5, *shape[:num_inputs]), normal(*shape)
    actual = module.apply({"params": {"kernel": kernel}}, x)
    assert_close(actual, np.tensordot(x, kernel, axes=num_inputs), FLOAT32)
    assert actual.shape == (2, 5, *shape[num_inputs:])


@pytest.mark.parametrize(
    ("shape", "num_inputs", "scale", "expected"),
    [((64, 16, 32), 1, 1.0, 64**-0.5), ((16, 32, 64), 2, 1.0, 512**-0.5), ((16, 32, 64), 2, 0.25, 0.25 * 512**-0.5)],
)
def test_projection_starts_with_variance_one(shape, num_inputs, scale, expected):
    """Guards against activations that grow or vanish with the width: the variance counts the inputs alone."""
    module = Projection(shape, ("embed", "heads", "head_dim"), num_inputs, FLOAT, scale)
    kernel = initialized(module, jnp.zeros((1, *shape[:num_inputs])))["kernel"]
    assert float(jnp.std(kernel)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_gated_mlp(activation):
    """Guards against gate and up that change places, and against the other activation."""
    x, gate, up, down = normal(2, 3, 8), normal(8, 12), normal(8, 12), normal(12, 8)
    params = {"gate": {"kernel": gate}, "up": {"kernel": up}, "down": {"kernel": down}}
    actual = GatedMLP(8, 12, activation, FLOAT).apply({"params": params}, x)
    opened = np.asarray(x @ gate, np.float64)
    if activation == "silu":
        opened = opened / (1 + np.exp(-opened))
    else:
        opened = 0.5 * opened * (1 + np.tanh(np.sqrt(2 / np.pi) * (opened + 0.044715 * opened**3)))
    assert_close(actual, (opened * np.asarray(x @ up)) @ np.asarray(down), FLOAT32)


def test_embedding_and_its_output_layer():
    """Guards against logits whose size grows with the width where the table is tied."""
    table = normal(13, 64)
    module = Embedding(13, 64, FLOAT)
    variables = {"params": {"table": table}}
    np.testing.assert_array_equal(module.apply(variables, jnp.array([[3, 0]])), table[jnp.array([[3, 0]])])
    hidden = normal(2, 64)
    logits = module.apply(variables, hidden, method="attend")
    assert_close(logits, np.asarray(hidden) @ np.asarray(table).T / 8, FLOAT32)
    half = Embedding(13, 64, BFLOAT)
    assert half.apply(variables, jnp.array([1])).dtype == BFLOAT
    half_logits = half.apply(variables, hidden.astype(BFLOAT), method="attend")
    assert half_logits.dtype == FLOAT
    assert_close(half_logits, logits, BFLOAT16)


def test_a_norm_with_an_offset_keeps_its_scale():
    """Guards against 1 + w in a frozen base's bfloat16, which has 8 bits for the sum: another function."""
    norm = RMSNorm(1e-6, FLOAT, unit_offset=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16)), jnp.float32)
    scale = jnp.full(16, 0.0123, jnp.bfloat16)
    rounded, exact = (norm.apply({"params": {"scale": value}}, x) for value in (scale, scale.astype(jnp.float32)))
    np.testing.assert_array_equal(rounded, exact)
