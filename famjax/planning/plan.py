"""A plan: everything that is found out about a job on a slice, as one value."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from famjax.planning.compiling import ProgramPlan
from famjax.planning.work import Work
from famjax.pods.gpus import GpuSlice
from famjax.pods.slices import TpuSlice
from famjax.training.optimizers import frozen_parameters
from famjax.training.parameter_paths import without
from famjax.training.program import Program


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a plan is of: the slice and what the job puts on it.

    Attributes:
      slice: its name.
      num_slices: of this kind.
      topology: chips along each axis; "" of GPUs.
      chips: of all slices.
      hosts: of all slices.
      mesh: devices along each mesh axis.
      batch_size: rows of the global batch [B].
      microbatches: that it is cut into.
      remat: `TransformerConfig.remat_policy`.
      parameters: of the model.
      trained: of these.
      versions: of what compiled.
    """

    slice: str
    num_slices: int
    topology: str
    chips: int
    hosts: int
    mesh: Mapping[str, int]
    batch_size: int
    microbatches: int
    remat: str
    parameters: int
    trained: int
    versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Trial:
    """Another setting of the same job, compiled.

    Attributes:
      flags: what differs from the job, as flags; "" of the job itself.
      total: bytes of HBM of one chip that the train step takes.
      available: that there are.
      fits: whether it does.
      tokens_per_second: an estimate (`famjax.planning.speed`); None where it does not fit.
      compiled: False: the shapes of its arrays alone were too large, and `total` is theirs.
    """

    flags: str
    total: int
    available: int
    fits: bool
    tokens_per_second: float | None
    compiled: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job takes.

    Attributes:
      layout: where and what.
      programs: train step, prefill and decode.
      work: of a train step.
      remedies: where the train step does not fit: the nearest changes that do, each compiled.
      search: what `--plan.search` tried, the best first.
      estimated: the memory is a formula's and no compiler's.
    """

    layout: Layout
    programs: tuple[ProgramPlan, ...]
    work: Work
    remedies: tuple[Trial, ...] = ()
    search: tuple[Trial, ...] = ()
    estimated: bool = False

    @property
    def fits(self) -> bool:
        """Whether the train step does."""
        return self.programs[0].memory.fits


def layout_of(program: Program, chips: TpuSlice | GpuSlice, num_slices: int, versions: Mapping[str, str]) -> Layout:
    """What a program puts on a slice.

    Args:
      program: laid out on the devices.
      chips: the slice, or the GPUs.
      num_slices: of this kind.
      versions: of what compiles.
    """
    job, params = program.job, program.abstract_state.params
    return Layout(
        slice=chips.name,
        num_slices=num_slices,
        topology=chips.topology_name if isinstance(chips, TpuSlice) else "",
        chips=chips.chips * num_slices,
        hosts=chips.hosts * num_slices,
        mesh=dict(program.mesh.shape),
        batch_size=job.data.batch_size,
        microbatches=job.num_microbatches,
        remat=job.model.remat_policy,
        parameters=_count(params),
        trained=_count(without(params, frozen_parameters(job.applied_optimizer, params))),
        versions=versions,
    )


def _count(params: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
