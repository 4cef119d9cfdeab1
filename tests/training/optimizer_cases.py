"""A small tree of parameters, gradients for it, and the Adafactor settings that the optimizers' tests compare."""

import functools

import jax
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

from famjax.training.config import Adafactor, Schedule
from famjax.training.optimizers import make_optimizer

NUM_LAYERS = 7
NUM_STEPS = 4
SHAPES = {
    "embedding/table": (7, 6),
    "fam_prompt": (2, 6),
    "layers/attention_norm/scale": (NUM_LAYERS, 6),
    "layers/mlp/gate/kernel": (NUM_LAYERS, 6, 9),
}


def draw(seed, layer_ratio=1.0):
    """A tree of SHAPES; each layer is `layer_ratio` times the one before it, so that mixing layers would show."""
    random = np.random.default_rng(seed)
    flat = {}
    for path, shape in SHAPES.items():
        scales = layer_ratio ** np.arange(NUM_LAYERS) if path.startswith("layers/") else np.ones(shape[0])
        array = random.normal(size=shape) * scales.reshape(-1, *[1] * (len(shape) - 1))
        flat[path] = array.astype(np.float32)
    return unflatten_dict(flat, sep="/")


def run(config, params, gradients):
    """The parameters after one step for each of the gradients."""
    optimizer = make_optimizer(config, params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params, state


def flatten(tree):
    """{"a": {"b": x}} -> {"a/b": x}."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


@functools.cache
def run_adafactor(name):
    """The parameters that one of ADAFACTORS ends with, from the steps that the reference takes as well."""
    return flatten(run(ADAFACTORS[name], *reference_steps())[0])


def reference_steps():
    """The parameters and the gradients of NUM_STEPS steps that optimizer and reference are compared on."""
    return draw(0, layer_ratio=0.2), [draw(1 + step, layer_ratio=0.2) for step in range(NUM_STEPS)]


ADAFACTORS = {
    "paper": Adafactor(Schedule(0.1), clip_norm=None, beta1=0.9, beta2=0.99, min_dim_size_to_factor=4),
    "growing decay": Adafactor(Schedule(0.1), clip_norm=None, min_dim_size_to_factor=4),
    "another exponent": Adafactor(Schedule(0.1), clip_norm=None, decay_exponent=0.5, min_dim_size_to_factor=4),
    "unfactored": Adafactor(Schedule(0.1), clip_norm=None, beta2=0.99, min_dim_size_to_factor=100),
    "absolute rate": Adafactor(
        Schedule(0.1), clip_norm=None, multiply_by_parameter_scale=False, min_dim_size_to_factor=4
    ),
    "unclipped": Adafactor(Schedule(0.1), clip_norm=None, clipping_threshold=None, min_dim_size_to_factor=4),
    "clipped": Adafactor(Schedule(0.1), clip_norm=None, clipping_threshold=0.1, min_dim_size_to_factor=4),
    "decayed": Adafactor(Schedule(0.1), clip_norm=None, weight_decay=0.3, min_dim_size_to_factor=4),
}
