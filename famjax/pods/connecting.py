"""Several processes, one job: found in the flags or the environment, and connected by jax.distributed.

A process that never starts leaves the others waiting: jax ends these without a word on who is missing. So every process
writes its heartbeat file (`famjax.pods.heartbeats`) while it waits, and who waits too long reads the others'.
"""

import ctypes
import dataclasses
import functools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import jax
from etils import epath
from jax._src import clusters

from famjax.errors import CheckpointError, ConfigError, HostsError
from famjax.pods.coordination import said_by_all
from famjax.pods.heartbeats import FOLDER, Process, read_heartbeats, write_heartbeat
from famjax.pods.hosts_config import HostsConfig

# jax's names. Its Kubernetes cluster is left out: it takes every Indexed Job for one job of several processes.
_CLUSTERS = {"gketpu": "GKE (TPU)", "gcetpu": "TPU VMs", "slurm": "Slurm", "ompi": "Open MPI"}
_BEAT_SECONDS = 2.0
_CONNECTING, _STARTING_DEVICES = "connecting", "starting its devices"
# jax's own limits come after ours, since it ends the process.
_JAX_EXTRA_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class JobAddress:
    """A process's place in its job.

    Attributes:
      coordinator: "host:port" of process 0, through which the processes find each other.
      count: of processes.
      index: of this one.
      source: who says so.
      local_devices: which of the machine's devices are this process's; None: all.
    """

    coordinator: str
    count: int
    index: int
    source: str = "the flags"
    local_devices: tuple[int, ...] | None = None


def find_job(coordinator: str | None, count: int | None, index: int | None, wait_seconds: float) -> JobAddress | None:
    """This process's place in a job of several; None where it is alone.

    Args:
      coordinator: --coordinator_address; None where it is not given, as the next two. Without any of them a TPU pod, a
        GKE JobSet on TPUs, Slurm and Open MPI are asked.
      count: --process_count.
      index: --process_index.
      wait_seconds: for the name of the coordinator to be known in the network, on TPUs.

    Raises:
      ConfigError: flags that lack others, or are out of range.
      HostsError: the coordinator's name is not known.
    """
    if (coordinator, index) == (None, None) and count == 1:
        return None
    if (coordinator, count, index) == (None, None, None):
        return _detect(wait_seconds)
    return _from_flags(coordinator, count, index)


def _from_flags(coordinator: str | None, count: int | None, index: int | None) -> JobAddress | None:
    given = {"coordinator_address": coordinator, "process_count": count, "process_index": index}
    if missing := [f"--{name}" for name, value in given.items() if value is None]:
        there = ", ".join(f"--{name}" for name, value in given.items() if value is not None)
        raise ConfigError(f"{there} without {', '.join(missing)}: several processes of one job need all three.")
    assert coordinator is not None
    assert count is not None
    assert index is not None
    if count < 1 or not 0 <= index < count:
        raise ConfigError(f"--process_index={index}, --process_count={count}; allowed: 0 to --process_count - 1.")
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ConfigError(f"--coordinator_address={coordinator}; expected process 0's host:port, as 10.0.0.1:8476.")
    return JobAddress(coordinator, count, index) if count > 1 else None


def _detect(wait_seconds: float) -> JobAddress | None:
    """What the cluster says, by jax's detection; None outside of a cluster, and for one process."""
    kinds = clusters.ClusterEnv._cluster_types  # noqa: SLF001 (jax offers the detection as a part of its own start only)
    try:
        cluster = next((kind for kind in kinds if kind.name in _CLUSTERS and kind.is_env_present()), None)
    except OSError as error:  # A machine with TPUs is asked for its metadata, which only Google's have.
        raise HostsError(
            f"Whether this process has others cannot be found out ({_first_line(error)}). Set --process_count=1 for a "
            "process by itself, or --coordinator_address, --process_count and --process_index."
        ) from error
    if cluster is None:
        return None
    source = _CLUSTERS[cluster.name]
    try:
        count = cluster.get_process_count()
        if count == 1:
            return None
        port = os.environ.get("JAX_COORDINATOR_PORT")
        coordinator = cluster.get_coordinator_address(int(wait_seconds), port)
        return JobAddress(coordinator, count, cluster.get_process_id(), source, _local_devices(cluster, os.environ))
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        raise HostsError(
            f"{source} is detected, but does not say where this process's job is ({error}). Set --coordinator_address, "
            "--process_count and --process_index, or --process_count=1 for a process by itself."
        ) from error


