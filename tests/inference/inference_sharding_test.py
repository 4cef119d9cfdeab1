"""Invariant 7 of the specification, in inference: how the arrays lie over devices changes no state and no answer."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from famjax.inference.config import SamplingConfig
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh
from famjax.training.program import abstract_params
from small import BLOCK
from tiny_language_model import make_model, random_ids
from tolerances import FLOAT32, assert_close

pytestmark = pytest.mark.pods

ROWS = 8
MODELS = {
    "fam": {"num_kv_heads": 1, "layer_pattern": ("local", "global"), "local_window": 3},
    "bswa": {"num_kv_heads": 2, "fam_length": 0},
}
CASES = [
    ("fam", MeshConfig(fsdp_parallelism=None)),
    ("fam", MeshConfig(model_parallelism=4)),
    ("bswa", MeshConfig()),
    ("bswa", MeshConfig(fsdp_parallelism=2, model_parallelism=2)),
]
# Every row ends elsewhere in its block, and every answer goes over the end of one.
PROMPTS = [random_ids(BLOCK + row, seed=row) for row in range(ROWS)]
GREEDY = SamplingConfig(max_new_tokens=BLOCK + 2, logprobs=True, stop_at_eos=False)


def read_and_answer(name, mesh):
    """What rows that read the prompts are, and their answers, on the devices of the mesh."""
    model = make_model(ROWS, **MODELS[name])
    abstract, _ = abstract_params(model.config, make_mesh(mesh), mesh)
    params = jax.tree.map(lambda param, leaf: jax.device_put(param, leaf.sharding), model.params, abstract)
    model = dataclasses.replace(model, mesh=mesh, params=params)
    context = model.read(model.join([model.start()] * ROWS), PROMPTS)
    _, answers = model.generate(context, GREEDY)
    return context.rows, answers


@functools.cache
def on_one_device(name):
    """The same on one device."""
    rows, answers = read_and_answer(name, MeshConfig(num_devices=1))
    return jax.device_get(rows), answers


@pytest.mark.parametrize(("name", "mesh"), CASES, ids=["fully_sharded", "tensor_parallel", "data_parallel", "both"])
def test_prefill_and_decode_equal_those_of_one_device(name, mesh):
    """Guards against a state whose heads or rows are taken for others, and against rows that see each other."""
    expected_rows, expected_answers = on_one_device(name)
    rows, answers = read_and_answer(name, mesh)
    assert_close(rows, expected_rows, FLOAT32, "rows")
    for answer, expected in zip(answers, expected_answers, strict=True):
        np.testing.assert_array_equal(answer.tokens, expected.tokens)
        assert_close(answer.logprobs, expected.logprobs, FLOAT32, "logprobs")
    segments = rows.state.layers.cache.segments.keys
    shards = make_mesh(mesh).shape
    kv_heads = MODELS[name]["num_kv_heads"]
    kv_parts = shards["model"] if kv_heads % shards["model"] == 0 else 1
    num_rows = ROWS // (shards["data"] * shards["fsdp"])
    assert segments.sharding.shard_shape(segments.shape)[1:4:2] == (num_rows, kv_heads // kv_parts)
