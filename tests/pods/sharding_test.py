"""Invariant 7 of the specification: how the arrays lie over devices changes no result."""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from command_line import FILES, REQUIRED_FLAGS
from famjax.configuration.loading import load
from famjax.data.config import DataConfig
from famjax.models.config import MemoryConfig
from famjax.models.lora_config import LoraConfig
from famjax.models.transformer import Transformer
from famjax.pods.collectives import collectives_of
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh, num_batch_shards, put_batch
from famjax.training.config import AdamW, LossConfig, RestoreConfig, Schedule, StatePassing, TrainJob
from famjax.training.optimizers import make_optimizer
from famjax.training.program import Program, abstract_params, make_program
from famjax.training.state import TrainState, init_train_state
from famjax.training.step import Metrics, train_step
from tiny_job import MODEL
from tolerances import FLOAT32, FLOAT32_GRADIENT, Tolerance, assert_close

pytestmark = pytest.mark.pods

BATCH, LENGTH = 48, 11
LOCAL = {"layer_pattern": ("local", "global"), "local_window": 3}
MODELS: dict[str, dict[str, Any]] = {
    "multi_head": {"num_kv_heads": 4, **LOCAL},
    "multi_query": {"num_kv_heads": 1, "remat_policy": "dots", "query_key_norm": True},
    "bswa_lora": {"num_kv_heads": 2, "fam_length": 0, "tie_embeddings": False, "lora": LoraConfig(2, dropout=0.1)},
}


def table(name: str, **changes: Any) -> MeshConfig:
    """The mesh that a job has with a table of gin/sharding."""
    settings = [argument.removeprefix("--gin.").split("=", 1) for argument in REQUIRED_FLAGS]
    files = [argument.removeprefix("--gin_file=") for argument in FILES]
    job = load(TrainJob, (*files, f"sharding/{name}.gin"), [(name, value) for name, value in settings]).job
    return dataclasses.replace(job.mesh, **changes)


DATA_PARALLEL, FULLY_SHARDED = table("data_parallel"), table("fully_sharded")
TENSOR_PARALLEL = table("tensor_parallel")
BOTH = table("fully_sharded_tensor_parallel", model_parallelism=2, fsdp_parallelism=4)
BOTH_OF_TWO = dataclasses.replace(BOTH, fsdp_parallelism=2)
# Every table meets FAM, every kind of attention and of layer meets cut parameters.
CASES = {
    "data_parallel": ("multi_head", DATA_PARALLEL),
    "fully_sharded": ("multi_head", FULLY_SHARDED),
    "tensor_parallel": ("multi_query", TENSOR_PARALLEL),
    "both": ("multi_query", BOTH_OF_TWO),
    "both_lora": ("bswa_lora", BOTH),
}
# Matrix products over a dimension that is cut sum in another order; the norms of the next layer pass that on.
SHARDED = Tolerance(3e-4, 3e-5)


def make_job(name: str, mesh: MeshConfig) -> TrainJob:
    """Everything on: accumulation, dropout, offsets, state passing; all sizes divide over eight devices."""
    changes = MODELS[name]
    fam_length = changes.get("fam_length", 3)
    memory = MemoryConfig(block_size=4, num_segments=1, fam_length=fam_length)
    others = {key: value for key, value in changes.items() if key != "fam_length"}
    model = dataclasses.replace(MODEL, vocab_size=16, num_layers=2, num_heads=4, memory=memory, **others)
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
        state_passing=StatePassing(probability=1.0 if fam_length else 0.0),
        mesh=mesh,
        restore=RestoreConfig("base" if model.lora else None),
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
    job = make_job(name, MeshConfig(num_devices=1))
    one = make_mesh(job.mesh)
    abstract, _ = abstract_params(job.model, one, job.mesh)
    optimizer = make_optimizer(job.applied_optimizer, abstract)
    state = jax.jit(functools.partial(init_train_state, job, Transformer(job.model), optimizer))()
    fam = np.random.default_rng(1).normal(size=state.passed_fam.fam.shape).astype(np.float32)
    state = dataclasses.replace(state, passed_fam=state.passed_fam.replace(fam=fam, exists=jnp.array(True)))
    model = Transformer(job.model, deterministic=False)
    step = jax.jit(functools.partial(train_step, job=job, model=model, optimizer=optimizer))
    new_state, metrics = step(state, make_batch())
    return jax.device_get(state), jax.device_get(new_state), jax.device_get(metrics)


