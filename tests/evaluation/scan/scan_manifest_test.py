"""grid.json: processes of a scan agree on its cells, and the results of two grids do not mix."""

import dataclasses
import shutil

import pytest

from famjax.errors import ConfigError, DataError
from famjax.evaluation.scan import manifest
from famjax.evaluation.scan.checkpoints import find_checkpoints, find_new, followed
from famjax.evaluation.scan.config import WatchConfig
from scan_folders import make_scan, write_checkpoint, write_runs


def agree(job, output_dir):
    """The cells that a process finds which starts now."""
    output_dir.mkdir(exist_ok=True)
    return manifest.agree(output_dir, job, "bytes", lambda: find_checkpoints(job.checkpoints, job.every))


def steps(cells):
    """Name and step of the checkpoint of every fourth cell."""
    return [(cell.checkpoint.name, cell.checkpoint.step) for cell in cells if cell.length == 256 and cell.depth == 0]


def test_a_later_process_has_the_same_cells(tmp_path):
    """Guards against shards that are dealt from different grids, because the training went on between their starts."""
    write_runs(tmp_path, 1)
    job = make_scan(tmp_path)
    first = agree(job, tmp_path / "scan")
    write_runs(tmp_path, 2)
    assert agree(dataclasses.replace(job, shard="1/2", batch_size=3), tmp_path / "scan") == first
    shutil.rmtree(tmp_path / "fam")
    assert agree(job, tmp_path / "scan") == first
    assert steps(first) == [("FAM", 1), ("BSWA", 1)]


def test_a_grid_that_has_grown(tmp_path):
    """Guards against cells whose results are there and that are lost, or evaluated again, where the grid grows."""
    write_runs(tmp_path, 1)
    job = make_scan(tmp_path)
    first = agree(job, tmp_path / "scan")
    write_runs(tmp_path, 2)
    grown = agree(dataclasses.replace(job, lengths=(256, 320, 512), seeds=(0, 1)), tmp_path / "scan")
    assert {cell.key for cell in first} < {cell.key for cell in grown}
    assert steps(grown) == [("FAM", 1)] * 2 + [("FAM", 2)] * 2 + [("BSWA", 1)] * 2 + [("BSWA", 2)] * 2


def test_the_results_of_another_grid(tmp_path):
    """Guards against a folder with the results of two grids; the message says what differs, and what to do."""
    write_runs(tmp_path, 1)
    job = make_scan(tmp_path)
    agree(job, tmp_path / "scan")
    for changes, difference in (
        ({"lengths": (256,)}, r'lengths: there \{"passkey": \[256, 320\]\}, here \{"passkey": \[256\]\}'),
        ({"examples": 5}, "examples: there 4, here 5"),
        ({"checkpoints": {"FAM": str(tmp_path / "fam")}}, "checkpoints: there"),
    ):
        with pytest.raises(ConfigError, match=difference) as error:
            agree(dataclasses.replace(job, **changes), tmp_path / "scan")
        assert "--gin.SCAN_OUTPUT_DIR" in str(error.value)
        assert "grid.json" in str(error.value)
    (tmp_path / "scan" / "grid.json").unlink()
    assert len(agree(dataclasses.replace(job, lengths=(256,)), tmp_path / "scan")) == 4


def test_fewer_checkpoints_of_a_run(tmp_path):
    """Guards against checkpoints that stay in the grid though it asks for fewer."""
    for step in (1, 2, 3, 4):
        write_runs(tmp_path, step)
    job = make_scan(tmp_path, every=1)
    assert len(agree(job, tmp_path / "scan")) == 32
    with pytest.raises(ConfigError, match="every: there 1, here 2"):
        agree(dataclasses.replace(job, every=2), tmp_path / "scan")


def test_a_run_that_was_trained_anew(tmp_path):
    """Guards against the results of a checkpoint that are taken for those of another one in its place."""
    write_runs(tmp_path, 1)
    job = make_scan(tmp_path)
    agree(job, tmp_path / "scan")
    shutil.rmtree(tmp_path / "fam")
    write_checkpoint(tmp_path / "fam", 1, salt="trained anew")
    with pytest.raises(ConfigError, match=r"fam/checkpoint_1 is not the checkpoint that the scan .* began with"):
        agree(job, tmp_path / "scan")


def test_checkpoints_that_appear(tmp_path):
    """Guards against a process that loses what another has found, and against an order that depends on the time."""
    write_runs(tmp_path, 2)
    job = make_scan(tmp_path, watch=WatchConfig())
    output_dir = tmp_path / "scan"
    output_dir.mkdir()
    runs = followed(job.checkpoints)

    def warn(line):
        pytest.fail(line)

    mine = find_new({"FAM": runs["FAM"]}, (), warn)
    assert steps(manifest.add_checkpoints(output_dir, job, "bytes", mine)) == [("FAM", 2)]
    others = find_new({"BSWA": runs["BSWA"]}, (), warn)
    assert steps(manifest.add_checkpoints(output_dir, job, "bytes", others)) == [("FAM", 2), ("BSWA", 2)]
    write_checkpoint(tmp_path / "fam", 1)
    early = find_new({"FAM": runs["FAM"]}, mine, warn)
    assert steps(manifest.add_checkpoints(output_dir, job, "bytes", early)) == [("FAM", 1), ("FAM", 2), ("BSWA", 2)]
    known = manifest.read(output_dir)
    assert [checkpoint.step for checkpoint in known.checkpoints] == [1, 2, 2]
    # Another process, which starts now.
    assert len(manifest.agree(output_dir, job, "bytes", lambda: pytest.fail("looked"))) == 12


def test_a_grid_json_of_something_else(tmp_path):
    """Guards against a KeyError."""
    (tmp_path / "grid.json").write_text('{"cells": []}')
    with pytest.raises(DataError, match=r"grid\.json: not the grid of a scan"):
        manifest.read(tmp_path)
    assert manifest.read(tmp_path / "nowhere") is None
