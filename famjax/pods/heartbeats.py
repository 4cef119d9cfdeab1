"""Heartbeat files: `hosts/process_<index>.json` in the job's folder says where each process of the job is.

    {"process": 1, "processes": 2, "host": "node-7", "pid": 9, "phase": "training", "step": 120, "time": 1790000000.0}

"step" is the last finished step, or null; "time" is in seconds since 1970. Each process writes its own file, and nobody
else's.
"""

import dataclasses
import json
import os
import platform
import time
from typing import Any

from etils import epath

FOLDER = "hosts"


@dataclasses.dataclass(frozen=True)
class Process:
    """A process of a job.

    Attributes:
      index: from 0.
      count: of all processes of the job.
      host: the machine that it runs on.
      pid: its number there.
    """

    index: int = 0
    count: int = 1
    host: str = dataclasses.field(default_factory=platform.node)
    pid: int = dataclasses.field(default_factory=os.getpid)

    def __str__(self) -> str:
        return f"process {self.index} of {self.count} ({self.host})"


def heartbeat_path(folder: epath.Path, index: int) -> epath.Path:
    """The heartbeat file of a process in a job's folder."""
    return folder / FOLDER / f"process_{index}.json"


def stacks_path(folder: epath.Path, index: int) -> epath.Path:
    """Where a process of the job writes its stacks when it gives up."""
    return folder / FOLDER / f"process_{index}.stacks.txt"


def write_heartbeat(folder: epath.Path, process: Process, phase: str, step: int | None = None) -> None:
    """Replaces the process's heartbeat file.

    Args:
      folder: of the job.
      process: this one.
      phase: what it is doing.
      step: the last finished step, where there is one.
    """
    path = heartbeat_path(folder, process.index)
    values = {
        "process": process.index,
        "processes": process.count,
        "host": process.host,
        "pid": process.pid,
        "phase": phase,
        "step": step,
        "time": round(time.time(), 3),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{process.host}.{process.pid}")
    temporary.write_text(json.dumps(values) + "\n")
    temporary.replace(path)


def remove_heartbeat(folder: epath.Path, process: Process) -> None:
    """Removes the process's heartbeat file, and the folder of all where it was the last; OSError where it was not."""
    heartbeat_path(folder, process.index).unlink()
    os.rmdir(folder / FOLDER)


def read_heartbeats(folder: epath.Path, count: int) -> dict[int, dict[str, Any]]:
    """What the heartbeat files of a job of `count` processes say, by process; one that cannot be read is left out."""
    found = {}
    for index in range(count):
        try:
            found[index] = dict(json.loads(heartbeat_path(folder, index).read_text()))
        except (OSError, ValueError, TypeError):
            continue
    return found
