"""Invariant 7 of the specification: how the arrays lie over devices changes no result."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from famjax.data.config import DataConfig
from famjax.models.config import MemoryConfig
from famjax.models.transformer import Transformer
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh, put_batch
from famjax.training.config import AdamW, LossConfig, Schedule, StatePassing, TrainJob
from famjax.training.optimizers import make_optimizer
from famjax.training.program import abstract_params, make_program
from famjax.training.state import TrainState, init_train_state
from famjax.training.step import Metrics, train_step
from tiny_job import MODEL
from tolerances import FLOAT32, FLOAT32_GRADIENT, Tolerance, assert_close

BATCH, LENGTH = 16, 11
MODELS = {
    "fam_multi_head": {"num_kv_heads": 4},
    "fam_grouped_query": {"num_kv_heads": 2},
    "fam_multi_query": {"num_kv_heads": 1},
    "bswa_grouped_query": {"num_kv_heads": 2},
}
# (model, model_parallelism): on 8 devices 1 is a mesh of 8x1, 2 of 4x2, 4 of 2x4.
CASES = [
    ("fam_multi_head", 1),
    ("fam_multi_head", 2),
    ("fam_multi_head", 4),
    ("fam_grouped_query", 4),
    ("fam_multi_query", 2),
    ("bswa_grouped_query", 2),
]
# Matrix products over a dimension that is cut sum in another order; the norms of the next layer pass that on.
SHARDED = Tolerance(3e-4, 3e-5)


def make_job(name: str, model_parallelism: int = 1) -> TrainJob:
    """Everything on: accumulation, dropout, offsets, state passing; vocabulary and MLP divide over four devices."""
    has_fam = name.startswith("fam")
    memory = MemoryConfig(block_size=4, num_segments=1, fam_length=3 if has_fam else 0)
    heads = MODELS[name]["num_kv_heads"]
    model = dataclasses.replace(MODEL, vocab_size=16, num_layers=2, num_heads=4, num_kv_heads=heads, memory=memory)
    # Adam divides by the gradient's size: a large epsilon keeps a rounding of a tiny gradient a rounding.
    optimizer = AdamW(schedule=Schedule(peak=0.1), epsilon=1.0)
    return TrainJob(
        model_dir="",
        model=model,
        data=DataConfig("documents", {"targets": LENGTH}, batch_size=BATCH),
        optimizer=optimizer,
        total_steps=1,
        num_microbatches=2,
        loss=LossConfig(z_loss=1e-2, chunk_size=50),
        state_passing=StatePassing(probability=1.0 if has_fam else 0.0),
        mesh=MeshConfig(model_parallelism=model_parallelism),
    )


def make_batch() -> dict[str, np.ndarray]:
    """Random rows of different lengths and weights."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, LENGTH + 1, BATCH).astype(np.int32)
    return {
        "tokens": random.integers(0, 16, (BATCH, LENGTH)).astype(np.int32),
        "targets": random.integers(0, 16, (BATCH, LENGTH)).astype(np.int32),
        "weights": random.uniform(size=(BATCH, LENGTH)).astype(np.float32) * (np.arange(LENGTH) < lengths[:, None]),
        "answers": (random.random((BATCH, LENGTH)) < 0.2) & (np.arange(LENGTH) < lengths[:, None]),
        "lengths": lengths,
    }


@functools.cache
def on_one_device(name: str) -> tuple[TrainState, TrainState, Metrics]:
    """The state before a step, with a saved FAM to start from, and what a step on one device makes of it."""
    job = make_job(name)
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    abstract, _ = abstract_params(job.model, one, job.mesh)
    optimizer = make_optimizer(job.optimizer, abstract)
    state = jax.jit(functools.partial(init_train_state, job, Transformer(job.model), optimizer))()
    fam = np.random.default_rng(1).normal(size=state.passed_fam.fam.shape).astype(np.float32)
    state = dataclasses.replace(state, passed_fam=state.passed_fam.replace(fam=fam, exists=jnp.array(True)))
    model = Transformer(job.model, deterministic=False)
    step = jax.jit(functools.partial(train_step, job=job, model=model, optimizer=optimizer))
    new_state, metrics = step(state, make_batch())
    return jax.device_get(state), jax.device_get(new_state), jax.device_get(metrics)


@pytest.mark.parametrize(("name", "model_parallelism"), CASES, ids=str)
def test_step_equals_that_of_one_device(name, model_parallelism):
    """Guards against a mean over devices where a sum is meant, a lost microbatch row, and random numbers per device."""
    state, expected, expected_metrics = on_one_device(name)
    program = make_program(make_job(name, model_parallelism))
    assert program.mesh.devices.shape == (8 // model_parallelism, model_parallelism)
    placed = jax.device_put(state, program.shardings)
    batch = put_batch(make_batch(), program.mesh)
    assert batch["tokens"].sharding.shard_shape((BATCH, LENGTH)) == (BATCH * model_parallelism // 8, LENGTH)
    new_state, metrics = program.compile_step(LENGTH)(placed, batch)
    assert_close(metrics["loss"], expected_metrics["loss"], FLOAT32, "loss")
    assert_close(metrics, expected_metrics, FLOAT32_GRADIENT, "metrics")
    assert_close(new_state.opt_state, expected.opt_state, SHARDED, "moments of the gradient")
    assert_close(new_state, expected, SHARDED, "state")
    assert metrics["state_passed"] == name.startswith("fam")
    assert np.abs(expected.params["embedding"]["table"] - state.params["embedding"]["table"]).max() > 1e-4


def test_parameters_are_cut_where_they_should_be():
    """Guards against a comparison of one replicated computation with another."""
    attention = {}
    for name, model_parallelism in CASES:
        program = make_program(make_job(name, model_parallelism))
        layers = program.abstract_state.params["layers"]
        attention[name, model_parallelism] = {
            part: layers["attention"][part]["kernel"].sharding.spec for part in ("query", "key", "out")
        }
        moment = next(
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(program.abstract_state.opt_state)
            if jax.tree_util.keystr(path).endswith("['mlp']['up']['kernel']")
        )
        assert moment.sharding.spec == layers["mlp"]["up"]["kernel"].sharding.spec == PartitionSpec(None, None, "model")
    for case, specs in attention.items():
        assert specs["query"] == PartitionSpec(None, None, "model", None), case
        assert specs["out"] == PartitionSpec(None, "model", None, None), case
    cut, whole = PartitionSpec(None, None, "model", None), PartitionSpec(None, None, None, None)
    assert attention["fam_multi_head", 4]["key"] == cut
    assert attention["fam_grouped_query", 4]["key"] == whole
    assert attention["fam_multi_query", 2]["key"] == whole
    assert attention["bswa_grouped_query", 2]["key"] == cut
