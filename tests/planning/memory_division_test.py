"""famjax.planning.memory: what the compiler counts, divided."""

import types

import pytest

from famjax.planning.memory import Arrays, divide, divide_refused
from famjax.pods.slices import GIB

ARRAYS = Arrays(parameters=3 * GIB, optimizer=2 * GIB, state=GIB, batch=GIB // 2, gradients=3 * GIB)

# Both wordings are libtpu's own.
REFUSALS = (
    (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (31.50G) exceeds "
        "available HBM (15.75G)."
    ),
    (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 31.50G of "
        "15.75G hbm. Exceeded hbm capacity by 15.75G."
    ),
)


def stats(**sizes):
    """What a compiled program's memory_analysis gives."""
    names = ("argument", "output", "alias", "temp", "generated_code")
    return types.SimpleNamespace(**{f"{name}_size_in_bytes": sizes.get(name, 0) for name in names})


def test_everything_is_counted_once():
    """Guards against donated arrays that count twice, and against results that count nowhere."""
    counted = stats(argument=7 * GIB, output=6 * GIB, alias=5 * GIB, temp=6 * GIB, generated_code=GIB // 4)
    memory = divide(ARRAYS, counted, 16 * GIB)
    assert memory.total == (7 + 6 + (6 - 5)) * GIB + GIB // 4
    assert memory.padding == 7 * GIB - ARRAYS.arguments
    assert (memory.gradients, memory.temporaries) == (3 * GIB, 4 * GIB)
    assert memory.fits
    assert not divide(ARRAYS, counted, 14 * GIB).fits


def test_gradients_that_never_exist_at_once():
    """Guards against gradients that are larger than all that the program has room for."""
    memory = divide(ARRAYS, stats(argument=ARRAYS.arguments, temp=GIB), 16 * GIB)
    assert (memory.gradients, memory.temporaries) == (GIB, 0)


@pytest.mark.parametrize("message", REFUSALS)
def test_what_libtpu_refuses(message):
    """Guards against a refusal that is not understood."""
    memory = divide_refused(ARRAYS, message)
    assert memory.total == 31.5 * GIB
    assert memory.available == 15.75 * GIB
    assert memory.temporaries == memory.total - ARRAYS.arguments - ARRAYS.gradients
    assert not memory.fits


def test_another_error_is_no_refusal():
    """Guards against an error of the compiler that is told as a lack of memory."""
    assert divide_refused(ARRAYS, "INTERNAL: Mosaic failed to compile") is None