@pytest.mark.parametrize(("name", "mesh"), CASES.values(), ids=CASES)
def test_step_equals_that_of_one_device(name, mesh):
    """Guards against a mean over devices where a sum is meant, a lost microbatch row, and random numbers per device.

    And, in the program of the step, against parameters that move where they need not, and rows that every device has.
    """
    job = make_job(name, mesh)
    state, expected, expected_metrics = on_one_device(name)
    program = make_program(job)
    placed = jax.device_put(state, program.shardings)
    batch = put_batch(make_batch(), program.mesh)
    rows = BATCH // num_batch_shards(program.mesh)
    assert batch["tokens"].sharding.shard_shape((BATCH, LENGTH)) == (rows, LENGTH)
    step = program.compile_step(LENGTH)
    new_state, metrics = step(placed, batch)
    assert_close(metrics["loss"], expected_metrics["loss"], FLOAT32, "loss")
    assert_close(metrics, expected_metrics, FLOAT32_GRADIENT, "metrics")
    assert_close(new_state.opt_state, expected.opt_state, SHARDED, "moments of the gradient")
    assert_close(new_state, expected, SHARDED, "state")
    assert metrics["state_passed"] == bool(job.model.memory.fam_length)
    changed = jax.tree.map(lambda new, old: np.abs(new - old).max(), expected.params, state.params)
    assert max(jax.tree.leaves(changed)) > 1e-4
    inspect(step.as_text(), program)


def inspect(text: str, program: Program) -> None:
    """Holds the compiled step against what its table promises."""
    job, mesh = program.job, program.mesh
    smallest_matrix = min(
        leaf.size // job.model.num_layers * 4
        for path, leaf in flatten_dict(program.abstract_state.params["layers"], sep="/").items()
        if path.endswith("kernel")
    )
    found = collectives_of(text, mesh)
    gathered = [each for each in found if each.kind == "all-gather" and each.whole_bytes >= smallest_matrix]
    assert bool(gathered) == (mesh.shape["fsdp"] > 1), gathered
    assert all(each.axes == ("fsdp",) for each in gathered), gathered
    if gathered:
        # Seven matrices and two norms, for the forward and for the backward pass, layer by layer.
        every_layer = [each for each in found if each.kind == "all-gather" and each.times == 2 * job.num_microbatches]
        assert len(every_layer) >= 2 * 9, every_layer
    rows = BATCH // job.num_microbatches
    slots = -(-LENGTH // job.model.memory.block_size) * job.model.memory.block_size
    everywhere = [
        shape
        for shape in float_shapes(text)
        if {rows, BATCH, rows * slots, BATCH * slots} & set(shape) and math.prod(shape) >= rows * slots * 16
    ]
    assert not everywhere, "activations of rows that are another device's"


def float_shapes(text: str) -> set[tuple[int, ...]]:
    """The shape of every array of floats in a program's text."""
    return {tuple(map(int, shape.split(","))) for shape in re.findall(r"\b(?:f32|bf16)\[([\d,]+)\]", text)}


def test_parameters_are_cut_where_they_should_be():
    """Guards against a comparison of one replicated computation with another."""
    expected = [
        ("multi_head", DATA_PARALLEL, (None, None, None)),
        ("multi_head", FULLY_SHARDED, ("fsdp", None, None)),
        ("multi_query", TENSOR_PARALLEL, (None, "model", None)),
        ("multi_head", BOTH_OF_TWO, ("fsdp", "model", "model")),
    ]
    for name, mesh, (embed, heads, kv_heads) in expected:
        program = make_program(make_job(name, mesh))
        state = program.abstract_state
        layers = state.params["layers"]
        moment = next(
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
            if jax.tree_util.keystr(path).endswith("['mlp']['up']['kernel']")
        )
        kernels = {part: layers["attention"][part]["kernel"] for part in ("query", "key", "out")}
        kernels |= {"up": layers["mlp"]["up"]["kernel"], "moment": moment, "passed": state.passed_fam.fam}
        axes = {
            "query": (None, embed, heads, None),
            "key": (None, embed, kv_heads, None),
            "out": (None, heads, None, embed),
            "up": (None, embed, heads),
            "moment": (None, embed, heads),
            "passed": (None, None, embed),
        }
        for part, leaf in kernels.items():
            same = NamedSharding(program.mesh, PartitionSpec(*axes[part]))
            assert leaf.sharding.is_equivalent_to(same, leaf.ndim), (name, mesh, part, leaf.sharding)
