"""Jobs of two processes with four devices each, against one process with eight; and what becomes of them when one dies.

The processes are real and talk through the loopback network. Everything is asked of as few of them as possible: most of
the time goes into starting and compiling.
"""

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pair_jobs
from famjax.evaluation.evaluate import evaluate
from famjax.evaluation.scan.running import scan
from famjax.training.checkpoints import Checkpointer
from famjax.training.loop import train
from famjax.training.program import make_program
from famjax.training.throughput import Rates
from pair_jobs import MIDDLE, STEPS, evaluation, half, scan_job, training
from process_pair import Pair
from tolerances import FLOAT32_GRADIENT, assert_close
from train_states import assert_identical

pytestmark = pytest.mark.pods

CLOCK = {"time", *Rates.__dataclass_fields__}
# What one process, and then two, have written.
Runs = Path


def log(folder: Path) -> list[dict[str, Any]]:
    """The metrics, without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


def results(folder: Path) -> list[dict[str, Any]]:
    """The lines of results.jsonl."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    """All that `pair_jobs` does, by one process in `one...` and by two in the others."""
    folder = tmp_path_factory.mktemp("runs")
    train(training(folder, "one"))
    half(folder, "one_then_two", of="one")
    script = str(Path(pair_jobs.__file__))
    with Pair([script, str(folder), "{port}", "{index}"], folder, "jobs") as pair:
        assert pair.codes() == [0, 0], pair.text()
    return folder


@pytest.mark.parametrize("name", ["two", "one_then_two"])
def test_two_processes_train_as_one(runs, name):
    """Guards against rows read twice or by nobody, gradients of one host alone, metrics logged twice, a lost resume."""
    whole, actual = log(runs / "one"), log(runs / name)
    assert [line["step"] for line in actual] == [line["step"] for line in whole]
    assert_close(actual, whole, FLOAT32_GRADIENT, name)
    begun = 0 if name == "two" else MIDDLE
    assert len({line["loss"] for line in whole if "loss" in line}) == STEPS
    assert any(line != other for line, other in zip(actual, whole, strict=True) if line["step"] > begun), "not a copy"
    assert sorted(path.name for path in (runs / name).glob("checkpoint_*")) == ["checkpoint_3", "checkpoint_6"]


def test_one_process_goes_on_where_two_have_saved(runs):
    """Guards against checkpoints that hold one host's part, or data states that only their host can read."""
    job = half(runs, "two_then_one", of="two")
    train(job)
    assert_close(log(runs / "two_then_one"), log(runs / "one"), FLOAT32_GRADIENT, "two_then_one")
    abstract = make_program(job).abstract_state
    restored = []
    for name in ("two_then_one", "one"):
        with Checkpointer(runs / name, job.checkpoint, job.model) as checkpointer:
            restored.append(checkpointer.restore(abstract))
    assert restored[0].data_state == restored[1].data_state
    assert_identical(restored[0].state.key, restored[1].state.key)
    assert_close(restored[0].state.params, restored[1].state.params, FLOAT32_GRADIENT, "parameters")


def test_two_processes_evaluate_as_one(runs):
    """Guards against results of one host's rows, results written twice, or by a process that clears the file."""
    evaluate(evaluation(runs, "evaluated_by_one"))
    (expected,), (actual,) = results(runs / "evaluated_by_one"), results(runs / "evaluated_by_two")
    assert (actual["examples"], actual["targets"]) == (expected["examples"], expected["targets"])
    names = ("loss", "accuracy", "exact_match")
    assert_close(
        {name: actual[name] for name in names}, {name: expected[name] for name in names}, FLOAT32_GRADIENT, "evaluation"
    )


def test_two_processes_share_a_scan(runs):
    """Guards against processes that all evaluate all cells, wait for each other in a cell, or ledgers that are lost."""
    scan(scan_job(runs, "scanned_by_one"))
    assert results(runs / "scanned_by_two") == results(runs / "scanned_by_one")
    ledgers = sorted((runs / "scanned_by_two" / "ledger").iterdir())
    assert [len(ledger.read_text().splitlines()) for ledger in ledgers] == [1, 1]


