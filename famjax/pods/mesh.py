"""The device mesh, and where each array lies on it: logical axis names to mesh axes by one table of rules."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from famjax.errors import ConfigError
from famjax.pods.config import MeshConfig

DATA_AXIS, MODEL_AXIS = "data", "model"

# A few key and value heads that do not divide over the model axis are replicated on it (multi-query attention).
_REPLICATED_WHERE_UNEVEN = frozenset({"kv_heads"})


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges the devices as (data, model); jax's, where none are given.

    Raises:
      ConfigError: `model_parallelism` does not divide the number of devices, or there are fewer than `num_devices`.
    """
    devices = jax.devices() if devices is None else devices
    if config.num_devices is not None and config.num_devices > len(devices):
        raise ConfigError(
            f"MeshConfig.num_devices = {config.num_devices}; this process sees {len(devices)} "
            f"{devices[0].platform} devices."
        )
    devices = devices[: config.num_devices]
    if len(devices) % config.model_parallelism:
        raise ConfigError(
            f"MeshConfig.model_parallelism = {config.model_parallelism} does not divide the {len(devices)} devices; "
            "set --gin.MODEL_PARALLELISM to a divisor."
        )
    grid = np.asarray(devices).reshape(-1, config.model_parallelism)
    return Mesh(grid, (DATA_AXIS, MODEL_AXIS))


@contextlib.contextmanager
def use_mesh(mesh: Mesh, config: MeshConfig) -> Iterator[None]:
    """Within it, the model's logical constraints lie on this mesh. Belongs to the thread that enters it."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(config.rules):
        yield


def partition_spec(
    name: str, shape: Sequence[int], axes: Sequence[str | None], mesh: Mesh, config: MeshConfig
) -> PartitionSpec:
    """Turns the logical axes of one array into mesh axes.

    Args:
      name: of the array, for the message.
      shape: of the array.
      axes: its logical axis names; None lies on no mesh axis.
      mesh: the mesh.
      config: its rules.

    Raises:
      ConfigError: a logical axis without a rule, two dimensions on one mesh axis, or a dimension that does not divide.
    """
    if len(axes) != len(shape):
        raise ConfigError(
            f"{name} has shape {tuple(shape)} but logical axes {tuple(axes)}: one name for each dimension."
        )
    rules: Mapping[str, str | None] = dict(reversed(config.rules))
    placed: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in rules:
            raise ConfigError(
                f"{name}: logical axis {axis!r} has no rule in MeshConfig.rules; known: {', '.join(sorted(rules))}."
            )
        mesh_axis = None if axis is None else rules[axis]
        if mesh_axis is not None and mesh_axis not in mesh.shape:
            raise ConfigError(
                f"MeshConfig.rules maps {axis!r} to {mesh_axis!r}; the mesh has the axes {', '.join(mesh.shape)}."
            )
        if mesh_axis is not None and size % mesh.shape[mesh_axis]:
            if axis not in _REPLICATED_WHERE_UNEVEN:
                raise ConfigError(
                    f"{name}: dimension {axis!r} of size {size} does not divide over the {mesh.shape[mesh_axis]} "
                    f"devices of mesh axis {mesh_axis!r}; change the size, --gin.MODEL_PARALLELISM or MeshConfig.rules."
                )
            mesh_axis = None
        if mesh_axis is not None and mesh_axis in placed:
            raise ConfigError(f"{name}: two of its dimensions {tuple(axes)} lie on mesh axis {mesh_axis!r}.")
        placed.append(mesh_axis)
    return PartitionSpec(*placed)


def parameter_specs(boxed: Any, mesh: Mesh, config: MeshConfig) -> Any:
    """Where each parameter lies: a tree of PartitionSpec, from (abstract) parameters in their boxes of axis names."""

    def spec(path: Any, leaf: Any) -> PartitionSpec:
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        if not isinstance(leaf, nn.Partitioned):
            raise ConfigError(f"parameter {name} has no logical axis names.")
        return partition_spec(name, nn.meta.unbox(leaf).shape, tuple(leaf.get_partition_spec()), mesh, config)

    return jax.tree_util.tree_map_with_path(spec, boxed, is_leaf=lambda node: isinstance(node, nn.Partitioned))


def to_shardings(specs: Any, mesh: Mesh) -> Any:
    """A tree of NamedSharding from a tree of PartitionSpec."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda node: isinstance(node, PartitionSpec)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes the global batch out of every host's own rows."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
