"""Other settings of a job, each compiled: for the search, and for what fits where the job does not."""

import dataclasses
import math
from collections.abc import Callable

from famjax.configuration.job_checks import check_batch
from famjax.errors import ConfigError
from famjax.models.config import RematPolicy
from famjax.planning.compiling import compile_train_step, train_arrays
from famjax.planning.estimating import activation_bytes
from famjax.planning.memory import AVAILABLE, Arrays
from famjax.planning.plan import Trial
from famjax.planning.speed import tokens_per_second
from famjax.planning.topology import slice_devices
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import num_batch_shards
from famjax.pods.slices import TpuSlice
from famjax.training.config import TrainJob
from famjax.training.program import Program, make_program


@dataclasses.dataclass(frozen=True)
class Change:
    """A job as it might be, and where.

    Attributes:
      flags: that make it out of the job that is planned.
      job: as changed.
      tpu: the slice.
      num_slices: of this kind.
    """

    flags: str
    job: TrainJob
    tpu: TpuSlice
    num_slices: int


class Trials:
    """Compiles changed jobs, up to a number of them.

    Attributes:
      left: how many may still be compiled.
    """

    def __init__(self, change: Change, length: int, most: int, report: Callable[[str], None]) -> None:
        """Takes the job as it is, the tokens of its rows [T], and how many compilations there may be."""
        self.base, self.length, self.left, self._report = change, length, most, report
        self._laid_out: dict[MeshConfig, tuple[Arrays, dict[str, int]] | None] = {}

    def run(self, change: Change) -> Trial | None:
        """Compiles the train step.

        Returns:
          None where the job cannot run so (its batch does not divide, the compiler refuses it), or none are left.
        """
        try:
            program = make_program(change.job, slice_devices(change.tpu, change.num_slices))
            shards = num_batch_shards(program.mesh)
            check_batch(change.job, shards)
        except ConfigError:
            return None
        return self._by_shapes(change, program) or self._compiled(change, program)

    def estimate(self, change: Change) -> float:
        """Bytes of one chip that a change may take, by formulas alone; infinite where it cannot be laid out."""
        mesh = change.job.mesh
        if mesh not in self._laid_out:
            try:
                program = make_program(change.job, slice_devices(change.tpu, change.num_slices))
            except ConfigError:
                self._laid_out[mesh] = None
            else:
                self._laid_out[mesh] = train_arrays(program, self.length), dict(program.mesh.shape)
        found = self._laid_out[mesh]
        if found is None:
            return math.inf
        arrays, shape = found
        return arrays.arguments + arrays.gradients + activation_bytes(change.job, shape, self.length)

    def _by_shapes(self, change: Change, program: Program) -> Trial | None:
        """A refusal that needs no compiler: parameters, optimizer state and gradients alone are too large."""
        arrays = train_arrays(program, self.length)
        least = arrays.arguments + arrays.gradients
        available = round(AVAILABLE[change.tpu.generation.name])
        if least <= available:
            return None
        return Trial(change.flags, least, available, fits=False, tokens_per_second=None, compiled=False)

    def _compiled(self, change: Change, program: Program) -> Trial | None:
        if not self.left:
            return None
        self.left -= 1
        self._report(f"trying {change.flags or 'the job as it is'}")
        try:
            plan = compile_train_step(program, self.length, change.tpu).plan
        except ConfigError as error:
            self._report(f"left out: {error}")
            return None
        speed = None
        if plan.memory.fits:
            speed = tokens_per_second(
                change.job, self.length, change.tpu, change.num_slices, plan.traffic, program.trained
            )
        return Trial(change.flags, plan.memory.total, plan.memory.available, plan.memory.fits, speed)


def with_batch(change: Change, batch_size: int) -> Change:
    """Another global batch."""
    data = dataclasses.replace(change.job.data, batch_size=batch_size)
    return _changed(change, f"--gin.BATCH_SIZE={batch_size}", data=data)


def with_microbatches(change: Change, count: int) -> Change:
    """The batch in so many parts."""
    return _changed(change, f"--gin.NUM_MICROBATCHES={count}", num_microbatches=count)


def with_remat(change: Change, policy: RematPolicy) -> Change:
    """Another rematerialisation."""
    model = dataclasses.replace(change.job.model, remat_policy=policy)
    return _changed(change, f"--gin.TransformerConfig.remat_policy=\"'{policy}'\"", model=model)


def with_mesh(change: Change, fsdp: int | None, model: int) -> Change:
    """Another mesh: parameters cut over `fsdp` chips (None: all that are left), and over `model` ones."""
    mesh = dataclasses.replace(change.job.mesh, fsdp_parallelism=fsdp, model_parallelism=model)
    flags = [f"--gin.FSDP_PARALLELISM={fsdp}"] if fsdp != change.job.mesh.fsdp_parallelism else []
    flags += [f"--gin.MODEL_PARALLELISM={model}"] if model != change.job.mesh.model_parallelism else []
    return _changed(change, " ".join(flags), mesh=mesh)


def on_slice(change: Change, tpu: TpuSlice) -> Change:
    """Another slice."""
    return dataclasses.replace(change, flags=_joined(change.flags, f"--slice={tpu.name}"), tpu=tpu)


def _changed(change: Change, flags: str, **fields: object) -> Change:
    job = dataclasses.replace(change.job, **fields)  # type: ignore[arg-type] # the callers' fields are TrainJob's
    return dataclasses.replace(change, flags=_joined(change.flags, flags), job=job)


def _joined(*flags: str) -> str:
    return " ".join(flag for flag in flags if flag)
