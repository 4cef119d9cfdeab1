"""`--run_mode=plan`: compiles a training's programs for a slice that is not there, and says what they take."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jaxlib
from absl import logging

from famjax.configuration.job_checks import check_batch
from famjax.errors import ConfigError
from famjax.planning.compiling import Compiled, compile_inference, compile_train_step
from famjax.planning.config import PlanSettings
from famjax.planning.estimating import estimate
from famjax.planning.page import as_json, render, render_others
from famjax.planning.plan import Plan, layout_of
from famjax.planning.remedies import find_remedies
from famjax.planning.searching import search
from famjax.planning.stopping import ending_on_sigterm
from famjax.planning.topology import require_libtpu, slice_devices
from famjax.planning.trials import Change, Trials
from famjax.planning.work import work_of
from famjax.pods.gpus import names_gpus, parse_gpus
from famjax.pods.mesh import num_batch_shards
from famjax.pods.slices import GIB, TpuSlice, parse_slice
from famjax.training.compiled_steps import save_step
from famjax.training.config import TrainJob
from famjax.training.program import Program, make_program

Report = Callable[[str], None]


def plan(job: TrainJob, settings: PlanSettings) -> None:
    """Plans, and prints the page, or the JSON; where more is to be tried, that follows the page.

    Raises:
      ConfigError: there is no such slice, the job cannot run on it, its train step does not fit it, or a file cannot be
        written.
    """
    shown = settings.json != "-"
    if shown and settings.json is not None:
        _check_writable(Path(settings.json))  # Known before minutes of compilation.
    with ending_on_sigterm():
        made = make_plan(job, settings, _report)
        if shown:
            sys.stdout.write(render(made))
            sys.stdout.flush()
        if not made.estimated:
            made = try_others(made, job, settings, _report)
    text = json.dumps(as_json(made), indent=1) + "\n"
    if shown:
        sys.stdout.write(render_others(made))
        if settings.json is not None:
            _write(Path(settings.json), text)
    else:
        sys.stdout.write(text)
    sys.stdout.flush()
    if not made.fits:
        memory = made.programs[0].memory
        raise ConfigError(
            f"The train step takes {memory.total / GIB:,.2f} GiB of each of the {made.layout.chips:,} chips, and "
            f"{memory.available / GIB:,.2f} GiB are there."
        )


def make_plan(job: TrainJob, settings: PlanSettings, report: Report = logging.info) -> Plan:
    """Compiles and counts the job as it is; see `plan`.

    Args:
      job: the training.
      settings: where it is to run.
      report: is told what is being done.
    """
    # The devices of this machine, TPUs too, are left alone.
    jax.config.update("jax_platforms", "cpu")
    lengths = sorted({stage.max_length for stage in job.curriculum.parsed} or {job.step_length}, reverse=True)
    if names_gpus(settings.slice):
        return _estimate(job, settings, lengths[0])
    here = _placed(job, settings)
    devices = slice_devices(here.tpu, here.num_slices)
    program = make_program(here.job, devices)
    shards = num_batch_shards(program.mesh)
    check_batch(here.job, shards)
    report(f"compiling the train step for {here.tpu.name}, {lengths[0]:,} tokens a row")
    step = compile_train_step(program, lengths[0], here.tpu)
    if settings.save is not None:
        _save(settings.save, program, step, lengths, here.tpu, report)
    report("compiling prefill and decode")
    inference = compile_inference(here.job, devices, program.mesh, settings.rows or shards, here.tpu)
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "libtpu": require_libtpu()}
    return Plan(
        layout=layout_of(program, here.tpu, here.num_slices, versions),
        programs=(step.plan, *(each.plan for each in inference)),
        work=work_of(here.job, lengths[0], here.num_slices * here.tpu.peak_flops, program.trained),
    )


def try_others(made: Plan, job: TrainJob, settings: PlanSettings, report: Report = logging.info) -> Plan:
    """Adds what the search tried, or, where the job does not fit, the nearest changes with which it does."""
    trials = Trials(_placed(job, settings), made.work.length, settings.trials, report)
    if settings.search:
        return dataclasses.replace(made, search=search(trials))
    return made if made.fits else dataclasses.replace(made, remedies=find_remedies(trials))


def _placed(job: TrainJob, settings: PlanSettings) -> Change:
    """The job on its slices."""
    num_slices = settings.num_slices or job.mesh.num_slices
    mesh = dataclasses.replace(job.mesh, num_slices=num_slices)
    return Change("", dataclasses.replace(job, mesh=mesh), parse_slice(settings.slice), num_slices)


def _estimate(job: TrainJob, settings: PlanSettings, length: int) -> Plan:
    for flag, value in (
        ("--plan.search", settings.search),
        ("--plan.save", settings.save),
        ("--plan.rows", settings.rows),
    ):
        if value:
            raise ConfigError(f"{flag} needs TPU's compiler; GPUs ({settings.slice}) are planned by formulas alone.")
    num_slices = settings.num_slices or job.mesh.num_slices
    if num_slices > 1:
        raise ConfigError(f"--num_slices = {num_slices} joins TPU slices; for GPUs write their number in --slice.")
    return estimate(job, parse_gpus(settings.slice), length)


def _save(folder: str, program: Program, step: Compiled, lengths: Sequence[int], tpu: TpuSlice, report: Report) -> None:
    """Saves the step of every length that fits; the longest is compiled already."""
    for length in lengths:
        if length != lengths[0]:
            report(f"compiling the train step for {length:,} tokens a row")
            step = compile_train_step(program, length, tpu)
        if step.program is not None and step.plan.memory.fits:
            report(f"saved {save_step(folder, length, step.lowered, step.program, program.mesh)}")
        else:
            report(f"the step for {length:,} tokens does not fit, and is not saved")


def _check_writable(path: Path) -> None:
    """Leaves the file alone: what is there before the plan is complete is none."""
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written; set another --plan.json.")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); set another --plan.json.") from error


def _report(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
