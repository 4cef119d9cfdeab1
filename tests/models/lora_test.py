"""Adapters of low rank: a branch that changes nothing at first, and can be added to its matrix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from famjax.errors import ConfigError
from famjax.models.lora import merge_adapters
from famjax.models.lora_config import ADAPTABLE, LoraConfig
from famjax.models.transformer import Transformer, init_params, parameter_shapes
from small import BLOCK, params_of, random_tokens, vary
from tolerances import FLOAT32, assert_close

LORA = LoraConfig(rank=3, alpha=6.0)
TOKENS = random_tokens(2, 3 * BLOCK + 1)


def with_adapters(config, params, *, zero_b, seed=3):
    """The parameters with random adapters beside them, whose B is 0 or random."""
    random = np.random.default_rng(seed)
    flat = flatten_dict(params, sep="/")
    for path, leaf in parameter_shapes(config).items():
        if path.endswith(("/lora_a", "/lora_b")):
            is_zero = zero_b and path.endswith("/lora_b")
            flat[path] = jnp.asarray(
                np.zeros(leaf.shape) if is_zero else random.normal(size=leaf.shape) * 0.1, jnp.float32
            )
    return unflatten_dict(flat, sep="/")


def logits_of(config, params, dropout_key=None):
    """Logits of the whole text."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    apply = jax.jit(
        lambda params: Transformer(config).apply(
            {"params": params}, jnp.asarray(TOKENS), method="read_from_start", rngs=rngs
        )
    )
    return np.asarray(apply(params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_new_adapter_changes_no_bit(dtype):
    """Guards against a B that is not 0 at first, and against a branch that changes how the matrix is multiplied."""
    base = vary(dtype=dtype)
    config = dataclasses.replace(base, lora=LORA)
    params = with_adapters(config, params_of(base), zero_b=True)
    np.testing.assert_array_equal(logits_of(config, params), logits_of(base, params_of(base)))
    fresh = flatten_dict(nn.meta.unbox(init_params(Transformer(config), jax.random.key(0))), sep="/")
    adapters = {path: leaf for path, leaf in fresh.items() if path.endswith(("/lora_a", "/lora_b"))}
    assert len(adapters) == 2 * len(ADAPTABLE)
    for path, leaf in adapters.items():
        assert bool(jnp.any(leaf)) == path.endswith("/lora_a"), path
        assert leaf.dtype == jnp.float32


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_merged_equals_unmerged(num_kv_heads):
    """Guards against a wrong scale, and against dimensions of heads that change places, in the branch or in merging."""
    base = vary(num_kv_heads=num_kv_heads)
    config = dataclasses.replace(base, lora=LORA)
    params = with_adapters(config, params_of(base), zero_b=False)
    merged = merge_adapters(LORA, params)
    assert jax.tree.structure(merged) == jax.tree.structure(params_of(base))
    unmerged = logits_of(config, params)
    assert_close(logits_of(base, merged), unmerged, FLOAT32)
    assert np.abs(unmerged - logits_of(base, params_of(base))).max() > 0.05
    out = {name: np.asarray(leaf[1], np.float64) for name, leaf in params["layers"]["attention"]["out"].items()}
    expected = out["kernel"] + 6.0 / 3 * np.tensordot(out["lora_a"], out["lora_b"], axes=1)
    assert_close(merged["layers"]["attention"]["out"]["kernel"][1], expected, FLOAT32)


def test_patterns_choose_the_matrices():
    """Guards against adapters where none was asked for, and in the FAM of another matrix."""
    lora = dataclasses.replace(LORA, patterns=("layers/attention/(query|value)/kernel", "layers/mlp/down/.*"))
    shapes = parameter_shapes(vary(lora=lora))
    assert {path: leaf.shape for path, leaf in shapes.items() if "lora" in path} == {
        "layers/attention/query/lora_a": (2, 16, 3),
        "layers/attention/query/lora_b": (2, 3, 4, 8),
        "layers/attention/value/lora_a": (2, 16, 3),
        "layers/attention/value/lora_b": (2, 3, 4, 8),
        "layers/mlp/down/lora_a": (2, 24, 3),
        "layers/mlp/down/lora_b": (2, 3, 16),
    }


def test_dropout_acts_on_the_branch_alone():
    """Guards against dropout of the base's input, and against dropout where a text is only read."""
    base = vary()
    config = dataclasses.replace(base, lora=dataclasses.replace(LORA, dropout=0.5))
    zero = with_adapters(config, params_of(base), zero_b=True)
    keys = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(logits_of(config, zero, keys[0]), logits_of(base, params_of(base)))
    params = with_adapters(config, params_of(base), zero_b=False)
    first, second = (logits_of(config, params, key) for key in keys)
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_array_equal(logits_of(config, params), logits_of(dataclasses.replace(base, lora=LORA), params))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "LoraConfig.rank = 0; allowed: 1 or more"),
        ({"alpha": 0.0}, "LoraConfig.alpha = 0.0; allowed: above 0"),
        ({"dropout": 1.0}, "LoraConfig.dropout = 1.0; allowed: 0 <= dropout < 1"),
        ({"patterns": ()}, "LoraConfig.patterns is empty"),
        ({"patterns": ("query",)}, "'query', which matches no matrix .* layers/attention/query/kernel, "),
        ({"patterns": ("layers/.*", "embedding/table")}, "'embedding/table', which matches no matrix"),
        ({"patterns": ("layers/(",)}, r"'layers/\(', which is no regular expression"),
    ],
    ids=str,
)
def test_impossible_adapters(changes, message):
    """Guards against a pattern that silently adapts nothing."""
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(LORA, **changes)


def test_alpha_is_the_rank_unless_it_is_set():
    """Guards against a branch that grows or vanishes with the rank where nobody asked for it."""
    assert (LoraConfig(rank=8).scale, LoraConfig(rank=8, alpha=16.0).scale) == (1.0, 2.0)
