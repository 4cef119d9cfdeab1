"""What a train step computes, and what that takes in time: by the formulas of `famjax.training.flops`."""

import dataclasses
from collections.abc import Collection

from famjax.training.config import TrainJob
from famjax.training.flops import train_step_flops

# Shares of the peak (model FLOPs utilization) that the time of a step is given for.
UTILIZATIONS = (0.2, 0.3, 0.4, 0.5, 0.6)


@dataclasses.dataclass(frozen=True)
class StepTime:
    """A step at one utilization.

    Attributes:
      utilization: of the chips' peak, 0 to 1.
      seconds: of a step.
      tokens_per_second: of all chips, padding included.
      hours: of the whole run: `TrainJob.total_steps`.
    """

    utilization: float
    seconds: float
    tokens_per_second: float
    hours: float


@dataclasses.dataclass(frozen=True)
class Work:
    """A train step's work.

    Attributes:
      length: tokens of a row [T].
      tokens: of the global batch.
      flops: of a step, over all chips (docs of `famjax.training.flops`).
      peak_flops: of all chips, a second, in bfloat16.
      steps: of the run.
      times: at each of UTILIZATIONS.
    """

    length: int
    tokens: int
    flops: int
    peak_flops: float
    steps: int
    times: tuple[StepTime, ...]


def work_of(job: TrainJob, length: int, peak_flops: float, trained: Collection[str]) -> Work:
    """Counts a step of batches [B, length] on chips that make `peak_flops` a second together.

    Args:
      job: the training.
      length: tokens of a row [T].
      peak_flops: of all chips.
      trained: paths of the parameters that are trained (`Program.trained`): a frozen matrix has no gradient.
    """
    tokens = job.data.batch_size * length
    flops = train_step_flops(job.model, job.data.batch_size, length, trained)

    def at(utilization: float) -> StepTime:
        seconds = flops / (utilization * peak_flops)
        return StepTime(utilization, seconds, tokens / seconds, seconds * job.total_steps / 3600)

    times = tuple(at(utilization) for utilization in UTILIZATIONS)
    return Work(length, tokens, flops, peak_flops, job.total_steps, times)
