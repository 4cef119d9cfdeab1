"""The one table of tolerances. A looser one than the comparison's kind needs a written reason here.

from tolerances import FLOAT32, assert_close
"""

import dataclasses
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What may differ: `|actual - expected| <= absolute + relative * |expected|`."""

    relative: float
    absolute: float


# The same operations in the same order (a resumed run, a reloaded file).
EXACT = Tolerance(0.0, 0.0)
# The same function in another order of float32 operations (scan against loop, split against whole).
FLOAT32 = Tolerance(1e-5, 1e-5)
# Gradients of the same: sums over more terms, through two passes.
FLOAT32_GRADIENT = Tolerance(1e-4, 1e-5)
# bfloat16 keeps 8 bits of mantissa: 2 ** -8 = 0.4 % an operation, a handful of operations.
BFLOAT16 = Tolerance(2e-2, 2e-2)


def assert_close(actual: Any, expected: Any, tolerance: Tolerance, what: str = "") -> None:
    """Asserts that two pytrees have the same structure and leaves that are close; a failure names the leaf."""
    actual_leaves, actual_structure = jax.tree_util.tree_flatten_with_path(actual)
    expected_leaves, expected_structure = jax.tree_util.tree_flatten_with_path(expected)
    same = actual_structure == expected_structure  # type: ignore[operator] # jaxlib's stubs lack PyTreeDef.__eq__
    assert same, f"{what}: {actual_structure} is not {expected_structure}"
    for (path, left), (_, right) in zip(actual_leaves, expected_leaves, strict=True):
        np.testing.assert_allclose(
            np.asarray(left, np.float64),
            np.asarray(right, np.float64),
            rtol=tolerance.relative,
            atol=tolerance.absolute,
            err_msg=f"{what} {jax.tree_util.keystr(path)}",
        )
