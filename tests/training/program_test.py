"""The programs of a run on a mesh: the same initial state anywhere, and the shapes that are compiled for."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from famjax.errors import ConfigError
from famjax.models.transformer import Transformer
from famjax.pods.config import MeshConfig
from famjax.training.config import AdamW, Schedule
from famjax.training.feed import TrainingFeed
from famjax.training.program import abstract_batch, make_program, timed
from famjax.training.state import init_train_state
from tiny_job import MODEL, make_job
from tolerances import FLOAT32, assert_close

# A vocabulary that divides over the model axis, and one key head, which does not.
DIVISIBLE = dataclasses.replace(MODEL, vocab_size=260, num_heads=4, num_kv_heads=1)


def test_initial_state_does_not_depend_on_the_mesh(tmp_path):
    """Guards against shards that draw random numbers of their own, and against a state that is made in one place."""
    job = make_job(tmp_path, "run", model=DIVISIBLE, mesh=MeshConfig(model_parallelism=4))
    program = make_program(job)
    state = program.init()
    make = functools.partial(init_train_state, job, Transformer(job.model), program.optimizer)
    assert_close(state, jax.jit(make)(), FLOAT32)
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(program.shardings), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), jax.tree_util.keystr(path)
    table = state.params["embedding"]["table"]
    assert {shard.data.shape for shard in table.addressable_shards} == {(65, 16)}
    shapes = {name: leaf.shape for name, leaf in flatten_dict(state.params, sep="/").items()}
    assert shapes == {name: leaf.shape for name, leaf in flatten_dict(program.abstract_state.params, sep="/").items()}


def test_impossible_meshes_and_patterns_are_refused(tmp_path):
    """Guards against a mistake that shows only after minutes of compilation."""
    with pytest.raises(ConfigError, match=r"embedding/table: dimension 'vocab' of size 259 does not divide"):
        make_program(make_job(tmp_path, "run", mesh=MeshConfig(model_parallelism=2)))
    optimizer = AdamW(schedule=Schedule(peak=1.0), freeze=("layers/mpl/.*",))
    with pytest.raises(ConfigError, match="layers/mpl"):
        make_program(make_job(tmp_path, "run", optimizer=optimizer))


def test_what_is_trained_is_counted(tmp_path):
    """Guards against a finetuning that says it trains what it froze."""
    program = make_program(make_job(tmp_path, "run"))
    total, trained = program.parameter_counts()
    assert total == trained == sum(leaf.size for leaf in jax.tree.leaves(program.abstract_state.params))
    optimizer = AdamW(schedule=Schedule(peak=1.0), freeze=("embedding/.*",))
    frozen = MODEL.vocab_size * MODEL.emb_dim
    assert make_program(make_job(tmp_path, "run", optimizer=optimizer)).parameter_counts() == (total, total - frozen)


def test_abstract_batch_is_what_the_feed_gives(tmp_path):
    """Guards against a program that is compiled for other arrays than those that come."""
    job = make_job(tmp_path, "run")
    program = make_program(job)
    batch = abstract_batch(16, 32, program.mesh)
    feed = TrainingFeed(job.data, job.curriculum.parsed, program.mesh, None)
    given = feed.next_batch(0)
    feed.close()
    assert {name: (leaf.shape, leaf.dtype, leaf.sharding) for name, leaf in given.items()} == {
        name: (leaf.shape, np.dtype(leaf.dtype), leaf.sharding) for name, leaf in batch.items()
    }


def test_timed():
    """Guards against a compilation whose result, or whose time, is lost."""
    program, seconds = timed(lambda: "program")
    assert program == "program"
    assert 0 <= seconds < 1
