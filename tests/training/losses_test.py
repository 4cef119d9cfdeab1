"""The chunked loss against plain numpy on whole logits, and that whole logits never exist."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from famjax.training.losses import TokenScores, mean_scores, score_tokens, sum_scores
from tolerances import FLOAT32, FLOAT32_GRADIENT, assert_close

B, T, D, V = 3, 11, 4, 13
Z_LOSS = 0.3
RANDOM = np.random.default_rng(0)
HIDDEN = RANDOM.normal(size=(B, T, D)).astype(np.float32)
MATRIX = RANDOM.normal(size=(D, V)).astype(np.float32)
TARGETS = RANDOM.integers(0, V, (B, T)).astype(np.int32)
WEIGHTS = RANDOM.choice([0.0, 0.02, 1.0, 2.0], (B, T)).astype(np.float32)


def score(hidden, matrix, chunk_size: int) -> TokenScores:
    """Scores of tokens whose logits are a plain matrix product."""
    return score_tokens(lambda x: x @ matrix, hidden, jnp.asarray(TARGETS), chunk_size)


def loss(hidden, matrix, chunk_size: int) -> jax.Array:
    """The loss with its z-loss, summed."""
    sums = sum_scores(score(hidden, matrix, chunk_size), jnp.asarray(WEIGHTS), jnp.zeros((B, T), bool))
    return sums.loss + Z_LOSS * sums.z_loss


def plain() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores, and the gradient of the loss with respect to hidden and matrix, in float64."""
    hidden, matrix = HIDDEN.astype(np.float64), MATRIX.astype(np.float64)
    logits = hidden @ matrix
    log_z = np.log(np.sum(np.exp(logits), axis=-1))
    target = np.take_along_axis(logits, TARGETS[..., None], axis=-1)[..., 0]
    scores = {"loss": log_z - target, "log_z": log_z, "correct": np.argmax(logits, axis=-1) == TARGETS}
    probabilities = np.exp(logits - log_z[..., None])
    slope = probabilities - np.eye(V)[TARGETS] + Z_LOSS * 2 * log_z[..., None] * probabilities
    slope = slope * WEIGHTS[..., None]
    return scores, {"hidden": slope @ matrix.T, "matrix": np.einsum("btd,btv->dv", hidden, slope)}


@pytest.mark.parametrize("chunk_size", [1, 6, 15, B * T, 100_000])
def test_equals_whole_logits(chunk_size):
    """Guards against tokens that are lost, or counted twice, where chunks do not divide the length."""
    scores, gradient = plain()
    actual = jax.jit(functools.partial(score, chunk_size=chunk_size))(HIDDEN, MATRIX)
    for name, expected in scores.items():
        assert_close(getattr(actual, name), expected, FLOAT32, name)
    by_hidden, by_matrix = jax.jit(jax.grad(functools.partial(loss, chunk_size=chunk_size), argnums=(0, 1)))(
        HIDDEN, MATRIX
    )
    assert_close({"hidden": by_hidden, "matrix": by_matrix}, gradient, FLOAT32_GRADIENT)


def shapes(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Shapes of everything that a program computes, its inner programs included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for parameter in equation.params.values():
            for program in parameter if isinstance(parameter, tuple | list) else (parameter,):
                inner = getattr(program, "jaxpr", program)
                if hasattr(inner, "eqns"):
                    yield from shapes(inner)


def largest_logits(function) -> int:
    """Size of the largest array that has a dimension V in the program of a gradient."""
    program = jax.make_jaxpr(jax.grad(function, argnums=(0, 1)))(HIDDEN, MATRIX)
    return max(math.prod(shape) for shape in shapes(program.jaxpr) if V in shape)


def test_logits_of_the_batch_never_exist():
    """Guards against [B, T, V], forward or backward: 8 GB at a vocabulary of 262,144 and 8,192 tokens."""

    def whole(hidden, matrix):
        return jnp.sum(jax.nn.log_softmax(hidden @ matrix))

    assert largest_logits(whole) == B * T * V
    chunk = 6
    assert largest_logits(functools.partial(loss, chunk_size=chunk)) <= max(chunk, D) * V


def test_memory_does_not_hold_the_logits():
    """Guards against a compiler that keeps every chunk's logits for the backward pass."""
    batch, length, width, vocabulary = 2, 512, 4, 1000
    hidden = jax.ShapeDtypeStruct((batch, length, width), jnp.float32)
    matrix = jax.ShapeDtypeStruct((width, vocabulary), jnp.float32)
    targets = jnp.zeros((batch, length), jnp.int32)

    def total(hidden, matrix):
        return jnp.sum(score_tokens(lambda x: x @ matrix, hidden, targets, 16).loss)

    memory = jax.jit(jax.grad(total, argnums=(0, 1))).lower(hidden, matrix).compile().memory_analysis()
    assert memory.temp_size_in_bytes < batch * length * vocabulary * 4 / 8


def test_sums_by_hand():
    """Guards against padding or prompt tokens that count, and against exact match on half an answer."""
    correct = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]], bool)
    answers = np.array([[0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    weights = np.array([[0.5, 0, 0.5, 1], [0, 1, 1, 0], [0, 0, 2, 0]], np.float32)
    scores = TokenScores(loss=jnp.arange(12.0).reshape(3, 4), log_z=jnp.full((3, 4), 2.0), correct=jnp.asarray(correct))
    sums = sum_scores(scores, jnp.asarray(weights), jnp.asarray(answers))
    expected = {
        "loss": 0.5 * 0 + 0.5 * 2 + 3 + 5 + 6 + 2 * 10,
        "z_loss": 4 * 6.0,
        "weight": 6,
        "correct": 2 + 1 + 1,
        "counted": 3 + 2 + 1,
        "answer_correct": 1 + 1,
        "answer_counted": 3,
        "exact": 1,
        "answered": 2,
        "rows": 3,
    }
    for name, value in expected.items():
        assert float(getattr(sums, name)) == value, name
    means = {name: float(value) for name, value in mean_scores(sums).items()}
    assert means == pytest.approx({"loss": 35 / 6, "accuracy": 4 / 6, "answer_accuracy": 2 / 3, "exact_match": 0.5})


def test_means_of_nothing_are_zero():
    """Guards against a NaN, which would end the run, where a batch has no weight or no answer."""
    scores = TokenScores(loss=jnp.ones((1, 2)), log_z=jnp.ones((1, 2)), correct=jnp.ones((1, 2), bool))
    means = mean_scores(sum_scores(scores, jnp.zeros((1, 2)), jnp.zeros((1, 2), bool)))
    assert {name: float(value) for name, value in means.items()} == dict.fromkeys(means, 0.0)
