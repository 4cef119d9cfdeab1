"""A job's real programs, compiled for a slice that is not there."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from famjax.errors import ConfigError
from famjax.inference.programs import Programs
from famjax.planning.memory import AVAILABLE, Arrays, Memory, chip_bytes, divide, divide_refused
from famjax.pods.collectives import collectives_of
from famjax.pods.slices import TpuSlice
from famjax.training.config import TrainJob
from famjax.training.optimizers import frozen_parameters
from famjax.training.parameter_paths import without
from famjax.training.program import Program, abstract_params

# Blocks that one call reads in inference, as `InferJob.chunk_blocks` has it.
CHUNK_BLOCKS = 8


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one chip sends in a call, by collectives of one kind along the same mesh axes, over the same network.

    Attributes:
      kind: all-gather, reduce-scatter and so on.
      axes: mesh axes that they cross.
      bytes: that a chip sends (`famjax.pods.collectives`).
      times: how often such a collective runs.
      between_slices: over the network between slices (DCN); otherwise over a slice's own (ICI).
    """

    kind: str
    axes: tuple[str, ...]
    bytes: int
    times: int
    between_slices: bool = False


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """What a program takes.

    Attributes:
      name: as a page calls it.
      memory: of one chip.
      traffic: what a chip sends, the largest first; empty where the program does not fit.
      seconds: that the compilation took.
    """

    name: str
    memory: Memory
    traffic: tuple[Traffic, ...]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A plan, and the program itself, None where it does not fit."""

    plan: ProgramPlan
    program: jax.stages.Compiled | None
    lowered: jax.stages.Lowered


def train_arrays(program: Program, length: int) -> Arrays:
    """Bytes a chip of the arrays of a train step for batches [B, length]."""
    state = program.abstract_state
    trained = without(state.params, frozen_parameters(program.job.applied_optimizer, state.params))
    carried = dataclasses.replace(state, params=None, opt_state=None)
    return Arrays(
        parameters=chip_bytes(state.params),
        optimizer=chip_bytes(state.opt_state),
        state=chip_bytes(carried),
        batch=chip_bytes(program.abstract_batch(length)),
        gradients=chip_bytes(trained),
    )


def compile_train_step(program: Program, length: int, tpu: TpuSlice) -> Compiled:
    """Compiles the train step for batches [B, length], as the training would.

    Args:
      program: laid out on the slice's devices.
      length: tokens of a row [T].
      tpu: the slice.

    Raises:
      ConfigError: the compiler refuses it for another reason than memory.
    """
    return _compile(
        f"train step, T = {length:,}",
        lambda: program.lower_step(length),
        train_arrays(program, length),
        program.mesh,
        tpu,
    )


def compile_inference(
    job: TrainJob, devices: Sequence[jax.Device], mesh: Mesh, rows: int, tpu: TpuSlice
) -> list[Compiled]:
    """Compiles a chunk's reading (prefill) and a burst's decoding for the job's model, as inference would.

    Args:
      job: whose model and mesh it is.
      devices: of the slice.
      mesh: made of them.
      rows: B.
      tpu: the slice.
    """
    params, _ = abstract_params(job.model, mesh, job.mesh)
    programs = Programs(job.model, job.mesh, CHUNK_BLOCKS, devices)
    arrays = Arrays(
        parameters=chip_bytes(params),
        optimizer=0,
        state=chip_bytes(programs.abstract_rows(params, rows)),
        batch=0,
        gradients=0,
    )
    many = f"{rows:,} rows" if rows > 1 else "1 row"
    return [
        _compile(
            f"prefill, {many} x {programs.chunk_size:,} tokens",
            lambda: programs.lower_read(params, rows),
            arrays,
            mesh,
            tpu,
        ),
        _compile(f"decode, {many}", lambda: programs.lower_decode(params, rows), arrays, mesh, tpu),
    ]


def _compile(name: str, lower: Callable[[], jax.stages.Lowered], arrays: Arrays, mesh: Mesh, tpu: TpuSlice) -> Compiled:
    start = time.perf_counter()
    lowered = lower()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory = divide_refused(arrays, str(error))
        if memory is None:
            raise ConfigError(f"the {name} does not compile for {tpu.name}: {str(error).splitlines()[0]}") from error
        return Compiled(ProgramPlan(name, memory, (), time.perf_counter() - start), None, lowered)
    seconds = time.perf_counter() - start
    stats = program.memory_analysis()
    assert stats is not None, "TPU's compiler has a memory analysis"
    memory = divide(arrays, stats, round(AVAILABLE[tpu.generation.name]))
    traffic = _traffic(program.as_text() or "", mesh)
    return Compiled(ProgramPlan(name, memory, traffic, seconds), program, lowered)


def _traffic(text: str, mesh: Mesh) -> tuple[Traffic, ...]:
    sums: dict[tuple[str, tuple[str, ...], bool], tuple[int, int]] = {}
    for each in collectives_of(text, mesh):
        key = each.kind, each.axes, each.between_slices
        sent, times = sums.get(key, (0, 0))
        sums[key] = sent + each.bytes, times + each.times
    found = (Traffic(kind, axes, *sum_, between_slices) for (kind, axes, between_slices), sum_ in sums.items())
    return tuple(sorted(found, key=lambda traffic: -traffic.bytes))
