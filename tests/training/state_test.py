"""The state before the first step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from famjax.models.transformer import Transformer, init_params
from famjax.training.config import AdamW, Schedule
from famjax.training.optimizers import make_optimizer
from famjax.training.state import TrainState, init_train_state
from tiny_job import MODEL, make_job


@pytest.fixture(scope="module")
def make_state(tmp_path_factory):
    """Makes the state of a job with changes; compiled once, the seed apart."""
    folder = tmp_path_factory.mktemp("jobs")
    model = Transformer(MODEL)
    abstract = jax.eval_shape(lambda key: nn.meta.unbox(init_params(model, key)), jax.random.key(0))

    def make(**changes) -> TrainState:
        job = make_job(folder, "run", **changes)
        return init_train_state(job, model, make_optimizer(job.optimizer, abstract))

    return make


def test_everything_is_there(make_state):
    """Guards against a state that a checkpoint cannot hold: steps on the host, parameters in bfloat16, typed keys."""
    state = jax.eval_shape(make_state)
    assert (state.step.shape, state.step.dtype) == ((), jnp.int32)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert state.key.dtype == jnp.uint32
    assert state.passed_fam.fam.shape == (1, 2, 16)
    assert state.passed_fam.exists.dtype == jnp.bool_
    assert state.progress.recent.shape == (10,)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))


def test_the_seed_decides(make_state):
    """Guards against a seed that is ignored, and against initial values and steps that share their random numbers."""
    first, again, other = (jax.jit(functools.partial(make_state, random_seed=seed))() for seed in (0, 0, 1))
    for left, right, different in zip(*(jax.tree.leaves(s.params) for s in (first, again, other)), strict=True):
        np.testing.assert_array_equal(left, right)
        assert (left == 1).all() or (left != different).any()
    np.testing.assert_array_equal(first.key, again.key)
    assert (first.key != other.key).any()
    assert (first.key != jax.random.key_data(jax.random.key(0))).any()
    assert int(first.step) == 0
    assert not first.passed_fam.exists


def test_what_is_frozen_has_no_optimizer_state(make_state):
    """Guards against two moments of every parameter of a frozen model."""
    schedule = Schedule(peak=1.0)

    def size(**changes) -> int:
        optimizer = AdamW(schedule=schedule, **changes)
        state = jax.eval_shape(lambda: make_state(optimizer=optimizer))
        return sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))

    table = MODEL.vocab_size * MODEL.emb_dim
    assert size() - size(freeze=("embedding/table",)) == 2 * table
