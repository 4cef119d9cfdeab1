"""From the data's batches to the devices: lengths by curriculum stage, rows to their shards."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from famjax.configuration.job_checks import check_vocabulary
from famjax.data.batches import BatchIterator
from famjax.data.config import DataConfig
from famjax.data.document_rows import BlockShape, StreamCounts, counts_of
from famjax.data.feeding import open_batches, open_document_batches, open_vocabulary
from famjax.errors import DataError
from famjax.models.config import TransformerConfig
from famjax.pods.mesh import own_rows, put_batch
from famjax.training.config import TrainJob
from famjax.training.curriculum_config import Stage

_STAGE = "curriculum_stage"


class TrainingFeed:
    """The training data of a run, on the devices, and its place for the checkpoint.

    Each stage of the curriculum reads the same stream in its own range of lengths, and the count of examples goes on.
    Tasks that make their examples repeat none where the stage changes; a corpus is cut anew, into windows or packed
    examples of the new length, and the new order may bring text again that a shorter example has shown.
    """

    def __init__(
        self,
        config: DataConfig,
        stages: tuple[Stage, ...],
        mesh: Mesh,
        state: Mapping[str, Any] | None,
        documents: BlockShape | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
          config: the data.
          stages: of the curriculum; empty: every batch is as long as the data's own length.
          mesh: where batches go.
          state: of an earlier run's feed.
          documents: the shape of rows that read whole documents; None: rows are examples.
        """
        self._config, self._stages, self._mesh, self._documents = config, stages, mesh, documents
        self._state = dict(state) if state is not None else None
        self._stage: int | None = None
        self._batches: Any = None

    def next_batch(self, stage: int) -> dict[str, jax.Array]:
        """The next batch of this stage."""
        if stage != self._stage:
            self.open(stage)
        try:
            batch = next(self._batches)
        except StopIteration as error:
            raise DataError(
                f"{self._config.mixture_or_task_name}, split {self._config.split!r}, has ended; training needs a split "
                "without an end, as 'train' (--gin.train/DataConfig.split)."
            ) from error
        return device_batch(batch, self._mesh)

    def length(self, stage: int) -> int:
        """Tokens of an example [T] in a stage."""
        if self._documents is not None:
            return self._documents.length
        return self._stages[stage].max_length if self._stages else self._config.length

    @property
    def skipped(self) -> dict[str, int]:
        """Bad records left out so far, by reason."""
        return dict(self._batches.skipped) if self._batches is not None else {}

    def state(self) -> dict[str, Any]:
        """The place behind the last batch."""
        current = self._batches.state() if self._batches is not None else self._state
        return dict(current or {})

    def counts(self) -> StreamCounts:
        """What has been read of streamed documents, behind the last batch."""
        return counts_of(self.state())

    def close(self) -> None:
        """Ends the stream."""
        if self._batches is not None:
            self._batches.close()

    def open(self, stage: int) -> None:
        """Opens the stream of a stage, where the last one stands.

        Raises:
          ConfigError: the saved place is in other data.
          DataError: the data cannot be read.
        """
        state = self.state() or None
        self.close()
        lengths = (self._stages[stage].min_length, self._stages[stage].max_length) if self._stages else None
        self._batches = _open(self._config, self._mesh, lengths, self._documents, state)
        self._stage = stage


def _open(
    config: DataConfig,
    mesh: Mesh,
    lengths: tuple[int, int] | None = None,
    documents: BlockShape | None = None,
    state: Mapping[str, Any] | None = None,
) -> BatchIterator:
    """This process's rows of the batches: of examples, or of whole documents."""
    given = None if state is None else dict(state)
    rows = own_rows(mesh, config.batch_size)
    if documents is not None:
        return open_document_batches(config, documents, rows=rows, state=given)
    return open_batches(config, lengths, rows=rows, state=given)


def step_shape(job: TrainJob) -> BlockShape | None:
    """The rows of a step's batch where documents are streamed; None where it has examples."""
    size = job.model.memory.block_size
    return BlockShape(job.step_length // size, size) if job.streaming.enabled else None


def evaluation_shape(job: TrainJob, data: DataConfig) -> BlockShape | None:
    """The rows of an evaluation's batch where it streams documents; None where it has examples."""
    size = job.model.memory.block_size
    return BlockShape(data.length // size, size) if job.streaming.enabled and job.streaming.evaluate else None


def check_data(
    config: DataConfig,
    model: TransformerConfig,
    mesh: Mesh,
    lengths: tuple[int, int] | None = None,
    remedy: str = "",
    documents: BlockShape | None = None,
) -> None:
    """Reads one batch: what cannot be read, or does not fit the model, is told before anything is compiled.

    Args:
      config: the data.
      model: whose embedding table must have a row for every token.
      mesh: where batches go.
      lengths: of the shortest and the longest example; None: as the task has it.
      remedy: what else to do where there is no example, for the message.
      documents: the shape of rows that read whole documents; None: rows are examples.

    Raises:
      ConfigError: no such task, or settings that do not fit together or the model.
      DataError: the data cannot be read, or is empty.
    """
    check_vocabulary(model, open_vocabulary(config).vocab_size)
    batches = _open(config, mesh, lengths, documents)
    try:
        if next(batches, None) is None:
            raise DataError(f"{config.mixture_or_task_name}, split {config.split!r}, has no example{remedy}.")
    finally:
        batches.close()


def device_batches(
    config: DataConfig, mesh: Mesh, steps: int | None, length: int | None = None, documents: BlockShape | None = None
) -> Iterator[Any]:
    """Batches from the beginning of an evaluation's data.

    Args:
      config: the data.
      mesh: where batches go.
      steps: how many at most; None: to the end of the split.
      length: of every example; None: as the task has it, up to the data's own length.
      documents: the shape of rows that read whole documents; None: rows are examples.
    """
    batches = _open(config, mesh, None if length is None else (length, length), documents)
    try:
        for index, batch in enumerate(batches):
            if index == steps:
                break
            yield device_batch(batch, mesh)
    finally:
        batches.close()


def device_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this host's rows on the devices; `valid` becomes `lengths`, as padding stands behind the tokens.

    Streamed documents have padding behind the tokens of each block: their `block_lengths` say it.
    """
    if "block_lengths" in batch:
        return put_batch({name: array for name, array in batch.items() if name != "valid"}, mesh)
    valid = batch["valid"]
    lengths = np.asarray(np.sum(valid, axis=1), np.int32)
    if not np.array_equal(valid, np.arange(valid.shape[1])[None, :] < lengths[:, None]):
        raise DataError("a batch has padding before or between tokens; tasks put it behind them.")
    arrays = {name: batch[name] for name in ("tokens", "targets", "weights", "answers")}
    return put_batch({**arrays, "lengths": lengths}, mesh)
