"""xpk: one command, which makes the JobSet itself."""

import itertools
from collections.abc import Sequence

from famjax.errors import ConfigError
from famjax.launch.config import LaunchConfig
from famjax.launch.job import FINAL_CODES, WHOLE_SCAN, LaunchedJob, check_output
from famjax.launch.quoting import on_one_line, one_flag_a_line
from famjax.launch.rendered import Rendered, headline
from famjax.pods.slices import TpuSlice

# xpk itself starts again after the exit codes from this one on, 143 (stopped and saved) among them.
_XPK_RETRIES_FROM = 127
# xpk has machines of 4 chips for these generations, and none for smaller slices.
_SMALLEST = {"v5e": 8}
# Where xpk takes a number alone for a longer shape than Google Cloud does (v4-768 for 4x4x24).
_NAMED_BY_TOPOLOGY = frozenset({"v4"})


def render_xpk(config: LaunchConfig, job: LaunchedJob) -> Rendered:
    """A script with the command, and the command.

    Raises:
      ConfigError: gin files of the user's own, which xpk has no way to bring along; a slice that xpk does not have;
        results that do not go to a bucket.
    """
    check_output(job, config.buckets)
    if job.gin_files:
        raise ConfigError(
            f"xpk brings no files along, and {', '.join(job.gin_files)} "
            f"{'is none' if len(job.gin_files) == 1 else 'are none'} of famjax's own. Put them into the folder gin/ of "
            "famjax, from which the image is built, give their settings as --gin.NAME=VALUE, or use --platform=gke."
        )
    where = (
        f"--cluster={config.cluster}",
        *([f"--project={config.project}"] if config.project else []),
        *([f"--zone={config.zone}"] if config.zone else []),
    )
    variables = ["=".join(WHOLE_SCAN)] if job.run_mode == "scan" else []
    command = (
        "xpk",
        "workload",
        "create",
        f"--workload={config.name}",
        *where,
        f"--tpu-type={_tpu_type(config.tpu)}",
        f"--num-slices={config.num_slices}",
        *_capacity(config),
        f"--docker-image={config.image}",
        f"--max-restarts={config.retries}",
        f"--restart-on-exit-codes={_retried_codes()}",
        f"--termination-grace-period-seconds={config.grace_seconds}",
        *(f"--storage={bucket}" for bucket in job.mounted),
        *(f"--env={text}" for text in (*variables, *config.env)),
        f"--command={on_one_line(job.remote_command)}",
    )
    script = "\n".join(
        [
            "#!/bin/bash",
            f"# {headline(config, job)}",
            "# Written by `famjax launch`. xpk counts starts after a preemption as well: --max-restarts is for all.",
            *_attachments(job, where),
            one_flag_a_line(command),
            "",
        ]
    )
    return Rendered(
        files={"workload.sh": script},
        command=command,
        next_steps=(
            ("state", on_one_line(("xpk", "workload", "list", *where))),
            ("end it", on_one_line(("xpk", "workload", "delete", f"--workload={config.name}", *where))),
        ),
    )


def _retried_codes() -> str:
    """All exit codes of failures, as xpk writes ranges."""
    edges = [0, *FINAL_CODES, _XPK_RETRIES_FROM]
    between = ((low + 1, high - 1) for low, high in itertools.pairwise(edges))
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in between if low <= high)


def _tpu_type(tpu: TpuSlice) -> str:
    """xpk's name: gcloud's, or generation and topology where the number alone means another shape."""
    if tpu.chips < _SMALLEST.get(tpu.generation.name, 0):
        smallest = f"{tpu.generation.name}-{_SMALLEST[tpu.generation.name]}"
        raise ConfigError(f"--slice={tpu.name}: xpk's smallest is {smallest}; --platform=gke has it.")
    if tpu.has_usual_topology and tpu.generation.name not in _NAMED_BY_TOPOLOGY:
        return tpu.accelerator_type
    return f"{tpu.generation.accelerator_prefix}-{tpu.topology_name}"


def _capacity(config: LaunchConfig) -> list[str]:
    if config.capacity == "reserved":
        return [f"--reservation={config.reservation}"]
    return ["--spot"] if config.capacity == "spot" else []


def _attachments(job: LaunchedJob, where: Sequence[str]) -> list[str]:
    """How the cluster comes to know the buckets that are mounted, as comments: it is done once for a cluster."""
    return [
        f"# Once for the cluster: xpk storage attach {bucket} {on_one_line(where)} --type=gcsfuse "
        f"--bucket={bucket} --mount-point=/gcs/{bucket} --readonly=false --size=1 --auto-mount=false"
        for bucket in job.mounted
    ]
