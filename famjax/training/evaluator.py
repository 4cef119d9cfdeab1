"""Scores a stream of batches with fixed parameters: what evaluation during training and `--run_mode=eval` share."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from famjax.models.dims import Leaf
from famjax.models.memory import State
from famjax.models.transformer import Transformer, initial_state, logits, read
from famjax.training.losses import ScoreSums, TokenScores, mean_scores, score_tokens, sum_scores
from famjax.training.streaming import BlockSums, ablated, carry_on, loss_at_blocks, sum_by_block, texts_of

Batch = Mapping[str, jax.Array]
Sums = TypeVar("Sums")


@struct.dataclass
class EvaluationSums:
    """Sums over batches.

    Attributes:
      scores: over all targets.
      loss_by_position: weighted loss in each equal part of the example [buckets].
      weight_by_position: the weights there [buckets].
      correct_by_position: predicted targets of positive weight there [buckets].
      counted_by_position: targets of positive weight there [buckets].
    """

    scores: ScoreSums
    loss_by_position: Leaf
    weight_by_position: Leaf
    correct_by_position: Leaf
    counted_by_position: Leaf


def evaluation_step(
    params: Any, batch: Batch, *, model: Transformer, chunk_size: int, position_buckets: int
) -> EvaluationSums:
    """Scores one batch, each row read from the initial state.

    Args:
      params: parameters, unboxed.
      batch: tokens, targets, weights, answers, each [B, T], and lengths [B].
      model: the model; no dropout.
      chunk_size: tokens whose logits exist at one time.
      position_buckets: equal parts of the example in which scores are summed apart.
    """
    rows = batch["tokens"].shape[0]
    start = initial_state(model, params, rows, with_cache=False)
    output = read(model, params, batch["tokens"], start, batch["lengths"])
    scores = score_tokens(functools.partial(logits, model, params), output.hidden, batch["targets"], chunk_size)
    return _sum(scores, batch, position_buckets)


@struct.dataclass
class StreamedSums:
    """Sums over batches of streamed documents.

    Attributes:
      scores: over all targets.
      by_block: by the place in the document.
      ablated: over all targets, each batch read from the initial state.
      ablated_by_block: likewise, by the place in the document.
    """

    scores: ScoreSums
    by_block: BlockSums
    ablated: ScoreSums
    ablated_by_block: BlockSums


@dataclasses.dataclass(frozen=True)
class StreamedEvaluation:
    """The evaluation of streamed documents, compiled.

    Attributes:
      step: (parameters, batch, stream) -> (sums, stream), as `streamed_evaluation_step`.
      begin: gives what the rows carry before the first batch.
    """

    step: Callable[[Any, Batch, State], tuple[StreamedSums, State]]
    begin: Callable[[], State]


def streamed_evaluation_step(
    params: Any, batch: Batch, stream: State, *, model: Transformer, chunk_size: int
) -> tuple[StreamedSums, State]:
    """Scores one batch of streamed documents, with what its rows carry and without.

    Args:
      params: parameters, unboxed.
      batch: tokens, targets, weights, answers, each [B, T], begins and block_lengths [B, N].
      stream: what the rows carry into the batch (`famjax.training.streaming`).
      model: the model; no dropout.
      chunk_size: tokens whose logits exist at one time.
    """
    start = initial_state(model, params, batch["tokens"].shape[0], with_cache=False)

    def score(state: State) -> tuple[ScoreSums, BlockSums, State]:
        output = read(model, params, batch["tokens"], state, texts=texts_of(batch, start))
        scores = score_tokens(functools.partial(logits, model, params), output.hidden, batch["targets"], chunk_size)
        sums = sum_scores(scores, batch["weights"], batch["answers"])
        by_block = sum_by_block(scores, batch, stream, model.config.memory.block_size)
        return sums, by_block, carry_on(output.state)

    scores, by_block, carried = score(stream)
    without, without_by_block, _ = score(ablated(model, params, stream))
    return StreamedSums(scores, by_block, without, without_by_block), carried


def evaluate_batches(
    step: Callable[[Batch], Sums], batches: Iterable[Batch], should_stop: Callable[[], bool]
) -> Sums | None:
    """Adds up the sums of all batches on the device.

    Args:
      step: a compiled `evaluation_step` with its parameters, or another step that gives sums.
      batches: on the devices.
      should_stop: polled before each batch.

    Returns:
      The sums; None where there was no batch, or `should_stop` said so.
    """
    total: Sums | None = None
    for batch in batches:
        if should_stop():
            return None
        sums = step(batch)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return total


def evaluate_documents(
    evaluation: StreamedEvaluation, params: Any, batches: Iterable[Batch], should_stop: Callable[[], bool]
) -> StreamedSums | None:
    """`evaluate_batches` of streamed documents, from the beginning of their rows."""
    stream = evaluation.begin()

    def step(batch: Batch) -> StreamedSums:
        nonlocal stream
        sums, stream = evaluation.step(params, batch, stream)
        return sums

    return evaluate_batches(step, batches, should_stop)


def summarize(sums: EvaluationSums) -> dict[str, float]:
    """Loss, accuracy, answer_accuracy and exact_match, as numbers; the last two only where there are answers."""
    means = {name: float(value) for name, value in mean_scores(sums.scores).items()}
    if not float(sums.scores.answered):
        del means["answer_accuracy"], means["exact_match"]
    return means


def summarize_streamed(sums: StreamedSums) -> dict[str, float]:
    """Loss and accuracy; the loss with the memory ablated, and by how much it is higher; both losses by place."""
    values = {name: float(value) for name, value in mean_scores(sums.scores).items() if name in ("loss", "accuracy")}
    values["ablated_loss"] = float(mean_scores(sums.ablated)["loss"])
    values["memory_gain"] = values["ablated_loss"] - values["loss"]
    for name, by_block in (("loss_at_block", sums.by_block), ("ablated_loss_at_block", sums.ablated_by_block)):
        values |= loss_at_blocks(np.asarray(by_block.loss), np.asarray(by_block.weight), name)
    return values


def _sum(scores: TokenScores, batch: Batch, buckets: int) -> EvaluationSums:
    weights, counted = batch["weights"], batch["weights"] > 0
    length = weights.shape[1]
    bucket = jnp.arange(length) * buckets // length
    in_bucket_Txk = (bucket[:, None] == jnp.arange(buckets)[None, :]).astype(jnp.float32)

    def by_position(values_BxT: jax.Array) -> jax.Array:
        return jnp.einsum("BT,Tk->k", values_BxT.astype(jnp.float32), in_bucket_Txk)

    return EvaluationSums(
        scores=sum_scores(scores, weights, batch["answers"]),
        loss_by_position=by_position(scores.loss * weights),
        weight_by_position=by_position(weights),
        correct_by_position=by_position(scores.correct & counted),
        counted_by_position=by_position(counted),
    )
