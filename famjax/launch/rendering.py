"""From a description and a run to files and a command, for each platform."""

from collections.abc import Callable

from famjax.errors import ConfigError
from famjax.launch.config import LaunchConfig, Platform, check_buckets
from famjax.launch.gke import render_gke
from famjax.launch.job import SHARED_MODES, LaunchedJob
from famjax.launch.rendered import Rendered
from famjax.launch.slurm import render_slurm
from famjax.launch.tpu_vm import render_tpu_vm
from famjax.launch.xpk import render_xpk

_RENDERERS: dict[Platform, Callable[[LaunchConfig, LaunchedJob], Rendered]] = {
    "gke": render_gke,
    "xpk": render_xpk,
    "tpu_vm": render_tpu_vm,
    "slurm": render_slurm,
}


def render(config: LaunchConfig, job: LaunchedJob) -> Rendered:
    """What a launch consists of; nothing is written.

    Raises:
      ConfigError: the run and the description do not fit: buckets that the description does not name, results on a disk
        that goes, parts of what has none.
    """
    if job.run_mode == "plan":
        raise ConfigError("--run_mode=plan is for this machine: leave out `launch` and its flags.")
    if config.shards > 1 and job.run_mode != "scan":
        raise ConfigError(f"--shards={config.shards}: only a scan has parts; --run_mode={job.run_mode} has none.")
    hosts = config.num_slices * config.hosts_per_slice
    if hosts > 1 and job.run_mode not in SHARED_MODES:
        where = f"--slice={config.slice}{f' --num_slices={config.num_slices}' if config.num_slices > 1 else ''}"
        raise ConfigError(
            f"--run_mode={job.run_mode} runs in one process, and {where} has {hosts} hosts. "
            f"On several: {', '.join(SHARED_MODES)}."
        )
    if config.platform != "slurm":
        check_buckets(config, job.buckets)
    return _RENDERERS[config.platform](config, job)
