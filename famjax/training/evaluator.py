"""Scores a stream of batches with fixed parameters: what evaluation during training and `--run_mode=eval` share."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from famjax.models.dims import Leaf
from famjax.models.transformer import Transformer, initial_state, logits, read
from famjax.training.losses import ScoreSums, TokenScores, mean_scores, score_tokens, sum_scores

Batch = Mapping[str, jax.Array]


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


def evaluate_batches(
    step: Callable[[Batch], EvaluationSums], batches: Iterable[Batch], should_stop: Callable[[], bool]
) -> EvaluationSums | None:
    """Adds up the sums of all batches on the device.

    Args:
      step: a compiled `evaluation_step` with its parameters.
      batches: on the devices.
      should_stop: polled before each batch.

    Returns:
      The sums; None where there was no batch, or `should_stop` said so.
    """
    total = None
    for batch in batches:
        if should_stop():
            return None
        sums = step(batch)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return total


def summarize(sums: EvaluationSums) -> dict[str, float]:
    """Loss, accuracy, answer_accuracy and exact_match, as numbers; the last two only where there are answers."""
    means = {name: float(value) for name, value in mean_scores(sums.scores).items()}
    if not float(sums.scores.answered):
        del means["answer_accuracy"], means["exact_match"]
    return means


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
