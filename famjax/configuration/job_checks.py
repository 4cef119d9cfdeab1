"""Checks of a job against what is known only after jax or the data have started: devices and vocabulary."""

from famjax.data.config import DataConfig
from famjax.errors import ConfigError
from famjax.evaluation.config import EvalJob
from famjax.models.config import TransformerConfig
from famjax.pods.config import MeshConfig
from famjax.training.config import TrainJob


def check_batch(job: TrainJob | EvalJob, num_data_shards: int) -> None:
    """Checks that every batch of a job divides evenly, on however many hosts: those with the same rows read the same.

    Args:
      job: TrainJob or EvalJob.
      num_data_shards: devices that the batch is spread over: the mesh's data and fsdp axes.

    Raises:
      ConfigError: names the batch size, what must divide it and the nearest sizes that would do.
    """
    microbatches = 1
    if isinstance(job, TrainJob):
        microbatches = job.num_microbatches
        if job.eval_data is not None:
            _require_divisible(job.eval_data, "eval_data", num_data_shards, 1)
    _require_divisible(job.data, "data", num_data_shards, microbatches)


def check_processes(mesh: MeshConfig, process_count: int | None = None) -> None:
    """Checks that the mesh of a job of several processes has the devices of all of them.

    Args:
      mesh: its settings.
      process_count: of the job; None: jax's.

    Raises:
      ConfigError: it leaves some out, whose processes would have nothing to do, and wait.
    """
    import jax

    count = jax.process_count() if process_count is None else process_count
    if count > 1 and (mesh.num_devices is not None or mesh.own_process):
        raise ConfigError(
            f"MeshConfig.num_devices = {mesh.num_devices}, .own_process = {mesh.own_process} in a job of "
            f"{count} processes; allowed: None and False, the devices of all."
        )


def _require_divisible(data: DataConfig, field: str, num_data_shards: int, microbatches: int) -> None:
    divisor = num_data_shards * microbatches
    if data.batch_size % divisor == 0:
        return
    below = data.batch_size // divisor * divisor
    fitting = " or ".join(str(size) for size in (below, below + divisor) if size)
    parts, flags = (f" x {microbatches} microbatches", "--gin.NUM_MICROBATCHES or ") if microbatches > 1 else ("", "")
    raise ConfigError(
        f"DataConfig.batch_size = {data.batch_size} ({field}) does not divide over {num_data_shards} data-parallel "
        f"devices{parts}; it must be a multiple of {divisor}.\n"
        f"  Set --gin.BATCH_SIZE to {fitting}, or change {flags}--gin.MODEL_PARALLELISM."
    )


def check_vocabulary(model: TransformerConfig, vocab_size: int) -> None:
    """Checks that the model's embedding table has a row for every token of the task's vocabulary.

    Args:
      model: the model.
      vocab_size: ids of the task's vocabulary.

    Raises:
      ConfigError: the table is smaller.
    """
    if model.vocab_size < vocab_size:
        raise ConfigError(
            f"TransformerConfig.vocab_size = {model.vocab_size} is smaller than the task's vocabulary of {vocab_size} "
            f"tokens; set --gin.TransformerConfig.vocab_size={vocab_size} or more. Added tokens that an imported model "
            f"lacks are left out of a tokenizer's vocabulary by its table_size = {model.vocab_size}."
        )
