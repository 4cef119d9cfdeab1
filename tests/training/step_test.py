"""The train step: what it adds up, what it starts from, what it leaves alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from famjax.data.config import DataConfig
from famjax.models.transformer import Transformer, broadcast_fam, init_params, initial_state, logits, read
from famjax.training.config import AdamW, Curriculum, LossConfig, Retention, Schedule, StatePassing, TrainJob
from famjax.training.optimizers import make_optimizer
from famjax.training.state import TrainState, init_train_state
from famjax.training.step import Metrics, draw_position_offset, step_key, train_step
from tiny_job import MODEL
from tolerances import FLOAT32, FLOAT32_GRADIENT, assert_close

BATCH, LENGTH, Z_LOSS = 4, 19, 0.1
FROZEN = ("embedding/table", "layers/mlp/.*")
# Without dropout and offsets, which every microbatch draws for itself, the whole batch is one computation.
PLAIN = TrainJob(
    model_dir="",
    model=dataclasses.replace(MODEL, vocab_size=13, num_layers=2, dropout_rate=0.0),
    data=DataConfig("documents", {"targets": LENGTH}, batch_size=BATCH),
    optimizer=AdamW(schedule=Schedule(peak=0.1, warmup_steps=4), beta1=0.9, clip_norm=None),
    total_steps=10,
    random_position_offset=False,
    loss=LossConfig(z_loss=Z_LOSS, chunk_size=30),
    state_passing=StatePassing(probability=1.0),
)
RANDOM = dataclasses.replace(
    PLAIN,
    model=dataclasses.replace(PLAIN.model, dropout_rate=0.1),
    num_microbatches=2,
    random_position_offset=True,
    optimizer=AdamW(schedule=Schedule(peak=0.1), freeze=FROZEN, clip_norm=1.0, epsilon=1.0),
    curriculum=Curriculum(({"max_length": LENGTH, "steps": 2}, {"max_length": LENGTH})),
)
KEEPING = dataclasses.replace(PLAIN, retention=Retention(weight=2.0, start_step=1, ramp_steps=2))
JOBS = {
    "plain": PLAIN,
    "accumulated": dataclasses.replace(PLAIN, num_microbatches=2),
    "random": RANDOM,
    "keeping": KEEPING,
    "keeping_accumulated": dataclasses.replace(KEEPING, num_microbatches=2),
}


def make_batch() -> dict[str, np.ndarray]:
    """Rows of different lengths whose weights differ much, padding included."""
    random = np.random.default_rng(0)
    lengths = np.array([11, 8, 3, LENGTH], np.int32)
    is_token = np.arange(LENGTH) < lengths[:, None]
    return {
        "tokens": random.integers(0, 13, (BATCH, LENGTH)).astype(np.int32),
        "targets": random.integers(0, 13, (BATCH, LENGTH)).astype(np.int32),
        "weights": (random.choice([0.0, 0.1, 1.0, 3.0], (BATCH, LENGTH)) * is_token).astype(np.float32),
        "answers": (random.random((BATCH, LENGTH)) < 0.3) & is_token,
        "lengths": lengths,
    }


@functools.cache
def initial(job_name: str) -> TrainState:
    """The state before the first step."""
    job = JOBS[job_name]
    model = Transformer(job.model)
    abstract = jax.eval_shape(lambda key: nn.meta.unbox(init_params(model, key)), jax.random.key(0))
    return jax.jit(functools.partial(init_train_state, job, model, make_optimizer(job.optimizer, abstract)))()


@functools.cache
def compiled(job_name: str):
    """The step of a job; compiled once for the whole file."""
    job = JOBS[job_name]
    optimizer = make_optimizer(job.optimizer, initial(job_name).params)
    model = Transformer(job.model, deterministic=False)
    return jax.jit(functools.partial(train_step, job=job, model=model, optimizer=optimizer))


def step(job_name: str, state: TrainState, batch=None) -> tuple[TrainState, Metrics]:
    """One step."""
    return compiled(job_name)(state, make_batch() if batch is None else batch)


@jax.jit
def expected(params, fam, is_initial):
    """Gradient, loss, z-loss and final FAM of the whole batch, from whole logits.

    Args:
      params: the parameters.
      fam: what every example starts from [L, F, D], or None for the prompt.
      is_initial: whether the first update leaves out the residual.
    """
    batch = jax.tree.map(jnp.asarray, make_batch())
    model = Transformer(PLAIN.model)

    def loss(params):
        state = initial_state(model, params, BATCH, with_cache=False)  # a cache has the keys of the prompt's FAM
        chosen = jnp.where(is_initial, state.fam, broadcast_fam(fam, BATCH))
        layers = dataclasses.replace(state.layers, fam=chosen)
        state = dataclasses.replace(state, layers=layers, fam_is_initial=jnp.full(BATCH, is_initial))
        output = read(model, params, batch["tokens"], state, batch["lengths"])
        whole = logits(model, params, output.hidden)
        log_z = jax.nn.logsumexp(whole, axis=-1)
        target = jnp.take_along_axis(whole, batch["targets"][..., None], axis=-1)[..., 0]
        total = jnp.sum(batch["weights"])
        loss = jnp.sum(batch["weights"] * (log_z - target)) / total
        z_loss = jnp.sum(batch["weights"] * log_z**2) / total
        return loss + Z_LOSS * z_loss, (loss, z_loss, output.state.fam)

    return jax.grad(loss, has_aux=True)(params)


def first_moment(state: TrainState):
    """AdamW's first moment, which after one step is a tenth of the gradient."""
    moments = {path.split(".mu")[1]: leaf for path, leaf in by_path(state.opt_state).items() if ".mu" in path}
    assert moments
    return moments