def _local_devices(cluster: type[clusters.ClusterEnv], environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """One device for a process where a machine has several processes, as jax does; all for one that has it alone."""
    local = cluster.get_local_process_id()
    if local is None:
        return None
    slurm, mpi = environment.get("SLURM_STEP_TASKS_PER_NODE", ""), environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    is_alone = mpi == "1" if cluster.name == "ompi" else re.fullmatch(r"1(\(x\d+\))?", slurm) is not None
    return None if is_alone else (local,)


def connect(job: JobAddress, config: HostsConfig, folder: epath.Path) -> None:
    """Connects this process with the others of its job, and starts its devices, before jax is used for anything else.

    The devices of a slice start together: where a process is gone by then, or its chips cannot be had, the others would
    wait in native code, where nothing but a limit beside it ends them.

    Args:
      job: this process's place in it.
      config: time limits.
      folder: of the job, which all processes see; heartbeat files are below it.

    Raises:
      HostsError: some processes did not start in time, or were gone before all had their devices (they are named), or
        do not reach each other; or this process gets no devices.
      ConfigError: they were told different numbers of processes.
      CheckpointError: the folder cannot be written.
    """
    process = Process(job.index, job.count)
    seconds, beat = config.connect_seconds, min(_BEAT_SECONDS, config.heartbeat_seconds)
    connected = _run_beside(functools.partial(_initialize, job, config), folder, process, _CONNECTING, seconds, beat)
    if not connected.done():
        raise HostsError(_who_is_missing(job, config, folder, process, beat))
    error = connected.exception()
    if isinstance(error, ConfigError):
        raise error
    if error is not None:
        raise HostsError(f"{process} cannot join its job at {job.coordinator}: {_first_line(error)}") from error
    _tell_of_aborts(process)
    started = _run_beside(jax.devices, folder, process, _STARTING_DEVICES, seconds, beat)
    if not started.done():
        raise HostsError(_whose_devices_are_missing(config, folder, process))
    if error := started.exception():
        raise HostsError(f"{process} gets no devices: {_first_line(error)}") from error


def _run_beside(
    work: Callable[[], Any], folder: epath.Path, process: Process, phase: str, seconds: float, beat: float
) -> "futures.Future[Any]":
    """Runs something on another thread, with heartbeats meanwhile; what came of it, or nothing after the time."""
    outcome: futures.Future[Any] = futures.Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 (told by the thread that waits)
            outcome.set_exception(error)

    threading.Thread(target=run, name=f"famjax-{phase}", daemon=True).start()
    deadline = time.monotonic() + seconds
    while not outcome.done() and time.monotonic() <= deadline:
        _beat(folder, process, phase)
        futures.wait([outcome], timeout=beat)
    return outcome


def _initialize(job: JobAddress, config: HostsConfig) -> None:
    # A signal is the loop's to handle (famjax.training.stopping), and the hosts agree on it themselves.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        job.coordinator,
        job.count,
        job.index,
        local_device_ids=None if job.local_devices is None else list(job.local_devices),
        cluster_detection_method="deactivate",
        initialization_timeout=int(config.connect_seconds) + _JAX_EXTRA_SECONDS,
        heartbeat_timeout_seconds=int(config.lost_seconds) + _JAX_EXTRA_SECONDS,
    )
    _check_counts(said_by_all(job.index, str(job.count), config.connect_seconds + _JAX_EXTRA_SECONDS))


