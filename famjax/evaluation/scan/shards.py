"""Which part of a scan is this process's: from the environment of a cluster to a list of cells."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from famjax.errors import ConfigError
from famjax.evaluation.scan.grid import Cell

SETTING = "--gin.SCAN_SHARD"
VARIABLE, COUNT_VARIABLE = "SCAN_SHARD", "SCAN_SHARD_COUNT"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of several processes that share a scan.

    Attributes:
      index: from 0.
      count: of all processes.
    """

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def find_shard(
    setting: str | None, environment: Mapping[str, str], process_index: int = 0, process_count: int = 1
) -> Shard:
    """The shard of this process.

    Each process of a job of several has one of its own: a part of the shard that the job has.

    Args:
      setting: `ScanJob.shard`, which comes first.
      environment: SCAN_SHARD comes next; then a Kubernetes Indexed Job (JOB_COMPLETION_INDEX, with SCAN_SHARD_COUNT, as
        Kubernetes does not tell how many there are), then a Slurm array. Nothing of it: one process (or job) does all.
      process_index: of this process in its job.
      process_count: of the job. With several, Kubernetes' index tells them apart, and not jobs that share a scan.

    Raises:
      ConfigError: not of the form index/count, an index out of range, or a count that is missing.
    """
    if process_count > 1:
        of_jobs = {name: value for name, value in environment.items() if name != "JOB_COMPLETION_INDEX"}
        job = find_shard(setting, of_jobs)
        return Shard(job.index * process_count + process_index, job.count * process_count)
    if setting is not None:
        return _parse(setting, SETTING)
    if environment.get(VARIABLE):
        return _parse(environment[VARIABLE], VARIABLE)
    if environment.get("JOB_COMPLETION_INDEX"):
        index = environment["JOB_COMPLETION_INDEX"]
        if not environment.get(COUNT_VARIABLE):
            raise ConfigError(
                f"JOB_COMPLETION_INDEX = {index} says that this is one process of a Kubernetes Indexed Job, but not of "
                f"how many; set {COUNT_VARIABLE} to the Job's completions, or {VARIABLE}=0/1 to evaluate all here."
            )
        return _parse(f"{index}/{environment[COUNT_VARIABLE]}", f"JOB_COMPLETION_INDEX/{COUNT_VARIABLE}")
    if environment.get("SLURM_ARRAY_TASK_ID"):
        return _slurm(environment)
    return Shard()


def deal(cells: Sequence[Cell], shard: Shard) -> list[Cell]:
    """The cells of one shard.

    The cells, in order, are cut into as many stretches of about the same FLOPs as there are shards: a checkpoint and a
    memory go to more than one shard only where a cut falls within them. A function of the grid alone: after a restart a
    shard has the same cells.
    """
    costs = relative_costs(cells)
    total, before, mine = sum(costs), 0, []
    for cell, cost in zip(cells, costs, strict=True):
        # The shard in whose stretch the middle of the cell lies.
        if (2 * before + cost) * shard.count // (2 * total) == shard.index:
            mine.append(cell)
        before += cost
    return mine


def relative_costs(cells: Sequence[Cell]) -> list[int]:
    """What each cell costs; one of the harness, of which that is not known, as much as the others on average."""
    known = [cell.flops for cell in cells if cell.flops]
    average = sum(known) // len(known) if known else 1
    return [cell.flops or average for cell in cells]


def _slurm(environment: Mapping[str, str]) -> Shard:
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
    task, first, count = (environment.get(name, "") for name in names)
    step = environment.get("SLURM_ARRAY_TASK_STEP", "1")
    if not all(value.isdigit() for value in (task, first, count, step)) or (int(task) - int(first)) % int(step):
        values = ", ".join(f"{name} = {environment.get(name)!r}" for name in names)
        raise ConfigError(f"{values} are not those of a Slurm array; set {VARIABLE}=index/count.")
    return _parse(f"{(int(task) - int(first)) // int(step)}/{count}", "the Slurm array's index/count")


def _parse(text: str, source: str) -> Shard:
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if match is None:
        raise ConfigError(f"{source} = {text!r}; expected index/count, as 0/4.")
    shard = Shard(int(match[1]), int(match[2]))
    if shard.index >= shard.count:
        allowed = f"0/{shard.count} to {shard.count - 1}/{shard.count}" if shard.count else "a count of 1 or more"
        raise ConfigError(f"{source} = {text!r} is out of range; allowed: {allowed}.")
    return shard
