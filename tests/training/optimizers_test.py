import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adafactor_reference import AdafactorReference
from optimizer_cases import ADAFACTORS, NUM_LAYERS, SHAPES, draw, flatten, reference_steps, run, run_adafactor

from famjax.errors import ConfigError
from famjax.training.config import Adafactor, AdamW, OptimizerConfig, Schedule
from famjax.training.optimizers import frozen_parameters, learning_rate, make_optimizer, with_schedule_step
from tolerances import FLOAT32, assert_close


@pytest.mark.parametrize("name", ADAFACTORS)
def test_adafactor_equals_the_reference_layer_by_layer(name):
    """Guards against a wrong moment, factoring or order, and against statistics that mix the layers of a stack."""
    config = ADAFACTORS[name]
    params, gradients = reference_steps()
    result = run_adafactor(name)
    for path, start in flatten(params).items():
        is_stacked = path.startswith("layers/")
        decays = not (path.endswith("scale") or path == "fam_prompt")
        for layer in range(NUM_LAYERS) if is_stacked else [...]:
            parameter = start[layer].astype(np.float64)
            reference = AdafactorReference(config, 0.1, decays)
            for gradient in gradients:
                parameter = parameter + reference.update(flatten(gradient)[path][layer], parameter)
            scale = np.std(start[layer])
            assert_close(result[path][layer] / scale, parameter / scale, FLOAT32, f"{path}, layer {layer}")


def test_the_adafactor_settings_differ():
    """Guards against an option that changes nothing, which the comparison with the reference could not see."""
    kernels = [run_adafactor(name)["layers/mlp/gate/kernel"] for name in ADAFACTORS]
    for first in range(len(kernels)):
        for second in range(first):
            assert not np.allclose(kernels[first], kernels[second], rtol=1e-3, atol=1e-7)


def test_adamw_equals_hand_values():
    """Guards against a swapped beta, a decay that is not multiplied by the rate, or a decay of excluded parameters."""
    config = AdamW(Schedule(0.1), clip_norm=None, weight_decay=0.5, beta1=0.8, beta2=0.9, epsilon=1e-3)
    params, gradients = draw(0), [draw(1), draw(2)]
    result = flatten(run(config, params, gradients)[0])
    for path, start in flatten(params).items():
        parameter, first, second = start, 0.0, 0.0
        decay = 0.0 if path.endswith("scale") or path == "fam_prompt" else 0.5
        for t, gradient in enumerate(gradients, start=1):
            first = 0.8 * first + 0.2 * flatten(gradient)[path]
            second = 0.9 * second + 0.1 * flatten(gradient)[path] ** 2
            direction = (first / (1 - 0.8**t)) / (np.sqrt(second / (1 - 0.9**t)) + 1e-3)
            parameter = parameter - 0.1 * (direction + decay * parameter)
        assert_close(result[path], parameter, FLOAT32, path)


def test_the_rate_follows_the_schedule():
    """Guards against a rate that is one step early or late, and against a report that differs from what is applied."""
    config = AdamW(Schedule(0.5, warmup_steps=2), clip_norm=None, beta1=0.0, beta2=0.0, epsilon=1e-12)
    params = {"w": jnp.zeros(3)}
    optimizer = make_optimizer(dataclasses.replace(config, weight_decay_exclude=()), params)
    state = optimizer.init(params)
    for step, rate in enumerate([0.0, 0.25, 0.5, 0.5]):
        updates, state = optimizer.update({"w": jnp.ones(3)}, state, params)
        assert_close(updates["w"], np.full(3, -rate), FLOAT32)
        assert float(learning_rate(config, step)) == pytest.approx(rate)


def test_clipping_uses_the_norm_of_the_trained_parameters():
    """Guards against a global norm per group of parameters, or one that frozen parameters count in."""
    gradient = draw(1)
    trained = {path: leaf for path, leaf in flatten(gradient).items() if path != "embedding/table"}
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in trained.values()))
    config = Adafactor(
        Schedule(1.0), clip_norm=float(norm) / 4, beta1=0.0, multiply_by_parameter_scale=False, freeze=("embedding/.*",)
    )
    params = draw(0)
    optimizer = make_optimizer(config, params)
    clipped = optimizer.update(gradient, optimizer.init(params), params)[1]
    second_moments = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(clipped)
        if ".v['" in jax.tree_util.keystr(path) and leaf.shape in SHAPES.values()
    ]
    # The decay is 0 at the first step: the second moment is the square of the clipped gradient.
    assert sum(float(np.sum(leaf)) for leaf in second_moments) == pytest.approx((norm / 4) ** 2, rel=1e-5)


