"""`--run_mode=scan`: resumed, shared, watched, and with all that a user can get wrong."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from famjax.errors import CellsFailed, CheckpointError, ConfigError, Stopped
from famjax.evaluation.report.writing import Report
from famjax.evaluation.scan import running
from famjax.evaluation.scan.config import WatchConfig
from famjax.evaluation.scan.running import scan
from famjax.inference.compiling import compile_step
from famjax.inference.config import MemoryOverrides
from scan_folders import fake_entry, make_scan, write_checkpoint, write_runs

WORKER = Path(__file__).parent / "scan_worker.py"


class Evaluator:
    """A stand-in: evaluates in no time, and does what a test wants on the way."""

    def __init__(self, job, output_dir):
        self.restored = 0

    def evaluate(self, cell, asked):
        self.before(cell)
        seen.append(cell)
        return fake_entry(cell, self.error(cell))

    def before(self, cell):
        pass

    def error(self, cell):
        return ""


seen: list = []
printed: list = []


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """Cells are made up, and no report is drawn. Returns the folders that a report was asked for."""
    seen.clear()
    printed.clear()
    reports = []
    for name in ("SCAN_SHARD", "JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(running, "Evaluator", Evaluator)

    def write_report(folders, output_dir, **settings):
        reports.append((folders, output_dir, settings))
        return mock.Mock(spec=Report)

    monkeypatch.setattr(running, "write_report", write_report)
    monkeypatch.setattr(running, "print_report", printed.append)
    return reports


@pytest.fixture
def job(tmp_path):
    """A scan of eight cells."""
    write_runs(tmp_path)
    return make_scan(tmp_path)


def results(folder):
    """The bytes of results.jsonl."""
    return (Path(folder) / "results.jsonl").read_bytes()


@pytest.fixture
def undisturbed(job, tmp_path):
    """The results of a scan that nothing happened to."""
    scan(dataclasses.replace(job, output_dir=str(tmp_path / "undisturbed")))
    seen.clear()
    return results(tmp_path / "undisturbed")


def test_results_and_report(job, tmp_path, stand_ins, capsys):
    """Guards against a scan whose results lack a cell, and against results that are returned and not written."""
    returned = scan(dataclasses.replace(job, title="Keys", trained_lengths=(128, 256)))
    assert [json.loads(line) for line in results(job.output_dir).splitlines()] == returned
    assert len(returned) == 8
    folder = tmp_path / "scan"
    assert stand_ins == [([folder], folder / "report", {"title": "Keys", "trained_lengths": (128, 256)})]
    output = capsys.readouterr().out
    assert "8/8 eta 0:00 BSWA 1  C=8 M=1 F=0  passkey  length 320  depth 1: exact_match" in output
    assert f"results: {folder / 'results.jsonl'}" in output
    assert len(printed) == 1


def test_a_finished_scan_again(job, undisturbed):
    """Guards against a second run that evaluates anything, or whose results differ."""
    scan(job)
    seen.clear()
    assert len(scan(job)) == 8
    assert seen == []
    assert results(job.output_dir) == undisturbed


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed(job, undisturbed, monkeypatch, signal_number):
    """Guards against a cell that is lost or evaluated twice where a scheduler stops a scan."""

    def before(self, cell):
        if len(seen) == 3:
            signal.raise_signal(signal_number)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "before", before)
        with pytest.raises(Stopped, match=r"stopped after 4 of 8 cells; the same command goes on") as error:
            scan(job)
    assert error.value.exit_code == 143
    assert len(seen) == 4, "the cell under way is finished"
    assert not (Path(job.output_dir) / "results.jsonl").exists()
    scan(job)
    assert len({cell.key for cell in seen}) == len(seen) == 8
    assert results(job.output_dir) == undisturbed


def test_stopped_while_it_compiles(job, undisturbed, monkeypatch, capsys):
    """Guards against a scan that is silent and deaf to SIGTERM for minutes while a cell's steps are compiled."""
    release = threading.Event()

    def compile_for_ever():
        signal.raise_signal(signal.SIGTERM)
        release.wait(60)

    def before(self, cell):
        if len(seen) == 3:
            compile_step(compile_for_ever, is_first=True)

    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "before", before)
        with pytest.raises(Stopped, match=r"stopped after 3 of 8 cells; the same command goes on") as error:
            scan(job)
    release.set()
    assert time.monotonic() - began < 50
    assert error.value.exit_code == 143
    assert capsys.readouterr().out.count("depth 1: compiling the steps that read and answer") == 1
    scan(job)
    assert results(job.output_dir) == undisturbed


