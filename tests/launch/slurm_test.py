"""Slurm's script, run for real: srun starts two processes here, and scontrol notes what goes back to the queue."""

import re
import sys
from pathlib import Path

import pytest

from launching import RUN, SCAN, Clients, rendered, run_script

ROOT = Path(__file__).parent.parent.parent
# Two tasks on this machine, with the variables that Slurm sets; the exit code is the highest, as srun's is.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
stopped=
trap 'stopped=1; kill -TERM "${tasks[@]}"' TERM
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=1 \\
        SLURM_STEP_NODELIST=localhost SLURM_STEP_TASKS_PER_NODE=2 "$@" &
    tasks[task]=$!
done
# The first may have asked for the end before the second had started.
[[ -z $stopped ]] || kill -TERM "${tasks[@]}"
highest=0
for task in 0 1; do
    while wait "${tasks[task]}"; kill -0 "${tasks[task]}" 2>/dev/null; do :; done
    wait "${tasks[task]}"
    code=$?
    if ((code > highest)); then highest=$code; fi
done
exit $highest
"""
# The first task has the whole job stopped: the script, srun, and through it both tasks, which save.
STOPPED = """#!/bin/bash
trap 'sleep 0.2; exit 143' TERM
((SLURM_PROCID)) || kill -TERM "$SCRIPT" "$PPID"
while :; do sleep 0.1; done
"""
FAMJAX = """#!/bin/bash
exec {python} -m famjax.main "$@"
"""


INFER = ("--run_mode=infer", "--gin_file=runs/infer.gin", "--gin.CHECKPOINT_PATH='runs/tiny'")
# A model that trains in seconds.
SMALL = (
    "--gin_file=runs/pretrain.gin",
    "--gin_file=models/tiny.gin",
    "--gin_file=memory/fam.gin",
    "--gin.MODEL_DIR='runs/pair'",
    "--gin.MIXTURE_OR_TASK_NAME='documents'",
    "--gin.TASK_FEATURE_LENGTHS={'targets': 64}",
    "--gin.BLOCK_SIZE=16",
    "--gin.FAM_LENGTH=2",
    "--gin.BATCH_SIZE=4",
    "--gin.TRAIN_STEPS=3",
    "--gin.EVAL_STEPS=1",
    "--gin.TransformerConfig.emb_dim=16",
    "--gin.TransformerConfig.num_layers=1",
    "--gin.TransformerConfig.mlp_dim=16",
)


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Stand-ins for srun and scontrol; the working directory is the job's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "launched" / "tiny").mkdir(parents=True)
    clients = Clients(tmp_path / "bin")
    clients.add_script("srun", SRUN)
    clients.add("scontrol")
    clients.add("squeue", (0, "RUNNING\n"))
    return clients


def run(clients, launch, seconds=60):
    """Runs the script as sbatch does."""
    return run_script(launch.files["job.sh"], seconds, PATH=clients.path, SLURM_JOB_ID="77", PYTHONPATH=str(ROOT))


def directives(script):
    """The #SBATCH lines by name."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE))


@pytest.mark.parametrize(
    ("codes", "requeued"),
    [
        ([0], 0),
        ([2], 0),
        ([5], 0),
        ([143, 143, 143, 143, 0], 4),
        ([1, 143, 134, 0], 3),
        ([1, 1, 1], 2),
    ],
)
def test_what_goes_back_to_the_queue(clients, codes, requeued):
    """A run that stopped for the time limit and is lost, or a wrong configuration that comes back for ever."""
    launch = rendered("slurm", "h100-16", retries=2)
    for code in codes:
        clients.add_script("famjax", f"#!/bin/bash\nexit $((SLURM_PROCID ? {code} : 0))\n")
        assert run(clients, launch).returncode == code
    assert clients.calls("scontrol") == [["requeue", "77"]] * requeued


@pytest.mark.parametrize("state", ["COMPLETING\n", "CANCELLED\n", ""])
@pytest.mark.parametrize("code", [143, 1])
def test_a_cancelled_job_stays_cancelled(clients, state, code):
    """`scancel` stops the processes as the time limit does: the script puts what it ended back into the queue."""
    clients.add("squeue", (0, state))
    clients.add_script("famjax", f"#!/bin/bash\nexit {code}\n")
    process = run(clients, rendered("slurm", "h100-16", retries=2))
    assert process.returncode == code
    assert clients.calls("squeue") == [["--noheader", "--jobs=77", "--format=%T"]]
    assert clients.calls("scontrol") == []
    assert f"the job's state is {state.strip() or 'unknown'}, not RUNNING: not started again." in process.stdout


