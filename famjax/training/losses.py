"""Cross-entropy that never holds the logits of a whole batch [B, T, V]: they are made chunk by chunk, twice."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from famjax.models.dims import Hidden, Leaf, Logits


@struct.dataclass
class TokenScores:
    """How well each target was predicted, all [B, T].

    Attributes:
      loss: -log p(target), nats.
      log_z: log of the softmax's normaliser.
      correct: whether the target was the most probable token.
    """

    loss: Leaf
    log_z: Leaf
    correct: Leaf


@struct.dataclass
class ScoreSums:
    """Sums over the rows of a (micro)batch, each float32 []; they add up over microbatches and batches.

    Attributes:
      loss: weighted cross-entropy.
      z_loss: weighted log(Z)^2.
      weight: of the targets.
      correct: targets of positive weight that were predicted.
      counted: targets of positive weight.
      answer_correct: answer tokens that were predicted.
      answer_counted: answer tokens.
      exact: rows with an answer whose answer tokens were all predicted.
      answered: rows with an answer.
      rows: rows with a target of positive weight.
    """

    loss: Leaf
    z_loss: Leaf
    weight: Leaf
    correct: Leaf
    counted: Leaf
    answer_correct: Leaf
    answer_counted: Leaf
    exact: Leaf
    answered: Leaf
    rows: Leaf


def score_tokens(
    logits_of: Callable[[Float[Array, "B S D"]], Logits], hidden: Hidden, targets: Int[Array, "B T"], chunk_size: int
) -> TokenScores:
    """Scores every target, with logits of `chunk_size` tokens at a time; the backward pass makes them again.

    Args:
      logits_of: the model's output layer, with its parameters.
      hidden: activations after the last norm.
      targets: the next tokens.
      chunk_size: tokens, over the whole batch, whose logits exist at one time.
    """
    batch, length, _ = hidden.shape
    size = min(max(chunk_size // batch, 1), length)
    chunks = -(-length // size)
    padding = chunks * size - length

    def by_chunk(array: Array) -> Array:
        padded = jnp.pad(array, ((0, 0), (0, padding)) + ((0, 0),) * (array.ndim - 2))
        return jnp.moveaxis(padded.reshape(batch, chunks, size, *array.shape[2:]), 1, 0)

    def score_chunk(chunk: tuple[Array, Array]) -> TokenScores:
        chunk_hidden, chunk_targets = chunk
        logits = logits_of(chunk_hidden)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        is_target = jnp.arange(logits.shape[-1])[None, None, :] == chunk_targets[:, :, None]
        target_logit = jnp.sum(jnp.where(is_target, logits, 0), axis=-1)
        correct = jnp.argmax(logits, axis=-1) == chunk_targets
        return TokenScores(loss=log_z - target_logit, log_z=log_z, correct=correct)

    scores = jax.lax.map(jax.checkpoint(score_chunk), (by_chunk(hidden), by_chunk(targets)))
    return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1).reshape(batch, chunks * size)[:, :length], scores)


def sum_scores(scores: TokenScores, weights: Float[Array, "B T"], answers: Bool[Array, "B T"]) -> ScoreSums:
    """Sums the scores of a batch.

    Args:
      scores: of each target.
      weights: of each target in the loss; 0 at padding.
      answers: targets that belong to an answer; a row is an exact match if all of them are predicted.
    """
    counted = weights > 0
    answered = jnp.any(answers, axis=1)
    exact = answered & jnp.all(scores.correct | ~answers, axis=1)

    def total(flags: Bool[Array, "..."]) -> Float[Array, ""]:
        return jnp.sum(flags, dtype=jnp.float32)

    return ScoreSums(
        loss=jnp.sum(scores.loss * weights),
        z_loss=jnp.sum(jnp.square(scores.log_z) * weights),
        weight=jnp.sum(weights),
        correct=total(scores.correct & counted),
        counted=total(counted),
        answer_correct=total(scores.correct & answers),
        answer_counted=total(answers),
        exact=total(exact),
        answered=total(answered),
        rows=total(jnp.any(counted, axis=1)),
    )


def mean_scores(sums: ScoreSums) -> dict[str, Float[Array, ""]]:
    """Loss (nats per unit of weight), accuracy, answer_accuracy and exact_match; 0 where nothing counts."""

    def ratio(part: Array, whole: Array) -> Float[Array, ""]:
        return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0.0)

    return {
        "loss": ratio(sums.loss, sums.weight),
        "accuracy": ratio(sums.correct, sums.counted),
        "answer_accuracy": ratio(sums.answer_correct, sums.answer_counted),
        "exact_match": ratio(sums.exact, sums.answered),
    }
