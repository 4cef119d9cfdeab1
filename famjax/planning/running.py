"""`--run_mode=plan`: compiles a training's programs for a slice that is not there, and says what they take."""

import dataclasses
import json
import math
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
from famjax.planning.page import as_json, render
from famjax.planning.plan import Plan, layout_of
from famjax.planning.remedies import find_remedies
from famjax.planning.searching import search
from famjax.planning.topology import require_libtpu, slice_devices
from famjax.planning.trials import Change, Trials
from famjax.planning.work import work_of
from famjax.pods.gpus import KINDS, parse_gpus
from famjax.pods.mesh import BATCH_AXES
from famjax.pods.slices import TpuSlice, parse_slice
from famjax.training.compiled_steps import save_step
from famjax.training.config import TrainJob
from famjax.training.program import Program, make_program

Report = Callable[[str], None]


def plan(job: TrainJob, settings: PlanSettings) -> None:
    """Plans, and prints the page or the JSON.

    Raises:
      ConfigError: there is no such slice, the job cannot run on it, or its train step does not fit it.
    """
    made = make_plan(job, settings, _report)
    if settings.json != "-":
        sys.stdout.write(render(made))
    if settings.json is not None:
        text = json.dumps(as_json(made), indent=1) + "\n"
        if settings.json == "-":
            sys.stdout.write(text)
        else:
            _write(Path(settings.json), text)
    if not made.fits:
        memory = made.programs[0].memory
        raise ConfigError(
            f"The train step takes {memory.total / 2**30:,.2f} GiB of each of the {made.layout.chips:,} chips, and "
            f"{memory.available / 2**30:,.2f} GiB are there."
        )


def make_plan(job: TrainJob, settings: PlanSettings, report: Report = logging.info) -> Plan:
    """Compiles and counts; see `plan`.

    Args:
      job: the training.
      settings: where it is to run.
      report: is told what is being done.
    """
    # The devices of this machine, TPUs too, are left alone.
    jax.config.update("jax_platforms", "cpu")
    num_slices = settings.num_slices or job.mesh.num_slices
    job = dataclasses.replace(job, mesh=dataclasses.replace(job.mesh, num_slices=num_slices))
    lengths = sorted({stage.max_length for stage in job.curriculum.parsed} or {job.step_length}, reverse=True)
    if settings.slice.rpartition("-")[0].lower() in KINDS:
        return _estimate(job, settings, lengths[0])
    tpu = parse_slice(settings.slice)
    devices = slice_devices(tpu, num_slices)
    program = make_program(job, devices)
    shards = math.prod(program.mesh.shape[axis] for axis in BATCH_AXES)
    check_batch(job, shards, tpu.hosts * num_slices)
    report(f"compiling the train step for {tpu.name}, {lengths[0]:,} tokens a row")
    step = compile_train_step(program, lengths[0], tpu)
    if settings.save is not None:
        _save(settings.save, program, step, lengths, tpu, report)
    report("compiling prefill and decode")
    inference = compile_inference(job, devices, program.mesh, settings.rows or shards, tpu)
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "libtpu": require_libtpu()}
    made = Plan(
        layout=layout_of(program, tpu, num_slices, versions),
        programs=(step.plan, *(each.plan for each in inference)),
        work=work_of(job, lengths[0], num_slices * tpu.peak_flops),
    )
    trials = Trials(Change("", job, tpu, num_slices), lengths[0], settings.trials, report)
    if settings.search:
        return dataclasses.replace(made, search=search(trials))
    if not made.fits:
        return dataclasses.replace(made, remedies=find_remedies(trials))
    return made


def _estimate(job: TrainJob, settings: PlanSettings, length: int) -> Plan:
    for flag, value in (
        ("--plan.search", settings.search),
        ("--plan.save", settings.save),
        ("--plan.rows", settings.rows),
    ):
        if value:
            raise ConfigError(f"{flag} needs TPU's compiler; GPUs ({settings.slice}) are planned by formulas alone.")
    if job.mesh.num_slices > 1:
        raise ConfigError(
            f"--num_slices = {job.mesh.num_slices} joins TPU slices; for GPUs write their number in --slice."
        )
    return estimate(job, parse_gpus(settings.slice), length)


def _save(folder: str, program: Program, step: Compiled, lengths: Sequence[int], tpu: TpuSlice, report: Report) -> None:
    """Saves the step of every length that fits; the longest is compiled already."""
    for length in lengths:
        if length != lengths[0]:
            report(f"compiling the train step for {length:,} tokens a row")
            step = compile_train_step(program, length, tpu)
        if step.program is not None:
            report(f"saved {save_step(folder, length, step.lowered, step.program, program.mesh)}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); set another --plan.json.") from error


def _report(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