@pytest.mark.parametrize(
    "config", [AdamW(Schedule(0.1), clip_norm=None), ADAFACTORS["paper"]], ids=["adamw", "adafactor"]
)
@pytest.mark.parametrize("freeze", [("embedding/.*", "fam_prompt"), ("layers/.*",), (".*/kernel",)])
def test_frozen_parameters_stay_and_have_no_state(config: OptimizerConfig, freeze):
    """Guards against frozen parameters that decay or move, and against memory spent on their moments."""
    config = dataclasses.replace(config, freeze=freeze, weight_decay=0.1, weight_decay_exclude=())
    params = draw(0)
    result, state = run(config, params, [draw(1), draw(2)])
    is_frozen = flatten(frozen_parameters(config, params))
    assert 0 < sum(is_frozen.values()) < len(is_frozen)
    state_paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)]
    for path, frozen in is_frozen.items():
        in_state = any("".join(f"['{key}']" for key in path.split("/")) in state_path for state_path in state_paths)
        assert in_state != frozen, path
        assert np.array_equal(flatten(result)[path], flatten(params)[path]) == frozen, path


def test_freezing_leaves_the_other_parameters_updates_alone():
    """Guards against a mask that shifts parameters against their state."""
    free = dataclasses.replace(ADAFACTORS["paper"], clip_norm=None)
    frozen = dataclasses.replace(free, freeze=("embedding/.*", ".*/scale"))
    params, gradients = draw(0), [draw(1), draw(2)]
    expected, result = (flatten(run(config, params, gradients)[0]) for config in (free, frozen))
    for path in ("fam_prompt", "layers/mlp/gate/kernel"):
        np.testing.assert_array_equal(result[path], expected[path])


def test_wrong_patterns_are_errors():
    """Guards against silent misspellings in both settings, and against a run in which nothing is trained."""
    params = draw(0)
    with pytest.raises(ConfigError, match=r"AdamW.freeze has the pattern 'embeding/\.\*'"):
        make_optimizer(AdamW(Schedule(0.1), freeze=("embeding/.*",)), params)
    with pytest.raises(ConfigError, match=r"Adafactor.weight_decay_exclude has the pattern 'scale'"):
        make_optimizer(Adafactor(Schedule(0.1), weight_decay_exclude=("scale",)), params)
    with pytest.raises(ConfigError, match="nothing is trained"):
        make_optimizer(AdamW(Schedule(0.1), freeze=(".*",)), params)
    with pytest.raises(ConfigError, match="allowed: AdamW, Adafactor"):
        make_optimizer(OptimizerConfig(Schedule(0.1)), params)


@pytest.mark.parametrize("config", [AdamW(Schedule(0.1, 10)), ADAFACTORS["paper"]], ids=["adamw", "adafactor"])
def test_the_schedules_step_can_be_set_alone(config):
    """Guards against a restored step that also moves the counts by which moments correct their bias."""
    state = run(config, draw(0), [draw(1), draw(2)])[1]
    moved = with_schedule_step(state, 700)
    changed = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(jax.tree.leaves_with_path(state), jax.tree.leaves(moved), strict=True)
        if not np.array_equal(old, new)
    ]
    assert len(changed) == 1
    assert [int(leaf) for leaf in jax.tree.leaves(moved) if np.all(np.asarray(leaf) == 700)] == [700]


@pytest.mark.parametrize("config", [AdamW(Schedule(0.1)), ADAFACTORS["paper"]], ids=["adamw", "adafactor"])
def test_abstract_parameters_will_do(config):
    """Guards against an optimizer that must see arrays before the state's layout is known."""
    params = draw(0)
    abstract = jax.eval_shape(lambda: params)
    expected = jax.eval_shape(make_optimizer(config, params).init, params)
    assert jax.eval_shape(make_optimizer(config, abstract).init, abstract) == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(expected)} == {jnp.dtype("float32"), jnp.dtype("int32")}
