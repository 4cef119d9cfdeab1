"""The cells of a grid: which, in which order, and what makes two of them the same."""

import dataclasses
import itertools

import pytest

from famjax.data.task_config import AssociativeRecall, Documents, PassKey, PassKeyDocuments
from famjax.errors import ConfigError
from famjax.evaluation.scan.checkpoints import GridCheckpoint
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import check_points, make_cells, task_settings
from famjax.inference.config import MemoryOverrides, SamplingConfig
from famjax.training.flops import forward_flops
from tiny_job import MODEL

BSWA = dataclasses.replace(MODEL, memory=dataclasses.replace(MODEL.memory, fam_length=0))
CHECKPOINTS = [
    GridCheckpoint("FAM", "fam/checkpoint_1", 1, "f1", MODEL),
    GridCheckpoint("FAM", "fam/checkpoint_2", 2, "f2", MODEL),
    GridCheckpoint("BSWA", "bswa/checkpoint_2", 2, "b2", BSWA),
]
NO_FAM = MemoryOverrides(with_fam=False)
JOB = ScanJob(
    "runs",
    "out",
    ("passkey", "associative_recall"),
    {"passkey": (256, 512), "associative_recall": (128,)},
    memories=(MemoryOverrides(), NO_FAM),
    depths={"passkey": (0.0, 1.0)},
    seeds=(0, 1),
    examples=4,
    max_tokens_per_cell=1024,
)


def test_order():
    """Guards against a checkpoint that must be restored twice, and against results in an order that nobody expects."""
    cells = make_cells(JOB, CHECKPOINTS, "bytes")
    groups = [(cell.checkpoint.name, cell.checkpoint.step, cell.config.memory.fam_length) for cell in cells]
    assert list(dict.fromkeys(groups)) == [("FAM", 1, 2), ("FAM", 1, 0), ("FAM", 2, 2), ("FAM", 2, 0), ("BSWA", 2, 0)]
    changes = sum(before != after for before, after in itertools.pairwise(groups))
    assert changes == 4, "every group in one piece"
    assert [(cell.task, cell.length, cell.depth, cell.seed, cell.examples) for cell in cells[:10]] == [
        *[("passkey", 256, depth, seed, 4) for depth in (0.0, 1.0) for seed in (0, 1)],
        *[("passkey", 512, depth, seed, 2) for depth in (0.0, 1.0) for seed in (0, 1)],
        *[("associative_recall", 128, None, seed, 4) for seed in (0, 1)],
    ]
    assert len(cells) == 50
    assert len({cell.key for cell in cells}) == 50


def test_the_same_memory_twice():
    """Guards against cells that are evaluated twice, because a memory that a model has anyway is asked for as well."""
    job = dataclasses.replace(JOB, memories=(MemoryOverrides(), MemoryOverrides(num_segments=1)))
    assert len(make_cells(job, CHECKPOINTS, "bytes")) == 30


def test_cost():
    """Guards against work that is dealt out, or a time left that is told, by the number of cells."""
    cells = make_cells(JOB, CHECKPOINTS, "bytes")
    assert (cells[0].tokens, cells[0].flops) == (4 * 256, 4 * forward_flops(MODEL, 1, 256).total)
    assert cells[10].flops == 4 * forward_flops(BSWA, 1, 256).total, "without FAM"


def key(job=JOB, checkpoint=CHECKPOINTS[0], vocabulary="bytes"):
    """Of the first cell."""
    return make_cells(job, [checkpoint], vocabulary)[0].key


def test_what_the_result_does_not_depend_on():
    """Guards against results that are thrown away where a run is renamed or moved, or the batch is another."""
    assert key(checkpoint=dataclasses.replace(CHECKPOINTS[0], name="other", path="moved/checkpoint_1")) == key()
    assert key(dataclasses.replace(JOB, batch_size=3, output_dir="other", samples=False, shard="0/2")) == key()
    assert key(dataclasses.replace(JOB, task_configs={"associative_recall": AssociativeRecall(num_pairs=3)})) == key()


@pytest.mark.parametrize(
    "changes",
    [
        {"memories": (NO_FAM,)},
        {"lengths": (300,)},
        {"depths": {"passkey": (0.5,)}},
        {"seeds": (5,)},
        {"examples": 3},
        {"split": "train"},
        {"sampling": SamplingConfig(temperature=1.0)},
        {"task_configs": {"passkey": PassKey(digits=4)}},
        {"position_buckets": 3},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_result_depends_on(changes):
    """Guards against a stale result that is taken for that of another cell."""
    assert key(dataclasses.replace(JOB, **changes)) != key()


def test_other_parameters_or_vocabulary():
    """Guards against the results of a run that was trained anew in the same folder."""
    assert key(checkpoint=dataclasses.replace(CHECKPOINTS[0], fingerprint="other")) != key()
    assert key(vocabulary="other") != key()


def test_settings_of_tasks_that_a_task_names():
    """Guards against a stale result where the documents behind a task are others."""
    job = dataclasses.replace(JOB, tasks=("passkey_documents",), lengths=(256,), depths=(None,))
    other = dataclasses.replace(job, task_configs={"documents": Documents(paths=("other/*",))})
    assert set(task_settings("passkey_documents", {})) == {"passkey_documents", "documents"}
    assert key(job) != key(other)
    renamed = dataclasses.replace(
        job, task_configs={"passkey_documents": PassKeyDocuments(documents="books"), "books": Documents()}
    )
    assert key(renamed) != key(job)


def test_describe():
    """Guards against a line of the results that lacks what the report reads."""
    cell = make_cells(JOB, CHECKPOINTS, "bytes")[10]
    values = cell.describe()
    assert values.pop("parameters") > 1000
    assert values == {
        "model": "FAM",
        "checkpoint": "fam/checkpoint_1",
        "step": 1,
        "memory": {"block_size": 8, "num_segments": 1, "fam_length": 0},
        "task": "passkey",
        "length": 256,
        "depth": 0.0,
        "seed": 0,
    }
    assert str(cell) == "FAM 1  C=8 M=1 F=0  passkey  length 256  depth 0"


def test_harness_cells():
    """Guards against a task of the harness that is asked once for each length."""
    job = dataclasses.replace(JOB, tasks=(), lengths=(256, 512), depths=(None,), harness_tasks=("lambada",))
    cells = make_cells(job, CHECKPOINTS[:1], "bytes")
    assert [(cell.task, cell.length, cell.memory) for cell in cells] == [
        ("lambada", None, MemoryOverrides()),
        ("lambada", None, NO_FAM),
    ]
    assert cells[0].is_harness
    assert cells[0].flops == 0
    assert key(dataclasses.replace(job, examples=5)) != key(job), "so many examples of the harness's"


def test_points_that_cannot_be():
    """Guards against an unknown task, or a depth without a meaning, that is found after hours."""
    check_points(JOB)
    with pytest.raises(ConfigError, match="no task 'passkee': did you mean passkey"):
        check_points(dataclasses.replace(JOB, tasks=("passkee",), lengths=(1,), depths=(None,)))
    with pytest.raises(ConfigError, match=r"'associative_recall' \(AssociativeRecall\) takes no depth.*SCAN_DEPTHS"):
        check_points(dataclasses.replace(JOB, depths=(0.5,)))
