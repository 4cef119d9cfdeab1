"""Command lines of launches, and stand-ins for the clients of platforms."""

import functools
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

from famjax.configuration.arguments import parse_arguments
from famjax.launch.config import LaunchConfig
from famjax.launch.job import read_job
from famjax.launch.rendering import render
from famjax.main import RUN_MODES

RUN = (
    "--gin_file=runs/pretrain.gin",
    "--gin_file=models/tiny.gin",
    "--gin_file=memory/fam.gin",
    "--gin.MODEL_DIR='gs://my-runs/tiny'",
    "--gin.MIXTURE_OR_TASK_NAME='documents'",
    "--gin.TASK_FEATURE_LENGTHS={'targets': 1024}",
    "--gin.TRAIN_STEPS=10",
)
SCAN = (
    "--run_mode=scan",
    "--gin_file=runs/scan.gin",
    "--gin.CHECKPOINTS={'books': 'gs://my-runs/tiny'}",
    "--gin.SCAN_TASKS=['passkey']",
    "--gin.SCAN_LENGTHS=[1024, 2048]",
    "--gin.SCAN_OUTPUT_DIR='/gcs/my-runs/scan'",
)
# What each platform needs besides name and slice.
NEEDED = {
    "gke": {"image": "registry/famjax:1", "bucket": ("gs://my-runs",)},
    "xpk": {"image": "registry/famjax:1", "bucket": ("gs://my-runs",), "cluster": "my-cluster"},
    "tpu_vm": {
        "image": "registry/famjax:1",
        "bucket": ("gs://my-runs",),
        "project": "my-project",
        "zone": "my-zone-b",
    },
    "slurm": {"time_limit": "24:00:00"},
}
# Two slices of each kind: one host and several.
TPU_SLICES = ("v4-8", "v4-128", "v5e-4", "v5e-256", "v5p-8", "v5p-256", "v6e-8", "v6e-64")
# Writes its arguments, one JSON line a call, and answers as the file NAME.answers says: exit code and output by call,
# that of a failure on stderr.
_STAND_IN = """#!{python}
import json, pathlib, sys
folder, name = pathlib.Path({folder!r}), {name!r}
calls = folder / f"{{name}}.calls"
with calls.open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
answers = json.loads((folder / f"{{name}}.answers").read_text())
number = len(calls.read_text().splitlines()) - 1
code, output = answers[min(number, len(answers) - 1)]
(sys.stderr if code else sys.stdout).write(output)
sys.exit(code)
"""


def flags(platform, slice_name, **settings):
    """A description as flags."""
    values = {"platform": platform, "name": "tiny", "slice": slice_name, **NEEDED[platform], **settings}
    several = ((name, value if isinstance(value, tuple) else (value,)) for name, value in values.items())
    return [f"--{name}={value}" for name, items in several for value in items]


@functools.cache
def read_run(run, num_slices=1):
    """The run of these arguments on so many slices."""
    parsed = parse_arguments(run, list(RUN_MODES))
    mode = RUN_MODES[parsed.run_mode]
    return read_job(parsed, mode.job_module, mode.job_class, num_slices)


def rendered(platform, slice_name, run=RUN, **settings):
    """A launch, rendered and not written."""
    values = {"platform": platform, "name": "tiny", "slice": slice_name, **NEEDED[platform], **settings}
    config = LaunchConfig(**values)
    return render(config, read_run(tuple(run), config.num_slices))


def run_script(script, seconds=60, **variables):
    """Runs a bash script to its end; after so many seconds it and all that it has started are ended."""
    process = subprocess.Popen(
        ["bash", "-c", script],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(script, process.returncode, stdout, stderr)


class Clients:
    """Programs in a folder that stand in for those of a platform, and note what they are called with."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)

    def add(self, name, *answers):
        """Adds a program; its calls are answered in order with (exit code, output), the last one for ever."""
        (self.folder / f"{name}.answers").write_text(json.dumps(answers or [(0, "")]))
        self.add_script(name, _STAND_IN.format(python=sys.executable, folder=str(self.folder), name=name))

    def add_script(self, name, text):
        """Adds a program of one's own."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self, name):
        """The arguments of each call."""
        path = self.folder / f"{name}.calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def path(self):
        """PATH with these programs before others."""
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"
