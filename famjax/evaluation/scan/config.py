"""What a scan is: frozen settings that check themselves. Imports neither jax nor tensorflow."""

import dataclasses
from collections.abc import Iterable, Mapping

from famjax.data.config import TASK_CONFIGURABLES, ByteVocabulary, VocabularyConfig
from famjax.data.task_config import TaskConfig
from famjax.errors import ConfigError
from famjax.inference.config import MemoryOverrides, SamplingConfig
from famjax.pods.config import MeshConfig
from famjax.pods.hosts_config import HostsConfig
from famjax.validation import require_above, require_ascending, require_at_least

Lengths = tuple[int, ...] | Mapping[str, tuple[int, ...]]
Depths = tuple[float | None, ...] | Mapping[str, tuple[float | None, ...]]


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """How a scan follows runs that are still training.

    It ends when each run has saved the checkpoint of its last step and all are evaluated, or when none of them has
    saved one for `idle_seconds`.

    Attributes:
      poll_seconds: between two looks at the MODEL_DIRs.
      idle_seconds: the scan ends where so long no checkpoint has appeared.
      last_step: the step that training ends with; None: TrainJob.total_steps in the config.gin of each MODEL_DIR.
    """

    poll_seconds: float = 30.0
    idle_seconds: float = 3600.0
    last_step: int | None = None

    def __post_init__(self) -> None:
        require_above(self, 0.0, "poll_seconds")
        require_at_least(self, 0.0, "idle_seconds")
        require_at_least(self, 1, "last_step")


