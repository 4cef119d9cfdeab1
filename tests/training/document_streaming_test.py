"""Document streaming: what rows carry from step to step, what is reported of it, and that a resume loses none of it."""

import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from resume_test import assert_same_run, final

from famjax.errors import CheckpointError, ConfigError, Stopped
from famjax.models.transformer import Transformer, init_params
from famjax.pods.config import MeshConfig
from famjax.training import feed, loop
from famjax.training.config import (
    AdamW,
    CheckpointConfig,
    Curriculum,
    LoggingConfig,
    Schedule,
    StatePassing,
    TrainJob,
)
from famjax.training.losses import TokenScores
from famjax.training.optimizers import make_optimizer
from famjax.training.program import Program, make_program
from famjax.training.state import TrainState, init_train_state
from famjax.training.step import ablated_loss, train_step
from famjax.training.streaming import begin_stream, cut_rows, join_rows, loss_at_blocks, sum_by_block
from famjax.training.streaming_config import Streaming
from tiny_job import BLOCK, MODEL, make_data, make_job, write_documents
from tolerances import EXACT, FLOAT32, assert_close

ROWS = 4


def stream_job(folder: Path, name: str, **changes: Any) -> TrainJob:
    """Everything that a resume could lose, on documents of about 300 bytes in steps of 32."""
    documents = folder / "documents"
    if not documents.is_dir():
        documents.mkdir()
        write_documents(documents)
    data = make_data(str(documents / "*.txt"), mixture_or_task_name="text", batch_size=8)
    settings: dict[str, Any] = {
        "data": data,
        "curriculum": Curriculum(),
        "streaming": Streaming(enabled=True, ablation_period=4),
    }
    return make_job(folder, name, **{**settings, **changes})


@pytest.fixture
def simple_job(tmp_path) -> TrainJob:
    """Four rows, no dropout, no offsets; parameters stay as they are."""
    job = stream_job(tmp_path, "run", num_microbatches=1, random_position_offset=False, state_passing=StatePassing())
    model = dataclasses.replace(MODEL, dropout_rate=0.0)
    data = dataclasses.replace(job.data, batch_size=ROWS)
    return dataclasses.replace(job, model=model, data=data, optimizer=AdamW(schedule=Schedule(peak=0.0)))


def make_batch(lengths: list[list[int]], begins: list[list[int]], seed: int = 0) -> dict[str, jax.Array]:
    """Random tokens in rows of blocks."""
    block_lengths, random = np.array(lengths, np.int32), np.random.default_rng(seed)
    shape = (len(lengths), block_lengths.shape[1] * BLOCK)
    valid = (np.arange(BLOCK) < block_lengths[:, :, None]).reshape(shape)
    arrays = {
        "tokens": random.integers(3, 259, shape).astype(np.int32),
        "targets": random.integers(3, 259, shape).astype(np.int32),
        "weights": valid * random.uniform(0.5, 1.5, shape).astype(np.float32),
        "answers": np.zeros(shape, np.bool_),
        "begins": np.array(begins, np.bool_),
        "block_lengths": block_lengths,
    }
    return {name: jnp.asarray(array) for name, array in arrays.items()}


# The first row goes on from the first half into the second, the others begin documents at several places.
LENGTHS = [[8, 8, 8, 3], [8, 5, 8, 8], [2, 8, 1, 8], [8, 7, 6, 8]]
BEGINS = [[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1]]


def half(batch: dict[str, jax.Array], number: int) -> dict[str, jax.Array]:
    """One half of every row."""
    return {name: jnp.split(array, 2, axis=1)[number] for name, array in batch.items()}


def run(job: TrainJob, batches: list[dict[str, jax.Array]]) -> tuple[list[TrainState], list[dict[str, jax.Array]]]:
    """The states before and after each step, and each step's metrics."""
    model = Transformer(job.model, deterministic=False)
    params = jax.eval_shape(lambda key: nn.meta.unbox(init_params(model, key)), jax.random.key(0))
    optimizer = make_optimizer(job.optimizer, params)
    states, metrics = [jax.jit(functools.partial(init_train_state, job, model, optimizer))()], []
    step = jax.jit(functools.partial(train_step, job=job, model=model, optimizer=optimizer))
    for batch in batches:
        state, of_step = step(states[-1], batch)
        states.append(state)
        metrics.append(of_step)
    return states, metrics


