import jax
import numpy as np
import pytest

from famjax.training.config import Schedule
from famjax.training.schedules import make_schedule
from tolerances import FLOAT32, assert_close

CASES = {
    "constant": (Schedule(0.5), {0: 0.5, 1: 0.5, 10**6: 0.5}),
    "constant, warm-up": (Schedule(0.5, warmup_steps=4), {0: 0.0, 1: 0.125, 3: 0.375, 4: 0.5, 5: 0.5, 1000: 0.5}),
    "linear": (Schedule(1.0, decay="linear", total_steps=10), {0: 1.0, 1: 0.9, 5: 0.5, 10: 0.0, 11: 0.0}),
    "linear, warm-up": (
        Schedule(1.0, 10, "linear", total_steps=30, end_factor=0.2),
        {0: 0.0, 5: 0.5, 9: 0.9, 10: 1.0, 20: 0.6, 29: 0.24, 30: 0.2, 31: 0.2, 999: 0.2},
    ),
    "cosine": (Schedule(2.0, decay="cosine", total_steps=12), {0: 2.0, 4: 1.5, 6: 1.0, 8: 0.5, 12: 0.0, 13: 0.0}),
    "cosine, warm-up": (
        Schedule(2.0, 4, "cosine", total_steps=16, end_factor=0.5),
        {0: 0.0, 3: 1.5, 4: 2.0, 8: 1.75, 10: 1.5, 12: 1.25, 16: 1.0, 17: 1.0},
    ),
    "rsqrt": (Schedule(1.0, decay="rsqrt"), {0: 1.0, 1: 1.0, 4: 0.5, 100: 0.1}),
    "rsqrt, warm-up": (Schedule(0.1, 100, "rsqrt"), {0: 0.0, 50: 0.05, 100: 0.1, 400: 0.05, 10000: 0.01}),
    "warm-up to the end": (Schedule(1.0, 8, "linear", total_steps=8), {0: 0.0, 4: 0.5, 8: 1.0, 9: 0.0, 10: 0.0}),
    "warm-up to the end, cosine": (Schedule(1.0, 8, "cosine", total_steps=8), {4: 0.5, 8: 1.0, 9: 0.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_rates_equal_hand_values(name):
    """Guards against a shifted warm-up, a decay that counts from step 0, and wrong values at and beyond the end."""
    config, expected = CASES[name]
    schedule = jax.jit(make_schedule(config))
    assert_close({step: float(schedule(np.int32(step))) for step in expected}, expected, FLOAT32)


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_maps_over_steps(name):
    """Guards against a schedule that only takes one step at a time (the plan of a run is drawn over all of them)."""
    config, expected = CASES[name]
    rates = np.broadcast_to(make_schedule(config)(np.array(list(expected))), len(expected))
    assert_close(rates, np.array(list(expected.values())), FLOAT32)