def test_shared(job, undisturbed, monkeypatch, capsys):
    """Guards against shards whose results differ from those of one process, and against a result that nobody writes."""
    monkeypatch.setenv("SCAN_SHARD", "1/2")
    assert len(scan(job)) == 4
    assert "4 of 8 cells are with other processes; the last one writes the results." in capsys.readouterr().out
    assert not (Path(job.output_dir) / "results.jsonl").exists()
    monkeypatch.setenv("SCAN_SHARD", "0/2")
    assert len(scan(job)) == 8
    assert len({cell.key for cell in seen}) == len(seen) == 8
    assert results(job.output_dir) == undisturbed


def test_another_number_of_processes(job, undisturbed, monkeypatch):
    """Guards against cells that are evaluated again where a scan is resumed by more processes."""
    scan(dataclasses.replace(job, shard="0/2"))
    for index in range(3):
        scan(dataclasses.replace(job, shard=f"{index}/3"))
    assert len({cell.key for cell in seen}) == len(seen) == 8
    assert results(job.output_dir) == undisturbed


def test_failing_cells(job, undisturbed, monkeypatch, capsys, stand_ins):
    """Guards against a failure that ends the scan, that the exit code hides, or that is not tried again."""
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "error", lambda self, cell: "DataError: no" if cell.depth == 1.0 else "")
        with pytest.raises(
            CellsFailed, match=r"4 of 8 cells failed; .*The first: FAM 1 .*depth 1: DataError: no"
        ) as error:
            scan(job)
    assert error.value.exit_code == 6
    assert "failed: FAM 1" in capsys.readouterr().out
    lines = [json.loads(line) for line in results(job.output_dir).splitlines()]
    assert [line["status"] for line in lines] == ["done", "failed"] * 4
    assert len(stand_ins) == 2, "undisturbed, and of what is done"
    assert lines[1]["error"] == "DataError: no"
    seen.clear()
    scan(job)
    assert len(seen) == 4, "the same command tries the failed cells again, and no others"
    assert results(job.output_dir) == undisturbed


def test_all_cells_failed(job, monkeypatch, stand_ins):
    """Guards against a report of nothing, whose own error hides why the cells failed."""
    monkeypatch.setattr(Evaluator, "error", lambda self, cell: "DataError: no")
    with pytest.raises(CellsFailed, match="8 of 8 cells failed"):
        scan(job)
    assert len(results(job.output_dir).splitlines()) == 8
    assert stand_ins == []


def test_a_grid_that_grows(job, undisturbed):
    """Guards against results that are thrown away where a length is added."""
    scan(job)
    seen.clear()
    grown = scan(dataclasses.replace(job, lengths=(256, 320, 384)))
    assert {cell.length for cell in seen} == {384}
    assert len(grown) == 12
    assert [line for line in results(job.output_dir).splitlines() if json.loads(line)["length"] != 384] == (
        undisturbed.splitlines()
    )


def test_cells_that_two_runs_share(job, tmp_path, undisturbed):
    """Guards against one evaluation for each name, where the same checkpoint has two."""
    checkpoints = {**job.checkpoints, "again": job.checkpoints["FAM"]}
    assert len(scan(dataclasses.replace(job, checkpoints=checkpoints))) == 12
    assert len(seen) == 8


def test_mistakes(job, tmp_path):
    """Guards against a mistake that is recorded as failed cells, or found after others are evaluated."""
    for changes, kind, message in (
        ({"checkpoints": (str(tmp_path / "fam"), str(tmp_path / "nowhere"))}, CheckpointError, "nowhere"),
        ({"lengths": (256, 32)}, ConfigError, "32 tokens"),
        ({"tasks": ("paskey",)}, ConfigError, "no task 'paskey': did you mean passkey"),
        ({"tasks": ("associative_recall",), "depths": (0.5,)}, ConfigError, "takes no depth"),
        ({"shard": "2/2"}, ConfigError, "out of range"),
        ({"module": "there_is_no_such_module"}, ConfigError, r"MIXTURE_OR_TASK_MODULE"),
        (
            {"memories": (MemoryOverrides(),), "output_dir": str(tmp_path / "fam/checkpoint_1/checksums.json")},
            CheckpointError,
            "cannot be written",
        ),
    ):
        with pytest.raises(kind, match=message):
            scan(dataclasses.replace(job, **changes))
    assert seen == []


def test_another_vocabulary(job, tmp_path):
    """Guards against ids of one vocabulary that are read as those of another."""
    write_checkpoint(tmp_path / "other", 1, vocabulary="other bytes")
    with pytest.raises(ConfigError, match="another vocabulary"):
        scan(dataclasses.replace(job, checkpoints=str(tmp_path / "other")))


def test_the_results_of_another_grid(job):
    """Guards against a folder in which two scans mix."""
    scan(job)
    before = results(job.output_dir)
    with pytest.raises(ConfigError, match=r"the results of another grid.*lengths: there"):
        scan(dataclasses.replace(job, lengths=(300,)))
    assert results(job.output_dir) == before


