"""The device mesh, and where each array lies on it: logical axis names to mesh axes by one table of rules."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from famjax.errors import ConfigError
from famjax.pods.config import MESH_AXES, MeshAxes, MeshConfig, axes_of

# The rows of a batch lie over these axes when they come to the devices.
BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class AbsentDevice:
    """A device of another machine: arrays are laid out on it, and nothing runs."""

    id: int
    process_index: int = 0
    device_kind: str = "absent"
    platform: str = "absent"


def absent_devices(count: int, per_process: int) -> list[AbsentDevice]:
    """So many devices, as many of each process as given: what the checks at a run's start need."""
    return [AbsentDevice(number, process_index=number // per_process) for number in range(count)]


# A few key and value heads that do not divide over the model axis are replicated on it (multi-query attention).
_REPLICATED_WHERE_UNEVEN = frozenset({"kv_heads"})


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges the devices as (data, fsdp, model); jax's, where none are given.

    Of TPU devices those along an axis are neighbours in the slice's own network, the model axis first, and of several
    slices only the data axis goes from one to the other.

    Raises:
      ConfigError: a parallelism that does not divide the devices, fewer than `num_devices`, or another number of slices
        than the devices have.
    """
    if config.own_process:  # All of them are of one slice.
        config = dataclasses.replace(config, num_slices=1)
    if devices is None:
        devices = jax.local_devices() if config.own_process else jax.devices()
    if config.num_devices is not None and config.num_devices > len(devices):
        raise ConfigError(
            f"MeshConfig.num_devices = {config.num_devices}; this process sees {len(devices)} "
            f"{devices[0].platform} devices."
        )
    return Mesh(arrange(config, devices[: config.num_devices]), MESH_AXES)


def arrange(config: MeshConfig, devices: Sequence[Any]) -> np.ndarray:
    """The devices in their places of the mesh [data, fsdp, model]; see `make_mesh`."""
    data, fsdp, model = _slice_shape(config, len(devices))
    if devices[0].platform != "tpu":
        return np.asarray(devices, dtype=object).reshape(config.num_slices * data, fsdp, model)
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) != config.num_slices:
        raise ConfigError(
            f"MeshConfig.num_slices = {config.num_slices}, and the {len(devices)} devices are those of {len(slices)}; "
            f"set --gin.NUM_SLICES={len(slices)}."
        )
    if config.num_slices == 1:
        return mesh_utils.create_device_mesh((data, fsdp, model), devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        (data, fsdp, model), (config.num_slices, 1, 1), devices, allow_split_physical_axes=True
    )


def _slice_shape(config: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """What the axes are within a slice."""
    rest, remainder = divmod(num_devices, config.num_slices)
    if remainder:
        raise ConfigError(
            f"MeshConfig.num_slices = {config.num_slices} does not divide the {num_devices} devices; set "
            "--gin.NUM_SLICES to a divisor."
        )
    of_slice = f"the {rest} devices" + (" of a slice" if config.num_slices > 1 else "")
    if rest % config.model_parallelism:
        raise ConfigError(
            f"MeshConfig.model_parallelism = {config.model_parallelism} does not divide {of_slice}; "
            "set --gin.MODEL_PARALLELISM to a divisor."
        )
    rest //= config.model_parallelism
    fsdp = rest if config.fsdp_parallelism is None else config.fsdp_parallelism
    if rest % fsdp:
        raise ConfigError(
            f"MeshConfig.fsdp_parallelism = {fsdp} times model_parallelism = {config.model_parallelism} does not "
            f"divide {of_slice}; set --gin.FSDP_PARALLELISM to a divisor of {rest}, or to None."
        )
    return rest // fsdp, fsdp, config.model_parallelism


def num_batch_shards(mesh: Mesh) -> int:
    """Parts into which the rows of a batch are cut: devices that compute different rows."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


@contextlib.contextmanager
def use_mesh(mesh: Mesh, config: MeshConfig) -> Iterator[None]:
    """Within it, the model's logical constraints lie on this mesh. Belongs to the thread that enters it."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(config.first_rules.items())):
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
    rules, placed = config.first_rules, list[MeshAxes]()
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in rules:
            raise ConfigError(
                f"{name}: logical axis {axis!r} has no rule in MeshConfig.rules; known: {', '.join(sorted(rules))}."
            )
        places = None if axis is None else rules[axis]
        parts = math.prod(mesh.shape[place] for place in axes_of(places))
        if size % parts and axis in _REPLICATED_WHERE_UNEVEN:
            places = None
        elif size % parts:
            raise ConfigError(
                f"{name}: dimension {axis!r} of size {size} does not divide over the {parts} devices of "
                f"{_described(places)}; change the size, {_flags(places)} or MeshConfig.rules."
            )
        for place in axes_of(places):
            if any(place in axes_of(other) for other in placed):
                raise ConfigError(f"{name}: two of its dimensions {tuple(axes)} lie on mesh axis {place!r}.")
        placed.append(places)
    return PartitionSpec(*placed)


def _described(places: MeshAxes) -> str:
    """Mesh axes, for a message."""
    names = [repr(place) for place in axes_of(places)]
    return f"mesh axis {names[0]}" if len(names) == 1 else f"mesh axes {' x '.join(names)}"


def _flags(places: MeshAxes) -> str:
    """The flags that set how many devices mesh axes have."""
    names = {"model": "--gin.MODEL_PARALLELISM", "fsdp": "--gin.FSDP_PARALLELISM"}
    return " or ".join(names.get(place, "the number of devices") for place in axes_of(places))


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
    """Rows of a batch over the data and the fsdp axis."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def own_rows(mesh: Mesh, batch_size: int) -> tuple[int, ...]:
    """The rows of a global batch that lie on this process's devices, ascending; the others it need not read.

    Which they are follows from the mesh alone: processes whose devices hold the same rows, as where a copy of the
    parameters is spread over several hosts, read the same.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    return tuple(sorted({row for place in places.values() if place for row in range(batch_size)[place[0]]}))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes the global batch out of every host's own rows (`own_rows`)."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
