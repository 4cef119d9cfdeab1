"""Optimizers: AdamW and Adafactor from optax's parts, with weight decay and freezing by parameter path.

Every optimizer is one chain,

    clip by global norm -> AdamW's or Adafactor's direction -> + weight_decay * parameter -> * -rate(step)

over the parameters that are trained; frozen ones (`OptimizerConfig.freeze`) are outside it: they count in no norm, have
no state and receive zero updates. Gradients may have None in their place, and updates then have it too.

Parameters under "layers/" hold all layers, stacked on their first axis. Adafactor's statistics belong to one matrix of
one layer (its factored rows and columns, the root mean square that clips an update, the scale of the parameter), so its
direction is mapped over that axis: a stack of L layers is updated exactly as L separate layers would be. Of a layer's
array with three axes, as an attention kernel [D, H, h], the two largest are factored and the third is kept.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from famjax.errors import ConfigError
from famjax.training.optimizer_config import Adafactor, AdamW, OptimizerConfig
from famjax.training.parameter_paths import Tree, parameter_paths, select
from famjax.training.schedules import make_schedule

STACKED_PREFIX = "layers/"


def make_optimizer(config: OptimizerConfig, params: Tree) -> optax.GradientTransformation:
    """Builds the optimizer for these parameters.

    Args:
      config: AdamW or Adafactor.
      params: the parameters, unboxed; abstract ones will do (paths and shapes are read).

    Returns:
      The transformation of gradients into updates. `update` needs the parameters.

    Raises:
      ConfigError: a pattern of `freeze` or `weight_decay_exclude` matches no parameter (the default patterns of
        `weight_decay_exclude` may), or everything is frozen.
    """
    frozen = frozen_parameters(config, params)
    optimizer = optax.chain(
        optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm),
        _direction(config, params),
        optax.add_decayed_weights(config.weight_decay, mask=_decayed_parameters(config, params)),
        optax.scale_by_learning_rate(make_schedule(config.schedule)),
    )
    labels = jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen)
    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def frozen_parameters(config: OptimizerConfig, params: Tree) -> Tree:
    """Which parameters are not trained: a bool for each.

    The loss should not be differentiated by these, so that their gradients are not computed at all.

    Raises:
      ConfigError: a pattern of `freeze` matches no parameter, or everything is frozen.
    """
    frozen = select(params, config.freeze, f"{type(config).__name__}.freeze")
    if all(jax.tree.leaves(frozen)):
        raise ConfigError(
            f"{type(config).__name__}.freeze = {config.freeze} matches every parameter: nothing is trained."
        )
    return frozen


def learning_rate(config: OptimizerConfig, step: ArrayLike) -> ArrayLike:
    """The rate of the update that leads from `step` to `step + 1`, as the optimizer applies it."""
    return make_schedule(config.schedule)(step)


def with_schedule_step(opt_state: optax.OptState, step: ArrayLike) -> optax.OptState:
    """Sets the step that the schedule reads, and nothing else.

    For a run that takes a checkpoint's step with a fresh optimizer, or its optimizer from step 0: moments, and the
    counts that correct their bias, stay what they are.

    Args:
      opt_state: a state of `make_optimizer`'s optimizer.
      step: updates made so far.
    """

    def is_schedule_state(path: tuple[Any, ...], _: Any) -> bool:
        return getattr(path[-1], "tuple_name", None) == "ScaleByScheduleState"

    return optax.tree_utils.tree_set(opt_state, is_schedule_state, count=jnp.asarray(step, jnp.int32))


def _decayed_parameters(config: OptimizerConfig, params: Tree) -> Tree:
    """Which parameters decay: a bool for each."""
    default_patterns = OptimizerConfig.weight_decay_exclude
    setting = f"{type(config).__name__}.weight_decay_exclude"
    return jax.tree.map(
        lambda excluded: not excluded, select(params, config.weight_decay_exclude, setting, optional=default_patterns)
    )


def _direction(config: OptimizerConfig, params: Tree) -> optax.GradientTransformation:
    """What the optimizer makes of a gradient, before weight decay and rate."""
    match config:
        case AdamW():
            return optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
        case Adafactor():
            return _adafactor_direction(config, params)
    raise ConfigError(f"The optimizer is {type(config).__name__}; allowed: AdamW, Adafactor.")


def _adafactor_direction(config: Adafactor, params: Tree) -> optax.GradientTransformation:
    """Adafactor without the rate.

    optax.adafactor itself applies the rate before the first moment and cannot hold the second moment's decay constant.
    """
    parts = [
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=config.min_dim_size_to_factor, decay_rate_fn=_second_moment_decay(config)
        )
    ]
    if config.clipping_threshold is not None:
        parts.append(optax.clip_by_block_rms(config.clipping_threshold))
    if config.multiply_by_parameter_scale:
        parts.append(optax.scale_by_param_block_rms())
    scale = optax.chain(*parts)
    labels = jax.tree.map(
        lambda path: "stacked" if path.startswith(STACKED_PREFIX) else "single", parameter_paths(params)
    )
    by_layer = optax.partition({"stacked": _map_over_layers(scale), "single": scale}, labels)
    if config.beta1 is None:
        return by_layer
    return optax.chain(by_layer, optax.ema(config.beta1, debias=False))


def _second_moment_decay(config: Adafactor) -> Callable[[ArrayLike, ArrayLike], ArrayLike]:
    """The decay at a step (from 0), in the form that optax.scale_by_factored_rms asks for.

    A constant beta2 would leave the first estimates of the second moment too small, as its start is 0. Adam divides the
    estimate by 1 - beta2^t; the decay beta2 (1 - beta2^(t-1)) / (1 - beta2^t), t = step + 1, gives that very estimate
    (0 at t = 1, beta2 in the limit).
    """

    def growing(step: ArrayLike, _: ArrayLike) -> ArrayLike:
        return 1.0 - (jnp.asarray(step, jnp.float32) + 1.0) ** -config.decay_exponent

    def constant(step: ArrayLike, _: ArrayLike) -> ArrayLike:
        beta2 = jnp.float32(config.beta2)
        t = jnp.asarray(step, jnp.float32) + 1.0
        return beta2 * (1.0 - beta2 ** (t - 1.0)) / (1.0 - beta2**t)

    return growing if config.beta2 is None else constant


def _map_over_layers(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies `inner` to each layer's part of stacked parameters [L, ...]; its state gains the axis L as well."""

    def init(params: optax.Params) -> optax.OptState:
        return jax.vmap(inner.init)(params) if jax.tree.leaves(params) else inner.init(params)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        apply = jax.vmap(inner.update) if jax.tree.leaves(updates) else inner.update
        return apply(updates, state, params)

    return optax.GradientTransformation(init, update)
