"""What a training run is: frozen settings that check themselves. Imports neither jax nor tensorflow."""

import dataclasses
from typing import Literal, get_args

from famjax.data.config import DataConfig, require_end
from famjax.errors import ConfigError
from famjax.models.config import TransformerConfig
from famjax.pods.config import MeshConfig
from famjax.pods.hosts_config import HostsConfig
from famjax.training.curriculum_config import Curriculum, Stage
from famjax.training.finetuning_config import BASE_PATTERN, Finetuning
from famjax.training.optimizer_config import Adafactor, AdamW, OptimizerConfig, Schedule
from famjax.training.streaming_config import Streaming, check_streaming
from famjax.validation import require_at_least, require_choice, require_fraction

# What a TrainJob is made of, from one place.
__all__ = [
    "Adafactor",
    "AdamW",
    "CheckpointConfig",
    "Curriculum",
    "LoggingConfig",
    "LossConfig",
    "OptimizerConfig",
    "RestoreConfig",
    "Retention",
    "Schedule",
    "Stage",
    "StatePassing",
    "TrainJob",
]

EvaluationMetric = Literal["loss", "accuracy", "answer_accuracy", "exact_match"]
FamPromptInit = Literal["random", "embedding"]


@dataclasses.dataclass(frozen=True)
class StatePassing:
    """Random state passing: a step starts, for all examples, from the FAM that the last step ended with.

    Attributes:
      probability: of such a step (the paper: 0.8); 0 switches it off.
      start_step: no step before this one does it. For a task learned from scratch: after the task is mastered.
      ramp_steps: steps after `start_step` over which the probability grows linearly from 0.
    """

    probability: float = 0.0
    start_step: int = 0
    ramp_steps: int = 0

    def __post_init__(self) -> None:
        require_fraction(self, "probability")
        require_at_least(self, 0, "start_step", "ramp_steps")


