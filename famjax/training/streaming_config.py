"""What document streaming is: frozen settings that check themselves. Imports neither jax nor tensorflow."""

import dataclasses

from famjax.data.config import DataConfig
from famjax.data.registry import streamed_task
from famjax.errors import ConfigError
from famjax.models.config import MemoryConfig
from famjax.validation import require_at_least


@dataclasses.dataclass(frozen=True)
class Streaming:
    """Training over whole documents: each row of the batch reads one in order, step after step, then another.

    The model's state goes on from step to step: FAM, and the keys and values of past segments. The task is a corpus of
    documents (`famjax.data.task_config.Documents`), or of records (`famjax.data.instructions_config.Instructions`),
    each of which is a document.

    Attributes:
      enabled: whether the run streams documents (STREAM_DOCUMENTS); otherwise every example is read from the initial
        state.
      window: a step reads so many times `DataConfig.task_feature_lengths` of every row, and back-propagates through all
        of it. No gradient flows from step to step.
      evaluate: whether the evaluation streams the documents of `TrainJob.eval_data` too, with a state of its own;
        otherwise it reads examples from the initial state.
      ablation_period: steps between reports of what the loss of the step's batch is with the memory ablated: each row
        read from the initial state. None: never.
    """

    enabled: bool = False
    window: int = 1
    evaluate: bool = True
    ablation_period: int | None = 100

    def __post_init__(self) -> None:
        require_at_least(self, 1, "window", "ablation_period")
        if not self.enabled and self.window != 1:
            raise ConfigError(
                f"Streaming.window = {self.window} has no effect without Streaming.enabled; "
                "set --gin.STREAM_DOCUMENTS=True."
            )


def check_streaming(
    streaming: Streaming, data: DataConfig, eval_data: DataConfig | None, memory: MemoryConfig, has_stages: bool
) -> None:
    """Checks that a run can stream.

    Args:
      streaming: the settings.
      data: of the training.
      eval_data: of the evaluation, where there is one.
      memory: of the model.
      has_stages: whether there is a length curriculum.

    Raises:
      ConfigError: names what cannot be streamed, and the flag that changes it.
    """
    if not streaming.enabled:
        return
    if has_stages:
        raise ConfigError(
            "Curriculum.stages and Streaming.enabled exclude each other: all steps of streaming have one length. Set "
            "--gin.Curriculum.stages=[] or --gin.STREAM_DOCUMENTS=False."
        )
    if not memory.fam_length and not memory.num_segments:
        raise ConfigError(
            "Streaming.enabled needs a memory to carry from step to step, and MemoryConfig.fam_length and num_segments "
            "are both 0; set --gin.FAM_LENGTH or --gin.NUM_SEGMENTS, or --gin.STREAM_DOCUMENTS=False."
        )
    _check_documents(data, memory.block_size)
    if eval_data is not None and streaming.evaluate:
        try:
            _check_documents(eval_data, memory.block_size)
        except ConfigError as error:
            raise ConfigError(
                f"TrainJob.eval_data: {error}\n  An evaluation of other examples needs --gin.Streaming.evaluate=False."
            ) from error


def _check_documents(data: DataConfig, block_size: int) -> None:
    streamed_task(data.mixture_or_task_name, data.tasks)
    if data.length % block_size:
        below, above = data.length // block_size * block_size, -(-data.length // block_size) * block_size
        fitting = " or ".join(f"{{'targets': {length}}}" for length in (below, above) if length)
        raise ConfigError(
            f"DataConfig.task_feature_lengths = {dict(data.task_feature_lengths)}: Streaming.enabled reads whole "
            f"blocks, and MemoryConfig.block_size = {block_size} does not divide {data.length}; set "
            f"--gin.TASK_FEATURE_LENGTHS to {fitting}, or --gin.BLOCK_SIZE."
        )
