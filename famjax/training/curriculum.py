"""The length curriculum on the device: which stage the next step belongs to is part of the train state.

The host has not seen the metrics of step s when it dispatches step s + 1, so a change of stage that step s decides
takes effect at step s + 2. The state carries the stages of both, and a run that is resumed changes stage at the same
step.
"""

import dataclasses

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from famjax.models.dims import Leaf
from famjax.training.curriculum_config import Curriculum, Stage

_METRICS = ("accuracy", "answer_accuracy", "exact_match")


@struct.dataclass
class Progress:
    """Where a run stands in its curriculum.

    Attributes:
      stage: index of the stage that the next step belongs to, int32 [].
      stage_after: index of the stage of the step after that, int32 [].
      steps: steps done in `stage`, int32 [].
      recent: the stage's metric over its last steps, a ring, float32 [longest window].
    """

    stage: Leaf
    stage_after: Leaf
    steps: Leaf
    recent: Leaf


def start_progress(curriculum: Curriculum) -> Progress:
    """The progress of a run that has not made a step."""
    stages = curriculum.parsed or (Stage(max_length=1),)
    recent = jnp.zeros((max(stage.window for stage in stages),), jnp.float32)
    zero = jnp.zeros((), jnp.int32)
    progress = Progress(stage=zero, stage_after=zero, steps=zero, recent=recent)
    return dataclasses.replace(progress, stage_after=_stage_after(stages, progress))


def advance(curriculum: Curriculum, progress: Progress, metrics: dict[str, Float[Array, ""]]) -> Progress:
    """The progress after one more step.

    Args:
      curriculum: the stages.
      progress: before the step.
      metrics: the step's; those that stages can wait for are read.
    """
    stages = curriculum.parsed or (Stage(max_length=1),)
    index = jnp.asarray([_METRICS.index(stage.metric) if stage.metric else 0 for stage in stages])[progress.stage]
    value = jnp.stack([metrics[name] for name in _METRICS])[index]
    recent = progress.recent.at[progress.steps % progress.recent.shape[0]].set(value)
    changes = progress.stage_after != progress.stage
    moved = Progress(
        stage=progress.stage_after,
        stage_after=progress.stage_after,
        steps=jnp.where(changes, 0, progress.steps + 1),
        recent=jnp.where(changes, 0, recent),
    )
    return dataclasses.replace(moved, stage_after=_stage_after(stages, moved))


def _stage_after(stages: tuple[Stage, ...], progress: Progress) -> Int[Array, ""]:
    """The stage of the step after the next one.

    It is one further if the stage's metric has been reached, or if the next step is the stage's last.
    """
    endless = jnp.iinfo(jnp.int32).max
    limit = jnp.asarray([stage.steps or endless for stage in stages])[progress.stage]
    done = (progress.steps + 1 >= limit) | _is_mastered(stages, progress)
    return jnp.minimum(progress.stage + done, len(stages) - 1)


def _is_mastered(stages: tuple[Stage, ...], progress: Progress) -> Bool[Array, ""]:
    threshold = jnp.asarray([stage.threshold if stage.metric else jnp.inf for stage in stages])[progress.stage]
    window = jnp.asarray([stage.window for stage in stages])[progress.stage]
    size = progress.recent.shape[0]
    age = (progress.steps - 1 - jnp.arange(size)) % size
    mean = jnp.sum(jnp.where(age < window, progress.recent, 0)) / window
    return (progress.steps >= window) & (mean >= threshold)
