"""The stack: its parameters, their names, and activations in bfloat16. What it computes: recurrence_test.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.models.transformer import (
    Transformer,
    broadcast_fam,
    init_params,
    initial_state,
    logits,
    parameter_shapes,
    read,
)
from small import BLOCK, params_of, random_tokens, vary
from tolerances import Tolerance, assert_close

# 11 blocks and layers of bfloat16 (8 bits of mantissa) after each other, on activations of size 1.
BFLOAT16_STACK = Tolerance(0.0, 0.15)

GOLDEN = {
    "embedding/table": ("float32", (13, 16), ("vocab", "embed")),
    "fam_prompt": ("float32", (3, 16), ("fam", "embed")),
    "final_norm/scale": ("float32", (16,), ("embed",)),
    "layers/attention/key/kernel": ("float32", (2, 16, 4, 8), ("layers", "embed", "kv_heads", "head_dim")),
    "layers/attention/out/kernel": ("float32", (2, 4, 8, 16), ("layers", "heads", "head_dim", "embed")),
    "layers/attention/query/kernel": ("float32", (2, 16, 4, 8), ("layers", "embed", "heads", "head_dim")),
    "layers/attention/value/kernel": ("float32", (2, 16, 4, 8), ("layers", "embed", "kv_heads", "head_dim")),
    "layers/attention_norm/scale": ("float32", (2, 16), ("layers", "embed")),
    "layers/mlp/down/kernel": ("float32", (2, 24, 16), ("layers", "mlp", "embed")),
    "layers/mlp/gate/kernel": ("float32", (2, 16, 24), ("layers", "embed", "mlp")),
    "layers/mlp/up/kernel": ("float32", (2, 16, 24), ("layers", "embed", "mlp")),
    "layers/mlp_norm/scale": ("float32", (2, 16), ("layers", "embed")),
}
PREFIX = {"layers/fam_prefix": ("float32", (2, 3, 16), ("layers", "fam", "embed"))}
PRETRAINED = {
    **{
        f"layers/attention/{name}/bias": ("float32", (2, heads, 8), ("layers", axis, "head_dim"))
        for name, heads, axis in (("query", 4, "heads"), ("key", 4, "kv_heads"), ("value", 4, "kv_heads"))
    },
    "layers/attention/out/bias": ("float32", (2, 16), ("layers", "embed")),
    "layers/attention/key_norm/scale": ("float32", (2, 8), ("layers", "head_dim")),
    "layers/attention/query_norm/scale": ("float32", (2, 8), ("layers", "head_dim")),
    "layers/attention_post_norm/scale": ("float32", (2, 16), ("layers", "embed")),
    "layers/mlp_post_norm/scale": ("float32", (2, 16), ("layers", "embed")),
    "layers/mlp/down/bias": ("float32", (2, 16), ("layers", "embed")),
    "layers/mlp/gate/bias": ("float32", (2, 24), ("layers", "mlp")),
    "layers/mlp/up/bias": ("float32", (2, 24), ("layers", "mlp")),
}
ALL_PARTS = {
    "attention_bias": True,
    "attention_out_bias": True,
    "mlp_bias": True,
    "query_key_norm": True,
    "post_norms": True,
}
OUTPUT = {"output/kernel": ("float32", (16, 13), ("embed", "vocab"))}


def without(names: dict[str, tuple], *left_out: str) -> dict[str, tuple]:
    """The entries but some."""
    return {name: entry for name, entry in names.items() if name not in left_out}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, GOLDEN),
        ({"fam_length": 0}, without(GOLDEN, "fam_prompt")),
        ({"fam_start": "prefix"}, without(GOLDEN, "fam_prompt") | PREFIX),
        ({"tie_embeddings": False}, GOLDEN | OUTPUT),
        (ALL_PARTS, GOLDEN | PRETRAINED),
    ],
    ids=["fam", "bswa", "prefix", "separate_output", "pretrained"],
)
def test_golden_parameters(changes, expected, dtype):
    """Guards against a parameter that moves, changes its shape or loses its axis names, in silence.

    An update is legitimate only in a change that says so: checkpoints of earlier versions no longer load, and whoever
    freezes, decays or restores by path has to change the pattern.
    """
    boxed = jax.eval_shape(lambda key: init_params(Transformer(vary(dtype=dtype, **changes)), key), jax.random.key(0))
    flat = {
        "/".join(str(key.key) for key in path): box
        for path, box in jax.tree_util.tree_leaves_with_path(
            boxed, is_leaf=lambda node: isinstance(node, nn.Partitioned)
        )
    }
    actual = {name: (str(box.value.dtype), box.value.shape, tuple(box.names)) for name, box in flat.items()}
    assert actual == expected
    assert {name: leaf.shape for name, leaf in parameter_shapes(vary(**changes)).items()} == {
        name: shape for name, (_, shape, _) in expected.items()
    }


def test_layers_start_apart():
    """Guards against layers that share their initial values, and against scales that do not start at 1."""
    params = nn.meta.unbox(jax.jit(functools.partial(init_params, Transformer(vary())))(jax.random.key(0)))
    for name, leaf in flatten_dict(params, sep="/").items():
        if name.endswith("scale"):
            np.testing.assert_array_equal(leaf, 1.0)
        elif name.startswith("layers/"):
            assert np.abs(leaf[0] - leaf[1]).max() > 1e-2, name
    assert float(jnp.std(params["embedding"]["table"])) == pytest.approx(1.0, rel=0.2)


def test_fam_adds_exactly_its_prompt():
    """Guards against weights of FAM's own (the paper: none but the prompt), at the paper's 1B."""
    memory = MemoryConfig(block_size=1024, num_segments=3, fam_length=64)
    config = TransformerConfig(
        vocab_size=256_000,
        emb_dim=1536,
        num_layers=18,
        num_heads=12,
        num_kv_heads=12,
        head_dim=128,
        mlp_dim=8 * 1536,
        memory=memory,
    )

    def count(config: TransformerConfig) -> int:
        return sum(leaf.size for name, leaf in parameter_shapes(config).items() if name != "embedding/table")

    bswa = dataclasses.replace(config, memory=dataclasses.replace(memory, fam_length=0))
    assert count(config) - count(bswa) == 64 * 1536
    assert count(bswa) == pytest.approx(1.2e9, rel=0.05)


def test_optional_parts_start_at_nothing():
    """Guards against biases, and (1 + w) norms, that are another function before they are trained."""
    config = vary(**ALL_PARTS, unit_offset_norms=True)
    params = nn.meta.unbox(jax.jit(functools.partial(init_params, Transformer(config)))(jax.random.key(0)))
    started = [leaf for name, leaf in flatten_dict(params, sep="/").items() if name.endswith(("scale", "bias"))]
    assert len(started) == 14
    for leaf in started:
        np.testing.assert_array_equal(leaf, 0.0)


@functools.partial(jax.jit, static_argnums=0)
def outputs(config: TransformerConfig, params, tokens):
    """What two calls give, the second of which goes on from the first one's state."""
    model = Transformer(config)
    first = read(model, params, tokens[:, : 2 * BLOCK + 1], initial_state(model, params, 2))
    second = read(model, params, tokens[:, 2 * BLOCK + 1 :], first.state)
    return logits(model, params, second.hidden), second


def test_bfloat16_activations():
    """Guards against FAM in bfloat16, whose error would grow with the text, and against float32 all through."""
    params, tokens = params_of(vary()), jnp.asarray(random_tokens(2, 4 * BLOCK + 3))
    expected, exact = outputs(vary(), params, tokens)
    actual, output = outputs(vary(dtype="bfloat16"), params, tokens)
    assert output.hidden.dtype == jnp.bfloat16
    assert output.state.layers.cache.block.keys.dtype == jnp.bfloat16
    assert output.state.fam.dtype == jnp.float32
    assert actual.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert_close(actual, expected, BFLOAT16_STACK, "logits")
    assert_close(output.state.fam, exact.state.fam, BFLOAT16_STACK, "FAM")
    assert np.abs(actual - expected).max() > 1e-4, "nothing was computed in bfloat16"


def test_broadcast_fam():
    """Guards against rows that get another layer's FAM."""
    fam = jnp.arange(12.0).reshape(2, 3, 2)
    broadcast = broadcast_fam(fam, 4)
    assert broadcast.shape == (2, 4, 3, 2)
    for row in range(4):
        np.testing.assert_array_equal(broadcast[:, row], fam)