def test_all_processes_load_a_compiled_step_or_none(runs):
    """Guards against a process that compiles while another one runs what it has loaded, and a reason without a host."""
    first, second = (json.loads((runs / f"loaded_{index}.json").read_text()) for index in range(2))
    everywhere, refused = first
    assert first == second
    assert everywhere == "the sum is 8.0"
    assert re.fullmatch(r"process 1 of 2 \(.+\): .*train_step_8.* cannot be read \(.*\)", refused)


def test_every_process_has_a_heartbeat(runs):
    """Guards against hosts that nobody can tell the state of."""
    for index in range(2):
        heartbeat = json.loads((runs / "two" / "hosts" / f"process_{index}.json").read_text())
        assert (heartbeat["process"], heartbeat["processes"]) == (index, 2)
        assert (heartbeat["phase"], heartbeat["step"]) == ("ended", STEPS)


GIN = """\
include 'runs/pretrain.gin'
include 'models/tiny.gin'
include 'memory/fam.gin'

MODEL_DIR = 'run'
MIXTURE_OR_TASK_NAME = 'recall'
TASK_FEATURE_LENGTHS = {'targets': 32}
TRAIN_STEPS = 10000
BATCH_SIZE = 8
DROPOUT_RATE = 0.1
CHECKPOINT_PERIOD = 10
STATE_PASSING_PROBABILITY = 0.5
BLOCK_SIZE = 8
NUM_SEGMENTS = 1
FAM_LENGTH = 2
TransformerConfig.emb_dim = 16
TransformerConfig.num_layers = 1
TransformerConfig.num_heads = 2
TransformerConfig.num_kv_heads = 2
TransformerConfig.head_dim = 8
TransformerConfig.mlp_dim = 16
LoggingConfig.period = 1
DataConfig.tasks = {'recall': @AssociativeRecall()}
AssociativeRecall.num_pairs = 1
AssociativeRecall.key_letters = 1
AssociativeRecall.value_digits = 1
HostsConfig.lost_seconds = 5.0
HostsConfig.heartbeat_seconds = 0.5
"""
COMMAND = [
    *("-m", "famjax.main", "--gin_file=run.gin", "--coordinator_address=127.0.0.1:{port}"),
    *("--process_count=2", "--process_index={index}"),
]


def test_a_signal_stops_all_and_a_death_ends_all(tmp_path):
    """Guards against hosts that wait for ever for one that was stopped or killed, and a restart that forgets something.

    The run is stopped, then one process of its restart is killed, then the coordinator of the next restart.
    """
    (tmp_path / "run.gin").write_text(GIN)
    run = tmp_path / "run"

    with Pair(COMMAND, tmp_path, "stopped") as pair:
        pair.wait_for(lambda: pair.step() >= 3)
        pair.processes[1].send_signal(signal.SIGTERM)
        assert pair.codes() == [143, 143], pair.text()
        assert all("SIGTERM: stopped after step" in pair.text(index) for index in range(2)), pair.text()
    stopped = max(int(path.name.partition("_")[2]) for path in run.glob("checkpoint_*"))
    assert log(run)[-1]["step"] == stopped, "every step that was made is saved"

    with Pair(COMMAND, tmp_path, "killed") as pair:
        pair.wait_for(lambda: pair.step() >= stopped + 13)
        pair.processes[1].send_signal(signal.SIGKILL)
        assert pair.codes(timeout=60) == [7, -signal.SIGKILL], pair.text()
        assert f"resumed from the checkpoint of step {stopped}" in pair.text(0)
        assert "process 1 of 2" in pair.text(0).splitlines()[-2]
        assert "has not been heard of for" in pair.text(0).splitlines()[-2]
    stacks = (run / "hosts" / "process_0.stacks.txt").read_text()
    assert "has not been heard of" in stacks
    assert "loop.py" in stacks, "what the main thread waited for"
    before = log(run)

    with Pair(COMMAND, tmp_path, "restarted") as pair:
        pair.wait_for(lambda: pair.step() > before[-1]["step"])
        pair.processes[0].send_signal(signal.SIGKILL)
        assert pair.codes(timeout=60) == [-signal.SIGKILL, 7], pair.text()
        assert "Process 0 of the job, or its machine, has ended" in pair.text(1).splitlines()[-1]
    again = log(run)
    assert again[: len(before)] == before, "the steps behind the last checkpoint are made again, to the bit"
    assert np.isfinite([line["loss"] for line in again]).all()
