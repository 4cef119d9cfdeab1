"""Small train states for the tests of checkpoints: every kind of array and of empty node that a real one has."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from famjax.models.config import MemoryConfig, TransformerConfig

MODEL = TransformerConfig(
    vocab_size=32,
    emb_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=32,
    memory=MemoryConfig(block_size=8, num_segments=1, fam_length=0),
)


@flax.struct.dataclass
class SmallState:
    """A train state in small."""

    step: jax.Array
    params: Any
    opt_state: Any
    saved_fam: Any
    key: jax.Array
    curriculum: Any


def make_params(seed: int) -> dict[str, Any]:
    """Random parameters of 2 stacked layers, one of them bfloat16."""
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    return {
        "embedding": {"table": draw(32, 16).astype(jnp.bfloat16)},
        "fam_prompt": draw(4, 16),
        "layers": {
            "attention": {"query": {"kernel": draw(2, 16, 8)}, "out": {"kernel": draw(2, 8, 16)}},
            "attention_norm": {"scale": draw(2, 16)},
        },
    }


def make_optimizer() -> optax.GradientTransformation:
    """AdamW that leaves the embedding out (masked nodes), with empty states around it."""

    def is_trained(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: "embedding" not in jax.tree_util.keystr(path), params)

    return optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adamw(1e-3), is_trained))


def make_state(seed: int = 0, fam_length: int = 0) -> SmallState:
    """A train state on one device; `fam_length` 0 has an array of size zero."""
    params = make_params(seed)
    opt_state = jax.tree.map(lambda leaf: leaf + seed + 1, make_optimizer().init(params))
    return SmallState(
        step=jnp.int32(seed),
        params=params,
        opt_state=opt_state,
        saved_fam={"fam": jnp.full((2, fam_length, 16), 0.5), "present": jnp.array(True)},
        key=jax.random.key_data(jax.random.key(seed)),
        curriculum={"stage": jnp.int32(1), "window": jnp.array([0.1, jnp.nan, 0.3]), "pending": None, "unused": ()},
    )


def shardings(tree: Any, num_devices: int) -> Any:
    """A sharding for each array: over the last axis where it divides, else replicated."""
    devices = np.asarray(jax.devices()[:num_devices])
    mesh = jax.sharding.Mesh(devices, ("data",))

    def choose(leaf: Any) -> NamedSharding:
        divides = leaf.ndim >= 1 and leaf.size and leaf.shape[-1] % num_devices == 0
        return NamedSharding(mesh, PartitionSpec(*[None] * (leaf.ndim - 1), "data") if divides else PartitionSpec())

    return jax.tree.map(choose, tree)


def put(tree: Any, num_devices: int) -> Any:
    """The arrays, laid out over so many devices."""
    return jax.device_put(tree, shardings(tree, num_devices))


def abstract(tree: Any, num_devices: int = 1) -> Any:
    """What `restore` is asked for: shapes, dtypes and shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, num_devices),
    )


def assert_identical(actual: Any, expected: Any) -> None:
    """Same structure, dtypes, shapes and bits."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (actual, expected)]
    assert structures[0] == structures[1]
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path)
        assert left.dtype == right.dtype, name
        assert left.shape == right.shape, name
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes(), name
