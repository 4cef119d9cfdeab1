"""What changes over steps: learning rates, and what begins later."""

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from famjax.training.optimizer_config import Schedule


def make_schedule(config: Schedule) -> optax.Schedule:
    """The rate as a function of the number of updates made so far.

    A warm-up of w > 0 steps gives step * peak / w, so 0 at step 0 and the peak at step w. "linear" and "cosine" reach
    `end_factor * peak` at `total_steps` and stay there; "rsqrt" is peak * sqrt(w' / step) with w' = max(w, 1), which
    meets the warm-up at the peak and starts at the peak where there is no warm-up.

    Args:
      config: the schedule.

    Returns:
      A function from a step (int or int array) to a rate, fit for use under jit.
    """
    warmup = optax.linear_schedule(0.0, config.peak, config.warmup_steps)
    return optax.join_schedules([warmup, _decay(config)], [config.warmup_steps])


def ramp(step: Int[Array, ""], start_step: int, ramp_steps: int) -> Float[Array, ""]:
    """The share of its full value that something which begins later has at a step.

    Returns:
      0 before `start_step`, then a line over `ramp_steps` steps up to 1.
    """
    since_start = (step - start_step).astype(jnp.float32)
    return jnp.where(since_start >= 0, jnp.clip((since_start + 1) / max(ramp_steps, 1), 0.0, 1.0), 0.0)


def _decay(config: Schedule) -> optax.Schedule:
    """The rate as a function of the steps since the end of the warm-up."""
    match config.decay:
        case "constant":
            return optax.constant_schedule(config.peak)
        case "linear":
            return optax.linear_schedule(config.peak, config.end_factor * config.peak, _decay_steps(config))
        case "cosine":
            return optax.cosine_decay_schedule(config.peak, _decay_steps(config), alpha=config.end_factor)
        case "rsqrt":
            return _rsqrt_decay(config.peak, config.warmup_steps)


def _decay_steps(config: Schedule) -> int:
    """Steps between the peak and the end, at least 1: optax refuses a decay of no steps."""
    assert config.total_steps is not None  # Schedule checks it for the decays that have an end.
    return max(config.total_steps - config.warmup_steps, 1)


def _rsqrt_decay(peak: float, warmup_steps: int) -> optax.Schedule:
    """Peak * sqrt(w / step), from w = max(warmup_steps, 1) on. optax has no such schedule."""
    first = max(warmup_steps, 1)

    def rate(steps_since_warmup: ArrayLike) -> ArrayLike:
        step = jnp.maximum(jnp.asarray(steps_since_warmup) + warmup_steps, first)
        return peak * jnp.sqrt(first / step)

    return rate
