"""Which job a process belongs to, and who is named where one does not start."""

import contextlib
import subprocess
import sys
import threading

import pytest
from etils import epath
from jax._src import clusters

from famjax.errors import CheckpointError, ConfigError, HostsError
from famjax.pods import connecting
from famjax.pods.connecting import JobAddress, connect, find_job
from famjax.pods.heartbeats import Process, write_heartbeat
from famjax.pods.hosts_config import HostsConfig
from process_pair import free_port

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[07-10]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}
MPI = {
    "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.96.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    """Whatever these tests run in."""
    for name in (*SLURM, *MPI):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def environment(monkeypatch):
    """Sets variables."""
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_one_process_starts_nothing(environment):
    """Guards against a laptop, or a batch job of one task, that waits for processes that nobody starts."""
    assert find_job(None, None, None, 1) is None
    assert find_job("10.0.0.1:80", 1, 0, 1) is None
    environment({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    assert find_job(None, None, None, 1) is None


def test_flags_come_first(environment):
    """Guards against a cluster that overrules what the user says."""
    environment(SLURM)
    assert find_job("10.0.0.1:80", 3, 1, 1) == JobAddress("10.0.0.1:80", 3, 1)
    assert find_job(None, 1, None, 1) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, 2, 0), "--process_count, --process_index without --coordinator_address: several processes"),
        ((None, 2, None), "--process_count without --coordinator_address, --process_index"),
        (("a:1", 2, 2), r"--process_index=2, --process_count=2; allowed: 0 to --process_count - 1"),
        (("node-1", 2, 0), r"--coordinator_address=node-1; expected process 0's host:port"),
    ],
)
def test_flags_that_do_not_fit(flags, message):
    """Guards against processes that wait for others because of a missing or misspelled flag."""
    with pytest.raises(ConfigError, match=message):
        find_job(*flags, 1)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (SLURM, JobAddress("node07:61440", 4, 2, "Slurm", None)),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}, "one device: 1"),
        (MPI, "one device: 1"),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "all devices"),
    ],
)
def test_a_cluster_is_found(environment, variables, expected):
    """Guards against a pod whose processes each train alone, and a node of which one device of eight is used."""
    environment(variables)
    found = find_job(None, None, None, 1)
    assert found is not None
    if isinstance(expected, JobAddress):
        assert found == expected
    else:
        assert found.local_devices == {"one device: 1": (1,), "all devices": None}[expected]


def test_a_cluster_that_does_not_say_enough(environment):
    """Guards against a traceback out of jax's detection."""
    environment({**SLURM, "SLURM_PROCID": "two"})
    with pytest.raises(HostsError, match=r"Slurm is detected, but does not say .*--process_count=1"):
        find_job(None, None, None, 1)


def test_a_cluster_that_does_not_answer(monkeypatch):
    """Guards against a traceback on a machine with TPUs that has no metadata server."""

    def ask() -> bool:
        raise ConnectionError("metadata.google.internal: no such host")

    monkeypatch.setattr(clusters.GceTpuCluster, "is_env_present", ask)
    with pytest.raises(HostsError, match=r"\(metadata\.google\.internal: no such host\)\. Set --process_count=1"):
        find_job(None, None, None, 1)


LIMITS = HostsConfig(connect_seconds=0.3, heartbeat_seconds=0.1)


@pytest.fixture
def never(monkeypatch):
    """Nobody answers."""
    monkeypatch.setattr(connecting, "_initialize", lambda job, config: threading.Event().wait(10))


@contextlib.contextmanager
def beating(folder, process, phase):
    """Another process writes its heartbeat again and again."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.02):
            write_heartbeat(folder, process, phase)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_the_missing_are_named(tmp_path, never):
    """Guards against jax's own end of the wait, which names nobody, and against naming the wrong ones."""
    folder = epath.Path(tmp_path)
    write_heartbeat(folder, Process(2, 4, "node-2"), "training", 7)  # of the last run
    with beating(folder, Process(1, 4, "node-1"), "connecting"), pytest.raises(HostsError) as error:
        connect(JobAddress("10.0.0.1:80", 4, 0), LIMITS, folder)
    assert "Missing: process 2 (last seen on node-2), process 3 (never seen)." in str(error.value)
    assert "--gin.HostsConfig.connect_seconds" in str(error.value)
    assert error.value.exit_code == 7


def test_all_are_there_and_do_not_reach_each_other(tmp_path, never):
    """Guards against a closed port that is told as a missing process."""
    with pytest.raises(HostsError, match=r"all processes have started, but not all reach 10\.0\.0\.1:80"):
        connect(JobAddress("10.0.0.1:80", 1, 0), LIMITS, epath.Path(tmp_path))


CONNECT = """
import sys
from etils import epath
from famjax.errors import FamjaxError
from famjax.pods.connecting import JobAddress, connect
from famjax.pods.hosts_config import HostsConfig
index, count, port, folder = sys.argv[1:]
try:
    job = JobAddress(f"localhost:{port}", int(count), int(index))
    connect(job, HostsConfig(connect_seconds=120), epath.Path(folder))
except FamjaxError as error:
    print(f"{error.exit_code}: {error}", flush=True)
"""


def test_processes_that_do_not_agree_on_their_number(tmp_path):
    """Guards against a job of fewer processes than were started, which computes something else without a word."""
    port = str(free_port())
    command = [sys.executable, "-c", CONNECT]
    processes = [
        subprocess.Popen([*command, str(index), count, port, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for index, count in enumerate("23")
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert "2: The processes of this job do not agree on how many they are: " in output
        assert "process 0 one of 2, process 1 one of 3. Start all with the same --process_count." in output


def test_what_jax_says_is_passed_on(tmp_path, monkeypatch):
    """Guards against a port in use that is waited for until the end."""

    def fail(job, config):
        raise RuntimeError("address in use\nand so on")

    monkeypatch.setattr(connecting, "_initialize", fail)
    with pytest.raises(HostsError, match=r"process 0 of 2 .* cannot join its job at a:1: address in use$"):
        connect(JobAddress("a:1", 2, 0), HostsConfig(), epath.Path(tmp_path))


@pytest.fixture
def connected(monkeypatch):
    """All processes have found each other."""
    monkeypatch.setattr(connecting, "_initialize", lambda job, config: None)
    monkeypatch.setattr(connecting, "_tell_of_aborts", lambda process: None)


@pytest.mark.parametrize("all_there", [False, True])
def test_devices_that_do_not_start(tmp_path, connected, monkeypatch, all_there):
    """Guards against a wait in libtpu for a host that has gone, which no signal ends and which names nobody."""
    folder, other = epath.Path(tmp_path), Process(1, 2, "node-1")
    monkeypatch.setattr(connecting.jax, "devices", lambda: threading.Event().wait(10))
    write_heartbeat(folder, other, "connecting")
    beats = beating(folder, other, "starting its devices") if all_there else contextlib.nullcontext()
    with beats, pytest.raises(HostsError) as error:
        connect(JobAddress("10.0.0.1:80", 2, 0), LIMITS, folder)
    assert "has joined its job, and waited 0.3 s for its devices" in str(error.value)
    gone = "Gone since the processes found each other: process 1 (last seen on node-1)."
    assert ("All processes are there: " if all_there else gone) in str(error.value)


def test_devices_that_cannot_be_had(tmp_path, connected, monkeypatch):
    """Guards against a traceback of jax where a host's chips are in use, told as a job that cannot be joined."""

    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu': in use\nmore")

    monkeypatch.setattr(connecting.jax, "devices", fail)
    with pytest.raises(
        HostsError, match=r"process 0 of 2 .* gets no devices: Unable to initialize backend 'tpu': in use$"
    ):
        connect(JobAddress("a:1", 2, 0), LIMITS, epath.Path(tmp_path))


def test_a_folder_that_cannot_be_written(tmp_path, never):
    """Guards against a traceback where MODEL_DIR is wrong."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        connect(JobAddress("a:1", 2, 0), LIMITS, epath.Path(tmp_path / "file"))
