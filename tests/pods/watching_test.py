"""The watch over a process: it ends where it hangs, and where another process has failed or is lost."""

import dataclasses
import json
import threading
import time

import jax
import pytest
from etils import epath

from famjax.errors import DataError, Stopped
from famjax.pods import coordination, watching
from famjax.pods.heartbeats import Process
from famjax.pods.hosts_config import HostsConfig
from famjax.pods.watching import TRAINING, Watch
from famjax.training.stopping import StopSignal

FAST = HostsConfig(heartbeat_seconds=0.02, lost_seconds=0.4, step_seconds=None, phase_seconds=None)


class Ended:
    """Stands in for the end of the process."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self._event = threading.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self._event.set()

    def wait(self, seconds: float = 20.0) -> bool:
        return self._event.wait(seconds)


@pytest.fixture
def ended() -> Ended:
    """How the process has ended."""
    return Ended()


def heartbeat(folder) -> dict:
    """Of process 0."""
    return json.loads((folder / "hosts" / "process_0.json").read_text())


def test_a_heartbeat_says_where_the_process_is(tmp_path, ended):
    """Guards against a phase or a step that stands still in the file while the run goes on."""
    with Watch(FAST, epath.Path(tmp_path), StopSignal(), exit_process=ended) as watch:
        assert heartbeat(tmp_path)["phase"] == "starting"
        with watch.doing(TRAINING):
            watch.step_finished(3)
            with watch.doing("saving"):
                time.sleep(0.3)
                assert (heartbeat(tmp_path)["phase"], heartbeat(tmp_path)["step"]) == ("saving", 3)
            time.sleep(0.3)
            assert heartbeat(tmp_path)["phase"] == "training"
    assert heartbeat(tmp_path)["phase"] == "ended"
    assert not ended.codes


@pytest.mark.parametrize("left", [None, "metrics.jsonl", "hosts/process_1.json"])
def test_a_refused_job_leaves_nothing(tmp_path, ended, left):
    """Guards against folders of heartbeats alone behind every mistyped flag, and against the loss of anything else."""
    folder = tmp_path / "new" / "job"

    def refuse():
        with Watch(FAST, epath.Path(folder), StopSignal(), exit_process=ended):
            assert heartbeat(folder)["phase"] == "starting"
            if left is not None:
                (folder / left).touch()
            raise DataError("no such task")

    with pytest.raises(DataError):
        refuse()
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == {None: [], "metrics.jsonl": ["hosts/process_0.json", left]}.get(left, [left])
    assert folder.exists() == (left is not None)
    (tmp_path / "empty").mkdir()
    folder, left = tmp_path / "empty", None
    with pytest.raises(DataError):
        refuse()
    assert not list(folder.iterdir())


def test_a_heartbeat_that_cannot_be_written(tmp_path, ended, monkeypatch, caplog):
    """Guards against a full disk that ends the run, or that nobody hears of; and a wrong folder that is told twice."""
    (tmp_path / "file").touch()
    with Watch(FAST, epath.Path(tmp_path / "file"), StopSignal(), exit_process=ended):
        time.sleep(0.3)
    assert "heartbeat" not in caplog.text

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with Watch(FAST, epath.Path(tmp_path), StopSignal(), exit_process=ended):
        monkeypatch.setattr(watching, "write_heartbeat", fail)
        time.sleep(0.3)
    assert "the heartbeat file cannot be written ([Errno 28]" in caplog.text
    assert not ended.codes


@pytest.mark.parametrize("limit", ["step_seconds", "phase_seconds"])
def test_a_hang_ends_the_process(tmp_path, ended, capsys, limit):
    """Guards against a job that hangs for ever, and against a long compilation that is taken for a hanging step."""
    config = dataclasses.replace(FAST, **{limit: 2.0})
    with Watch(config, epath.Path(tmp_path), StopSignal(), exit_process=ended) as watch:
        with watch.doing(TRAINING if limit == "phase_seconds" else "compiling"):
            time.sleep(2.5)
        assert not ended.codes, "another limit"
        with watch.doing(TRAINING if limit == "step_seconds" else "compiling"):
            for step in range(8):
                time.sleep(0.3)
                watch.step_finished(step)
            for _ in range(8):
                time.sleep(0.3)
                watch.went_on()
            assert not ended.codes, "every step, or other part, begins the time anew"
            assert ended.wait()
    assert ended.codes == [7]
    message = capsys.readouterr().err
    assert "for 2 s" in message
    assert f"--gin.HostsConfig.{limit}" in message
    assert "after step 7" in message
    stacks = (tmp_path / "hosts" / "process_0.stacks.txt").read_text()
    assert str(tmp_path) in message
    assert "test_a_hang_ends_the_process" in stacks, "the main thread's"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("broken", ["tempfile.TemporaryFile", "sys.stderr.write"])
def test_a_hang_ends_the_process_whatever_else_fails(tmp_path, ended, monkeypatch, broken):
    """Guards against a thread that dies of a full disk, or of a terminal that is gone, before it ends the process."""

    def fail(*arguments, **settings):
        raise OSError(28, "No space left on device")

    module, _, name = broken.rpartition(".")
    monkeypatch.setattr({"tempfile": watching.tempfile, "sys.stderr": watching.sys.stderr}[module], name, fail)
    with Watch(dataclasses.replace(FAST, phase_seconds=0.2), epath.Path(tmp_path), StopSignal(), exit_process=ended):
        assert ended.wait()
    assert ended.codes == [7]


class Others:
    """Stands in for the coordination service: one other process, whose lines the test writes."""

    def __init__(self, monkeypatch) -> None:
        self.own: list[dict] = []
        self.line = {"watch": None, "status": "running", "place": "training, after step 5", "stop": ""}
        self.beats = True
        self._beat = 0
        monkeypatch.setattr(watching, "_POLL_SECONDS", 0.02)
        monkeypatch.setattr(watching, "_LINGER_SECONDS", 0.1)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(coordination, "is_connected", lambda: True)
        monkeypatch.setattr(coordination, "tell", lambda text: self.own.append(json.loads(text)))
        monkeypatch.setattr(coordination, "told", self.told)

    def told(self) -> dict[int, str]:
        self._beat += self.beats
        process = dataclasses.asdict(Process(1, 2, "node-1", 5))
        watch = self.own[-1]["watch"] if self.line["watch"] is None else self.line["watch"]
        return {1: json.dumps({"process": process, "beat": self._beat, **self.line, "watch": watch})}


@pytest.fixture
def others(monkeypatch) -> Others:
    """See there."""
    return Others(monkeypatch)


def test_a_failure_takes_the_others_along(tmp_path, ended, others, capsys):
    """Guards against hosts that wait for one whose data cannot be read, and against another exit code than its own."""
    with Watch(FAST, epath.Path(tmp_path), StopSignal(), exit_process=ended):
        time.sleep(0.2)
        assert not ended.codes
        others.line |= {"status": "failed", "code": 3, "message": "no such file"}
        assert ended.wait()
    assert ended.codes == [3]
    assert "process 1 of 2 (node-1) has ended (training, after step 5): no such file" in capsys.readouterr().err
    assert not (tmp_path / "hosts" / "process_0.stacks.txt").exists()


def test_a_silent_process_is_lost(tmp_path, ended, others, capsys):
    """Guards against waiting for a machine that is gone; one that has finished may be silent."""
    with Watch(FAST, epath.Path(tmp_path), StopSignal(), exit_process=ended):
        time.sleep(0.6)
        assert not ended.codes, "it speaks"
        others.beats = False
        assert ended.wait()
    assert ended.codes == [7]
    assert "process 1 of 2 (node-1) has not been heard of for" in capsys.readouterr().err
    assert others.own[-1]["status"] == "failed", "so that the others need not find out by themselves"


def test_a_signal_reaches_every_process(tmp_path, ended, others):
    """Guards against a SIGTERM that only its own host knows of, and one of an earlier run in the same process."""
    stop = StopSignal()
    with Watch(FAST, epath.Path(tmp_path), stop, exit_process=ended):
        others.line |= {"stop": "SIGTERM", "watch": -1}
        time.sleep(0.2)
        assert not stop.requested
        others.line["watch"] = None
        time.sleep(0.3)
        assert stop.name == "SIGTERM"
        assert others.own[-1]["stop"] == "SIGTERM"
        others.line["status"] = "finished"


def test_the_end_waits_for_all(tmp_path, ended, others):
    """Guards against a process 0 that leaves, and ends the others with it, while they still work on their cells."""
    left = threading.Event()

    def run() -> None:
        with (
            pytest.raises(Stopped),
            Watch(FAST, epath.Path(tmp_path), StopSignal(), exit_process=ended),
        ):
            raise Stopped
        left.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert not left.wait(0.5)
    assert others.own[-1]["status"] == "finished"
    others.line["status"] = "finished"
    assert left.wait(20)
    thread.join()
    assert not ended.codes


@pytest.mark.parametrize(
    ("error", "told"), [(DataError("line 3"), (3, "line 3")), (ValueError("gloo"), None), (KeyError(), None)]
)
def test_an_error_is_told(tmp_path, ended, others, monkeypatch, error, told):
    """Guards against others who wait for a process that has failed.

    The death of another process is an error in this one: it waits to hear of it, and ends with that message.
    """
    others.beats = told is not None
    monkeypatch.setattr(watching, "_LINGER_SECONDS", 0.5)  # A busy machine's threads are late.
    with pytest.raises(type(error)), Watch(FAST, epath.Path(tmp_path), StopSignal(), exit_process=ended):
        raise error
    if told is not None:
        assert (others.own[-1]["code"], others.own[-1]["message"]) == told
        assert not ended.codes
    else:
        assert ended.codes == [7]
