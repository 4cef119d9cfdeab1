"""Slurm: a batch script for a run on GPUs, or an array of it for a scan in parts."""

from famjax.errors import ConfigError
from famjax.launch.config import LaunchConfig
from famjax.launch.job import SHARED_MODES, LaunchedJob
from famjax.launch.quoting import one_flag_a_line
from famjax.launch.rendered import Rendered, headline
from famjax.launch.templating import fill


def render_slurm(config: LaunchConfig, job: LaunchedJob) -> Rendered:
    """One script, and the sbatch command that queues it.

    Gin files and folders are those of the working directory: nodes of a Slurm cluster share it.

    Raises:
      ConfigError: a part of a scan on several hosts.
    """
    in_parts = config.shards > 1
    if in_parts and config.gpus.hosts > 1:
        raise ConfigError(
            f"--shards={config.shards}: a part of a scan runs on one host, and --slice={config.slice} is "
            f"{config.gpus.hosts}. Largest of one host: {config.gpus.gpu.name}-{config.gpus.chips_per_host}."
        )
    # Of several tasks on a host each has one GPU; one task has them all. A part of a scan is one process.
    tasks = 1 if in_parts or job.run_mode not in SHARED_MODES else config.gpus.chips_per_host
    name = "job.sh"
    script = fill(
        "slurm.sh.jinja",
        {
            "config": config,
            "gpus": config.gpus,
            "headline": headline(config, job),
            "in_parts": in_parts,
            "tasks": tasks,
            "cpus_per_task": config.cpus_per_gpu * config.gpus.chips_per_host // tasks,
            "memory": config.memory_per_gpu * config.gpus.chips_per_host,
            "command": one_flag_a_line(job.command, indent=8),
        },
    )
    return Rendered(
        files={name: script},
        command=("sbatch", f"{config.folder}/{name}"),
        next_steps=(("state", f"squeue --name={config.name}"), ("end it", f"scancel --name={config.name}")),
    )
