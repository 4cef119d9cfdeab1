"""benchmarks/plans.py with the smallest model."""

import json

import plans
import pytest

pytest.importorskip("libtpu", reason="libtpu is not installed: plans are compiled where it is")


def test_rows_a_chip_and_slices(capsys):
    """Guards against a batch that is not that of the flags, and traffic between slices counted as within one."""
    flags = ["--models=tiny", "--slices=v5e-4", "--num_slices=2", "--rows_per_chip=1", "--sharding=data_parallel"]
    assert plans.main([*flags, "--gin", "TASK_FEATURE_LENGTHS={'targets': 2048}"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["batch"], line["length"], line["mesh"]) == (8, 2048, {"data": 8, "fsdp": 1, "model": 1})
    assert line["fits"]
    # All gradients are summed: within a slice, then each chip's part between slices, and parts are gathered. The
    # compiler sums small arrays whole.
    gradients = 4 * line["parameters_total"]
    assert 1.5 * gradients * 3 / 4 < line["ici_bytes"] < 3 * gradients * 3 / 4
    assert gradients / 4 <= line["dcn_bytes"] < 2 * gradients / 4
