"""TPU VMs: a queued resource, whose machines start the run's container themselves."""

from pathlib import PurePosixPath

from famjax.launch.config import LaunchConfig
from famjax.launch.job import BUCKETS_FOLDER, GIN_FOLDER, LaunchedJob, check_output
from famjax.launch.quoting import on_one_line, one_flag_a_line
from famjax.launch.rendered import Rendered, headline
from famjax.launch.templating import fill

_STARTUP, _REQUEST = "startup.sh", "request.sh"


def render_tpu_vm(config: LaunchConfig, job: LaunchedJob) -> Rendered:
    """What the machines run, a script that requests them again after a preemption, and the first request.

    Raises:
      ConfigError: results that do not go to a bucket.
    """
    check_output(job, config.buckets)
    create = _create(config)
    where = (f"--project={config.project}", f"--zone={config.zone}")
    values = {
        "config": config,
        "headline": headline(config, job),
        "where": on_one_line(where),
        "create": one_flag_a_line(create, indent=8),
        "registry": config.image.split("/")[0],
        "command": one_flag_a_line(job.remote_command, indent=8),
        "gin_files": [(PurePosixPath(GIN_FOLDER, name), text) for name, text in job.gin_files.items()],
        "gin_folder": GIN_FOLDER,
        "mounted": job.mounted,
        "buckets_folder": BUCKETS_FOLDER,
    }
    name = on_one_line(("gcloud", "compute", "tpus", "queued-resources"))
    return Rendered(
        files={_STARTUP: fill("tpu_vm_startup.sh.jinja", values), _REQUEST: fill("tpu_vm_request.sh.jinja", values)},
        command=create,
        next_steps=(
            ("request again after a preemption", f"bash {config.folder}/{_REQUEST}"),
            ("state", f"{name} describe {config.name} {values['where']}"),
            ("end it", f"{name} delete {config.name} {values['where']} --force"),
        ),
    )


def _create(config: LaunchConfig) -> tuple[str, ...]:
    tpu = config.tpu
    shape = (
        (f"--accelerator-type={tpu.accelerator_type}",)
        if tpu.has_usual_topology
        else (f"--type={tpu.generation.tpu_vm_type}", f"--topology={tpu.topology_name}")
    )
    nodes = (
        (f"--node-count={config.num_slices}", f"--node-prefix={config.name}")
        if config.num_slices > 1
        else (f"--node-id={config.name}",)
    )
    capacity = {"on_demand": (), "spot": ("--spot",), "reserved": ("--reserved",)}[config.capacity]
    account = (f"--service-account={config.service_account}",) if config.service_account else ()
    return (
        *("gcloud", "compute", "tpus", "queued-resources", "create", config.name),
        f"--project={config.project}",
        f"--zone={config.zone}",
        *shape,
        f"--runtime-version={tpu.generation.runtime_version}",
        *nodes,
        *capacity,
        *account,
        "--scopes=https://www.googleapis.com/auth/cloud-platform",
        f"--metadata-from-file=startup-script={config.folder}/{_STARTUP}",
    )
