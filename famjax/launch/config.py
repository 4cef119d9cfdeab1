"""What a launch is: one frozen description that checks itself. Imports no jax."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from famjax.configuration.origin import nearest
from famjax.errors import ConfigError
from famjax.pods.gpus import GpuSlice, names_gpus, parse_gpus
from famjax.pods.slices import TpuSlice, names_tpus, parse_slice
from famjax.validation import require_at_least, require_choice

Platform = Literal["gke", "xpk", "tpu_vm", "slurm"]
Capacity = Literal["on_demand", "spot", "reserved"]

PLATFORMS: tuple[Platform, ...] = get_args(Platform)
# Settings that not every platform takes; what a platform does not take must be left alone.
TAKEN_BY: dict[str, tuple[Platform, ...]] = {
    "num_slices": ("gke", "xpk", "tpu_vm"),
    "image": ("gke", "xpk", "tpu_vm"),
    "bucket": ("gke", "xpk", "tpu_vm"),
    "capacity": ("gke", "xpk", "tpu_vm"),
    "reservation": ("gke", "xpk"),
    "shards": ("gke", "slurm"),
    "cluster": ("gke", "xpk"),
    "namespace": ("gke",),
    "queue": ("gke",),
    "service_account": ("gke", "tpu_vm"),
    "project": ("xpk", "tpu_vm"),
    "zone": ("xpk", "tpu_vm"),
    "partition": ("slurm",),
    "account": ("slurm",),
    "time_limit": ("slurm",),
    "cpus_per_gpu": ("slurm",),
    "memory_per_gpu": ("slurm",),
    "setup": ("slurm",),
}
NEEDED_BY: dict[str, tuple[Platform, ...]] = {
    "name": PLATFORMS,
    "slice": PLATFORMS,
    "image": ("gke", "xpk", "tpu_vm"),
    "bucket": ("gke", "xpk", "tpu_vm"),
    "cluster": ("xpk",),
    "project": ("tpu_vm",),
    "zone": ("tpu_vm",),
    "time_limit": ("slurm",),
}
_EXAMPLES = {
    "name": "paper-1b",
    "image": "europe-west4-docker.pkg.dev/my-project/famjax/famjax:0.1.0",
    "bucket": "gs://my-runs",
    "cluster": "my-cluster",
    "project": "my-project",
    "zone": "europe-west4-b",
    "time_limit": "24:00:00",
}
# Of TPUs, and of GPUs.
_SLICES = ("v5e-256", "h100-16")
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# What JobSet, xpk and gcloud add to a name (-slice-12-345-abcde) must fit into the 63 characters of a label.
_LONGEST_NAME = 40
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_TIME_LIMIT = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){0,2}")


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
    """Where and how a run is launched.

    Attributes:
      platform: "gke" (Google Kubernetes Engine with JobSet), "xpk", "tpu_vm" (queued resources) or "slurm" (GPUs).
      name: of the job: small letters, digits and dashes.
      slice: a TPU slice, v5e-256, v5p-128 or v5p-4x4x8, or, for slurm, a number of GPUs, h100-16.
      num_slices: TPU slices joined over the data center network.
      image: the container image with famjax, built with launch/Dockerfile.tpu.
      bucket: a Cloud Storage bucket that the run reads or writes, once for each. What the run refers to as
        /gcs/BUCKET/... is mounted there; what it writes must lie in a bucket, as gs://BUCKET/... or /gcs/BUCKET/...
      capacity: "on_demand", "spot" or "reserved".
      reservation: the reservation's name, for capacity "reserved".
      retries: starts after a failure, those after a preemption not counted (xpk counts them).
      shards: parts of a scan (`--run_mode=scan`) that run at the same time, each on a slice of one host of its own.
      grace_seconds: between the warning of the end (SIGTERM) and the end: for finishing a step and saving.
      env: NAME=VALUE for the run's environment, once for each.
      cluster: xpk's cluster; for gke the context of kubectl.
      namespace: of Kubernetes.
      queue: Kueue's LocalQueue; empty: no queue.
      service_account: that may read and write the buckets: of Kubernetes for gke, of Google Cloud for tpu_vm.
      project: of Google Cloud.
      zone: of Google Cloud.
      partition: Slurm's.
      account: Slurm's.
      time_limit: Slurm's, as 24:00:00 or 2-00:00:00.
      cpus_per_gpu: CPUs that are asked for with each GPU.
      memory_per_gpu: GiB of the machine's memory that are asked for with each GPU.
      setup: a line of bash before the run, as "source .venv/bin/activate".
      output_dir: files are written to its subfolder NAME.
      plan: `submit` compiles the training for the slice first, as --run_mode=plan does, and does not submit what does
        not fit.
    """

    platform: Platform = "gke"
    name: str = ""
    slice: str = ""
    num_slices: int = 1
    image: str = ""
    bucket: tuple[str, ...] = ()
    capacity: Capacity = "on_demand"
    reservation: str = ""
    retries: int = 3
    shards: int = 1
    grace_seconds: int = 300
    env: tuple[str, ...] = ()
    cluster: str = ""
    namespace: str = "default"
    queue: str = ""
    service_account: str = ""
    project: str = ""
    zone: str = ""
    partition: str = ""
    account: str = ""
    time_limit: str = ""
    cpus_per_gpu: int = 8
    memory_per_gpu: int = 64
    setup: str = ""
    output_dir: str = "launched"
    plan: bool = False

    def __post_init__(self) -> None:
        require_choice(self, "platform", Platform)
        require_choice(self, "capacity", Capacity)
        require_at_least(self, 1, "num_slices", "shards", "cpus_per_gpu", "memory_per_gpu")
        require_at_least(self, 0, "retries", "grace_seconds")
        self._check_missing()
        self._check_useless()
        self._check_spelling()
        self._check_slice()
        if self.reservation and self.capacity != "reserved":
            raise ConfigError(f"--reservation={self.reservation} needs --capacity=reserved.")
        if self.capacity == "reserved" and not self.reservation and "reservation" in self._taken:
            raise ConfigError("--capacity=reserved needs --reservation=NAME.")

    @functools.cached_property
    def tpu(self) -> TpuSlice:
        """The slice, where the platform has TPUs."""
        return parse_slice(self.slice)

    @functools.cached_property
    def gpus(self) -> GpuSlice:
        """The GPUs, where the platform is Slurm."""
        return parse_gpus(self.slice)

    @property
    def hosts_per_slice(self) -> int:
        """Machines of one slice, or of all GPUs."""
        if self.platform == "slurm":
            return self.gpus.hosts
        return self.tpu.xpk_hosts if self.platform == "xpk" else self.tpu.hosts

    @property
    def buckets(self) -> tuple[str, ...]:
        """The buckets' names, without gs://."""
        return tuple(dict.fromkeys(_bucket_name(bucket) for bucket in self.bucket))

    @property
    def variables(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each variable of the run's environment."""
        return tuple((name, value) for name, _, value in (text.partition("=") for text in self.env))

    @property
    def folder(self) -> str:
        """Where the files are written."""
        return f"{self.output_dir.rstrip('/')}/{self.name}"

    @property
    def _taken(self) -> frozenset[str]:
        names = (field.name for field in dataclasses.fields(self))
        return frozenset(name for name in names if self.platform in TAKEN_BY.get(name, PLATFORMS))

    def _check_missing(self) -> None:
        missing = [name for name, platforms in NEEDED_BY.items() if self.platform in platforms and not _get(self, name)]
        if missing:
            examples = _EXAMPLES | {"slice": _SLICES[self.platform == "slurm"]}
            flags = " ".join(f"--{name}={examples[name]}" for name in missing)
            raise ConfigError(
                f"--platform={self.platform} needs more settings, such as {flags} (famjax launch --help says what they "
                "mean)."
            )

    def _check_slice(self) -> None:
        """Refuses a slice that does not exist, and one of the other kind than the platform has."""
        has_gpus = self.platform == "slurm"
        try:
            _ = self.gpus if has_gpus else self.tpu
        except ConfigError as error:
            if names_gpus(self.slice) == has_gpus or (has_gpus and not names_tpus(self.slice)):
                raise
            here, there = ("GPUs", "TPU slices") if has_gpus else ("TPU slices", "GPUs")
            others = ", ".join(name for name in PLATFORMS if (name == "slurm") != has_gpus)
            raise ConfigError(
                f"--slice={self.slice}: --platform={self.platform} has {here}, as {_SLICES[has_gpus]}; {there} are for "
                f"--platform={others}."
            ) from error

    def _check_useless(self) -> None:
        for field in dataclasses.fields(self):
            if field.name not in self._taken and _get(self, field.name) != field.default:
                raise ConfigError(
                    f"--{field.name} has no effect with --platform={self.platform}, only with "
                    f"{', '.join(TAKEN_BY[field.name])}."
                )

    def _check_spelling(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > _LONGEST_NAME:
            raise ConfigError(
                f"--name={self.name}: allowed are small letters, digits and dashes, a letter first, at most "
                f"{_LONGEST_NAME} characters."
            )
        for bucket in self.bucket:
            if not _BUCKET.fullmatch(_bucket_name(bucket)):
                raise ConfigError(
                    f"--bucket={bucket} is no name of a bucket; expected as gs://my-runs, without a path."
                )
        for text in self.env:
            if not _VARIABLE.fullmatch(text):
                raise ConfigError(f"--env={text}: expected NAME=VALUE.")
        if self.time_limit and not _TIME_LIMIT.fullmatch(self.time_limit):
            raise ConfigError(f"--time_limit={self.time_limit}: expected as 24:00:00 or 2-00:00:00.")


def _get(config: LaunchConfig, name: str) -> Any:
    return getattr(config, name)


def _bucket_name(bucket: str) -> str:
    return bucket.removeprefix("gs://").rstrip("/")


def check_buckets(config: LaunchConfig, mentioned: Mapping[str, str]) -> None:
    """Refuses a run that refers to a bucket which the description does not name.

    Args:
      config: the description.
      mentioned: bucket to one path in it, as the run's settings have it.

    Raises:
      ConfigError: with the nearest bucket that is named.
    """
    for bucket, path in mentioned.items():
        if bucket not in config.buckets:
            named = ", ".join(f"gs://{name}" for name in config.buckets)
            raise ConfigError(
                f"{path} lies in the bucket {bucket}, which --bucket does not name ({named})."
                f"{nearest(bucket, config.buckets)}"
            )
