"""The settings of a scan refuse what cannot be a grid."""

import dataclasses

import pytest

from famjax.data.task_config import PassKey
from famjax.errors import ConfigError
from famjax.evaluation.scan.config import ScanJob, WatchConfig
from famjax.inference.config import MemoryOverrides, SamplingConfig

JOB = ScanJob("runs/fam", "out", ("passkey", "pg19"), (256,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, r"ScanJob\.tasks \(--gin\.SCAN_TASKS\) and ScanJob\.harness_tasks are both empty"),
        ({"tasks": ("passkey", "passkey")}, "'passkey' twice"),
        ({"checkpoints": {}}, r"ScanJob\.checkpoints is empty"),
        ({"lengths": ()}, r"ScanJob\.lengths has none for passkey, pg19; set --gin\.SCAN_LENGTHS"),
        ({"lengths": (256, 0)}, r"ScanJob\.lengths = \(256, 0\); allowed: 1 or more"),
        ({"lengths": (256, 256)}, "256 twice"),
        ({"lengths": {"passkey": (256,)}}, "has none for pg19"),
        ({"lengths": {"passkey": (256,), "pg19": (64,), "pg91": (64,)}}, "names pg91"),
        ({"depths": (0.5, 1.5)}, "allowed: 0 to 1, or None"),
        ({"depths": {"paskey": (0.5,)}}, "names paskey"),
        ({"seeds": (-1,)}, r"ScanJob\.seeds"),
        ({"examples": 0}, r"ScanJob\.examples = 0"),
        ({"memories": (MemoryOverrides(), MemoryOverrides())}, "twice"),
        ({"sampling": SamplingConfig(max_new_tokens=7)}, "max_new_tokens = 7 has no effect in a scan"),
        ({"every": 2, "watch": WatchConfig()}, r"ScanJob\.every = 2 and ScanJob\.watch"),
    ],
)
def test_what_is_refused(changes, message):
    """Guards against a grid that is empty, that has a cell twice, or that does other than its settings say."""
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(JOB, **changes)


def test_by_task():
    """Guards against the lengths or depths of one task that another gets."""
    job = dataclasses.replace(JOB, lengths={"passkey": (256, 512), "pg19": (1024,)}, depths={"passkey": (0.0, 1.0)})
    assert job.lengths_of("passkey") == (256, 512)
    assert job.lengths_of("pg19") == (1024,)
    assert job.depths_of("passkey") == (0.0, 1.0)
    assert job.depths_of("pg19") == (None,)
    assert JOB.lengths_of("pg19") == (256,)


def test_fewer_examples_of_long_texts():
    """Guards against a bound on tokens that leaves a cell without a question, or that gives it more than asked for."""
    job = dataclasses.replace(JOB, examples=16, max_tokens_per_cell=4096)
    assert [job.examples_at(length) for length in (128, 512, 4096, 10_000)] == [16, 8, 1, 1]
    assert dataclasses.replace(JOB, examples=16).examples_at(10_000) == 16


def test_tasks_of_the_harness_alone():
    """Guards against a scan that asks for a task of famjax, or for lengths, beside the harness's."""
    assert ScanJob("runs/fam", "out", harness_tasks=("lambada",)).tasks == ()
    assert dataclasses.replace(JOB, task_configs={"passkey": PassKey()}).task_configs


def test_watch_settings():
    """Guards against a watch that never looks or that ends before it begins."""
    with pytest.raises(ConfigError, match="poll_seconds"):
        WatchConfig(poll_seconds=0)
    with pytest.raises(ConfigError, match="idle_seconds"):
        WatchConfig(idle_seconds=-1)
