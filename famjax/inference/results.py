"""Results as JSON lines, in order, each on disk as soon as it is known; a run that was stopped goes on behind the last.

Beside results.jsonl lies results.jsonl.settings.json, which says what they are results of: a file of other prompts,
another checkpoint or other settings is not continued.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from famjax.errors import DataError
from famjax.inference.job_config import STANDARD_STREAM
from famjax.locking import lock

FLAG = "--gin.OUTPUT_FILE"
_SETTINGS_SUFFIX = ".settings.json"


class Results(Protocol):
    """Where results go."""

    def resume(self, settings: Mapping[str, Any], total: int) -> int:
        """Prepares for the results of these settings; returns how many of the `total` are there already."""

    def write(self, result: Mapping[str, Any]) -> None:
        """Writes one result, whole and at once."""


@contextlib.contextmanager
def open_results(output: str) -> Iterator[Results]:
    """Opens a results file, or the standard output.

    Raises:
      DataError: it cannot be written, or another run is writing there.
    """
    if output == STANDARD_STREAM:
        yield StandardOutput()
        return
    path = Path(output).expanduser()
    with _opened(path) as stream:
        if not lock(stream.fileno(), path):
            raise DataError(f"{path}: another run is writing there. Wait for it, or set {FLAG} to another.")
        yield ResultsFile(path, stream)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, not a file. Set {FLAG} to a file, as '{path}/results.jsonl'.")
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b", buffering=0)
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise _not_written(path, error) from error
    with stream:
        yield stream


def _not_written(path: Path, error: OSError | ValueError) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(f"{path} cannot be written ({reason}). Set {FLAG} to another.")


class ResultsFile:
    """A file of results."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path, self._stream = path, stream

    def resume(self, settings: Mapping[str, Any], total: int) -> int:
        """See `Results`. A last line that a killed run has left unfinished is cut off.

        Raises:
          DataError: the file has results of something else, or is none of results.
        """
        settings_path = self._path.with_name(self._path.name + _SETTINGS_SUFFIX)
        if not self._stream.seek(0, os.SEEK_END):
            self._write_settings(settings_path, settings)
            return 0
        self._require_same(settings_path, settings)
        done, end = self._whole_lines(total)
        self._stream.truncate(end)
        return done

    def write(self, result: Mapping[str, Any]) -> None:
        """See `Results`; DataError where the disk takes no more."""
        line = memoryview(_line(result))
        try:
            while line:
                line = line[self._stream.write(line) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise _not_written(self._path, error) from error

    def _write_settings(self, path: Path, settings: Mapping[str, Any]) -> None:
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(path)
        except OSError as error:
            raise _not_written(path, error) from error

    def _require_same(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Refuses to add results to those of something else."""
        remedy = f"Set {FLAG} to another, or remove it to begin anew."
        if not path.exists():
            raise DataError(f"{self._path} is not empty, and no results of an earlier run. Set {FLAG} to another file.")
        try:
            known = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{self._path} is not empty, and {path.name}, which says what it has, cannot be read. {remedy}"
            ) from error
        own = json.loads(json.dumps(settings))
        differences = [
            f"{name} {_shown(known.get(name))} there, {_shown(own.get(name))} here"
            for name in {**own, **known}
            if known.get(name) != own.get(name)
        ]
        if differences:
            raise DataError(f"{self._path} has results of another run: {'; '.join(differences)}.\n  {remedy}")

    def _whole_lines(self, total: int) -> tuple[int, int]:
        """How many results there are, and where the last whole one ends."""
        self._stream.seek(0)
        done, end = 0, 0
        with open(self._stream.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                if done == total or not _is_result(line, done):
                    raise DataError(
                        f"{self._path}:{done + 1} is not result {done} of {total}: the file was changed. Remove it to "
                        f"begin anew, or set {FLAG} to another."
                    )
                done, end = done + 1, end + len(line)
        return done, end


class StandardOutput:
    """The standard output."""

    def resume(self, settings: Mapping[str, Any], total: int) -> int:
        """See `Results`: nothing is there already."""
        del settings, total
        return 0

    def write(self, result: Mapping[str, Any]) -> None:
        """See `Results`; BrokenPipeError where nobody reads any longer."""
        sys.stdout.write(_line(result).decode())
        sys.stdout.flush()


def _line(result: Mapping[str, Any]) -> bytes:
    return (json.dumps(result, allow_nan=False) + "\n").encode()


def _is_result(line: bytes, index: int) -> bool:
    try:
        return bool(json.loads(line)["index"] == index)
    except (ValueError, KeyError, TypeError):
        return False


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 20 else f"{text[:16]}..."
