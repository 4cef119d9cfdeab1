"""Before and at the submission: the run's configuration, the buckets, the platform's own client."""

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


def check_before_submitting(config: LaunchConfig, job: LaunchedJob) -> None:
    """Makes the checks of --dry_run, asks whether the buckets exist, and, if asked, prints the plan.

    Raises:
      ConfigError: whatever --dry_run would refuse, a bucket that does not exist, with the nearest that do, or a
        training that does not fit its slice.
      DataError, CheckpointError: a file or a checkpoint that should be on this machine, or in a bucket, cannot be read.
    """
    if config.plan and job.run_mode != "train":
        raise ConfigError(f"--plan is for a training, and this is --run_mode={job.run_mode}; leave it out.")
    sys.stdout.write(f"checking the run ... {_checked_configuration(job)}\n")
    sys.stdout.flush()
    if config.bucket:
        sys.stdout.write(f"checking the buckets ... {_checked_buckets(config)}\n")
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


def _checked_buckets(config: LaunchConfig) -> str:
    if shutil.which("gcloud") is None:
        return "skipped: gcloud is not installed here"
    project = [f"--project={config.project}"] if config.project else []
    for bucket in config.buckets:
        if _gcloud("storage", "buckets", "describe", f"gs://{bucket}", "--format=value(name)").returncode == 0:
            continue
        listing = _gcloud("storage", "buckets", "list", "--format=value(name)", *project)
        if listing.returncode:
            reason = (listing.stderr.strip().splitlines() or ["gcloud storage buckets list failed"])[0]
            raise ConfigError(f"--bucket=gs://{bucket} cannot be seen: {reason}")
        known = listing.stdout.split()
        raise ConfigError(
            f"--bucket=gs://{bucket} does not exist, or you may not see it.{nearest(bucket, known)} "
            f"The project has {len(known)} buckets{': ' if known else ''}{', '.join(sorted(known)[:10])}."
        )
    return "ok"


def _gcloud(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["gcloud", *arguments], capture_output=True, text=True, check=False)
