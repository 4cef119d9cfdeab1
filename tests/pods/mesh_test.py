"""The device mesh and its rules: what is refused, and where arrays lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from famjax.errors import ConfigError
from famjax.pods.config import DEFAULT_RULES, MeshConfig
from famjax.pods.mesh import make_mesh, parameter_specs, partition_spec, put_batch, to_shardings, use_mesh

CONFIG = MeshConfig(model_parallelism=4)


@pytest.fixture(scope="module")
def mesh():
    """2 x 4 devices."""
    return make_mesh(CONFIG)


def test_mesh_takes_all_devices(mesh):
    """Guards against devices that stand idle, and against a model axis whose devices are no neighbours."""
    assert dict(mesh.shape) == {"data": 2, "model": 4}
    assert [device.id for device in mesh.devices.flat] == list(range(8))
    assert dict(make_mesh(MeshConfig(), jax.devices()[:1]).shape) == {"data": 1, "model": 1}


def test_model_parallelism_must_divide():
    """The message names the setting, the devices and the flag."""
    with pytest.raises(ConfigError, match=r"model_parallelism = 3 does not divide the 8 devices.*--gin\.") as error:
        make_mesh(MeshConfig(model_parallelism=3))
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((16, 8), ("vocab", "embed"), PartitionSpec("model", None)),
        ((8, 4, 6), ("embed", "heads", "head_dim"), PartitionSpec(None, "model", None)),
        ((8, 8, 6), ("embed", "kv_heads", "head_dim"), PartitionSpec(None, "model", None)),
        ((8, 2, 6), ("embed", "kv_heads", "head_dim"), PartitionSpec(None, None, None)),
        ((6, 3), ("batch", None), PartitionSpec("data", None)),
    ],
)
def test_partition_spec(mesh, shape, axes, expected):
    """Guards against a rule that is not followed, and against key heads that are refused instead of replicated."""
    assert partition_spec("array", shape, axes, mesh, CONFIG) == expected


@pytest.mark.parametrize(
    ("shape", "axes", "rules", "message"),
    [
        ((4,), ("vocab", "embed"), DEFAULT_RULES, r"array has shape \(4,\) but logical axes \('vocab', 'embed'\)"),
        ((4,), ("vocabulary",), DEFAULT_RULES, r"array: logical axis 'vocabulary' has no rule.*known: batch, embed"),
        ((4,), ("vocab",), (("vocab", "expert"),), r"maps 'vocab' to 'expert'; the mesh has the axes data, model"),
        ((6, 2), ("vocab", "embed"), DEFAULT_RULES, r"array: dimension 'vocab' of size 6 does not divide over the 4"),
        ((4, 8), ("vocab", "mlp"), DEFAULT_RULES, r"array: two of its dimensions.*lie on mesh axis 'model'"),
    ],
    ids=["rank", "unknown_axis", "unknown_mesh_axis", "uneven", "twice"],
)
def test_impossible_layouts_are_refused(mesh, shape, axes, rules, message):
    """Guards against an array that is laid out in silence otherwise than the rules say."""
    with pytest.raises(ConfigError, match=message):
        partition_spec("array", shape, axes, mesh, MeshConfig(model_parallelism=4, rules=rules))


def test_first_rule_of_an_axis_wins(mesh):
    """Guards against a rule that a later one overrides."""
    config = MeshConfig(model_parallelism=4, rules=(("embed", "model"), ("embed", None)))
    assert partition_spec("array", (8,), ("embed",), mesh, config) == PartitionSpec("model")


def test_a_parameter_without_names_is_refused(mesh):
    """Guards against a new layer whose parameters are replicated because nobody named their axes."""
    named = nn.LogicallyPartitioned(jnp.zeros((16, 8)), names=("vocab", "embed"))
    specs = parameter_specs({"table": named}, mesh, CONFIG)
    assert specs == {"table": PartitionSpec("model", None)}
    assert to_shardings(specs, mesh) == {"table": NamedSharding(mesh, specs["table"])}
    with pytest.raises(ConfigError, match="parameter layers/scale has no logical axis names"):
        parameter_specs({"table": named, "layers": {"scale": jnp.zeros(8)}}, mesh, CONFIG)


def test_batches_are_cut_by_rows(mesh):
    """Guards against rows that every device computes."""
    batch = put_batch({"tokens": np.arange(8, dtype=np.int32).reshape(4, 2)}, mesh)
    assert batch["tokens"].sharding.spec == PartitionSpec("data")
    assert {shard.data.shape for shard in batch["tokens"].addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(batch["tokens"], np.arange(8).reshape(4, 2))


def test_the_models_constraints_hold_within(mesh):
    """Guards against logical constraints that are ignored: jax has more than one notion of the present mesh."""

    def constrain(x):
        return nn.with_logical_constraint(x * 2, ("batch", "mlp"))

    x = jnp.ones((4, 8))
    with use_mesh(mesh, CONFIG):
        inside = jax.jit(constrain)(x)
    assert inside.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("data", "model")), 2)
    outside = jax.jit(constrain)(x)
    assert len(outside.sharding.device_set) == 1
