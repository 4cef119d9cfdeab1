"""The train step: a pure function (state, batch) -> (state, metrics)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from famjax.models.decoder_layer import Diagnostics
from famjax.models.dims import Leaf, Lengths, SavedFam
from famjax.models.memory import State
from famjax.models.sharding import row_indices, row_shards
from famjax.models.transformer import (
    Transformer,
    gather_outside_layers,
    initial_fam,
    logits,
    parameter_axes,
    read,
    start_state,
)
from famjax.training.config import TrainJob
from famjax.training.curriculum import advance
from famjax.training.gradients import Batch, Part, accumulate, cut
from famjax.training.losses import ScoreSums, mean_scores, score_tokens, sum_scores
from famjax.training.optimizers import frozen_parameters, learning_rate
from famjax.training.parameter_paths import replaced, without
from famjax.training.schedules import ramp
from famjax.training.state import TrainState
from famjax.training.state_passing import PassedFam, draw, keep_fam, start_from
from famjax.training.streaming import (
    BlockSums,
    ablated,
    block_metrics,
    carry_on,
    sum_by_block,
    texts_of,
)

Metrics = dict[str, jax.Array]

# Positions are int32: this leaves as many to the tokens of a text behind the offset. Above a RoPE base of 1.7e8.
_MAX_POSITION_OFFSET = 2**30


@struct.dataclass
class _Start:
    """What texts begin with in a step.

    Attributes:
      fam: every layer's initial FAM [L, F, D].
      passed: what the last step left.
      is_passed: whether texts begin with that instead, bool [].
    """

    fam: Leaf
    passed: PassedFam
    is_passed: Leaf


@struct.dataclass
class Scored:
    """What the forward pass over a (micro)batch gives besides its loss.

    Attributes:
      sums: scores, summed over rows.
      diagnostics: what FAM did, by layer.
      by_block: scores by their place in the document, where documents are streamed.
      fam: the FAM that the first row ends with.
      stream: what the rows carry into the next step, where documents are streamed.
    """

    sums: ScoreSums
    diagnostics: Diagnostics
    by_block: BlockSums | None
    fam: PassedFam
    stream: State | None

    @property
    def summed(self) -> tuple[ScoreSums, Diagnostics, BlockSums | None]:
        """What adds up over microbatches."""
        return self.sums, self.diagnostics, self.by_block


def train_step(
    state: TrainState, batch: Batch, *, job: TrainJob, model: Transformer, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """One step.

    Args:
      state: before the step.
      batch: tokens, targets, weights, answers, each [B, T], and lengths [B]; where documents are streamed begins and
        block_lengths [B, N] in place of these (`famjax.data.document_rows`).
      job: the run's settings.
      model: the model in training (dropout acts).
      optimizer: made for these parameters.

    Returns:
      The state after the step, and metrics: means over the global batch, norms, the stage that the host needs next,
      and for each layer what FAM did (`famjax.models.decoder_layer.Diagnostics`).
    """
    is_passed, example_key = _draw_step(job, state)
    retention_weight = _retention_weight(job, batch, is_passed, state.step)
    trained_params = without(state.params, frozen_parameters(job.applied_optimizer, state.params))

    def loss_of(
        trained: Any, start_fam: SavedFam, params: Any, microbatch: Batch, stream: State | None, key: jax.Array
    ) -> tuple[Float[Array, ""], Scored]:
        start = _Start(start_fam, state.passed_fam, is_passed)
        scored = forward(job, model, replaced(params, trained), microbatch, stream, start, key)
        sums, departure = scored.sums, jnp.mean(scored.diagnostics.fam_departure.total)
        return sums.loss + job.loss.z_loss * sums.z_loss + retention_weight * departure, scored

    given = accumulate(
        loss_of,
        lambda trained: initial_fam(model, replaced(state.params, trained)),
        trained_params,
        state.params,
        (batch, state.stream, example_key),
        num_microbatches=job.num_microbatches,
        axes=parameter_axes(job.model),
    )
    sums, diagnostics, by_block = given.summed
    gradients = jax.tree.map(lambda gradient: gradient / jnp.maximum(sums.weight, 1e-8), given.gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    means = mean_scores(sums)
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=replaced(state.params, optax.apply_updates(trained_params, updates)),
        opt_state=opt_state,
        passed_fam=given.fam,
        progress=advance(job.curriculum, state.progress, means),
        stream=given.stream,
    )
    metrics = {
        **means,
        "z_loss": sums.z_loss / jnp.maximum(sums.weight, 1e-8),
        "gradient_norm": optax.tree.norm(gradients),
        "update_norm": optax.tree.norm(updates),
        "learning_rate": jnp.asarray(learning_rate(job.optimizer, state.step)),
        "state_passed": is_passed,
        "tokens": jnp.sum(batch["lengths" if by_block is None else "block_lengths"]),
        "answered": sums.answered,
        "stage": state.progress.stage,
        "stage_after": new_state.progress.stage_after,
        **{field.name: getattr(diagnostics, field.name).mean for field in dataclasses.fields(Diagnostics)},
    }
    if by_block is not None:
        metrics |= block_metrics(by_block)
    return new_state, metrics


def ablated_loss(state: TrainState, batch: Batch, *, job: TrainJob, model: Transformer) -> Float[Array, ""]:
    """The loss that `train_step` would report if no row carried anything into the step: see `Streaming`.

    Everything else is the same: parameters, dropout, position offsets, passed FAM.
    """
    is_passed, example_key = _draw_step(job, state)
    start = _Start(initial_fam(model, state.params), state.passed_fam, is_passed)

    def sums_of(part: Part) -> ScoreSums:
        microbatch, stream, key = part
        assert stream is not None, "only what is carried can be ablated"
        forgotten = ablated(model, state.params, stream)
        return forward(job, model, state.params, microbatch, forgotten, start, key).sums

    if job.num_microbatches == 1:
        return mean_scores(sums_of((batch, state.stream, example_key)))["loss"]
    sums = jax.lax.map(sums_of, cut(batch, state.stream, job.num_microbatches, example_key))
    return mean_scores(jax.tree.map(lambda values: jnp.sum(values, axis=0), sums))["loss"]


def forward(
    job: TrainJob,
    model: Transformer,
    params: Any,
    batch: Batch,
    stream: State | None,
    begin: "_Start",
    key: jax.Array,
) -> Scored:
    """Reads a (micro)batch and scores it: from the start of each row, or on from where the stream has its rows.

    The rows may be a device's own of a batch that lies over several (`famjax.training.gradients`).
    """
    offset_key, dropout_key = jax.random.split(key)
    rows = batch["tokens"].shape[0]
    offset = draw_position_offset(offset_key, rows, job.model.rope_base) if job.random_position_offset else None
    start = start_from(start_state(begin.fam, rows, offset), begin.passed, begin.is_passed)
    params = gather_outside_layers(job.model, params)
    if stream is None:
        output = read(model, params, batch["tokens"], start, batch["lengths"], dropout_key=dropout_key)
    else:
        texts = texts_of(batch, start)
        output = read(model, params, batch["tokens"], stream, texts=texts, dropout_key=dropout_key)
    scores = score_tokens(
        functools.partial(logits, model, params),
        output.hidden,
        batch["targets"],
        max(job.loss.chunk_size // row_shards(), 1),
    )
    return Scored(
        sums=sum_scores(scores, batch["weights"], batch["answers"]),
        diagnostics=output.diagnostics,
        by_block=None if stream is None else sum_by_block(scores, batch, stream, job.model.memory.block_size),
        fam=keep_fam(output.state),
        stream=None if stream is None else carry_on(output.state),
    )


def _draw_step(job: TrainJob, state: TrainState) -> tuple[jax.Array, jax.Array]:
    """Whether the next step starts from the passed FAM, bool [], and the key of its examples."""
    passing_key, example_key = jax.random.split(step_key(state))
    return draw(job.state_passing, state.passed_fam, state.step, passing_key), example_key


def step_key(state: TrainState) -> jax.Array:
    """The key of the next step: the base key folded with the step, so that a resumed run draws the same."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


