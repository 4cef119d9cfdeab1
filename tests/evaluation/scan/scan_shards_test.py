"""Which part of a scan is this process's."""

import pytest

from famjax.errors import ConfigError
from famjax.evaluation.scan.checkpoints import GridCheckpoint
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import make_cells
from famjax.evaluation.scan.shards import Shard, deal, find_shard, relative_costs
from famjax.inference.config import MemoryOverrides
from tiny_job import MODEL

SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}
INDEXED_JOB = {"JOB_COMPLETION_INDEX": "3", "SCAN_SHARD_COUNT": "8"}


@pytest.mark.parametrize(
    ("setting", "environment", "shard"),
    [
        (None, {}, Shard(0, 1)),
        (None, {"SCAN_SHARD": "1/4"}, Shard(1, 4)),
        (None, INDEXED_JOB, Shard(3, 8)),
        (None, SLURM, Shard(2, 4)),
        (None, SLURM | {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_STEP": "2"}, Shard(2, 4)),
        (None, SLURM | INDEXED_JOB | {"SCAN_SHARD": "1/4"}, Shard(1, 4)),
        ("0/2", SLURM | {"SCAN_SHARD": "1/4"}, Shard(0, 2)),
    ],
)
def test_where_the_shard_comes_from(setting, environment, shard):
    """Guards against processes of a cluster that all evaluate everything, or the part of another."""
    assert find_shard(setting, environment) == shard


def test_processes_of_one_job_have_parts_of_its_shard():
    """Guards against processes of a job that all evaluate all cells, or the pod's index taken for a shard."""
    assert find_shard(None, {}, 1, 2) == Shard(1, 2)
    assert find_shard("1/3", {}, 1, 2) == Shard(3, 6)
    assert find_shard(None, {"JOB_COMPLETION_INDEX": "1"}, 1, 4) == Shard(1, 4)
    shards = {find_shard(f"{job}/3", {}, process, 2) for job in range(3) for process in range(2)}
    assert shards == {Shard(index, 6) for index in range(6)}


@pytest.mark.parametrize(
    ("setting", "environment", "message"),
    [
        ("4/4", {}, r"--gin\.SCAN_SHARD = '4/4' is out of range; allowed: 0/4 to 3/4"),
        ("1", {}, "expected index/count, as 0/4"),
        ("0/0", {}, "a count of 1 or more"),
        ("-1/4", {}, "expected index/count"),
        (None, {"SCAN_SHARD": "5/4"}, r"SCAN_SHARD = '5/4' is out of range"),
        (None, {"JOB_COMPLETION_INDEX": "0"}, "not of how many; set SCAN_SHARD_COUNT"),
        (None, INDEXED_JOB | {"SCAN_SHARD_COUNT": "3"}, "out of range"),
        (None, SLURM | {"SLURM_ARRAY_TASK_ID": "20"}, "out of range"),
        (None, SLURM | {"SLURM_ARRAY_TASK_MIN": ""}, "not those of a Slurm array"),
    ],
)
def test_shards_that_cannot_be(setting, environment, message):
    """Guards against cells that no process evaluates."""
    with pytest.raises(ConfigError, match=message):
        find_shard(setting, environment)


def grid(harness=()):
    """Three checkpoints, two memories, and lengths of very different cost."""
    job = ScanJob(
        "runs",
        "out",
        ("passkey",),
        (256, 4096),
        memories=(MemoryOverrides(), MemoryOverrides(with_fam=False)),
        seeds=tuple(range(5)),
        harness_tasks=harness,
    )
    checkpoints = [GridCheckpoint(f"run{i}", f"run{i}/checkpoint_1", 1, f"f{i}", MODEL) for i in range(3)]
    return make_cells(job, checkpoints, "bytes")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_every_cell_has_one_shard(count):
    """Guards against cells that are lost or evaluated twice, and against a shard that has all the long ones."""
    cells = grid()
    parts = [deal(cells, Shard(index, count)) for index in range(count)]
    assert [cell for part in parts for cell in part] == cells
    costs = [sum(cell.flops for cell in part) for part in parts]
    largest = max(cell.flops for cell in cells)
    assert max(costs) - min(costs) <= 2 * largest
    groups = [{(cell.checkpoint, cell.memory) for cell in part} for part in parts]
    assert sum(map(len, groups)) <= 6 + count - 1, "a group is in two shards only where a cut falls within it"


def test_cells_of_unknown_cost():
    """Guards against all cells of the harness, whose cost nobody knows, in one shard as if they cost nothing."""
    cells = grid(harness=("a", "b"))
    known = [cell.flops for cell in cells if not cell.is_harness]
    costs = relative_costs(cells)
    assert {cost for cell, cost in zip(cells, costs, strict=True) if cell.is_harness} == {sum(known) // len(known)}
    alone = [cell for cell in cells if cell.is_harness]
    assert [len(deal(alone, Shard(index, 3))) for index in range(3)] == [4, 4, 4]


def test_more_shards_than_cells():
    """Guards against an error of a process that has nothing to do."""
    (cell,) = grid()[:1]
    assert sorted(len(deal([cell], Shard(index, 3))) for index in range(3)) == [0, 0, 1]
    assert deal([], Shard(0, 2)) == []
