"""Which devices jax looks for. Imports no jax."""

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

# Devices of TPUs, of NVIDIA's and of AMD's GPUs, and of GPUs under WSL.
_ACCELERATORS = ("accel[0-9]*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd", "dxg")


def leave_absent_tpus() -> None:
    """Has jax use the CPU where libtpu is installed, as planning needs it, and the machine has no accelerator at all.

    It would use the CPU anyway, after libtpu has written several lines about a TPU that it did not find. Where
    JAX_PLATFORMS is set nothing changes.
    """
    if "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("libtpu") is None or any(_accelerators()):
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:  # It has read the environment already.
        sys.modules["jax"].config.update("jax_platforms", "cpu")


def _accelerators() -> Iterable[Path]:
    """The files of accelerators among this machine's devices."""
    return (path for pattern in _ACCELERATORS for path in Path("/dev").glob(pattern))