def test_a_step_reads_on_where_the_last_one_ended(simple_job):
    """Guards against a state that is lost, reset or mixed up among rows between steps, and an ablation that is none."""
    batch = make_batch(LENGTHS, BEGINS)
    (_, whole), (of_whole,) = run(simple_job, [batch])
    states, of_halves = run(simple_job, [half(batch, 0), half(batch, 1)])
    for name in ("loss_by_block", "weight_by_block", "tokens"):
        assert_close(sum(metrics[name] for metrics in of_halves), of_whole[name], FLOAT32, name)
    assert_close(states[-1].stream, whole.stream, FLOAT32)
    assert states[-1].stream.num_tokens.tolist() == [27, 16, 8, 8]
    assert float(of_whole["blocks_since_reset"]) == pytest.approx(
        (0 + 1 + 2 + 3 + 0 + 1 + 0 + 1 + 0 + 0 + 1 + 0 + 0 + 1 + 0 + 0) / 16
    )

    model = Transformer(simple_job.model, deterministic=False)
    ablate = jax.jit(functools.partial(ablated_loss, job=simple_job, model=model))
    first, second = (float(ablate(states[number], half(batch, number))) for number in range(2))
    assert first == pytest.approx(float(of_halves[0]["loss"]), abs=1e-6), "every row begins a document there"
    assert abs(second - float(of_halves[1]["loss"])) > 1e-4

    parts = dataclasses.replace(simple_job, num_microbatches=2)
    cut_states, of_cut = run(parts, [half(batch, 0), half(batch, 1)])
    assert_close(cut_states[-1].stream, states[-1].stream, FLOAT32)
    for name in ("loss", "gradient_norm", "loss_by_block"):
        assert_close(of_cut[1][name], of_halves[1][name], FLOAT32, name)
    model = Transformer(parts.model, deterministic=False)
    assert float(ablated_loss(cut_states[1], half(batch, 1), job=parts, model=model)) == pytest.approx(second, abs=1e-5)


def test_rows_are_cut_as_the_batch_is():
    """Guards against a microbatch that goes on from other rows' states."""
    stream = begin_stream(MODEL, 6)
    numbered = jax.tree.map(lambda array: array, stream)
    rows = jnp.arange(6)
    layers = jax.tree.map(
        lambda array: array + rows.reshape(1, 6, *[1] * (array.ndim - 2)).astype(array.dtype), stream.layers
    )
    numbered = dataclasses.replace(
        numbered, layers=layers, num_tokens=rows, position_offset=rows, fam_is_initial=rows > 2
    )
    cut = cut_rows(numbered, 3)
    assert cut.num_tokens.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert cut.layers.fam.shape == (3, 1, 2, 2, 16)
    assert cut.layers.fam[:, 0, :, 0, 0].tolist() == cut.num_tokens.tolist()
    assert cut.layers.cache.segments.keys[:, 0, :, 0, 0, 0].tolist() == cut.num_tokens.tolist()
    assert_close(join_rows(cut), numbered, EXACT)


def test_scores_by_place_in_the_document():
    """Guards against a bucket that holds other blocks than its name says, and padding that is counted."""
    batch = make_batch([[8, 8, 4, 0], [3, 8, 8, 8]], [[0, 0, 0, 0], [0, 1, 0, 0]])
    stream = dataclasses.replace(begin_stream(MODEL, 2), num_tokens=jnp.array([6 * BLOCK, BLOCK]))
    losses = jnp.asarray(np.random.default_rng(1).uniform(1, 2, batch["targets"].shape), jnp.float32)
    scores = TokenScores(loss=losses, log_z=losses, correct=losses > 0)
    sums = sum_by_block(scores, batch, stream, BLOCK)
    by_block = (losses * batch["weights"]).reshape(2, 4, BLOCK).sum(axis=2)
    weights = batch["weights"].reshape(2, 4, BLOCK).sum(axis=2)
    places = [[6, 7, 8, 9], [1, 0, 1, 2]]
    buckets = {"0": [0], "1": [1], "2-3": [2, 3], "4-7": [4, 5, 6, 7], "8-15": [8, 9]}
    expected = {}
    for name, members in buckets.items():
        mask = np.isin(places, members)
        expected[f"loss_at_block/{name}"] = float(by_block[mask].sum() / weights[mask].sum())
    assert loss_at_blocks(np.asarray(sums.loss), np.asarray(sums.weight)) == pytest.approx(expected)
    assert (float(sums.blocks_since_reset), float(sums.blocks)) == (6 + 7 + 8 + 1 + 0 + 1 + 2, 7)
    last = np.zeros(16)
    last[15] = 2.0
    assert loss_at_blocks(last, last, "x") == {"x/16384+": 1.0}


