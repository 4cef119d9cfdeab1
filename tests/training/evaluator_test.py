"""Evaluation: sums by position, and over batches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from famjax.models.transformer import Transformer, init_params, initial_state, logits, read
from famjax.training.evaluator import EvaluationSums, evaluate_batches, evaluation_step, summarize
from famjax.training.losses import ScoreSums
from tiny_job import MODEL
from tolerances import FLOAT32, assert_close

BATCH, LENGTH, BUCKETS = 3, 13, 4
CONFIG = dataclasses.replace(MODEL, vocab_size=11, dropout_rate=0.0)


@pytest.fixture(scope="module")
def params():
    """Random parameters."""
    return nn.meta.unbox(jax.jit(functools.partial(init_params, Transformer(CONFIG)))(jax.random.key(0)))


@functools.cache
def step():
    """The compiled step of a model with dropout, which must not act here."""
    model = Transformer(dataclasses.replace(CONFIG, dropout_rate=0.5))
    return jax.jit(functools.partial(evaluation_step, model=model, chunk_size=10, position_buckets=BUCKETS))


def make_batch(seed: int) -> dict[str, jax.Array]:
    """A batch whose last row is padding throughout."""
    random = np.random.default_rng(seed)
    lengths = np.array([LENGTH, 6, 0], np.int32)
    is_token = np.arange(LENGTH) < lengths[:, None]
    batch = {
        "tokens": random.integers(0, 11, (BATCH, LENGTH)).astype(np.int32),
        "targets": random.integers(0, 11, (BATCH, LENGTH)).astype(np.int32),
        "weights": (random.choice([0.0, 0.5, 2.0], (BATCH, LENGTH)) * is_token).astype(np.float32),
        "answers": (random.random((BATCH, LENGTH)) < 0.2) & is_token,
        "lengths": lengths,
    }
    return jax.tree.map(jnp.asarray, batch)


def test_sums_by_position(params):
    """Guards against buckets that lose the last token, count padding, or do not add up to the whole."""
    batch = make_batch(0)
    model = Transformer(CONFIG)

    @jax.jit
    def whole_logits():
        output = read(model, params, batch["tokens"], initial_state(model, params, BATCH), batch["lengths"])
        return logits(model, params, output.hidden)

    log_p = jax.nn.log_softmax(whole_logits(), axis=-1)
    loss = -np.take_along_axis(np.asarray(log_p), np.asarray(batch["targets"])[..., None], axis=-1)[..., 0]
    correct = np.argmax(log_p, axis=-1) == batch["targets"]
    weights = np.asarray(batch["weights"])
    expected = np.zeros((4, BUCKETS))
    for row in range(BATCH):
        for position in range(LENGTH):
            bucket = position * BUCKETS // LENGTH
            weight = weights[row, position]
            expected[:, bucket] += (
                loss[row, position] * weight,
                weight,
                correct[row, position] * (weight > 0),
                weight > 0,
            )
    sums = step()(params, batch)
    actual = (sums.loss_by_position, sums.weight_by_position, sums.correct_by_position, sums.counted_by_position)
    assert_close(jnp.stack(actual), expected, FLOAT32)
    for by_position, total in zip(actual, ("loss", "weight", "correct", "counted"), strict=True):
        assert float(jnp.sum(by_position)) == pytest.approx(float(getattr(sums.scores, total)), rel=1e-5)
    assert expected[1].min() > 0


def test_batches_add_up(params):
    """Guards against a mean of means where batches differ in weight, and against a batch that is left out."""
    batches = [make_batch(seed) for seed in range(3)]
    sums = evaluate_batches(lambda batch: step()(params, batch), iter(batches), lambda: False)
    parts = [step()(params, batch) for batch in batches]
    assert_close(sums, jax.tree.map(lambda *leaves: sum(leaves), *parts), FLOAT32)
    means = summarize(sums)
    total = sum(float(part.scores.loss) for part in parts) / sum(float(part.scores.weight) for part in parts)
    assert means["loss"] == pytest.approx(total, rel=1e-5)
    assert set(means) == {"loss", "accuracy", "answer_accuracy", "exact_match"}


def test_a_signal_gives_no_result():
    """Guards against the scores of half an evaluation that pass for those of a whole one."""
    seen = []

    def count(batch):
        seen.append(batch)
        return fake_sums(1.0)

    assert evaluate_batches(count, [{}, {}, {}], lambda: len(seen) == 2) is None
    assert len(seen) == 2
    assert evaluate_batches(count, [], lambda: False) is None


def fake_sums(answered: float) -> EvaluationSums:
    """Sums of one scored token."""
    names = [field.name for field in dataclasses.fields(ScoreSums)]
    scores = ScoreSums(**dict.fromkeys(names, jnp.float32(1)) | {"answered": jnp.float32(answered)})
    return EvaluationSums(scores, *[jnp.ones(1)] * 4)


def test_answers_are_reported_only_where_there_are_some():
    """Guards against an exact match of 0 on documents, which have nothing to match."""
    assert set(summarize(fake_sums(0.0))) == {"loss", "accuracy"}
    assert summarize(fake_sums(1.0))["exact_match"] == 1.0