def by_path(tree):
    """Leaves by their path."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("job_name", ["plain", "accumulated"])
def test_gradient_is_that_of_the_whole_batch(job_name):
    """Guards against a mean of the microbatches' means, a z-loss without gradient, and padding that counts."""
    state = initial(job_name)
    gradient, (loss, z_loss, final_fam) = expected(state.params, state.passed_fam.fam, True)
    new_state, metrics = step(job_name, state)
    assert_close(first_moment(new_state), by_path(jax.tree.map(lambda leaf: 0.1 * leaf, gradient)), FLOAT32_GRADIENT)
    assert_close(metrics["loss"], loss, FLOAT32)
    assert_close(metrics["z_loss"], z_loss, FLOAT32)
    squares = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient))
    assert float(metrics["gradient_norm"]) == pytest.approx(squares**0.5, rel=1e-4)
    assert not metrics["state_passed"]
    assert metrics["tokens"] == make_batch()["lengths"].sum()
    assert new_state.step == 1
    assert new_state.passed_fam.exists
    assert_close(new_state.passed_fam.fam, final_fam[:, 0], FLOAT32, "FAM of the first example")
    assert np.abs(final_fam[:, 0] - final_fam[:, 3]).max() > 1e-2


@pytest.mark.parametrize("job_name", ["plain", "accumulated"])
def test_a_passed_fam_starts_every_example(job_name):
    """Guards against a passed FAM that only some rows get, that has no residual, or through which a gradient flows."""
    state = initial(job_name)
    saved = np.random.default_rng(3).normal(size=state.passed_fam.fam.shape).astype(np.float32)
    state = dataclasses.replace(state, passed_fam=state.passed_fam.replace(fam=saved, exists=jnp.array(True)))
    gradient, (loss, _, final_fam) = expected(state.params, saved, False)
    _, (without_residual, _, _) = expected(state.params, saved, True)
    new_state, metrics = step(job_name, state)
    assert metrics["state_passed"]
    assert_close(metrics["loss"], loss, FLOAT32)
    assert abs(float(loss - without_residual)) > 1e-3
    assert_close(first_moment(new_state), by_path(jax.tree.map(lambda leaf: 0.1 * leaf, gradient)), FLOAT32_GRADIENT)
    assert_close(new_state.passed_fam.fam, final_fam[:, 0], FLOAT32)
    assert not gradient["fam_prompt"].any(), "the prompt is not read"