@dataclasses.dataclass(frozen=True)
class Retention:
    """A term of the loss for a memory that keeps: weight x the metric `fam_departure`, mean over layers.

    FAM sums its updates up, so a small one that is the same at every block buries in time what was written. The term
    is the mean square of FAM's difference from what the text's first update wrote, over that of FAM. It is for texts
    whose beginning is asked for. Not in the paper (docs/research.md).

    Attributes:
      weight: of the term; 0 switches it off.
      start_step: the term is 0 before this step. A model must have learned to write before it learns to keep.
      ramp_steps: steps after `start_step` over which the weight grows linearly from 0.
    """

    weight: float = 0.0
    start_step: int = 0
    ramp_steps: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 0.0, "weight")
        require_at_least(self, 0, "start_step", "ramp_steps")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which stay.

    Attributes:
      period: steps between checkpoints. The last step, SIGTERM and SIGINT save as well.
      keep: how many of the latest stay; None keeps all.
      keep_best: how many of the best by `best_metric` stay besides; `period` is then a multiple of
        `TrainJob.eval_period`, so that each is evaluated.
      best_metric: a metric of the evaluation during training, as "validation/loss".
      best_mode: whether the best is the "min" or the "max".
    """

    period: int = 1000
    keep: int | None = 3
    keep_best: int = 0
    best_metric: str | None = None
    best_mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        require_at_least(self, 1, "period", "keep")
        require_at_least(self, 0, "keep_best")
        require_choice(self, "best_mode", Literal["min", "max"])
        if self.keep_best and not self.best_metric:
            raise ConfigError("CheckpointConfig.keep_best is set without best_metric (say 'validation/loss').")
        if self.best_metric is not None and not self.keep_best:
            raise ConfigError(
                f"CheckpointConfig.best_metric = {self.best_metric!r} has no effect without keep_best; "
                "set --gin.CheckpointConfig.keep_best=1 or more."
            )


@dataclasses.dataclass(frozen=True)
class RestoreConfig:
    """Where a new run's parameters come from. A run that has checkpoints in MODEL_DIR resumes from those instead.

    Attributes:
      path: a MODEL_DIR (its latest checkpoint) or one checkpoint folder in it; None starts from scratch.
      parameters: patterns of the parameter paths to take; a parameter that matches none, or that the checkpoint lacks,
        is initialised.
      optimizer: take the optimizer's state as well.
      step: take the step as well (otherwise the run starts at step 0).
    """

    path: str | None = None
    parameters: tuple[str, ...] = (".*",)
    optimizer: bool = False
    step: bool = False


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The loss.

    Attributes:
      z_loss: weight of log(Z)^2, which keeps the softmax's normaliser near 1 (PaLM: 1e-4).
      chunk_size: tokens whose logits exist at one time [chunk_size, V].
    """

    z_loss: float = 0.0
    chunk_size: int = 2048

    def __post_init__(self) -> None:
        require_at_least(self, 0.0, "z_loss")
        require_at_least(self, 1, "chunk_size")


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    """What is reported, how often.

    Attributes:
      period: steps between metrics in TensorBoard, in the JSON-lines log and in the plain lines.
      diagnostics_period: steps between reports on FAM (norm, update, share of attention, per layer); None: never.
    """

    period: int = 10
    diagnostics_period: int | None = 100

    def __post_init__(self) -> None:
        require_at_least(self, 1, "period", "diagnostics_period")


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """A training run: `--run_mode=train`.

    Attributes:
      model_dir: checkpoints, logs and the operative config go here; an existing run here is resumed.
      model: the model.
      data: the training data.
      optimizer: AdamW or Adafactor.
      total_steps: steps of the whole run, those before a resume included.
      eval_data: data evaluated during training; None evaluates nothing.
      eval_period: steps between evaluations.
      eval_steps: batches an evaluation reads; None reads one whole epoch, where the data has an end.
      num_microbatches: the batch is cut into so many parts whose gradients are summed.
      random_position_offset: whether each training example draws a position offset (on with probability 1/2).
      random_seed: of initial values, dropout, state passing and offsets.
      fam_prompt_init: the first values of the FAM prompt: "random", or "embedding", rows of the embedding table, of
        tokens of the vocabulary. The table is the restored one where there is `restore.path`. A prompt that is restored
        itself keeps its values.
      loss: the loss.
      state_passing: random state passing.
      retention: a term of the loss for a memory that keeps.
      streaming: training over whole documents.
      curriculum: lengths over the run.
      checkpoint: when to save.
      restore: where initial parameters come from.
      finetuning: whether they are a frozen base, and what is trained then.
      logging: what is reported.
      compiled_steps: a folder of train steps that `--run_mode=plan --plan.save` compiled for this job's slice; one that
        was compiled for anything else is not used. Loading runs what is in it: name only a folder that you trust. None:
        every step is compiled when it is first needed.
      mesh: the device mesh.
      hosts: time limits of the job's processes.
    """

    model_dir: str
    model: TransformerConfig
    data: DataConfig
    optimizer: OptimizerConfig
    total_steps: int
    eval_data: DataConfig | None = None
    eval_period: int = 1000
    eval_steps: int | None = 20
    num_microbatches: int = 1
    random_position_offset: bool = True
    random_seed: int = 0
    fam_prompt_init: FamPromptInit = "random"
    loss: LossConfig = LossConfig()
    state_passing: StatePassing = StatePassing()
    retention: Retention = Retention()
    streaming: Streaming = Streaming()
    curriculum: Curriculum = Curriculum()
    checkpoint: CheckpointConfig = CheckpointConfig()
    restore: RestoreConfig = RestoreConfig()
    finetuning: Finetuning = Finetuning()
    logging: LoggingConfig = LoggingConfig()
    compiled_steps: str | None = None
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()

    def __post_init__(self) -> None:
        require_at_least(self, 1, "total_steps", "eval_period", "eval_steps", "num_microbatches")
        if self.eval_data is not None:
            require_end(self.eval_data, self.eval_steps, "TrainJob.eval_steps")
        self._check_best()
        self._check_base()
        self._check_fam_prompt()
        if self.restore.path is None and (self.restore.optimizer or self.restore.step):
            raise ConfigError("RestoreConfig.optimizer and .step need a RestoreConfig.path (INITIAL_CHECKPOINT_PATH).")
        if self.state_passing.probability and not self.model.memory.fam_length:
            raise ConfigError(
                "StatePassing.probability needs a memory to pass on, and MemoryConfig.fam_length is 0; "
                "set --gin.STATE_PASSING_PROBABILITY=0.0."
            )
        if self.retention.weight and not self.model.memory.fam_length:
            raise ConfigError(
                "Retention.weight needs a memory that keeps, and MemoryConfig.fam_length is 0; "
                "set --gin.Retention.weight=0.0."
            )
        check_streaming(self.streaming, self.data, self.eval_data, self.model.memory, bool(self.curriculum.stages))
        if self.data.batch_size % self.num_microbatches:
            raise ConfigError(
                f"TrainJob.num_microbatches = {self.num_microbatches} does not divide DataConfig.batch_size = "
                f"{self.data.batch_size} (--gin.BATCH_SIZE)."
            )

    @property
    def step_length(self) -> int:
        """Tokens of every row that a step reads [T], where there is no curriculum."""
        return self.data.length * self.streaming.window

    @property
    def has_frozen_base(self) -> bool:
        """Whether all parameters but adapters and the FAM prompt (or prefix) stay as they are in `restore.path`."""
        return self.model.lora is not None or self.finetuning.memory_only

    @property
    def applied_optimizer(self) -> OptimizerConfig:
        """The optimizer; what it freezes includes a frozen base."""
        if not self.has_frozen_base:
            return self.optimizer
        return dataclasses.replace(self.optimizer, freeze=(*self.optimizer.freeze, BASE_PATTERN))

    def _check_base(self) -> None:
        """ConfigError where a frozen base is asked for that there cannot be."""
        memory_only = self.finetuning.memory_only
        if memory_only and self.model.lora is not None:
            raise ConfigError(
                "Finetuning.memory_only trains the FAM prompt alone, and TransformerConfig.lora is set; set one."
            )
        if memory_only and not self.model.memory.fam_length:
            raise ConfigError(
                "Finetuning.memory_only needs a memory to train, and MemoryConfig.fam_length is 0 (--gin.FAM_LENGTH)."
            )
        if self.has_frozen_base and self.restore.path is None:
            cause = "Finetuning.memory_only" if memory_only else "TransformerConfig.lora"
            raise ConfigError(
                f"{cause} is set, and there are no parameters to finetune: set --gin.INITIAL_CHECKPOINT_PATH "
                "(runs/finetune.gin)."
            )
        if self.has_frozen_base and (self.restore.optimizer or self.restore.step):
            raise ConfigError(
                "RestoreConfig.optimizer and .step continue a run, and a finetuning over a frozen base begins one: set "
                "them to False. (A finetuning that was stopped goes on by itself, from its MODEL_DIR.)"
            )
        if self.finetuning.base_dtype != "float32" and not self.has_frozen_base:
            raise ConfigError(
                f"Finetuning.base_dtype = {self.finetuning.base_dtype!r} has no effect: all parameters are trained, in "
                "float32. It is for LoRA (TransformerConfig.lora) and Finetuning.memory_only."
            )

    def _check_fam_prompt(self) -> None:
        """ConfigError where there is no FAM prompt to take rows from the embedding table, or too few rows."""
        require_choice(self, "fam_prompt_init", FamPromptInit)
        if self.fam_prompt_init == "random":
            return
        memory = self.model.memory
        if not memory.fam_length or memory.fam_start != "prompt":
            raise ConfigError(
                'TrainJob.fam_prompt_init = "embedding" needs a FAM prompt: MemoryConfig.fam_length above 0 and '
                'MemoryConfig.fam_start = "prompt".'
            )
        if memory.fam_length > self.model.vocab_size:
            raise ConfigError(
                f'TrainJob.fam_prompt_init = "embedding" draws {memory.fam_length} different rows '
                f"(MemoryConfig.fam_length) of a table of {self.model.vocab_size}."
            )

    def _check_best(self) -> None:
        """ConfigError where the best checkpoints are asked for, and the evaluations cannot tell which they are."""
        checkpoint = self.checkpoint
        if not checkpoint.keep_best:
            return
        if self.eval_data is None:
            raise ConfigError(
                "CheckpointConfig.keep_best needs evaluations; set TrainJob.eval_data (@eval/DataConfig())."
            )
        metrics = [f"{self.eval_data.split}/{name}" for name in get_args(EvaluationMetric)]
        if checkpoint.best_metric not in metrics:
            raise ConfigError(
                f"CheckpointConfig.best_metric = {checkpoint.best_metric!r}; allowed: {', '.join(map(repr, metrics))}."
            )
        if checkpoint.period % self.eval_period:
            raise ConfigError(
                f"CheckpointConfig.period = {checkpoint.period} is no multiple of TrainJob.eval_period = "
                f"{self.eval_period}: CheckpointConfig.keep_best needs an evaluation at every checkpoint "
                "(--gin.CHECKPOINT_PERIOD, --gin.EVAL_PERIOD)."
            )