@dataclasses.dataclass(frozen=True)
class ScanJob:
    """A grid of evaluations: `--run_mode=scan`.

    Attributes:
      checkpoints: MODEL_DIRs, checkpoint folders, or globs of either: one, several, or by the name that each gets in
        the results (otherwise the folder's own name).
      base: where the base of the checkpoints that are finetunings is now, a MODEL_DIR or one checkpoint folder; None:
        where it was.
      output_dir: results go here; processes that share a scan share this folder.
      tasks: names of the tasks that are asked; none needed where there are `harness_tasks`.
      lengths: tokens of prompt and answer together; one tuple for all tasks, or a dict by task.
      every: every so manieth checkpoint of a MODEL_DIR, counted back from its latest; None: the latest alone.
      memories: each checkpoint is read with each of these memories.
      depths: where what is asked for lies, 0 (beginning) to 1 (end), or None (as the task's settings say); one tuple
        for all tasks, or a dict by task.
      seeds: of the questions.
      examples: questions a cell; fewer where the split has fewer.
      max_tokens_per_cell: fewer questions, but one at least, where `examples` times the length is above it; None: no
        bound.
      split: of the tasks: "validation" or "train".
      sampling: how answers are drawn. Their budget of tokens and their stop strings are the task's; the stop strings
        and stop tokens here come on top.
      harness_tasks: tasks of lm-evaluation-harness; they have neither lengths nor depths nor seeds.
      harness_include_path: a folder with further task files for the harness.
      vocabulary: what the checkpoints were trained with.
      task_configs: settings of further tasks by name; they come before the built-in tasks of the same names.
      module: a Python module imported first, which may define tasks.
      batch_size: rows that are read at a time.
      chunk_blocks: blocks of tokens a row that one compiled step reads.
      position_buckets: for documents, loss and accuracy are also reported in so many equal parts of the length.
      title: of the report; empty: it names the tasks.
      trained_lengths: shortest and longest example of the training, shaded in the report's pictures.
      samples: also write what the model said to each question.
      shard: which part of the grid this process evaluates, as "0/4", "1/4", ...; None: as the environment says
        (SCAN_SHARD, a Kubernetes Indexed Job or a Slurm array), otherwise all of it.
      watch: follow MODEL_DIRs that are still training; None: evaluate what is there.
      mesh: the device mesh.
      hosts: time limits of the job's processes.
    """

    checkpoints: str | tuple[str, ...] | Mapping[str, str]
    output_dir: str
    tasks: tuple[str, ...] = ()
    lengths: Lengths = ()
    every: int | None = None
    memories: tuple[MemoryOverrides, ...] = (MemoryOverrides(),)
    depths: Depths = (None,)
    seeds: tuple[int, ...] = (0,)
    examples: int = 64
    max_tokens_per_cell: int | None = None
    split: str = "validation"
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    harness_tasks: tuple[str, ...] = ()
    harness_include_path: str | None = None
    vocabulary: VocabularyConfig = ByteVocabulary()
    task_configs: Mapping[str, TaskConfig] = dataclasses.field(default_factory=dict)
    module: str | None = None
    batch_size: int = 8
    chunk_blocks: int = 8
    position_buckets: int = 8
    title: str = ""
    trained_lengths: tuple[int, int] | None = None
    samples: bool = True
    shard: str | None = None
    watch: WatchConfig | None = None
    base: str | None = None
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()

    def __post_init__(self) -> None:
        require_at_least(
            self, 1, "every", "examples", "max_tokens_per_cell", "batch_size", "chunk_blocks", "position_buckets"
        )
        for name in ("checkpoints", "memories", "seeds", "output_dir"):
            if not getattr(self, name):
                raise ConfigError(f"ScanJob.{name} is empty; a scan needs one at least.")
        if not (self.tasks or self.harness_tasks):
            raise ConfigError(
                "ScanJob.tasks (--gin.SCAN_TASKS) and ScanJob.harness_tasks are both empty; a scan needs a task."
            )
        for name in ("tasks", "harness_tasks", "memories", "seeds"):
            _require_different(f"ScanJob.{name}", getattr(self, name))
        _require_at_least("ScanJob.seeds", self.seeds, 0)
        for name, task in self.task_configs.items():
            if not isinstance(task, TaskConfig):
                kinds = ", ".join(f"@{kind.__name__}()" for kind in TASK_CONFIGURABLES)
                raise ConfigError(f"ScanJob.task_configs[{name!r}] = {task!r}; allowed: {kinds}.")
        self._check_lengths()
        self._check_depths()
        require_ascending(self, "trained_lengths")
        self._check_sampling()
        self._check_watch()

    def lengths_of(self, task: str) -> tuple[int, ...]:
        """The lengths that a task is asked at."""
        return tuple(self.lengths.get(task, ())) if isinstance(self.lengths, Mapping) else self.lengths

    def depths_of(self, task: str) -> tuple[float | None, ...]:
        """The depths that a task is asked at; (None,) where a dict of depths does not name it."""
        return tuple(self.depths.get(task, (None,))) if isinstance(self.depths, Mapping) else self.depths

    def examples_at(self, length: int) -> int:
        """Questions of a cell."""
        bound = self.examples if self.max_tokens_per_cell is None else self.max_tokens_per_cell // length
        return max(1, min(self.examples, bound))

    def _check_lengths(self) -> None:
        if isinstance(self.lengths, Mapping):
            self._require_tasks("lengths", self.lengths)
        if missing := [task for task in self.tasks if not self.lengths_of(task)]:
            raise ConfigError(f"ScanJob.lengths has none for {', '.join(missing)}; set --gin.SCAN_LENGTHS.")
        for task in self.tasks:
            _require_different("ScanJob.lengths", self.lengths_of(task))
            _require_at_least("ScanJob.lengths", self.lengths_of(task), 1)

    def _check_depths(self) -> None:
        if isinstance(self.depths, Mapping):
            self._require_tasks("depths", self.depths)
        for task in self.tasks:
            depths = self.depths_of(task)
            _require_different("ScanJob.depths", depths)
            if not depths or any(depth is not None and not 0.0 <= depth <= 1.0 for depth in depths):
                raise ConfigError(f"ScanJob.depths = {self.depths!r}; allowed: 0 to 1, or None, one at least.")

    def _check_sampling(self) -> None:
        default = SamplingConfig().max_new_tokens
        if self.sampling.max_new_tokens != default:
            raise ConfigError(
                f"SamplingConfig.max_new_tokens = {self.sampling.max_new_tokens} has no effect in a scan: the budget "
                "of an answer is the task's. Leave it unset."
            )

    def _check_watch(self) -> None:
        if self.watch is not None and self.every is not None:
            raise ConfigError(
                f"ScanJob.every = {self.every} and ScanJob.watch: a scan that follows a run evaluates each checkpoint "
                "as it appears. Set one of the two."
            )

    def _require_tasks(self, field: str, by_task: Iterable[str]) -> None:
        if unknown := [task for task in by_task if task not in self.tasks]:
            raise ConfigError(f"ScanJob.{field} names {', '.join(unknown)}; ScanJob.tasks = {self.tasks!r}.")


def _require_different(setting: str, values: tuple[object, ...]) -> None:
    if twice := [value for index, value in enumerate(values) if value in values[:index]]:
        raise ConfigError(f"{setting} has {twice[0]!r} twice.")


def _require_at_least(setting: str, values: tuple[int, ...], bound: int) -> None:
    if any(value < bound for value in values):
        raise ConfigError(f"{setting} = {values!r}; allowed: {bound} or more each.")