def record_tokens(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The tokens of every batch from now on."""
    recorded: list[np.ndarray] = []
    device_batch = feed.device_batch

    def recording(batch: Any, mesh: Any) -> Any:
        recorded.append(batch["tokens"])
        return device_batch(batch, mesh)

    monkeypatch.setattr(feed, "device_batch", recording)
    return recorded


def metrics_of(job: TrainJob) -> list[dict[str, Any]]:
    """The log of a run."""
    return [json.loads(line) for line in (Path(job.model_dir) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.pods
def test_a_run_goes_on_on_other_devices(tmp_path, monkeypatch):
    """Guards against tokens or a state that a resume forgets, changes, or deals to other rows on other devices."""
    logging, recorded = LoggingConfig(period=1, diagnostics_period=None), record_tokens(monkeypatch)
    four, two = MeshConfig(num_devices=4), MeshConfig(num_devices=2)
    settings = {"logging": logging, "total_steps": 14, "mesh": four}
    whole, same, fewer = (stream_job(tmp_path, name, **settings) for name in ("whole", "same", "fewer"))
    loop.train(whole)
    expected = recorded.copy()
    assert len(expected) == 14
    assert sum((left != right).any() for left, right in itertools.pairwise(expected)) == 13
    for job, resumed_on in ((same, four), (fewer, two)):
        loop.train(dataclasses.replace(job, total_steps=7))
        recorded.clear()
        loop.train(dataclasses.replace(job, mesh=resumed_on))
        np.testing.assert_array_equal(recorded, expected[7:])
    state = assert_same_run(same, whole)
    assert int(np.min(state.stream.num_tokens)) < 32 * 10 < 32 * 14, "every row has begun another document"
    assert len(set(state.stream.position_offset.tolist())) > 1
    log, log_of_fewer = ({line["step"]: line for line in metrics_of(job) if "loss" in line} for job in (whole, fewer))
    for step in range(1, 15):
        assert log_of_fewer[step]["loss"] == pytest.approx(log[step]["loss"], rel=1e-4)
        assert {"documents_read", "tokens_read", "padding", "blocks_since_reset"} <= log[step].keys()
        assert ("memory_gain" in log[step]) is (step % 4 == 0)
    assert log[14]["tokens_read"] == pytest.approx((1 - log[14]["padding"]) * 14 * 8 * 32)


def train_slowly(job: TrainJob) -> None:
    """Trains with a pause before each step, so that a signal finds the step that it is meant for."""
    device_batch = feed.device_batch

    def after_a_pause(batch: Any, mesh: Any) -> Any:
        time.sleep(0.1)
        return device_batch(batch, mesh)

    feed.device_batch = after_a_pause
    loop.train(job)


def test_a_run_killed_within_documents_goes_on(tmp_path):
    """Guards against a place in a document, or a row's memory, that only the killed process knew."""
    settings = {
        "logging": LoggingConfig(period=1, diagnostics_period=None),
        "total_steps": 22,
        "mesh": MeshConfig(num_devices=4),
        "checkpoint": CheckpointConfig(period=10),
    }
    whole, killed = (stream_job(tmp_path, name, **settings) for name in ("whole", "killed"))
    loop.train(whole)
    process = multiprocessing.get_context("spawn").Process(target=train_slowly, args=(killed,))
    process.start()
    log, deadline = Path(killed.model_dir) / "metrics.jsonl", time.monotonic() + 300
    while not log.exists() or '"step": 14' not in log.read_text():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert {line["step"] for line in metrics_of(killed)} >= set(range(1, 15))
    saved = final(killed, make_program(killed).abstract_state)
    assert saved.step == 10
    assert all(place and place[-1] > 0 for place in saved.data_state["places"]), "every row is within a document"
    loop.train(killed)
    assert_same_run(killed, whole)


def test_a_signal_while_the_ablation_is_compiled(tmp_path, monkeypatch):
    """Guards against a batch that is saved as read and never was: the run that goes on would skip it."""
    settings: dict[str, Any] = {"mesh": MeshConfig(num_devices=2), "checkpoint": CheckpointConfig(period=100)}
    three = stream_job(tmp_path, "three", total_steps=3, **settings)
    loop.train(three)
    released = threading.Event()

    def compile_ablation(program: Program, length: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        released.wait(60)

    monkeypatch.setattr(Program, "compile_ablation", compile_ablation)
    stopped = stream_job(tmp_path, "stopped", total_steps=8, **settings)
    with pytest.raises(Stopped, match="stopped after step 3 of 8, and saved"):
        loop.train(stopped)
    released.set()
    saved, expected = (final(job, make_program(job).abstract_state) for job in (stopped, three))
    assert saved.step == expected.step == 3
    assert saved.data_state == expected.data_state
    wider = dataclasses.replace(stopped, data=dataclasses.replace(stopped.data, batch_size=16))
    with pytest.raises(CheckpointError, match=r"documents of 8 rows, and this run has 16: .*--gin\.BATCH_SIZE=8"):
        loop.train(wider)


def test_evaluation_has_a_state_of_its_own(tmp_path):
    """Guards against an evaluation that begins where the training stands, or changes where that goes on."""
    data = stream_job(tmp_path, "a").data
    eval_data = dataclasses.replace(data, split="validation", shuffle=False)
    mesh, optimizer = MeshConfig(num_devices=2), AdamW(schedule=Schedule(peak=0.0))
    changes = {"total_steps": 3, "optimizer": optimizer, "eval_steps": 6, "mesh": mesh}
    without = stream_job(tmp_path, "without", **changes)
    with_it = stream_job(tmp_path, "with", eval_data=eval_data, eval_period=1, **changes)
    loop.train(without)
    loop.train(with_it)
    train_log, evaluations = metrics_of(without), [line for line in metrics_of(with_it) if "validation/loss" in line]
    assert [line["loss"] for line in metrics_of(with_it) if "loss" in line] == [line["loss"] for line in train_log]
    values = [{name: value for name, value in line.items() if name not in ("time", "step")} for line in evaluations]
    assert len(values) == 3
    assert values[0] == values[1] == values[2], "the parameters are the same"
    assert values[0]["validation/ablated_loss_at_block/0"] == values[0]["validation/loss_at_block/0"]
    assert values[0]["validation/ablated_loss_at_block/16-31"] != values[0]["validation/loss_at_block/16-31"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curriculum": Curriculum(({"max_length": 16},))}, r"Curriculum\.stages and Streaming\.enabled exclude"),
        (
            {"data": {"task_feature_lengths": {"targets": 30}}},
            r"block_size = 8 does not divide 30; .*'targets': 24\} or",
        ),
        (
            {"data": {"mixture_or_task_name": "both"}},
            r"the task 'both' is of type Mixture; allowed: tasks of type Documents or Instructions",
        ),
        ({"data": {"mixture_or_task_name": "c4_v220_span"}}, r"the task 'c4_v220_span' is no famjax task"),
        ({"eval_data": {"mixture_or_task_name": "recall"}}, r"(?s)TrainJob\.eval_data: .*Streaming\.evaluate=False"),
        ({"memory": {"fam_length": 0, "num_segments": 0}}, r"needs a memory to carry from step to step"),
        ({"streaming": Streaming()}, None),
        ({"data": {"mixture_or_task_name": "instructions"}}, None),
        ({"eval_data": {"mixture_or_task_name": "recall"}, "streaming": Streaming(True, evaluate=False)}, None),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    """Guards against settings that streaming would pass over, and against refusing what it can do."""
    job = stream_job(tmp_path, "run", state_passing=StatePassing())
    data = dataclasses.replace(job.data, **changes.pop("data", {}))
    eval_data = changes.pop("eval_data", None)
    if eval_data is not None:
        changes["eval_data"] = dataclasses.replace(job.data, split="validation", **eval_data)
    if memory := changes.pop("memory", None):
        changes["model"] = dataclasses.replace(MODEL, memory=dataclasses.replace(MODEL.memory, **memory))
    if message is None:
        dataclasses.replace(job, data=data, **changes)
        return
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(job, data=data, **changes)


def test_a_window_is_a_longer_step(tmp_path):
    """Guards against a window that is not read whole, or that is set and does nothing."""
    job = stream_job(tmp_path, "run", streaming=Streaming(enabled=True, window=3))
    assert job.step_length == 96
    with pytest.raises(ConfigError, match=r"Streaming\.window = 3 has no effect without Streaming\.enabled"):
        Streaming(window=3)
    with pytest.raises(ConfigError, match=r"Streaming\.window = 0"):
        Streaming(enabled=True, window=0)
