"""The curriculum on the device against a plain simulation of what a stage's settings mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from famjax.training.config import Curriculum, Stage
from famjax.training.curriculum import advance, start_progress

STEPS = 40
METRICS = ("accuracy", "answer_accuracy", "exact_match")


def simulate(stages: tuple[Stage, ...], metrics: dict[str, np.ndarray]) -> list[int]:
    """The stage of every step, decided by hand: what is seen after step s can change step s + 2, and none before."""
    schedule: list[int] = []
    index, entered, recent, last = 0, 0, [], None
    for step in range(STEPS):
        stage = stages[index]
        if step == entered and stage.steps is not None:
            last = step + stage.steps - 1
        schedule.append(index)
        if stage.metric is not None:
            recent.append(float(metrics[stage.metric][step]))
            is_mastered = len(recent) >= stage.window and np.mean(recent[-stage.window :]) >= stage.threshold
            if is_mastered and (last is None or last > step + 1):
                last = step + 1
        if step == last and index < len(stages) - 1:
            index, entered, recent, last = index + 1, step + 1, [], None
    return schedule


def run(curriculum: Curriculum, metrics: dict[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """The stage of every step as the state says it, and what the state said of it one step earlier."""

    def one_step(progress, values):
        after = advance(curriculum, progress, values)
        return after, (progress.stage, after.stage_after)

    values = {name: jnp.asarray(metrics[name], jnp.float32) for name in METRICS}
    first = start_progress(curriculum)
    _, (stage, stage_after) = jax.jit(functools.partial(jax.lax.scan, one_step))(first, values)
    announced = [int(first.stage), int(first.stage_after), *stage_after.tolist()][:STEPS]
    return stage.tolist(), announced


def draw_metrics(seed: int) -> dict[str, np.ndarray]:
    """Metrics that grow over the run, in sixteenths, which float32 adds up exactly."""
    random = np.random.default_rng(seed)
    rise = np.linspace(0.0, 1.0, STEPS)
    return {name: np.round(np.clip(rise + random.normal(0, 0.3, STEPS), 0, 1) * 16) / 16 for name in METRICS}


CURRICULA = {
    "steps": ({"steps": 3}, {"steps": 1}, {"steps": 1}, {"steps": 7}, {}),
    "first_stage_of_one_step": ({"steps": 1}, {}),
    "metric": (
        {"metric": "accuracy", "threshold": 0.25, "window": 4},
        {"metric": "exact_match", "threshold": 0.5, "window": 1},
        {"metric": "answer_accuracy", "threshold": 0.75, "window": 8},
        {},
    ),
    "mastered_at_once": (
        {"metric": "accuracy", "threshold": 0.0, "window": 1},
        {"metric": "accuracy", "threshold": 0.0, "window": 5},
        {},
    ),
    "either": (
        {"metric": "accuracy", "threshold": 0.5, "window": 2, "steps": 30},
        {"metric": "exact_match", "threshold": 1.0, "window": 16, "steps": 6},
        {"steps": 2, "metric": "exact_match", "threshold": 0.0, "window": 1},
        {},
    ),
    "last_stage_with_an_end": ({"steps": 5}, {"steps": 5, "metric": "accuracy", "threshold": 0.0}),
}


@pytest.mark.parametrize("name", CURRICULA)
def test_equals_simulation(name):
    """Guards against a stage that is a step too long, a window over another stage's steps, or the wrong metric."""
    curriculum = Curriculum(tuple({"max_length": 8 * (i + 1), **stage} for i, stage in enumerate(CURRICULA[name])))
    for seed in range(5):
        metrics = draw_metrics(seed)
        actual, announced = run(curriculum, metrics)
        assert actual == simulate(curriculum.parsed, metrics)
        assert announced == actual, "the host reads a step's stage one step ahead"
    assert actual[-1] == len(curriculum.stages) - 1


def test_mastery_takes_effect_two_steps_later():
    """Guards against a host that has to wait for the step in flight, and against a longer delay."""
    metrics = {name: np.zeros(STEPS) for name in METRICS}
    metrics["exact_match"][6:9] = 1.0
    stages = ({"max_length": 8, "metric": "exact_match", "threshold": 1.0, "window": 3}, {"max_length": 16})
    actual, _ = run(Curriculum(stages), metrics)
    assert actual == [0] * 10 + [1] * (STEPS - 10)


def test_no_curriculum_is_one_endless_stage():
    """Guards against a run without stages that leaves its first."""
    actual, announced = run(Curriculum(), draw_metrics(0))
    assert actual == announced == [0] * STEPS
