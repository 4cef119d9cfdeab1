"""The train step: a pure function (state, batch) -> (state, metrics)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from famjax.models.decoder_layer import Diagnostics
from famjax.models.dims import Lengths
from famjax.models.transformer import Transformer, initial_state, logits, read
from famjax.training.config import TrainJob
from famjax.training.curriculum import advance
from famjax.training.losses import ScoreSums, mean_scores, score_tokens, sum_scores
from famjax.training.optimizers import frozen_parameters, learning_rate
from famjax.training.schedules import ramp
from famjax.training.state import TrainState
from famjax.training.state_passing import PassedFam, draw, keep_fam, start_from

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


@struct.dataclass
class Scored:
    """What the forward pass over a (micro)batch gives besides its loss.

    Attributes:
      sums: scores, summed over rows.
      fam: the FAM that the first row ends with.
      diagnostics: what FAM did, by layer.
    """

    sums: ScoreSums
    fam: PassedFam
    diagnostics: Diagnostics


def train_step(
    state: TrainState, batch: Batch, *, job: TrainJob, model: Transformer, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """One step.

    Args:
      state: before the step.
      batch: tokens, targets, weights, answers, each [B, T], and lengths [B].
      job: the run's settings.
      model: the model in training (dropout acts).
      optimizer: made for these parameters.

    Returns:
      The state after the step, and metrics: means over the global batch, norms, the stage that the host needs next,
      and for each layer what FAM did (`famjax.models.decoder_layer.Diagnostics`).
    """
    passing_key, example_key = jax.random.split(step_key(state))
    is_passed = draw(job.state_passing, state.passed_fam, state.step, passing_key)
    retention_weight = _retention_weight(job, batch, is_passed, state.step)

    def loss_of(params: Any, microbatch: Batch, key: jax.Array) -> tuple[Float[Array, ""], Scored]:
        params = _stop_frozen(job, params)
        scored = forward(job, model, params, microbatch, state.passed_fam, is_passed, key)
        sums, departure = scored.sums, jnp.mean(scored.diagnostics.fam_departure.total)
        return sums.loss + job.loss.z_loss * sums.z_loss + retention_weight * departure, scored

    gradients, scored = _accumulate(loss_of, state.params, batch, job.num_microbatches, example_key)
    sums = scored.sums
    gradients = jax.tree.map(lambda gradient: gradient / jnp.maximum(sums.weight, 1e-8), gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    means = mean_scores(sums)
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        passed_fam=scored.fam,
        progress=advance(job.curriculum, state.progress, means),
    )
    metrics = {
        **means,
        "z_loss": sums.z_loss / jnp.maximum(sums.weight, 1e-8),
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
        "learning_rate": jnp.asarray(learning_rate(job.optimizer, state.step)),
        "state_passed": is_passed,
        "tokens": jnp.sum(batch["lengths"]),
        "answered": sums.answered,
        "stage": state.progress.stage,
        "stage_after": new_state.progress.stage_after,
        **{field.name: getattr(scored.diagnostics, field.name).mean for field in dataclasses.fields(Diagnostics)},
    }
    return new_state, metrics


def forward(
    job: TrainJob,
    model: Transformer,
    params: Any,
    batch: Batch,
    passed: PassedFam,
    is_passed: jax.Array,
    key: jax.Array,
) -> Scored:
    """Reads a (micro)batch from its start and scores it."""
    offset_key, dropout_key = jax.random.split(key)
    rows = batch["tokens"].shape[0]
    offset = draw_position_offset(offset_key, rows, job.model.rope_base) if job.random_position_offset else None
    start = start_from(initial_state(model, params, rows, offset, with_cache=False), passed, is_passed)
    output = read(model, params, batch["tokens"], start, batch["lengths"], dropout_key=dropout_key)
    scores = score_tokens(
        functools.partial(logits, model, params), output.hidden, batch["targets"], job.loss.chunk_size
    )
    return Scored(
        sums=sum_scores(scores, batch["weights"], batch["answers"]),
        fam=keep_fam(output.state),
        diagnostics=output.diagnostics,
    )


def step_key(state: TrainState) -> jax.Array:
    """The key of the next step: the base key folded with the step, so that a resumed run draws the same."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def draw_position_offset(key: jax.Array, rows: int, rope_base: float) -> Lengths:
    """Each example's offset: uniform in [0, 2 pi * RoPE base), and 0 with probability 1/2 (spec: Positions)."""
    offset_key, zero_key = jax.random.split(key)
    offset: Int[Array, " B"] = jax.random.randint(offset_key, (rows,), 0, int(2 * jnp.pi * rope_base))
    return jnp.where(jax.random.bernoulli(zero_key, 0.5, (rows,)), 0, offset)


def _accumulate(loss_of: Any, params: Any, batch: Batch, num_microbatches: int, key: jax.Array) -> tuple[Any, Scored]:
    """Sums gradients and scores over microbatches. The passed FAM is that of the global batch's first example."""
    gradient_of = jax.grad(loss_of, has_aux=True)
    if num_microbatches == 1:
        return gradient_of(params, batch, key)

    def cut(array: jax.Array) -> jax.Array:
        # Every microbatch takes rows from every device's part of the batch, so nothing moves between devices.
        return jnp.moveaxis(array.reshape(-1, num_microbatches, *array.shape[1:]), 1, 0)

    microbatches = jax.tree.map(cut, dict(batch))
    keys = jax.random.split(key, num_microbatches)

    def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, PassedFam]:
        gradients, scored = gradient_of(params, *part)
        return jax.tree.map(jnp.add, total, (gradients, scored.sums, scored.diagnostics)), scored.fam

    first = jax.tree.map(lambda array: array[0], (microbatches, keys))
    shapes = jax.eval_shape(gradient_of, params, *first)
    summed = (shapes[0], shapes[1].sums, shapes[1].diagnostics)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), summed)
    (gradients, sums, diagnostics), fams = jax.lax.scan(add, zeros, (microbatches, keys))
    return gradients, Scored(sums=sums, fam=jax.tree.map(lambda array: array[0], fams), diagnostics=diagnostics)


def _retention_weight(job: TrainJob, batch: Batch, is_passed: jax.Array, step: jax.Array) -> Float[Array, ""]:
    """What the departure after one update of FAM weighs in the summed loss, whatever the microbatches.

    The term is a mean over the updates of the global batch, which its lengths tell; the summed loss is divided by the
    weight of the targets.
    """
    updates = jnp.maximum(batch["lengths"] // job.model.memory.block_size - jnp.where(is_passed, 0, 1), 0)
    share = jnp.sum(batch["weights"]) / jnp.maximum(jnp.sum(updates), 1)
    return job.retention.weight * ramp(step, job.retention.start_step, job.retention.ramp_steps) * share


def _stop_frozen(job: TrainJob, params: Any) -> Any:
    """Keeps gradients of frozen parameters from being computed."""
    frozen = frozen_parameters(job.optimizer, params)
    return jax.tree.map(lambda is_frozen, param: jax.lax.stop_gradient(param) if is_frozen else param, frozen, params)
