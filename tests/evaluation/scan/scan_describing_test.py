"""The dry run of a scan."""

import dataclasses

import pytest

from famjax.errors import CheckpointError, ConfigError
from famjax.evaluation.scan import manifest
from famjax.evaluation.scan.checkpoints import find_checkpoints
from famjax.evaluation.scan.config import WatchConfig
from famjax.evaluation.scan.describing import describe_scan
from famjax.evaluation.scan.grid import make_cells
from famjax.evaluation.scan.ledger import Ledger
from famjax.evaluation.scan.shards import Shard
from scan_folders import fake_entry, make_scan, write_runs


def test_cells_and_sums(tmp_path):
    """Guards against a dry run that writes, or that lists other cells than a run evaluates."""
    write_runs(tmp_path)
    job = make_scan(tmp_path, harness_tasks=("lambada",))
    text = describe_scan(job)
    cells = make_cells(job, find_checkpoints(job.checkpoints, None), "bytes")
    lines = text.splitlines()
    assert all(line.startswith(str(cell)) for line, cell in zip(lines[1:11], cells, strict=True))
    assert lines[1].split()[-3:] == ["4", "1.02k", f"{cells[0].flops:.1e}"]
    assert lines[5].split()[-3:] == ["?", "?", "?"]
    total = sum(cell.flops for cell in cells)
    assert lines[-1] == f"Cells: 10, of 9.22k tokens and {total:.1e} FLOPs at most"
    assert not (tmp_path / "scan").exists()


def test_what_is_evaluated_already(tmp_path, monkeypatch):
    """Guards against a dry run of a resumed or shared scan that tells the work of all."""
    monkeypatch.setenv("SCAN_SHARD", "1/2")
    write_runs(tmp_path)
    job = make_scan(tmp_path)
    cells = make_cells(job, find_checkpoints(job.checkpoints, None), "bytes")
    with Ledger(tmp_path / "scan", Shard(1, 2)) as ledger:
        ledger.append(fake_entry(cells[4]))
    lines = describe_scan(job).splitlines()
    assert [line.endswith("another process's") for line in lines[1:9]] == [True] * 4 + [False] * 4
    assert lines[5].endswith("done")
    assert lines[-2].startswith("  this process, shard 1/2: 4, of 4.61k tokens"), lines[-2]
    assert lines[-1].startswith("  in the ledger: 1, of 1.02k tokens")


def test_runs_that_have_not_begun(tmp_path):
    """Guards against a dry run of a watch that wants checkpoints before the training."""
    lines = describe_scan(make_scan(tmp_path, watch=WatchConfig())).splitlines()
    assert lines[-2] == "Cells: 0, of 0.00 tokens and 0.0e+00 FLOPs at most"
    assert lines[-1] == "  and the same for each checkpoint that appears"


def test_mistakes(tmp_path):
    """Guards against a dry run that accepts what the run refuses."""
    write_runs(tmp_path)
    job = make_scan(tmp_path)
    with pytest.raises(ConfigError, match="no task 'paskey'"):
        describe_scan(dataclasses.replace(job, tasks=("paskey",)))
    with pytest.raises(ConfigError, match="takes no depth"):
        describe_scan(dataclasses.replace(job, tasks=("associative_recall",)))
    with pytest.raises(ConfigError, match="An example of 60 tokens has no room"):
        describe_scan(dataclasses.replace(job, lengths=(60, 256)))
    with pytest.raises(ConfigError, match="out of range"):
        describe_scan(dataclasses.replace(job, shard="2/2"))
    with pytest.raises(CheckpointError, match="nowhere"):
        describe_scan(dataclasses.replace(job, checkpoints=str(tmp_path / "nowhere")))
    (tmp_path / "scan").mkdir()
    manifest.agree(tmp_path / "scan", job, "bytes", lambda: find_checkpoints(job.checkpoints, None))
    describe_scan(dataclasses.replace(job, lengths=(256, 320, 384)))
    with pytest.raises(ConfigError, match="has the results of another grid"):
        describe_scan(dataclasses.replace(job, lengths=(384,)))
