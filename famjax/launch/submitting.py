"""Before and at the submission: the run's configuration, the buckets, the platform's own client."""

import itertools
import re
import shutil
import subprocess
import sys

from famjax.configuration.dry_run import describe_run
from famjax.configuration.origin import nearest
from famjax.errors import CheckpointError, ConfigError, DataError
from famjax.launch.config import LaunchConfig
from famjax.launch.job import BUCKETS_FOLDER, LaunchedJob
from famjax.launch.quoting import on_one_line
from famjax.launch.rendered import Rendered
from famjax.planning.config import PlanSettings
from famjax.planning.running import plan

_CLIENT_PAGES = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "xpk": "pip install xpk",
    "sbatch": "it is on the login node of a Slurm cluster",
}
# What `gcloud storage ls` says of a folder that is empty, in a bucket that exists.
_NO_OBJECTS = "matched no objects"


def check_before_submitting(config: LaunchConfig, job: LaunchedJob) -> None:
    """Makes the checks of --dry_run, asks whether the buckets exist, and, if asked, prints the plan.

    Raises:
      ConfigError: whatever --dry_run would refuse, a bucket that does not exist, with the nearest that do where these
        may be listed, or a training that does not fit its slice.
      DataError, CheckpointError: a file or a checkpoint that should be on this machine, or in a bucket, cannot be read.
    """
    if config.plan and job.run_mode != "train":
        raise ConfigError(f"--plan is for a training, and this is --run_mode={job.run_mode}; leave it out.")
    sys.stdout.write(f"checking the run ... {_checked_configuration(job)}\n")
    sys.stdout.flush()
    if config.bucket:
        sys.stdout.write(f"checking the buckets ... {_checked_buckets(config, job)}\n")
        sys.stdout.flush()
    if config.plan:
        plan(job.configuration.job, PlanSettings(config.slice, config.num_slices))


def submit(rendered: Rendered) -> None:
    """Runs the platform's client, which says itself what it does.

    Raises:
      ConfigError: the client is not installed, or ended with another exit code than 0.
    """
    command = on_one_line(rendered.command)
    sys.stdout.write(f"$ {command}\n")
    sys.stdout.flush()
    client = rendered.command[0]
    if shutil.which(client) is None:
        raise ConfigError(f"{client} is not installed here ({_CLIENT_PAGES[client]}). The files are written.")
    code = subprocess.run(rendered.command, check=False).returncode
    if code:
        raise ConfigError(f"{client} ended with exit code {code}; what it has made, and what not, stands above.")


def _checked_configuration(job: LaunchedJob) -> str:
    try:
        describe_run(job.configuration)
    except (ConfigError, DataError, CheckpointError) as error:
        # What lies in a mounted bucket is not on this machine.
        if f"{BUCKETS_FOLDER}/" not in str(error):
            raise
        return f"as far as this machine can see: {error}"
    return "ok"


def _checked_buckets(config: LaunchConfig, job: LaunchedJob) -> str:
    """What came of it, on one line.

    Raises:
      ConfigError: a bucket does not exist.
    """
    if shutil.which("gcloud") is None:
        return "skipped: gcloud is not installed here"
    notes = (_checked_bucket(config, bucket, job.buckets.get(bucket, "")) for bucket in config.buckets)
    return "; ".join(note for note in notes if note) or "ok"


def _checked_bucket(config: LaunchConfig, bucket: str, path: str) -> str:
    """What could not be found out about a bucket. Rights to its objects need not be rights to look at it."""
    seen = _gcloud("storage", "buckets", "describe", f"gs://{bucket}", "--format=value(name)")
    if not seen.returncode:
        return ""
    listed = None
    if not _is_missing(seen):
        listed = _gcloud("storage", "ls", _listed_folder(bucket, path))
        if not listed.returncode or _NO_OBJECTS in listed.stderr:
            return f"gs://{bucket} is there, by its objects; you may not look at the bucket itself"
    if _is_missing(listed or seen):
        raise ConfigError(f"--bucket=gs://{bucket} does not exist.{_others(config, bucket)}")
    return f"gs://{bucket} cannot be looked at from here ({_reason(seen)})"


def _listed_folder(bucket: str, path: str) -> str:
    """The folder of a path that the run mentions: someone may have rights to that alone."""
    inside = path.partition(f"/{bucket}")[2].strip("/")
    fixed = itertools.takewhile(lambda part: not set("*?[{") & set(part), inside.split("/"))
    return "/".join([f"gs://{bucket}", *filter(None, fixed), ""])


def _others(config: LaunchConfig, bucket: str) -> str:
    """The buckets that there are, as far as they may be listed."""
    project = [f"--project={config.project}"] if config.project else []
    listing = _gcloud("storage", "buckets", "list", "--format=value(name)", *project)
    if listing.returncode:
        return ""
    known = listing.stdout.split()
    return (
        f"{nearest(bucket, known)} The project has {len(known)} bucket{'' if len(known) == 1 else 's'}"
        f"{': ' if known else ''}{', '.join(sorted(known)[:10])}."
    )


def _is_missing(answer: subprocess.CompletedProcess[str]) -> bool:
    return re.search("not found: 404|HTTPError 404|Exception: 404", answer.stderr) is not None


def _reason(answer: subprocess.CompletedProcess[str]) -> str:
    """gcloud's error, behind whatever it says of its settings."""
    error = re.search(r"^ERROR: \([\w.-]+\) (.*?)\.?$", answer.stderr, re.MULTILINE)
    return error[1] if error else f"gcloud ended with exit code {answer.returncode}"


def _gcloud(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["gcloud", *arguments], capture_output=True, text=True, check=False)
