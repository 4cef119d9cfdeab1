"""The loop around the step, with steps that compute nothing: what it asks for when, what it saves, logs and reports."""

import dataclasses
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from famjax.errors import ConfigError, DataError, NumericsError, Stopped
from famjax.models.decoder_layer import Diagnostics
from famjax.models.transformer import parameter_shapes
from famjax.training import loop
from famjax.training.config import CheckpointConfig, Curriculum, LoggingConfig, RestoreConfig, TrainJob
from famjax.training.evaluator import EvaluationSums
from famjax.training.losses import ScoreSums
from famjax.training.program import Program
from tiny_job import make_data, make_job


class Steps:
    """Stands in for the compiled programs: counts steps, gives scripted metrics, and writes down what happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.values: dict[int, dict[str, Any]] = {}
        self.before: dict[int, Callable[[], None]] = {}
        self.before_evaluation: Callable[[], None] = lambda: None
        self.lengths: list[int] = []
        self.dispatched: dict[int, int] = {}
        self._kept: list[Any] = []
        steps = self

        def compile_step(program: Program, length: int, warn: Callable[[str], None]) -> Callable[[Any, Any], Any]:
            steps.events.append(f"compile {length}")
            return steps.step

        def compile_evaluation(*arguments: Any, **settings: Any) -> Callable[[Any, Any], EvaluationSums]:
            return steps.evaluation_step

        device_get = jax.device_get

        def noting_device_get(tree: Any) -> Any:
            if isinstance(tree, dict) and "loss" in tree:
                steps.events.append(f"read {steps.dispatched[id(tree['loss'])]}")
            return device_get(tree)

        monkeypatch.setattr(jax, "device_get", noting_device_get)
        monkeypatch.setattr(Program, "compile_step", compile_step)
        monkeypatch.setattr(loop, "compile_evaluation", compile_evaluation)

    def step(self, state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        number = int(state.step) + 1
        self.before.get(number, lambda: None)()
        self.events.append(f"step {number}")
        self.lengths.append(batch["tokens"].shape[1])
        values: dict[str, Any] = {
            **dict.fromkeys(("accuracy", "answer_accuracy", "exact_match", "z_loss", "learning_rate"), 0.5),
            "loss": 10.0 - number,
            "gradient_norm": 1.0,
            "update_norm": 0.1,
            "answered": 1.0,
            "state_passed": False,
            "tokens": 100,
            "stage": 0,
            "stage_after": 0,
            **{field.name: [0.3] for field in dataclasses.fields(Diagnostics)},
            **self.values.get(number, {}),
        }
        metrics = {name: jnp.asarray(value) for name, value in values.items()}
        self._kept.append(metrics)
        self.dispatched[id(metrics["loss"])] = number
        return dataclasses.replace(state, step=state.step + 1), metrics

    def evaluation_step(self, params: Any, batch: Any) -> EvaluationSums:
        self.before_evaluation()
        self.events.append("evaluation")
        twos = dict.fromkeys((field.name for field in dataclasses.fields(ScoreSums)), jnp.float32(2.0))
        scores = ScoreSums(**{**twos, "loss": jnp.float32(3.0)})
        return EvaluationSums(scores, *[jnp.ones(1)] * 4)


@pytest.fixture
def steps(monkeypatch) -> Steps:
    """Takes the place of everything that would be compiled."""
    return Steps(monkeypatch)


def simple_job(folder: Path, **changes: Any) -> TrainJob:
    """Eight steps without stages."""
    settings: dict[str, Any] = {
        "curriculum": Curriculum(),
        "total_steps": 8,
        "checkpoint": CheckpointConfig(period=100),
        "logging": LoggingConfig(period=1, diagnostics_period=None),
    }
    return make_job(folder, "run", **{**settings, **changes})


def with_evaluation(folder: Path, **changes: Any) -> TrainJob:
    """Evaluates every fourth step."""
    job = simple_job(folder, eval_period=4, eval_steps=1, **changes)
    paths = str(folder / "documents" / "*.txt")
    data = make_data(paths, mixture_or_task_name="recall", split="validation", shuffle=False)
    return dataclasses.replace(job, eval_data=data)


def log_of(job: TrainJob) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (Path(job.model_dir) / "metrics.jsonl").read_text().splitlines()]


def saved(job: TrainJob) -> set[int]:
    """The steps that have a checkpoint."""
    return {int(path.name.split("_")[1]) for path in Path(job.model_dir).glob("checkpoint_*")}


def test_metrics_are_read_when_the_next_step_is_dispatched(steps, tmp_path):
    """Guards against devices that wait for the host after every step."""
    loop.train(simple_job(tmp_path))
    expected = ["compile 32", "step 1"]
    for number in range(2, 9):
        expected += [f"step {number}", f"read {number - 1}"]
    assert steps.events == [*expected, "read 8"]


def test_a_stage_changes_without_waiting(steps, tmp_path):
    """Guards against a stage that is read from the step in flight, and against a wrong length just after a change."""
    stages = ({"max_length": 24, "min_length": 20, "steps": 100}, {"max_length": 32, "min_length": 20})
    steps.values = {4: {"stage_after": 1}, **{number: {"stage": 1, "stage_after": 1} for number in (6, 7, 8)}}
    steps.values[5] = {"stage_after": 1}
    job = simple_job(tmp_path, curriculum=Curriculum(stages))
    loop.train(job)
    assert steps.lengths == [24] * 5 + [32] * 3
    assert steps.events[:2] == ["compile 24", "step 1"]
    assert [line["length"] for line in log_of(job)] == steps.lengths
    at = steps.events.index("compile 32")
    assert steps.events[at - 2 : at + 2] == ["read 4", "read 5", "compile 32", "step 6"]


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [(5, "loss", np.nan), (6, "loss", np.inf), (8, "gradient_norm", np.nan), (7, "update_norm", np.inf)],
)
def test_a_value_that_is_not_finite_ends_the_run(steps, tmp_path, number, name, value):
    """Guards against a run that goes on with broken parameters, and against a checkpoint of them.

    Also at a step that is saved, and at the last.
    """
    steps.values = {number: {name: value}}
    job = simple_job(tmp_path, checkpoint=CheckpointConfig(period=3))
    with pytest.raises(NumericsError, match=f"step {number}: {name} is {value}") as error:
        loop.train(job)
    assert error.value.exit_code == 5
    assert saved(job) == {step for step in (3, 6) if step < number}
    assert "--gin." in str(error.value)


def test_reports_logs_and_saves_by_their_periods(steps, tmp_path, capsys):
    """Guards against metrics that come too often, too late, or of another step; and against a save before the log."""
    job = with_evaluation(
        tmp_path, checkpoint=CheckpointConfig(period=3), logging=LoggingConfig(period=2, diagnostics_period=3)
    )
    loop.train(job)
    lines = log_of(job)
    assert [(line["step"], line["loss"]) for line in lines if "loss" in line] == [(n, 10.0 - n) for n in (2, 4, 6, 8)]
    diagnostics = [line for line in lines if "fam_norm" in line]
    assert [line["step"] for line in diagnostics] == [3, 6]
    assert all(diagnostics[0][field.name] == [0.3] for field in dataclasses.fields(Diagnostics))
    evaluations = [line for line in lines if "validation/loss" in line]
    assert [(line["step"], line["validation/loss"], line["validation/exact_match"]) for line in evaluations] == [
        (4, 1.5, 1.0),
        (8, 1.5, 1.0),
    ]
    assert saved(job) == {3, 6, 8}
    output = capsys.readouterr().out
    (begins,) = [line for line in output.splitlines() if line.startswith("training: ")]
    count = sum(math.prod(shape.shape) for shape in parameter_shapes(job.model).values())
    data = f"{job.data.batch_size} x 32 tokens a step, to step 8"
    assert begins == f"training: {count:,} parameters on {job.data.mixture_or_task_name} (split 'train'), {data}"
    assert "step 4 validation: loss 1.5000 accuracy 1.0000" in output
    assert "step 6: checkpoint saved" in output
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_stops(steps, tmp_path, number):
    """Guards against a stop in the middle of a step, and against a step that is done again."""
    steps.before = {5: lambda: signal.raise_signal(number)}
    job = simple_job(tmp_path)
    with pytest.raises(Stopped, match=f"{number.name}: stopped after step 5 of 8, and saved") as error:
        loop.train(job)
    assert error.value.exit_code == 143
    assert saved(job) == {5}
    steps.before, steps.events = {}, []
    loop.train(job)
    assert [event for event in steps.events if event.startswith("step")] == ["step 6", "step 7", "step 8"]
    assert [line["step"] for line in log_of(job)] == list(range(1, 9))


def test_an_evaluation_that_a_signal_prevents_is_made_up(steps, tmp_path):
    """Guards against a log that lacks an evaluation, or has it twice, because a signal came before its end."""
    job = with_evaluation(tmp_path)
    steps.before_evaluation = lambda: signal.raise_signal(signal.SIGTERM)
    evaluations = dataclasses.replace(job, eval_steps=None, eval_data=dataclasses.replace(job.eval_data, batch_size=8))
    with pytest.raises(Stopped, match="after step 4 of 8"):
        loop.train(evaluations)
    assert not any("validation/loss" in line for line in log_of(job))
    steps.before_evaluation = lambda: None
    steps.before = {5: lambda: signal.raise_signal(signal.SIGTERM)}
    with pytest.raises(Stopped, match="after step 5 of 8"):
        loop.train(job)
    steps.before = {}
    loop.train(job)
    loop.train(job)
    assert [line["step"] for line in log_of(job) if "validation/loss" in line] == [4, 8]
    assert [line["step"] for line in log_of(job) if "loss" in line] == list(range(1, 9))


def test_the_last_evaluation_counts(steps, tmp_path):
    """Guards against exit code 0, after which nobody starts the run again, without its last evaluation."""
    job = with_evaluation(tmp_path, total_steps=4)
    steps.before = {4: lambda: signal.raise_signal(signal.SIGTERM)}
    with pytest.raises(Stopped):
        loop.train(job)
    steps.before, steps.events = {}, []
    loop.train(job)
    assert steps.events == ["evaluation"]
    assert [line["step"] for line in log_of(job)] == [1, 2, 3, 4, 4]


def test_nothing_to_train_is_said(steps, tmp_path, capsys):
    """Guards against a run that reports old results under new settings, and says nothing."""
    job = simple_job(tmp_path)
    loop.train(job)
    settings = Path(job.model_dir) / "config.gin"
    settings.write_text("of the run")
    steps.events = []
    capsys.readouterr()
    loop.train(dataclasses.replace(job, total_steps=6))
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"nothing to train: {job.model_dir}/checkpoint_8 is the last of TRAIN_STEPS = 6, or beyond")
    assert steps.events == []
    assert settings.read_text() == "of the run"
    restore = RestoreConfig(path=job.model_dir, step=True)
    with pytest.raises(ConfigError, match=r"continues at step 8 .*--gin\.TRAIN_STEPS=8"):
        loop.train(dataclasses.replace(job, model_dir=str(tmp_path / "next"), restore=restore))


def test_a_refused_resume_changes_nothing(steps, tmp_path):
    """Guards against settings of a refused run in config.gin, and against a refusal after the compilation."""
    job = simple_job(tmp_path)
    loop.train(job)
    settings = Path(job.model_dir) / "config.gin"
    settings.write_text("of the run")
    steps.events = []
    other = dataclasses.replace(job, total_steps=12, data=dataclasses.replace(job.data, seed=5))
    with pytest.raises(ConfigError, match="seed"):
        loop.train(other)
    assert steps.events == []
    assert settings.read_text() == "of the run"


def test_data_is_read_before_anything_is_compiled(steps, tmp_path):
    """Guards against a glob without files, or a stage too short for its task, that is found after hours."""
    job = simple_job(tmp_path)
    missing = make_data(str(tmp_path / "none" / "*.txt"))
    with pytest.raises(DataError, match="none"):
        loop.train(dataclasses.replace(job, data=missing))
    assert not Path(job.model_dir).exists(), "a refused run leaves nothing behind"
    stages = Curriculum(({"max_length": 32, "steps": 4}, {"max_length": 5}))
    with pytest.raises(ConfigError, match="5 tokens"):
        loop.train(dataclasses.replace(job, curriculum=stages))
    assert steps.events == []
