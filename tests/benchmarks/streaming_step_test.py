"""benchmarks/streaming_step.py at a tiny size."""

import pytest
import streaming_step
from figures import TINY, figures_of


def test_figures(capsys, tmp_path):
    """The ratio and the share are the figures that the targets are about; padding must be that of an epoch."""
    lengths = [100, 700, 1299]
    for length in lengths:
        (tmp_path / f"{length}.txt").write_text("x" * length)
    step, padding = figures_of(streaming_step.main, [*TINY, "--rounds=2", "--paths", f"{tmp_path}/*"], capsys)
    assert (step["benchmark"], padding["benchmark"]) == ("streaming_step", "streaming_padding")
    assert step["streaming_seconds"] > 0
    assert step["independent_seconds"] > 0
    assert step["met"] == (step["ratio"] <= step["target"] == 1.03)
    assert padding["documents"] >= len(lengths)
    assert 0 < padding["padding"] < 1
    assert padding["met"] == (padding["padding"] < padding["target"] == pytest.approx(0.05))
