"""What a run starts with: its own latest checkpoint, another run's, or initial values; and what it says at first."""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from famjax.configuration import operative
from famjax.data.feeding import fingerprint_of_vocabulary
from famjax.errors import CheckpointError, ConfigError
from famjax.training.checkpoint_files import step_folders
from famjax.training.checkpoints import Checkpointer, Restored
from famjax.training.config import TrainJob
from famjax.training.display import Display
from famjax.training.finetuning import begin_from_base, resume_from_base
from famjax.training.model_dir import find_model_dir
from famjax.training.optimizers import with_schedule_step
from famjax.training.program import Program
from famjax.training.restore import initialize_from
from famjax.training.state import TrainState


def begin(
    program: Program, checkpointer: Checkpointer, display: Display
) -> tuple[TrainState, dict[str, Any] | None, int | None]:
    """The state to go on from: the latest checkpoint's in MODEL_DIR, another run's, or initial values.

    Args:
      program: of the run.
      checkpointer: of MODEL_DIR; it is told of the base that the state refers to.
      display: is told where the state is from.

    Returns:
      The state; that of the data, None: from their beginning; the step that the run goes on from, None: a new run.

    Raises:
      ConfigError: the other run has come to the last step of this one, or beyond it.
      CheckpointError: a checkpoint is of another model or curriculum, or cannot be read.
    """
    job = program.job
    restored = checkpointer.restore(program.saved_part(program.abstract_state))
    if restored is not None:
        _require_stage(job, int(restored.state.progress.stage_after))
        display.report(f"resumed from the checkpoint of step {restored.step} in {job.model_dir}")
        return _with_base(program, checkpointer, restored), restored.data_state, restored.step
    state = program.init()
    if job.restore.path is None:
        return state, None, None
    vocabulary = fingerprint_of_vocabulary(job.data)
    start = initialize_from(job.restore, state.params, state.opt_state, display.warn, job.model, vocabulary)
    if start.step >= job.total_steps:
        raise ConfigError(
            f"RestoreConfig.step continues at step {start.step} of {job.restore.path}, which is not before "
            f"--gin.TRAIN_STEPS={job.total_steps}."
        )
    display.report(str(start.report))
    start = dataclasses.replace(start, params=program.draw_fam_prompt(start.params, start.report.initialised))
    if job.has_frozen_base:
        checkpointer.refer_to(begin_from_base(program, start))
    opt_state = with_schedule_step(start.opt_state, start.step)
    step = jax.device_put(np.int32(start.step), program.shardings.step)
    return dataclasses.replace(state, params=start.params, opt_state=opt_state, step=step), None, None


def report_finished(job: TrainJob, display: Display) -> None:
    """Says it where the run has made all its steps, before anything slow."""
    latest = next(iter(step_folders(find_model_dir(job.model_dir))), None)
    if latest is not None and latest.step >= job.total_steps:
        display.report(
            f"nothing to train: {latest.path} is the last of TRAIN_STEPS = {job.total_steps}, or beyond it; raise it, "
            "or set another MODEL_DIR"
        )


def note_settings(model_dir: epath.Path, display: Display) -> None:
    """Keeps the settings in MODEL_DIR, and says what has changed."""
    if jax.process_index() == 0:
        for change in operative.changes(model_dir):
            display.report(f"changed since the last start: {change}")
        operative.write(model_dir)


def describe(program: Program) -> str:
    """What is trained, from which data, and for how long."""
    job, (parameters, trained) = program.job, program.parameter_counts()
    frozen = f", {trained:,} of them trained," if trained < parameters else ""
    length = max([stage.max_length for stage in job.curriculum.parsed] or [job.step_length])
    upto = "up to " if job.curriculum.stages else ""
    return (
        f"training: {parameters:,} parameters{frozen} on {job.data.mixture_or_task_name} (split {job.data.split!r}), "
        f"{job.data.batch_size:,} x {upto}{length:,} tokens a step, to step {job.total_steps:,}"
    )


def _with_base(program: Program, checkpointer: Checkpointer, restored: Restored) -> TrainState:
    """The restored state, with the parameters of the base where it refers to one."""
    if restored.base is None:
        return restored.state
    params, reference = resume_from_base(program, restored.state.params, restored.base)
    checkpointer.refer_to(reference)
    return dataclasses.replace(restored.state, params=params)


def _require_stage(job: TrainJob, stage: int) -> None:
    if stage >= max(len(job.curriculum.stages), 1):
        raise CheckpointError(
            f"the checkpoint in {job.model_dir} stands at stage {stage + 1} of its curriculum; Curriculum.stages now "
            f"has {len(job.curriculum.stages)}. Set them as they were, or use another --gin.MODEL_DIR."
        )