def test_the_memory_of_gpus_is_used(clients):
    """A plan that fits into 80 GB, and a run that ends for want of memory at 75 % of them, which is jax's default."""
    clients.add_script("famjax", '#!/bin/bash\necho "fraction $XLA_PYTHON_CLIENT_MEM_FRACTION"\n')
    assert run(clients, rendered("slurm", "h100-16")).stdout.count("fraction 0.9") == 2
    own = rendered("slurm", "h100-16", env=("XLA_PYTHON_CLIENT_MEM_FRACTION=.5",))
    assert run(clients, own).stdout.count("fraction .5") == 2


def test_stopping_is_left_to_the_processes(clients):
    """A SIGTERM to the whole job ends the script before it has put the run back into the queue."""
    clients.add_script("famjax", STOPPED)
    assert run(clients, rendered("slurm", "h100-16", setup="export SCRIPT=$$")).returncode == 143
    assert clients.calls("scontrol") == [["requeue", "77"]]


def test_setting_up_may_ask_for_variables_that_are_not_set(clients):
    """`module load` and `conda activate`, which end a script that forbids it."""
    clients.add_script("famjax", "#!/bin/bash\nexit 0\n")
    assert run(clients, rendered("slurm", "h100-16", setup="test -z $NOT_SET_ANYWHERE")).returncode == 0


@pytest.mark.parametrize(
    ("name", "run", "tasks", "cpus", "memory"),
    [("h100-4", RUN, 4, "12", "200G"), ("h100-16", RUN, 8, "12", "400G"), ("h100-4", INFER, 1, "48", "200G")],
)
def test_cpus_and_memory(name, run, tasks, cpus, memory):
    """A cluster's defaults, often one CPU and a few GiB: a run that waits for its data, or is killed for memory."""
    script = rendered("slurm", name, run, cpus_per_gpu=12, memory_per_gpu=50).files["job.sh"]
    found = directives(script)
    assert (found["ntasks-per-node"], found["cpus-per-task"], found["mem"]) == (str(tasks), cpus, memory)
    assert re.search(rf"^srun .*--cpus-per-task={cpus} ", script, re.MULTILINE)  # srun asks the cluster anew
    found = directives(rendered("slurm", name, run).files["job.sh"])
    assert int(found["cpus-per-task"]) * tasks >= 4 * int(found["gpus-per-node"])


@pytest.mark.parametrize("name", ["h100-4", "h100-16"])
def test_directives_of_a_run(name):
    """GPUs that no process uses, a run that is not warned of the time limit, a log that a second start erases."""
    found = directives(
        rendered("slurm", name, partition="gpu", account="us", time_limit="2-00:00:00", grace_seconds=600).files[
            "job.sh"
        ]
    )
    gpus = int(name.split("-")[1])
    assert int(found["nodes"]) * int(found["ntasks-per-node"]) == gpus
    assert found["gpus-per-node"] == found["ntasks-per-node"]
    assert (found["signal"], found["time"], found["open-mode"]) == ("TERM@600", "2-00:00:00", "append")
    assert (found["partition"], found["account"], found["requeue"]) == ("gpu", "us", "")
    assert found["output"] == "launched/tiny/%j.log"


def test_directives_of_a_scan():
    """Processes of one part that take parts of their own, or logs of all parts in one file."""
    script = rendered("slurm", "h100-4", SCAN, shards=8).files["job.sh"]
    found = directives(script)
    assert (found["array"], found["nodes"], found["ntasks-per-node"]) == ("0-7", "1", "1")
    assert (found["gpus-per-node"], found["output"]) == ("4", "launched/tiny/%A_%a.log")
    assert "SCAN_SHARD" not in script  # Slurm's own variables say which part


def test_famjax_itself_runs(clients, tmp_path):
    """A command line that famjax refuses: quotes that are lost on the way from a user to a process on a node."""
    clients.add_script("famjax", FAMJAX.format(python=sys.executable))
    (tmp_path / "mine.gin").write_text("BATCH_SIZE = 4\n")
    launch = rendered("slurm", "h100-16", [*RUN, "--gin_file=mine.gin"])
    (tmp_path / "mine.gin").write_text("BATCH_SIZE = 0\n")
    process = run(clients, launch)
    assert process.returncode == 2
    assert process.stderr.count("DataConfig.batch_size = 0; allowed: 1 or more.") == 2
    assert clients.calls("scontrol") == []


@pytest.mark.pods
def test_two_tasks_train_one_model(clients, tmp_path):
    """Two tasks that do not find each other train two models, or wait for ever; a done run that is begun again."""
    clients.add_script("famjax", FAMJAX.format(python=sys.executable))
    launch = rendered("slurm", "h100-2", SMALL, env=("XLA_FLAGS=--xla_force_host_platform_device_count=1",))
    process = run(clients, launch, seconds=600)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("step 3/3") == 1
    assert list((tmp_path / "runs" / "pair").glob("checkpoint_*"))
    assert clients.calls("scontrol") == []
