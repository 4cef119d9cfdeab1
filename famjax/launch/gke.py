"""Google Kubernetes Engine: a JobSet for a run on whole slices, an Indexed Job for a scan in parts."""

import hashlib
import json
import re

from famjax.errors import ConfigError
from famjax.launch.config import LaunchConfig
from famjax.launch.job import BUCKETS_FOLDER, GIN_FOLDER, WHOLE_SCAN, LaunchedJob, check_output
from famjax.launch.quoting import on_one_line
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
        "arguments": [_literal(argument) for argument in job.remote_command[1:]],
        "variables": [(name, _literal(value)) for name, value in _variables(config, job)],
        "gin_files": job.gin_files,
        "config_map": _config_map(config, job),
        "mounted": job.mounted,
        "gin_folder": GIN_FOLDER,
        "buckets_folder": BUCKETS_FOLDER,
    }
    manifest = fill(template, values | {"pod": fill("pod.yaml.jinja", values).rstrip()})
    path = f"{config.folder}/{name}"
    context = [f"--context={config.cluster}"] if config.cluster else []
    kind, label = ("job", "batch.kubernetes.io/job-name") if in_parts else ("jobset", "jobset.sigs.k8s.io/jobset-name")
    namespace = f"--namespace={config.namespace}"
    pods = config.shards if in_parts else config.num_slices * config.tpu.hosts
    followed = ("--prefix", "--follow", f"--max-log-requests={pods}")
    logs = ("logs", f"--selector={label}={config.name}", namespace, *followed)
    return Rendered(
        files={name: manifest},
        command=("kubectl", *context, "create", f"--filename={path}"),
        next_steps=(
            ("state", on_one_line(("kubectl", *context, "get", kind, config.name, namespace))),
            ("logs", on_one_line(("kubectl", *context, *logs))),
            ("end it", on_one_line(("kubectl", *context, "delete", f"--filename={path}"))),
        ),
    )


def _config_map(config: LaunchConfig, job: LaunchedJob) -> str:
    """The name of the ConfigMap with the user's gin files: of other files another, so that none is read by mistake.

    A launch whose JobSet was refused leaves its ConfigMap behind, and the next one's would not replace it.
    """
    files = json.dumps(sorted(job.gin_files.items()))
    return f"{config.name}-gin-{hashlib.sha256(files.encode()).hexdigest()[:10]}"


def _literal(text: str) -> str:
    """A text that Kubernetes leaves as it is: it replaces $(NAME), and makes $ of $$."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def _variables(config: LaunchConfig, job: LaunchedJob) -> tuple[tuple[str, str], ...]:
    """The environment; a scan learns which part of it is this pod's, but for what the user says (the last holds)."""
    if job.run_mode != "scan":
        return config.variables
    if config.shards > 1:
        return (("SCAN_SHARD_COUNT", str(config.shards)), *config.variables)
    return (WHOLE_SCAN, *config.variables)
