"""Evaluates cells, one after the other: their checkpoints restored, their questions asked, their time measured."""

import dataclasses
import platform
import time
import traceback
from concurrent import futures
from pathlib import Path

from famjax.errors import CheckpointError, FamjaxError, Stopped
from famjax.evaluation.scan.asking import Asked, ask, ask_harness
from famjax.evaluation.scan.checkpoints import SETTING, GridCheckpoint
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import Cell
from famjax.evaluation.scan.ledger import DONE, FAILED, Entry
from famjax.evaluation.scan.results import samples_path, write_samples
from famjax.inference.language_model import LanguageModel
from famjax.inference.programs import Clock
from famjax.training.restore import find_checkpoint

_ERROR_LENGTH = 400


class Evaluator:
    """Evaluates cells. One checkpoint is on the devices at a time.

    Attributes:
      restored: how many checkpoints were.
    """

    def __init__(self, job: ScanJob, output_dir: Path) -> None:
        self.restored = 0
        self._job, self._output_dir = job, output_dir
        self._checkpoint: GridCheckpoint | None = None
        self._opened: LanguageModel | Exception | None = None

    def evaluate(self, cell: Cell, asked: "futures.Future[Asked | None]") -> Entry:
        """The cell's line in the ledger; whatever goes wrong in it is part of that line.

        Args:
          cell: one of the grid.
          asked: its questions, which may still be in the making; None where the harness asks.

        Raises:
          Stopped: a signal arrived while its steps were compiled.
        """
        stopwatch = _Stopwatch()
        entry: Entry = {"key": cell.key, **cell.describe()}
        restored_before = self.restored
        try:
            model = self._model_for(cell)
            stopwatch.follow(model)
            questions = asked.result()
            stopwatch.questions_came()
            outcome = (
                ask_harness(model, cell, self._job) if questions is None else ask(model, questions, cell, self._job)
            )
            if self._job.samples:
                write_samples(samples_path(self._output_dir, cell), outcome.samples)
            entry |= {**outcome.to_json(), "status": DONE}
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 (a failing cell is recorded, and the others go on)
            entry |= {"status": FAILED, "error": _one_line(error)}
            if not isinstance(error, FamjaxError):
                entry["traceback"] = traceback.format_exc()
        entry["restored"] = self.restored > restored_before
        return {**entry, **stopwatch.read(), "host": platform.node(), "time": round(time.time(), 3)}

    def _model_for(self, cell: Cell) -> LanguageModel:
        """The cell's checkpoint, restored where the cell before had another, with the cell's memory.

        Raises:
          CheckpointError: it cannot be restored; it is not tried again for the next cell.
        """
        if self._checkpoint != cell.checkpoint:
            self._checkpoint, self._opened = cell.checkpoint, None  # what was there leaves the devices first
            try:
                self._opened = self._restore(cell.checkpoint)
            except Exception as error:  # noqa: BLE001 (raised for each cell of the checkpoint)
                self._opened = error
        if not isinstance(self._opened, LanguageModel):
            raise self._opened or AssertionError("nothing was restored")
        return self._opened.with_memory(cell.memory)

    def _restore(self, checkpoint: GridCheckpoint) -> LanguageModel:
        if not checkpoint.exists:
            raise CheckpointError(f"{checkpoint.path} was deleted before it was evaluated.")
        self.restored += 1
        return LanguageModel.open(
            find_checkpoint(checkpoint.folder.path, setting=SETTING),
            self._job.vocabulary,
            base=self._job.base,
            mesh=self._job.mesh,
            batch_size=self._job.batch_size,
            chunk_blocks=self._job.chunk_blocks,
        )


class _Stopwatch:
    """Where the time of a cell goes."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._restoring = self._waiting = 0.0
        self._clock: Clock | None = None
        self._before = Clock()

    def follow(self, model: LanguageModel) -> None:
        """The model is there: from here on its steps are the cell's."""
        self._restoring = self._elapsed()
        self._clock, self._before = model.clock, dataclasses.replace(model.clock)

    def questions_came(self) -> None:
        """The questions, which were waited for since the model was there, are there too."""
        self._waiting = self._elapsed() - self._restoring

    def read(self) -> dict[str, float]:
        """Seconds: of all, and in them those of restoring, of waiting for questions, and of compiled steps."""
        now, before = self._clock or self._before, self._before
        return {
            "seconds": self._elapsed(),
            "seconds_restoring": self._restoring,
            "seconds_waiting": self._waiting,
            "seconds_running": now.running - before.running,
            "seconds_compiling": now.compiling - before.compiling,
            "compilations": now.compilations - before.compilations,
        }

    def _elapsed(self) -> float:
        return time.perf_counter() - self._start


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= _ERROR_LENGTH else f"{text[:_ERROR_LENGTH]}..."
    return f"{type(error).__name__}: {text}"
