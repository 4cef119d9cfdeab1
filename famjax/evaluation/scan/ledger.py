"""The ledger of a scan: one line for each finished cell, written whole and at once, one file for each shard.

A line that a killed process has left unfinished is dropped. What is in any of the files is not evaluated again,
whichever process wrote it.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from famjax.errors import CheckpointError, ConfigError, DataError
from famjax.evaluation.scan.shards import SETTING, Shard
from famjax.locking import lock
from famjax.training.checkpoint_files import absolute_path, is_remote, make_writable
from famjax.training.writers import named

FOLDER = "ledger"
DONE, FAILED = "done", "failed"
Entry = dict[str, Any]


class Ledger:
    """The file of one shard, open for writing and locked. Used as a context manager.

    The lock is the system's and ends with the process.
    """

    def __init__(self, output_dir: Path, shard: Shard) -> None:
        """Opens the file and drops an unfinished last line.

        Raises:
          ConfigError: another process is writing the file: it is the same shard.
          CheckpointError: it cannot be written.
        """
        self._output_dir = output_dir
        path = output_dir / FOLDER / f"shard-{shard.index}-of-{shard.count}.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise _not_writable(output_dir, error) from error
        if not lock(self._file, path):
            os.close(self._file)
            raise ConfigError(
                f"{path}: another process evaluates shard {shard} of this scan. Wait for it, or give this one a shard "
                f"of its own ({SETTING})."
            )
        _drop_unfinished_line(self._file)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Writes a line; when this returns it is on disk.

        Raises:
          CheckpointError: it cannot be written.
        """
        line = (json.dumps(named(entry), allow_nan=False) + "\n").encode()
        try:
            written = os.write(self._file, line)
            os.fsync(self._file)
        except OSError as error:
            raise _not_writable(self._output_dir, error) from error
        if written < len(line):
            raise _not_writable(self._output_dir, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def close(self) -> None:
        """Ends the lock."""
        os.close(self._file)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def output_path(output_dir: str) -> Path:
    """The folder of a scan, absolute; ConfigError where it is a bucket, to whose files nothing can be appended."""
    folder = absolute_path(output_dir)
    if is_remote(folder):
        raise ConfigError(
            f"ScanJob.output_dir = {output_dir!r}: a scan appends to its files, which a bucket does not allow; set "
            "--gin.SCAN_OUTPUT_DIR to a folder that all its processes see."
        )
    return Path(os.fspath(folder))


def prepare_output_dir(output_dir: str) -> Path:
    """Makes the folder of a scan and finds out, before anything slow, whether it can be written.

    Raises:
      ConfigError: a bucket, where nothing can be appended.
      CheckpointError: it cannot be written.
    """
    path = output_path(output_dir)
    try:
        make_writable(path)
    except OSError as error:
        raise _not_writable(path, error) from error
    return path


def read_ledgers(output_dir: Path) -> dict[str, Entry]:
    """What all shards have written, by the cells' keys; of a cell evaluated more than once, the last success.

    Raises:
      DataError: a finished line that is not one of a ledger.
    """
    entries: dict[str, Entry] = {}
    for path in sorted((output_dir / FOLDER).glob("*.jsonl")):
        for entry in _entries(path):
            key = entry["key"]
            if key not in entries or entry["status"] == DONE or entries[key]["status"] == FAILED:
                entries[key] = entry
    return entries


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file by way of another one: a reader sees the old or the new text, whole."""
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _entries(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return  # unfinished: its process is writing it, or was killed
        try:
            entry = json.loads(line)
            if not (isinstance(entry["key"], str) and entry["status"] in (DONE, FAILED)):
                raise ValueError("no key, or another status than done or failed")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: not a line of a scan's ledger ({error!r}). Delete the line; its cell is then "
                "evaluated again."
            ) from error
        yield entry


def _drop_unfinished_line(file: int) -> None:
    size = os.fstat(file).st_size
    end = size
    while end:
        start = max(0, end - 65536)
        chunk = os.pread(file, end - start, start)
        found = chunk.rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)


def _not_writable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be written ({error.strerror or error}). Set --gin.SCAN_OUTPUT_DIR to another."
    )
