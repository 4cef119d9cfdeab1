"""The cells of a scan: checkpoints x memories x tasks x lengths x depths x seeds, in the order of the results.

That is also the order in which they are evaluated: all cells of a checkpoint follow one another, and in them all of a
memory, so that a checkpoint is restored once and little is on the devices at a time.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from famjax.data import registry
from famjax.data.questions.opening import has_depth
from famjax.data.task_config import TaskConfig
from famjax.errors import ConfigError
from famjax.evaluation.scan.checkpoints import GridCheckpoint
from famjax.evaluation.scan.config import ScanJob
from famjax.inference.config import MemoryOverrides
from famjax.models.config import TransformerConfig
from famjax.training.flops import forward_flops


@dataclasses.dataclass(frozen=True)
class Cell:
    """One evaluation of a grid.

    Attributes:
      checkpoint: whose.
      memory: how the checkpoint is read.
      task: that is asked.
      length: tokens of prompt and answer together; None: a task of lm-evaluation-harness.
      depth: where what is asked for lies; None: as the task's settings say, or the task has none.
      seed: of the questions.
      examples: questions that are asked, where the split has so many; None: as the harness's task says.
      key: the cell's identity: a hash of all that decides its result.
    """

    checkpoint: GridCheckpoint
    memory: MemoryOverrides
    task: str
    length: int | None
    depth: float | None
    seed: int
    examples: int | None
    key: str

    @property
    def is_harness(self) -> bool:
        """Whether lm-evaluation-harness asks."""
        return self.length is None

    @property
    def config(self) -> TransformerConfig:
        """The model with the cell's memory."""
        return self.memory.apply(self.checkpoint.config)

    @property
    def tokens(self) -> int:
        """Tokens that are read and said, at most; 0 where only the harness knows."""
        return (self.examples or 0) * (self.length or 0)

    @property
    def flops(self) -> int:
        """FLOPs for them, at most; 0 where only the harness knows."""
        return 0 if self.length is None else (self.examples or 0) * _row_flops(self.config, self.length)

    def describe(self) -> dict[str, Any]:
        """What the results say of every cell, whatever came of it."""
        memory = self.config.memory
        return {
            "model": self.checkpoint.name,
            "checkpoint": self.checkpoint.path,
            "step": self.checkpoint.step,
            "memory": {
                "block_size": memory.block_size,
                "num_segments": memory.num_segments,
                "fam_length": memory.fam_length,
            },
            "parameters": _parameters(self.checkpoint.config),
            "task": self.task,
            "length": self.length,
            "depth": self.depth,
            "seed": self.seed,
        }

    def __str__(self) -> str:
        memory = self.config.memory
        size = f"C={memory.block_size} M={memory.num_segments} F={memory.fam_length}"
        parts = [f"{self.checkpoint.name} {self.checkpoint.step}", size, self.task]
        parts += [] if self.length is None else [f"length {self.length}"]
        parts += [] if self.depth is None else [f"depth {self.depth:g}"]
        parts += [f"seed {self.seed}"] if self.seed else []
        return "  ".join(parts)


def make_cells(job: ScanJob, checkpoints: Iterable[GridCheckpoint], vocabulary: str) -> list[Cell]:
    """The cells of a grid, in order. Where two memories are the same for a checkpoint, one of them is left out.

    Args:
      job: the scan.
      checkpoints: in order.
      vocabulary: the fingerprint of the vocabulary.
    """
    cells = [
        _cell(job, checkpoint, memory, point, vocabulary)
        for checkpoint in checkpoints
        for memory in job.memories
        for point in _points(job)
    ]
    return list({(cell.checkpoint.name, cell.key): cell for cell in cells}.values())


def check_points(job: ScanJob) -> None:
    """Checks the names of tasks and their depths, which takes no data.

    Raises:
      ConfigError: no such task, or a depth for a task that has none.
    """
    for task in job.tasks:
        config = registry.task_config(task, job.task_configs)
        if any(depth is not None for depth in job.depths_of(task)) and not has_depth(config):
            raise ConfigError(
                f"The task {task!r} ({type(config).__name__}) takes no depth; set ScanJob.depths by task, as "
                "--gin.SCAN_DEPTHS=\"{'passkey': [0.0, 0.5, 1.0]}\"."
            )


def task_settings(name: str, tasks: Mapping[str, TaskConfig]) -> dict[str, Any]:
    """The settings of a task, and those of the tasks that it names, as JSON.

    Raises:
      ConfigError: there is no such task.
    """
    return _with_named(name, tasks, {})


_Point = tuple[str, int | None, float | None, int, int | None]


def _points(job: ScanJob) -> Iterator[_Point]:
    """(task, length, depth, seed, examples) of the cells of one checkpoint and memory."""
    for task in job.tasks:
        for length in job.lengths_of(task):
            for depth in job.depths_of(task):
                for seed in job.seeds:
                    yield task, length, depth, seed, job.examples_at(length)
    for task in job.harness_tasks:
        yield task, None, None, 0, None


def _cell(job: ScanJob, checkpoint: GridCheckpoint, memory: MemoryOverrides, point: _Point, vocabulary: str) -> Cell:
    task, length, depth, seed, examples = point
    identity = {
        "checkpoint": checkpoint.fingerprint,
        "step": checkpoint.step,
        "memory": dataclasses.asdict(memory.apply(checkpoint.config).memory),
        "task": task,
        "length": length,
        "depth": depth,
        "seed": seed,
        "examples": examples,
        "vocabulary": vocabulary,
    }
    if length is None:
        identity |= {"harness": job.harness_include_path, "limit": job.examples}
    else:
        identity |= {
            "settings": task_settings(task, job.task_configs),
            "split": job.split,
            "sampling": dataclasses.asdict(job.sampling),
            "position_buckets": job.position_buckets,
        }
    text = json.dumps(identity, sort_keys=True, default=repr)
    key = hashlib.sha256(text.encode()).hexdigest()[:20]
    return Cell(checkpoint, memory, task, length, depth, seed, examples, key)


def _with_named(name: str, tasks: Mapping[str, TaskConfig], known: dict[str, Any]) -> dict[str, Any]:
    config = registry.task_config(name, tasks)
    known[name] = {"type": type(config).__name__, **dataclasses.asdict(config)}
    for other in _strings(known[name]):
        if other not in known and registry.is_task(other, tasks):
            _with_named(other, tasks, known)
    return known


def _strings(value: Any) -> list[str]:
    """The strings anywhere in a value."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for pair in value.items() for item in pair for text in _strings(item)]
        case list() | tuple():
            return [text for item in value for text in _strings(item)]
    return []


@functools.lru_cache(maxsize=4096)
def _row_flops(config: TransformerConfig, length: int) -> int:
    return forward_flops(config, 1, length).total


@functools.lru_cache(maxsize=256)
def _parameters(config: TransformerConfig) -> int:
    from famjax.models.transformer import parameter_shapes

    return sum(math.prod(array.shape) for array in parameter_shapes(config).values())
