"""benchmarks/step_time.py at a tiny size."""

import pytest
import step_time
from figures import TINY, figures_of
from jobs import Sizes

from famjax.training.config import TrainJob


def test_figures(capsys):
    """The quotient is the figure that the target is about; both models must really differ in F alone."""
    (line,) = figures_of(step_time.main, [*TINY, "--rounds=2"], capsys)
    assert line["benchmark"] == "step_time"
    assert line["fam_seconds"] > 0
    assert line["bswa_seconds"] > 0
    assert line["flops_ratio"] > 1
    assert line["quotient"] == pytest.approx(line["time_ratio"] / line["flops_ratio"])
    assert line["met"] == (line["quotient"] <= line["target"] == 1.10)


def test_default_size_is_the_promised_one():
    """The target is promised for F = C / 16."""
    job = Sizes().job
    assert isinstance(job, TrainJob)
    assert job.model.memory.fam_length * 16 == job.model.memory.block_size
