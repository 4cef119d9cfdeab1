"""What a launch consists of: files, and the platform's own command."""

import dataclasses
from collections.abc import Mapping

from famjax.launch.config import LaunchConfig
from famjax.launch.job import LaunchedJob


@dataclasses.dataclass(frozen=True)
class Rendered:
    """The files of a launch and the command that submits it.

    Attributes:
      files: text by name, for the folder `LaunchConfig.folder`.
      command: the client and its arguments.
      next_steps: what a user may want next, each with its command.
    """

    files: Mapping[str, str]
    command: tuple[str, ...]
    next_steps: tuple[tuple[str, str], ...] = ()


def headline(config: LaunchConfig, job: LaunchedJob) -> str:
    """One line that says what runs where."""
    if config.platform == "slurm":
        gpus = config.gpus
        place = f"{gpus.name}: {_number(gpus.hosts, 'host')} with {_number(gpus.chips_per_host, 'GPU')}"
    else:
        one = config.tpu
        slices = f"{config.num_slices} x " if config.num_slices > 1 else ""
        count = config.hosts_per_slice
        hosts = f"{_number(count, 'host')} with {_number(one.chips // count, 'chip')}"
        place = f"{slices}{one.name}: {one.topology_name}, {hosts}"
    if config.shards > 1:
        return f"{config.name}: famjax --run_mode={job.run_mode} in {config.shards} parts, each on {place}"
    return f"{config.name}: famjax --run_mode={job.run_mode} on {place}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