def test_a_watched_run(tmp_path, monkeypatch, capsys):
    """Guards against a checkpoint that is evaluated twice or never, and against a scan that does not end."""
    watch = WatchConfig(poll_seconds=0.01, idle_seconds=60, last_step=3)
    job = make_scan(tmp_path, checkpoints={"FAM": str(tmp_path / "fam")}, watch=watch, lengths=(256,))
    looks = []
    real = running.Watcher.wait

    def wait(self, stop):
        looks.append(len(seen))
        if len(looks) <= 3:
            write_checkpoint(tmp_path / "fam", len(looks))
        real(self, stop)

    monkeypatch.setattr(running.Watcher, "wait", wait)
    returned = scan(job)
    assert looks == [0, 2, 4], "each as it appears"
    assert [(result["step"], result["depth"]) for result in returned] == [(s, d) for s in (1, 2, 3) for d in (0.0, 1.0)]
    assert len(results(job.output_dir).splitlines()) == 6
    assert f"waiting for checkpoints in {tmp_path / 'fam'}; ends in 1:00 at the latest" in capsys.readouterr().out
    watched = results(job.output_dir)
    other = dataclasses.replace(job, output_dir=str(tmp_path / "other"), watch=None, every=1)
    scan(other)
    assert results(other.output_dir) == watched, "as a scan after the training"


def test_a_watched_run_that_deletes_checkpoints(tmp_path, monkeypatch):
    """Guards against a scan that fails because the training keeps its latest checkpoints only; it is recorded."""
    watch = WatchConfig(poll_seconds=0.01, idle_seconds=60, last_step=2)
    job = make_scan(tmp_path, checkpoints={"FAM": str(tmp_path / "fam")}, watch=watch, lengths=(256,))
    for step in (1, 2):
        write_checkpoint(tmp_path / "fam", step)

    def before(self, cell):
        if cell.checkpoint.step == 1:
            shutil.rmtree(tmp_path / "fam" / "checkpoint_1", ignore_errors=True)

    monkeypatch.setattr(Evaluator, "before", before)
    monkeypatch.setattr(Evaluator, "error", lambda self, cell: "" if cell.checkpoint.exists else "gone")
    returned = scan(job)
    assert [(result["step"], result["status"]) for result in returned] == [(1, "failed")] * 2 + [(2, "done")] * 2
    seen.clear()
    scan(job)
    assert seen == [], "what is gone is not tried again"


def test_a_shared_watch(tmp_path, monkeypatch):
    """Guards against shards of a watch that evaluate all of a checkpoint each, or leave cells to nobody."""
    watch = WatchConfig(poll_seconds=0.01, idle_seconds=60, last_step=2)
    job = make_scan(tmp_path, watch=watch)
    write_runs(tmp_path, 1, 2)
    scan(dataclasses.replace(job, shard="0/2"))
    assert [(cell.checkpoint.name, cell.checkpoint.step) for cell in seen[::2]] == [
        ("FAM", 1),
        ("FAM", 2),
        ("BSWA", 1),
        ("BSWA", 2),
    ], "half of each checkpoint"
    scan(dataclasses.replace(job, shard="1/2"))
    assert len({cell.key for cell in seen}) == len(seen) == 16
    assert len(results(job.output_dir).splitlines()) == 16


def test_stopped_while_it_waits(tmp_path, monkeypatch):
    """Guards against a watch that cannot be stopped."""
    watch = WatchConfig(poll_seconds=60, idle_seconds=600)
    job = make_scan(tmp_path, watch=watch)
    real = running.Watcher.wait

    def wait(self, stop):
        signal.raise_signal(signal.SIGTERM)
        real(self, stop)

    monkeypatch.setattr(running.Watcher, "wait", wait)
    with pytest.raises(Stopped):
        scan(job)


def test_killed_and_shared_by_processes(job, undisturbed, tmp_path):
    """Guards against half a line of a killed process, against shards that write at once, and against lost cells.

    The processes are real ones; the first is killed by SIGKILL in the middle of writing a line.
    """

    def start(*arguments):
        command = [sys.executable, str(WORKER), str(tmp_path), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    killed = start("killed", "", "3")
    output, _ = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, output
    (ledger,) = (tmp_path / "killed" / "ledger").iterdir()
    lines = ledger.read_bytes().splitlines(keepends=True)
    assert [line.endswith(b"\n") for line in lines] == [True, True, True, False]
    resumed, *shards = [start("killed", ""), start("shared", "0/2"), start("shared", "1/2")]
    for process in (resumed, *shards):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    assert results(tmp_path / "killed") == undisturbed
    assert results(tmp_path / "shared") == undisturbed
    assert len(list((tmp_path / "shared" / "ledger").iterdir())) == 2
