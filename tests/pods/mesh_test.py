"""The device mesh and its rules: what is refused, and where arrays lie."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from famjax.errors import ConfigError
from famjax.pods.config import DEFAULT_RULES, MeshConfig
from famjax.pods.mesh import arrange, make_mesh, parameter_specs, partition_spec, put_batch, to_shardings, use_mesh

CONFIG = MeshConfig(model_parallelism=4)


@pytest.fixture(scope="module")
def mesh():
    """2 x 1 x 4 devices."""
    return make_mesh(CONFIG)


def test_mesh_takes_all_devices(mesh):
    """Guards against devices that stand idle, and against a model axis whose devices are no neighbours."""
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "model": 4}
    assert [device.id for device in mesh.devices.flat] == list(range(8))
    assert dict(make_mesh(MeshConfig(), jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "model": 1}
    # In a scan over several slices, every process has some devices of one slice.
    assert make_mesh(MeshConfig(fsdp_parallelism=None, num_slices=2, own_process=True)).devices.shape == (1, 8, 1)
    assert make_mesh(MeshConfig(model_parallelism=2, fsdp_parallelism=None, num_slices=2)).devices.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_parallelism": 3}, r"model_parallelism = 3 does not divide the 8 devices; .*--gin\.MODEL_PARALLELISM"),
        (
            {"fsdp_parallelism": 8, "model_parallelism": 2},
            r"= 8 times .* the 8 devices; .*--gin\.FSDP_PARALLELISM .* 4",
        ),
        ({"num_slices": 3}, r"num_slices = 3 does not divide the 8 devices; .*--gin\.NUM_SLICES"),
        ({"num_slices": 4, "model_parallelism": 4}, r"does not divide the 2 devices of a slice; .*MODEL_PARALLELISM"),
        ({"num_devices": 9}, r"num_devices = 9; this process sees 8 cpu devices"),
    ],
    ids=["model", "fsdp", "slices", "slice", "devices"],
)
def test_impossible_meshes_are_refused(settings, message):
    """The message names the setting, the devices and the flag."""
    with pytest.raises(ConfigError, match=message) as error:
        make_mesh(MeshConfig(**settings))
    assert error.value.exit_code == 2


@dataclasses.dataclass(frozen=True)
class Chip:
    """What jax tells of a TPU chip of a slice of 2 x 4."""

    id: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0

    @property
    def slice_index(self) -> int:
        return self.id // 8

    @property
    def process_index(self) -> int:
        return self.id // 4

    @property
    def coords(self) -> tuple[int, int, int]:
        return (self.id % 2, self.id % 8 // 2, 0)


def test_slices_are_joined_over_the_data_axis_alone():
    """Guards against a model or fsdp axis that crosses the network between slices, which is slower by tens of times."""
    chips = [Chip(number) for number in range(16)]
    grid = arrange(MeshConfig(model_parallelism=2, fsdp_parallelism=2, num_slices=2), chips[::-1])
    assert grid.shape == (4, 2, 2)
    slices = np.vectorize(lambda chip: chip.slice_index)(grid)
    np.testing.assert_array_equal(slices, np.broadcast_to([[[0]], [[0]], [[1]], [[1]]], grid.shape))
    for row in grid.reshape(-1, 2):
        assert sum(abs(a - b) for a, b in zip(row[0].coords, row[1].coords, strict=True)) == 1, "no neighbours"
    with pytest.raises(ConfigError, match=r"num_slices = 1, and the 16 devices are those of 2; set --gin.NUM_SLICES=2"):
        arrange(MeshConfig(), chips)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((16, 8), ("vocab", "embed"), PartitionSpec("model", "fsdp")),
        ((8, 4, 6), ("embed", "heads", "head_dim"), PartitionSpec("fsdp", "model", None)),
        ((8, 8, 6), ("embed", "kv_heads", "head_dim"), PartitionSpec("fsdp", "model", None)),
        ((8, 2, 6), ("embed", "kv_heads", "head_dim"), PartitionSpec("fsdp", None, None)),
        ((6, 3), ("batch", None), PartitionSpec(("data", "fsdp"), None)),
    ],
)
def test_partition_spec(mesh, shape, axes, expected):
    """Guards against a rule that is not followed, and against key heads that are refused instead of replicated."""
    assert partition_spec("array", shape, axes, mesh, CONFIG) == expected


@pytest.mark.parametrize(
    ("shape", "axes", "rules", "message"),
    [
        ((4,), ("vocab", "embed"), DEFAULT_RULES, r"array has shape \(4,\) but logical axes \('vocab', 'embed'\)"),
        (
            (4,),
            ("vocabulary",),
            DEFAULT_RULES,
            r"array: logical axis 'vocabulary' has no rule.*known: activation_embed, batch",
        ),
        (
            (6, 2),
            ("vocab", "embed"),
            DEFAULT_RULES,
            r"dimension 'vocab' of size 6 does not divide over the 4 devices of mesh axis 'model'; .*--gin.MODEL_PARA",
        ),
        (
            (4, 12),
            (None, "mlp"),
            (("mlp", ("data", "model")),),
            r"array: dimension 'mlp' of size 12 does not divide over the 8 devices of mesh axes 'data' x 'model'",
        ),
        ((8, 8), ("mlp", "batch"), (("mlp", ("data", "model")), ("batch", "data")), "dimensions.*on mesh axis 'data'"),
        ((4, 8), ("vocab", "mlp"), DEFAULT_RULES, r"array: two of its dimensions.*lie on mesh axis 'model'"),
    ],
    ids=["rank", "unknown_axis", "uneven", "uneven_over_two", "twice_among_two", "twice"],
)
def test_impossible_layouts_are_refused(mesh, shape, axes, rules, message):
    """Guards against an array that is laid out in silence otherwise than the rules say."""
    with pytest.raises(ConfigError, match=message):
        partition_spec("array", shape, axes, mesh, MeshConfig(model_parallelism=4, rules=rules))


def test_a_mesh_axis_that_does_not_exist_is_refused():
    """Guards against a typing error that shows when the model is laid out, or never."""
    with pytest.raises(ConfigError, match=r"maps 'vocab' to 'expert'; the mesh has the axes data, fsdp, model\."):
        MeshConfig(rules=(("vocab", ("model", "expert")),))


def test_first_rule_of_an_axis_wins(mesh):
    """Guards against a rule that a later one overrides."""
    config = MeshConfig(model_parallelism=4, rules=(("embed", "model"), ("embed", None)))
    assert partition_spec("array", (8,), ("embed",), mesh, config) == PartitionSpec("model")


def test_a_parameter_without_names_is_refused(mesh):
    """Guards against a new layer whose parameters are replicated because nobody named their axes."""
    named = nn.LogicallyPartitioned(jnp.zeros((16, 8)), names=("vocab", "embed"))
    specs = parameter_specs({"table": named}, mesh, CONFIG)
    assert specs == {"table": PartitionSpec("model", "fsdp")}
    assert to_shardings(specs, mesh) == {"table": NamedSharding(mesh, specs["table"])}
    with pytest.raises(ConfigError, match="parameter layers/scale has no logical axis names"):
        parameter_specs({"table": named, "layers": {"scale": jnp.zeros(8)}}, mesh, CONFIG)


def test_batches_are_cut_by_rows(mesh):
    """Guards against rows that every device computes."""
    batch = put_batch({"tokens": np.arange(8, dtype=np.int32).reshape(4, 2)}, mesh)
    assert batch["tokens"].sharding.spec == PartitionSpec(("data", "fsdp"))
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
