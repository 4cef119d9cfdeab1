"""Random state passing: when it happens, what it starts from, and that no gradient goes back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from famjax.models.memory import LayerState, State
from famjax.training.config import StatePassing
from famjax.training.state_passing import PassedFam, draw, keep_fam, no_fam, start_from
from tiny_job import MODEL

SHAPE = (MODEL.num_layers, MODEL.memory.fam_length, MODEL.emb_dim)
SAVED = PassedFam(fam=jnp.arange(np.prod(SHAPE), dtype=jnp.float32).reshape(SHAPE), exists=jnp.array(True))


def make_state(fam: jax.Array, first_is_initial: bool = True) -> State:
    """A state with this FAM [L, B, F, D], in which only the first row may have written a block."""
    rows = fam.shape[1]
    zeros = jnp.zeros(rows, jnp.int32)
    is_initial = jnp.ones(rows, bool).at[0].set(first_is_initial)
    layers = LayerState(fam=fam, cache=None)
    return State(layers=layers, num_tokens=zeros, position_offset=zeros, fam_is_initial=is_initial, aligned=True)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0), (9, 0.0), (10, 0.2), (11, 0.4), (12, 0.6), (13, 0.8), (500, 0.8)]
)
def test_probability_starts_and_grows(step, expected):
    """Guards against state passing before its start step, and against a ramp that is off by one or never ends."""
    config = StatePassing(probability=0.8, start_step=10, ramp_steps=4)
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jax.vmap(lambda key: draw(config, SAVED, jnp.int32(step), key))(keys)
    assert float(jnp.mean(drawn)) == pytest.approx(expected, abs=0.03 if expected else 0.0)


@pytest.mark.parametrize(
    ("probability", "exists", "expected"), [(1.0, True, True), (1.0, False, False), (0.0, True, False)]
)
def test_certain_cases(probability, exists, expected):
    """Guards against a first step that starts from zeros, and against 0 that does not switch it off."""
    saved = dataclasses.replace(SAVED, exists=jnp.array(exists))
    keys = jax.random.split(jax.random.key(0), 100)
    drawn = jax.vmap(lambda key: draw(StatePassing(probability=probability), saved, jnp.int32(3), key))(keys)
    assert drawn.tolist() == [expected] * 100


def test_no_fam_before_the_first_step():
    """Guards against a run that starts from a FAM that nobody wrote."""
    empty = no_fam(MODEL)
    assert empty.fam.shape == SHAPE
    assert not empty.exists
    assert not empty.fam.any()


@pytest.mark.parametrize("is_passed", [True, False])
def test_start_from(is_passed):
    """Guards against rows without the saved FAM, and against one that is treated as initial (no residual)."""
    own = jnp.full((SHAPE[0], 3, *SHAPE[1:]), -1.0)
    state = start_from(make_state(own), SAVED, jnp.array(is_passed))
    for row in range(3):
        np.testing.assert_array_equal(state.fam[:, row], SAVED.fam if is_passed else own[:, row])
    assert state.fam_is_initial.tolist() == [not is_passed] * 3


def test_keeps_the_first_row_without_gradient():
    """Guards against another row's FAM, and against a gradient into the step before."""
    fam = jnp.arange(float(SHAPE[0] * 3 * SHAPE[1] * SHAPE[2])).reshape(SHAPE[0], 3, *SHAPE[1:])
    kept = keep_fam(make_state(fam, first_is_initial=False))
    np.testing.assert_array_equal(kept.fam, fam[:, 0])
    assert kept.exists
    assert not keep_fam(make_state(fam)).exists, "the initial FAM carries no context"
    assert not jax.grad(lambda fam: jnp.sum(keep_fam(make_state(fam)).fam))(fam).any()

    def passed(saved):
        state = start_from(make_state(fam), PassedFam(fam=saved, exists=jnp.array(True)), jnp.array(True))
        return jnp.sum(state.fam)

    assert not jax.grad(passed)(SAVED.fam).any()