@pytest.mark.parametrize("job_name", ["keeping", "keeping_accumulated"])
def test_retention(job_name):
    """Guards against a term that counts a text's first update or unwritten blocks, or that never or always acts.

    With accumulation, it guards against a mean of the microbatches' means.
    """
    batch, model, size = make_batch(), Transformer(PLAIN.model), PLAIN.model.memory.block_size

    @jax.jit
    def mean_departure(params):
        state, departures = initial_state(model, params, BATCH), []
        for start in range(0, LENGTH, size):
            tokens = jnp.asarray(batch["tokens"][:, start : start + size])
            state = read(model, params, tokens, state, jnp.clip(batch["lengths"] - start, 0, size)).state
            if start == 0:
                first = state.layers.fam
                continue
            for row in np.flatnonzero(batch["lengths"] >= start + size):
                fam = state.layers.fam[:, row]
                square = jax.lax.stop_gradient(jnp.mean(fam**2, axis=(1, 2)))
                departures.append(jnp.mean((fam - first[:, row]) ** 2, axis=(1, 2)) / square)
        return jnp.mean(jnp.stack(departures)), jnp.mean(jnp.stack(departures), axis=0)

    state = initial("plain")
    gradient, per_layer = jax.grad(mean_departure, has_aux=True)(state.params)
    for number, weight in ((0, 0.0), (1, 1.0), (2, 2.0), (7, 2.0)):
        state = dataclasses.replace(state, step=jnp.int32(number))
        (without, _), (with_term, metrics) = step("plain", state), step(job_name, state)
        assert_close(metrics["fam_departure"], per_layer, FLOAT32)
        difference = jax.tree.map(lambda left, right: left - right, first_moment(with_term), first_moment(without))
        expected_difference = by_path(jax.tree.map(lambda leaf, weight=weight: 0.1 * weight * leaf, gradient))
        assert_close(difference, expected_difference, FLOAT32_GRADIENT)


def test_padding_and_tokens_without_weight_change_nothing():
    """Guards against padding, or targets of weight 0, that reach the loss, the memory or the counts."""
    batch = make_batch()
    changed = {name: array.copy() for name, array in batch.items()}
    padding = np.arange(LENGTH) >= batch["lengths"][:, None]
    changed["tokens"][padding] = (changed["tokens"][padding] + 1) % 13
    unweighted = (batch["weights"] == 0) & ~batch["answers"]
    changed["targets"][unweighted] = (changed["targets"][unweighted] + 1) % 13
    assert padding.sum() > 10
    assert (unweighted & ~padding).sum() > 3
    state = initial("plain")
    assert_close(step("plain", state, changed)[0], step("plain", state, batch)[0], FLOAT32)
    batch["weights"][0, 0] = 5.0
    assert float(step("plain", state, batch)[1]["loss"]) != float(step("plain", state)[1]["loss"])


def test_frozen_parameters_stay():
    """Guards against frozen parameters that move, that have moments, or that count in the norm."""
    state = initial("random")
    new_state, _ = step("random", state)
    moved = {
        path: bool(jnp.any(leaf != before))
        for (path, leaf), before in zip(
            flatten_dict(new_state.params, sep="/").items(), flatten_dict(state.params, sep="/").values(), strict=True
        )
    }
    frozen = {path for path in moved if path == "embedding/table" or path.startswith("layers/mlp/")}
    assert len(frozen) == 4
    assert moved == {path: path not in frozen for path in moved}
    assert not any("mlp']" in path or "embedding" in path for path in first_moment(new_state))


