"""Which devices jax looks for."""

import importlib.util
import os
from pathlib import Path

import pytest

from famjax import platforms


@pytest.mark.parametrize(
    ("libtpu", "devices", "variable", "expected"),
    [
        (True, [], None, "cpu"),
        (False, [], None, None),
        (True, [Path("/dev/vfio/0")], None, None),
        (True, [], "tpu", "tpu"),
    ],
)
def test_a_tpu_that_is_not_there(monkeypatch, libtpu, devices, variable, expected):
    """Guards against lines of libtpu over every command's output, and against a TPU or GPU that is left unused."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if libtpu else None)
    monkeypatch.setattr(platforms, "_accelerators", lambda: devices)
    if variable is None:
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    else:
        monkeypatch.setenv("JAX_PLATFORMS", variable)
    platforms.leave_absent_tpus()
    assert os.environ.get("JAX_PLATFORMS") == expected