def draw_position_offset(key: jax.Array, rows: int, rope_base: float) -> Lengths:
    """Each example's offset: uniform in [0, 2 pi * RoPE base), and 0 with probability 1/2 (spec: Positions).

    It stays below 2**30, whatever the base, so that no position of a text of up to 2**30 tokens leaves int32.
    """
    offset_key, zero_key = jax.random.split(key)
    shape = (rows * row_shards(),)
    end = int(min(2 * jnp.pi * rope_base, _MAX_POSITION_OFFSET))
    offset: Int[Array, " B"] = jax.random.randint(offset_key, shape, 0, end)
    return jnp.where(jax.random.bernoulli(zero_key, 0.5, shape), 0, offset)[row_indices(rows)]


def _retention_weight(job: TrainJob, batch: Batch, is_passed: jax.Array, step: jax.Array) -> Float[Array, ""]:
    """What the departure after one update of FAM weighs in the summed loss, whatever the microbatches.

    The term is a mean over the updates of the global batch, which its lengths tell; the summed loss is divided by the
    weight of the targets.
    """
    size = job.model.memory.block_size
    if job.streaming.enabled:
        updates = (batch["block_lengths"] == size) & (is_passed | ~batch["begins"])
    else:
        updates = jnp.maximum(batch["lengths"] // size - jnp.where(is_passed, 0, 1), 0)
    share = jnp.sum(batch["weights"]) / jnp.maximum(jnp.sum(updates), 1)
    return job.retention.weight * ramp(step, job.retention.start_step, job.retention.ramp_steps) * share
