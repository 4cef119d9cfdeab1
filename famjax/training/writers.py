"""Where a run's metrics are kept: MODEL_DIR/metrics.jsonl, and TensorBoard's event files through clu.

metrics.jsonl has one JSON object a line: "step", "time" (seconds since 1970), and the metrics, each a number or (for a
metric of every layer) a list of numbers. JSON has no NaN and no infinity: they are the strings "NaN", "Infinity" and
"-Infinity", which float() reads.
"""

import contextlib
import importlib.util
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from numpy.typing import ArrayLike

LOG_NAME = "metrics.jsonl"
_RESERVED = ("step", "time")


class MetricWriters:
    """Writes metrics to every place, on process 0 only; the others' writers do nothing.

    A run that resumes from step s begins by cutting off what an earlier process logged beyond s, so that its log goes
    on as if it had never stopped. For that to be exact, log whatever belongs to step s before saving the checkpoint of
    step s.
    """

    def __init__(
        self,
        model_dir: str,
        *,
        resumed_from: int | None,
        process_index: int = 0,
        tensorboard: bool = True,
        warn: Callable[[str], None],
    ) -> None:
        """Opens the files.

        Args:
          model_dir: the run's folder.
          resumed_from: the step of the checkpoint that the run resumes from; None for a run from its beginning.
          process_index: of this process.
          tensorboard: whether to write TensorBoard's event files as well.
          warn: told, in one line, where a package that writes them is not installed.
        """
        self._log, self._tensorboard = None, None
        if process_index != 0:
            return
        path = epath.Path(model_dir) / LOG_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut(path, resumed_from)
        self._log = path.open("a", encoding="utf-8")
        if tensorboard:
            self._tensorboard = _open_tensorboard(model_dir, warn)

    def write(self, step: int, metrics: Mapping[str, ArrayLike]) -> None:
        """Writes the metrics of a step: a line of the log, at once on disk, and TensorBoard's scalars.

        Args:
          step: steps made.
          metrics: numbers, or arrays with one axis (TensorBoard gets one scalar an entry, "fam_norm/03").
        """
        if self._log is None:
            return
        reserved = [name for name in _RESERVED if name in metrics]
        if reserved:
            raise ValueError(f"A metric cannot be called {reserved[0]!r}: the log keeps that name for itself.")
        values = {name: np.asarray(value) for name, value in metrics.items()}
        line = {"step": step, "time": round(time.time(), 3)} | {name: _json(value) for name, value in values.items()}
        self._log.write(json.dumps(line, allow_nan=False) + "\n")
        self._log.flush()
        if self._tensorboard is not None:
            self._tensorboard.write_scalars(step, _scalars(values))

    def close(self) -> None:
        """Writes what is still in memory and closes the files; may be called twice."""
        if self._tensorboard is not None:
            self._tensorboard.flush()
            self._tensorboard.close()
            self._tensorboard = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> "MetricWriters":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open_tensorboard(model_dir: str, warn: Callable[[str], None]) -> Any:
    """A writer of clu; None, with a warning, where tensorflow or tensorboard, which it imports, is not installed."""
    for package in ("tensorflow", "tensorboard"):
        if importlib.util.find_spec(package) is None:
            warn(f"TensorBoard files are not written: {package} is not installed. Metrics go to {LOG_NAME}.")
            return None
    with _quiet_stderr():
        from clu import metric_writers

        writer = metric_writers.SummaryWriter(model_dir)
    return metric_writers.AsyncWriter(writer)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keeps C++ code, which no setting of Python's reaches, from writing to stderr; shows it all after an error.

    tensorflow prints notes on oneDNN and CUDA at its import, over the progress bar, whatever TF_CPP_MIN_LOG_LEVEL says.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(kept, notes.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _cut(path: epath.Path, resumed_from: int | None) -> None:
    """Removes the lines beyond the step, and an unfinished last line that a killed process left."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _belongs(line, resumed_from)]
    if len(kept) < len(lines):
        # By way of another file, so that a process killed just now loses nothing.
        temporary = path.with_name(LOG_NAME + ".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(path)


def _belongs(line: str, resumed_from: int | None) -> bool:
    """Whether a line is whole and of a step that the run keeps."""
    if resumed_from is None or not line.endswith("\n"):
        return False
    try:
        return bool(json.loads(line)["step"] <= resumed_from)
    except (json.JSONDecodeError, KeyError, TypeError):
        return False


def _json(value: np.ndarray | np.generic) -> Any:
    """A number, or a list of numbers, as JSON can hold it."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return [_json(entry) for entry in value]
    number = value.item()
    if isinstance(number, float) and not math.isfinite(number):
        return name_of(number)
    # The shortest digits that give the same float32: 0.1, not 0.10000000149011612.
    return float(str(value)) if value.dtype == np.float32 else number


def name_of(number: float) -> str:
    """The string that stands in JSON for a number that is not finite."""
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def named(value: Any) -> Any:
    """The value, with the name of each number in it that JSON cannot hold."""
    match value:
        case Mapping():
            return {name: named(entry) for name, entry in value.items()}
        case list() | tuple():
            return [named(entry) for entry in value]
        case float() if not math.isfinite(value):
            return name_of(value)
        case _:
            return value


def _scalars(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """One scalar an entry: name, or name/index with as many digits as the last index has."""
    scalars = {}
    for name, value in values.items():
        if value.ndim == 0:
            scalars[name] = value.item()
        else:
            digits = len(str(len(value) - 1))
            scalars |= {f"{name}/{index:0{digits}d}": entry.item() for index, entry in enumerate(value)}
    return scalars
