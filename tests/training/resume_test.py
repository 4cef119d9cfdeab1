"""A run that is stopped, or killed, and started again ends as if nothing had happened, to the last bit."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from famjax.configuration.loading import load
from famjax.training import loop
from famjax.training.checkpoints import Checkpointer, Restored
from famjax.training.config import TrainJob
from famjax.training.program import make_program
from famjax.training.state import TrainState
from famjax.training.throughput import Rates
from tiny_job import make_job, write_documents
from train_states import assert_identical

ROOT = Path(__file__).parent.parent.parent
CLOCK = {"time", *(field.name for field in dataclasses.fields(Rates))}


def metrics_of(model_dir: str) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    lines = (Path(model_dir) / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


def final(job: TrainJob, abstract_state: TrainState) -> Restored:
    """The latest checkpoint."""
    with Checkpointer(job.model_dir, job.checkpoint, job.model) as checkpointer:
        restored = checkpointer.restore(abstract_state)
    assert restored is not None
    return restored


def assert_same_run(actual: TrainJob, expected: TrainJob) -> TrainState:
    """Same step, parameters, optimizer state, passed FAM, progress, key, place in the data and log. Gives the state."""
    abstract_state = make_program(expected).abstract_state
    left, right = final(actual, abstract_state), final(expected, abstract_state)
    assert left.step == right.step == expected.total_steps
    assert_identical(left.state, right.state)
    assert left.data_state == right.data_state
    assert metrics_of(actual.model_dir) == metrics_of(expected.model_dir)
    return right.state


def test_train_2n_equals_train_n_twice(tmp_path):
    """Guards against anything that a resume forgets or draws anew, with a stage that changes just after the stop."""
    whole, parts = make_job(tmp_path, "whole"), make_job(tmp_path, "parts")
    loop.train(whole)
    loop.train(dataclasses.replace(parts, total_steps=6))
    assert {path.name for path in (tmp_path / "parts").glob("checkpoint_*")} == {"checkpoint_3", "checkpoint_6"}
    loop.train(parts)
    state = assert_same_run(parts, whole)
    steps = {line["step"]: line for line in metrics_of(whole.model_dir) if "loss" in line}
    assert [steps[step]["stage"] for step in (6, 7)] == [0, 1], "the change was decided before the stop"
    assert {steps[step]["state_passed"] for step in range(7, 13)} == {True, False}
    assert len({steps[step]["loss"] for step in steps}) == 12
    assert np.abs(state.passed_fam.fam).max() > 0
    assert int(state.progress.steps) == 6


GIN = """\
include 'runs/pretrain.gin'
include 'models/tiny.gin'
include 'memory/fam.gin'

MODEL_DIR = %gin.REQUIRED
MIXTURE_OR_TASK_NAME = 'both'
TASK_FEATURE_LENGTHS = {{'targets': 32}}
TRAIN_STEPS = 40
BATCH_SIZE = 4
NUM_MICROBATCHES = 2
DROPOUT_RATE = 0.1
CHECKPOINT_PERIOD = 3
EVAL_PERIOD = 8
EVAL_STEPS = None
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
LoggingConfig.diagnostics_period = 10
DataConfig.tasks = {{'both': @Mixture(), 'text': @Documents(), 'recall': @AssociativeRecall()}}
Mixture.rates = {{'text': 1.0, 'recall': 1.0}}
Documents.paths = ('{paths}',)
Documents.validation_fraction = 0.5
AssociativeRecall.num_pairs = 1
AssociativeRecall.key_letters = 1
AssociativeRecall.value_digits = 1
Curriculum.stages = [
    {{'min_length': 20, 'max_length': 32, 'metric': 'accuracy', 'threshold': 0.0, 'window': 15}},
    {{'min_length': 28, 'max_length': 32}},
]
"""


class Process:
    """A `famjax` command of its own, whose output can be read while it runs."""

    def __init__(self, folder: Path, name: str, environment: dict[str, str]) -> None:
        number = len(list(folder.glob("output_*")))
        self.output = folder / f"output_{name}_{number}"
        arguments = [f"--gin_file={folder / 'run.gin'}", f"--gin.MODEL_DIR='{folder / name}'"]
        with self.output.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "famjax.main", *arguments],
                cwd=folder,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.output.read_text()

    def step(self) -> int:
        """The last step that it has shown."""
        return max((int(step) for step in re.findall(r"^step (\d+)/", self.text(), re.MULTILINE)), default=-1)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Polls every few milliseconds; the process must not end before."""
        deadline = time.monotonic() + 120
        while not condition():
            assert self._process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.002)

    def end(self, number: signal.Signals | None = None) -> int:
        """Sends a signal, or none, and waits for the exit code."""
        if number is not None:
            self._process.send_signal(number)
        return self._process.wait(timeout=240)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Callable[[str], Process], Callable[[str], TrainJob]]:
    """A folder with the configuration and an uninterrupted run "whole"; starts a process, gives a job, by name."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "documents").mkdir()
    (folder / "run.gin").write_text(GIN.format(paths=write_documents(folder / "documents")))
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}

    def start(name: str) -> Process:
        return Process(folder, name, environment)

    def job(name: str) -> TrainJob:
        return load(TrainJob, [str(folder / "run.gin")], [("MODEL_DIR", f"'{folder / name}'")]).job

    process = start("whole")
    assert process.end() == 0, process.text()
    return folder, start, job


def test_sigkill_at_random_moments(runs):
    """Guards against a checkpoint that is no whole one, and against steps or log lines that come twice or never."""
    folder, start, job = runs
    random = np.random.default_rng(0)
    killed = []

    def is_saving() -> bool:
        return any((folder / "killed").glob("*.orbax-checkpoint-tmp*"))

    def start_and_kill(condition: Callable[[Process], bool], longest_delay: float) -> None:
        process = start("killed")
        process.wait_for(lambda: condition(process))
        time.sleep(random.uniform(0, longest_delay))
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        killed.append(process.step())

    start_and_kill(lambda process: True, 3.0)
    start_and_kill(lambda process: is_saving(), 0.0)
    for first, last in ((5, 9), (13, 19), (23, 29)):
        step = int(random.integers(first, last))
        start_and_kill(lambda process, step=step: process.step() >= step, 0.1)
    assert len(killed) == 5
    assert killed[-1] >= 23, killed
    process = start("killed")
    assert process.end() == 0, process.text()
    assert "resumed from the checkpoint of step" in process.text()
    assert_same_run(job("killed"), job("whole"))


def test_sigterm_in_every_phase(runs):
    """Guards against a stop that loses the step, an evaluation, or the exit code by which a scheduler retries."""
    _, start, job = runs

    def start_and_stop(condition: Callable[[Process], bool]) -> Process:
        process = start("stopped")
        process.wait_for(lambda: condition(process))
        assert process.end(signal.SIGTERM) == 143, process.text()
        assert "SIGTERM" in process.text()
        return process

    first = start_and_stop(lambda process: "compiling the step" in process.text())
    assert first.step() == 0
    evaluation = start_and_stop(lambda process: process.text().endswith("evaluating\n"))
    assert evaluation.step() == 8
    assert "validation" not in evaluation.text()
    middle = start_and_stop(lambda process: process.step() >= 21)
    assert middle.step() < 40
    process = start("stopped")
    assert process.end() == 0, process.text()
    assert_same_run(job("stopped"), job("whole"))