def _check_counts(said: Mapping[int, str]) -> None:
    """Refuses processes that were told different numbers of them: jax goes by what process 0 was told.

    Raises:
      ConfigError: names the numbers.
    """
    if len(set(said.values())) > 1:
        numbers = ", ".join(f"process {index} one of {count}" for index, count in sorted(said.items()))
        raise ConfigError(
            f"The processes of this job do not agree on how many they are: {numbers}. Start all with the same "
            "--process_count."
        )


def _beat(folder: epath.Path, process: Process, phase: str) -> None:
    try:
        write_heartbeat(folder, process, phase)
    except OSError as error:
        raise CheckpointError(f"{folder / FOLDER} cannot be written ({error.strerror or error}).") from error


def _who_is_missing(job: JobAddress, config: HostsConfig, folder: epath.Path, process: Process, beat: float) -> str:
    missing = _silent(folder, process, _CONNECTING, beat)
    waited = f"{process}, started by {job.source}, waited {config.connect_seconds:g} s"
    if not missing:
        return (
            f"{waited}: all processes have started, but not all reach {job.coordinator}, where process 0 waits for "
            "them. Is it the right address, and is the port open?"
        )
    return (
        f"{waited} for the others. Missing: {', '.join(missing)}.\n  A process shows in "
        f"{folder / FOLDER} as soon as it starts; all need the same folder. Where they start late, raise "
        "--gin.HostsConfig.connect_seconds."
    )


def _whose_devices_are_missing(config: HostsConfig, folder: epath.Path, process: Process) -> str:
    # Where the devices have started heartbeats are as rare as in the rest of the run.
    gone = _silent(folder, process, _STARTING_DEVICES, config.heartbeat_seconds)
    who = (
        f"Gone since the processes found each other: {', '.join(gone)}."
        if gone
        else "All processes are there: does a program hold a host's accelerators, and do the hosts reach each other?"
    )
    return (
        f"{process} has joined its job, and waited {config.connect_seconds:g} s for its devices, which start with "
        f"those of all processes. {who}\n  Where they start slowly, raise --gin.HostsConfig.connect_seconds."
    )


def _silent(folder: epath.Path, process: Process, phase: str, beat: float) -> list[str]:
    """The other processes whose heartbeat file does not change any more, or is of an earlier run, or is not there."""
    before = read_heartbeats(folder, process.count)
    until = time.monotonic() + 2 * beat + 1
    while time.monotonic() < until:
        _beat(folder, process, phase)
        time.sleep(min(beat, _BEAT_SECONDS) / 2)
    after = read_heartbeats(folder, process.count)

    def name(index: int) -> str:
        last = after.get(index)
        where = f"last seen on {last['host']}" if last else "never seen"
        return f"process {index} ({where})"

    others = (index for index in range(process.count) if index != process.index)
    return [name(index) for index in others if before.get(index) == after.get(index)]


_kept: list[Any] = []


def _tell_of_aborts(process: Process) -> None:
    """Gives an abort an exit code and a line.

    jax's client aborts the process, from a thread of its own, as soon as process 0 is gone, and calls no Python.
    """

    def on_abort(number: int) -> None:
        del number
        sys.stderr.write(
            f"{process}: aborted. Process 0 of the job, or its machine, has ended if the lines above say nothing else; "
            "the same command on all hosts goes on from the last checkpoint.\n"
        )
        sys.stderr.flush()
        os._exit(HostsError.exit_code)

    handler_type = ctypes.CFUNCTYPE(None, ctypes.c_int)
    handler: Callable[[int], None] = handler_type(on_abort)
    _kept.append(handler)  # C does not keep it alive.
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, handler_type], ctypes.c_void_p
    libc.signal(signal.SIGABRT, handler)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
