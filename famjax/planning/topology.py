"""The chips of a TPU slice, as libtpu's compiler knows them on a machine that has none."""

import os
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
from jax.experimental import topologies

from famjax.errors import ConfigError
from famjax.planning.stopping import keep_handlers
from famjax.pods.slices import TpuSlice

# What libtpu would otherwise look for, a minute long, in the metadata of a virtual machine of Google's.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Nothing is run: another process may compile, or use the machine's TPU, at the same time.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Chips along each axis of one host, by their number.
_HOST_BOUNDS = {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 4, 1)}


def slice_devices(tpu: TpuSlice, num_slices: int = 1) -> Sequence[jax.Device]:
    """Devices that a program can be compiled for, and cannot run on.

    Args:
      tpu: the slice.
      num_slices: slices of this kind, joined by the network between them.

    Returns:
      One device for each chip, in the order that a process on the slice sees them in.

    Raises:
      ConfigError: libtpu is not installed, or does not know the topology.
    """
    require_libtpu()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"chips_per_host_bounds": _HOST_BOUNDS[tpu.chips_per_host]}
    if tpu.generation.cores_per_chip == 2:
        options["chip_config_name"] = "megacore"
    if num_slices > 1:
        options["num_slices"] = num_slices
    try:
        return topologies.get_topology_desc(tpu.libtpu_topology, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"libtpu cannot lay {tpu.name} out: {str(error).splitlines()[0]}") from error
    finally:
        keep_handlers()


def find_libtpu() -> str | None:
    """The version of libtpu that is installed; None where there is none."""
    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return None


def require_libtpu() -> str:
    """The version of libtpu; ConfigError says how to install it where there is none."""
    version = find_libtpu()
    if version is None:
        raise ConfigError(
            "--run_mode=plan compiles with TPU's own compiler, libtpu, which is not installed. It needs no TPU:\n"
            '  pip install "famjax[plan]"'
        )
    return version
