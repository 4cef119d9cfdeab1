"""Google Kubernetes Engine: a JobSet for a run on whole slices, an Indexed Job for a scan in parts."""

from famjax.errors import ConfigError
from famjax.launch.config import LaunchConfig
from famjax.launch.job import BUCKETS_FOLDER, GIN_FOLDER, LaunchedJob, check_output
from famjax.launch.rendered import Rendered, headline
from famjax.launch.templating import fill


def render_gke(config: LaunchConfig, job: LaunchedJob) -> Rendered:
    """One manifest, and the kubectl command that creates what is in it.

    Raises:
      ConfigError: a part of a scan on a slice of several hosts, or results that do not go to a bucket.
    """
    check_output(job, config.buckets)
    in_parts = config.shards > 1
    if in_parts and config.tpu.hosts > 1:
        raise ConfigError(
            f"--shards={config.shards}: a part of a scan runs on one host, and --slice={config.slice} has "
            f"{config.tpu.hosts}. Slices of one host: {', '.join(config.tpu.generation.names_of_one_host)}."
        )
    if in_parts and config.num_slices > 1:
        raise ConfigError(f"--shards={config.shards}: each part has one slice; leave out --num_slices.")
    name, template = ("job.yaml", "scan_job.yaml.jinja") if in_parts else ("jobset.yaml", "jobset.yaml.jinja")
    values = {
        "config": config,
        "slice": config.tpu,
        "headline": headline(config, job),
        # Kubernetes itself replaces $(NAME).
        "arguments": [argument.replace("$(", "$$(") for argument in job.remote_command[1:]],
        "variables": [(name, value.replace("$(", "$$(")) for name, value in _variables(config, job)],
        "gin_files": job.gin_files,
        "mounted": job.mounted,
        "gin_folder": GIN_FOLDER,
        "buckets_folder": BUCKETS_FOLDER,
    }
    manifest = fill(template, values | {"pod": fill("pod.yaml.jinja", values).rstrip()})
    path = f"{config.folder}/{name}"
    context = [f"--context={config.cluster}"] if config.cluster else []
    kind = "job" if in_parts else "jobset"
    return Rendered(
        files={name: manifest},
        command=("kubectl", *context, "create", f"--filename={path}"),
        next_steps=(
            ("state", f"kubectl get {kind} {config.name} --namespace={config.namespace}"),
            ("end it", f"kubectl delete --filename={path}"),
        ),
    )


def _variables(config: LaunchConfig, job: LaunchedJob) -> tuple[tuple[str, str], ...]:
    """The environment; a scan learns which part of it is this pod's."""
    if job.run_mode != "scan":
        return config.variables
    if config.shards > 1:
        return (*config.variables, ("SCAN_SHARD_COUNT", str(config.shards)))
    # JobSet numbers the hosts of a slice as an Indexed Job numbers its parts; together they are one part.
    return (*config.variables, ("SCAN_SHARD", "0/1"))
