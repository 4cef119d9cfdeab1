import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optimizer_cases import ADAFACTORS, NUM_LAYERS, draw

from famjax.training.config import AdamW, Schedule
from famjax.training.optimizer_sharding import optimizer_state_specs
from famjax.training.optimizers import make_optimizer
from tolerances import FLOAT32, assert_close

SPECS = {
    "embedding": {"table": PartitionSpec(None, "data")},
    "fam_prompt": PartitionSpec(),
    "layers": {
        "attention_norm": {"scale": PartitionSpec(None, "data")},
        "mlp": {"gate": {"kernel": PartitionSpec(None, "data", "model")}},
    },
}


def specs_by_name(config):
    """Shape and layout of every array of the state, by its path."""
    params = draw(0)
    optimizer = make_optimizer(config, params)
    specs = jax.tree.leaves(
        optimizer_state_specs(optimizer, params, SPECS), is_leaf=lambda node: isinstance(node, PartitionSpec)
    )
    leaves = jax.tree.leaves_with_path(jax.eval_shape(optimizer.init, params))
    return {jax.tree_util.keystr(path): (leaf.shape, spec) for (path, leaf), spec in zip(leaves, specs, strict=True)}


def find(specs, ending):
    """The one entry whose path ends so."""
    found = [value for name, value in specs.items() if name.endswith(ending)]
    assert len(found) == 1, ending
    return found[0]


def test_moments_lie_as_their_parameters():
    """Guards against optimizer state that is replicated, or lies elsewhere than what it is multiplied with."""
    specs = specs_by_name(AdamW(Schedule(0.1)))
    for moment in ("mu", "nu"):
        kernel = find(specs, f"{moment}['layers']['mlp']['gate']['kernel']")
        assert kernel == ((NUM_LAYERS, 6, 9), PartitionSpec(None, "data", "model"))
        assert find(specs, f"{moment}['fam_prompt']") == ((2, 6), PartitionSpec())
    assert all(spec == PartitionSpec() for name, (_, spec) in specs.items() if name.endswith("count"))


def test_adafactors_rows_and_columns_lose_the_averaged_axis():
    """Guards against rows that are laid out as columns, and against placeholders split over devices."""
    specs = specs_by_name(ADAFACTORS["paper"])
    kernel = "['layers']['mlp']['gate']['kernel']"
    assert find(specs, f".v_row{kernel}") == ((NUM_LAYERS, 6), PartitionSpec(None, "data"))
    assert find(specs, f".v_col{kernel}") == ((NUM_LAYERS, 9), PartitionSpec(None, "model"))
    assert find(specs, f".v{kernel}") == ((NUM_LAYERS, 1), PartitionSpec())
    assert find(specs, f".ema{kernel}") == ((NUM_LAYERS, 6, 9), PartitionSpec(None, "data", "model"))
    assert find(specs, ".v_row['embedding']['table']") == ((6,), PartitionSpec("data"))
    assert find(specs, ".v_col['embedding']['table']") == ((7,), PartitionSpec(None))
    scale = "['layers']['attention_norm']['scale']"
    assert find(specs, f".v{scale}") == ((NUM_LAYERS, 6), PartitionSpec(None, "data"))
    assert find(specs, f".v_row{scale}") == ((NUM_LAYERS, 1), PartitionSpec())
    unfactored = specs_by_name(ADAFACTORS["unfactored"])
    assert find(unfactored, f".v_row{kernel}") == ((NUM_LAYERS, 1), PartitionSpec())
    assert find(unfactored, f".v{kernel}") == ((NUM_LAYERS, 6, 9), PartitionSpec(None, "data", "model"))


@pytest.mark.parametrize("config", [AdamW(Schedule(0.1)), ADAFACTORS["paper"]], ids=["adamw", "adafactor"])
def test_a_sharded_update_equals_one_on_a_single_device(config):
    """Guards against a layout that the state cannot take, and against statistics of a shard instead of the whole."""
    params, gradient = draw(0), draw(1)
    optimizer = make_optimizer(config, params)
    mesh = Mesh(np.array(jax.devices()[:6]).reshape(2, 3), ("data", "model"))

    def place(specs):
        return jax.tree.map(
            lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda node: isinstance(node, PartitionSpec)
        )

    sharding = place(SPECS)
    state_sharding = place(optimizer_state_specs(optimizer, params, SPECS))
    state = jax.jit(optimizer.init, out_shardings=state_sharding)(jax.device_put(params, sharding))
    step = jax.jit(optimizer.update, out_shardings=(sharding, state_sharding))
    updates, state = step(jax.device_put(gradient, sharding), state, jax.device_put(params, sharding))
    expected = optimizer.update(gradient, optimizer.init(params), params)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    assert_close((updates, state), expected, FLOAT32)