def test_random_numbers_belong_to_the_step():
    """Guards against dropout that repeats itself, or that a resumed run would draw otherwise."""
    state = initial("random")
    first, again = step("random", state)[1]["loss"], step("random", state)[1]["loss"]
    assert first == again
    later = step("random", dataclasses.replace(state, step=jnp.int32(7)))[1]["loss"]
    assert later != first
    keys = [jax.random.key_data(step_key(dataclasses.replace(state, step=jnp.int32(s)))).tolist() for s in range(5)]
    assert len({tuple(key) for key in keys}) == 5
    base = jax.random.wrap_key_data(state.key)
    assert keys[3] == jax.random.key_data(jax.random.fold_in(base, 3)).tolist()


def test_position_offsets():
    """Guards against offsets beyond the longest wavelength, and against fewer or more zeros than one half."""
    offsets = np.asarray(draw_position_offset(jax.random.key(0), 20_000, 10_000.0))
    drawn = offsets[offsets > 0]
    assert len(drawn) / len(offsets) == pytest.approx(0.5, abs=0.02)
    assert offsets.min() == 0
    assert 62_500 < offsets.max() < 2 * np.pi * 10_000
    assert drawn.mean() == pytest.approx(np.pi * 10_000, rel=0.02)
    assert np.asarray(draw_position_offset(jax.random.key(0), 1000, 50.0)).max() < 2 * np.pi * 50


@pytest.mark.parametrize("base", [1.6e8, 3.5e8, 1e9, 1e12])
def test_position_offsets_of_a_large_base_leave_room_for_positions(base):
    """Guards against a wavelength beyond int32, which cannot be drawn from, and positions that wrap around."""
    offsets = np.asarray(draw_position_offset(jax.random.key(0), 1000, base)).astype(np.int64)
    assert offsets.min() == 0
    assert 0.99 * min(2 * np.pi * base, 2**30) < offsets.max() < 2**30


def test_warm_up_is_that_of_the_step():
    """Guards against a reported learning rate that is not the one applied."""
    state, rates = initial("plain"), []
    for _ in range(3):
        before = state.params["final_norm"]["scale"]
        state, metrics = step("plain", state)
        rates.append(float(metrics["learning_rate"]))
        moved = np.abs(state.params["final_norm"]["scale"] - before).max()
        # Adam's first updates are as large as the rate.
        assert moved == pytest.approx(rates[-1], rel=0.3, abs=1e-9)
    assert rates == pytest.approx([0.0, 0.025, 0.05])


GOLDEN = {
    "loss/1": 3.5401,
    "z_loss/1": 13.0328,
    "accuracy/1": 0.0625,
    "gradient_norm/1": 2.18926,
    "update_norm/1": 0.094381,
    "fam_norm/1": [0.978752, 0.901595],
    "fam_update/1": [0.737159, 0.544269],
    "fam_attention/1": [0.255638, 0.295212],
    "state_passed/1": False,
    "stage_after/1": 1,
    "loss/2": 3.29323,
    "z_loss/2": 12.9624,
    "accuracy/2": 0.0,
    "gradient_norm/2": 2.1038,
    "update_norm/2": 0.0790657,
    "fam_norm/2": [1.39796, 1.52644],
    "fam_update/2": [0.26216, 0.274585],
    "fam_attention/2": [0.255178, 0.327795],
    "state_passed/2": True,
    "stage_after/2": 1,
}


def test_golden_metrics():
    """Guards against a change of what training computes that no other test sees.

    The numbers may be updated by a change that means to alter initial values, the order of random draws, or the model;
    the change's note says which. Never to make another change pass.
    """
    state, seen = initial("random"), {}
    for number in (1, 2):
        state, metrics = step("random", state)
        seen |= {f"{name}/{number}": np.asarray(value).tolist() for name, value in metrics.items()}
    for name, value in GOLDEN.items():
        np.testing.assert_allclose(seen[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
