"""benchmarks/streaming.py at a tiny size."""

import streaming
from figures import TINY, figures_of


def test_figures(capsys):
    """Guards against a benchmark that reads another text than it says, or whose ratio has another meaning."""
    arguments = [*TINY, "--batch_size=1", "--near=40", "--far=200", "--rounds=2", "--piece=64"]
    constant, fam = figures_of(streaming.main, arguments, capsys)
    assert constant["benchmark"] == "streaming"
    assert constant["contexts"] == [40, 200]
    assert constant["peak_ratio"] == constant["peak_bytes"][1] / constant["peak_bytes"][0] >= 1
    assert constant["prefill_far_tokens_per_second"] > 0
    assert constant["decode_near_tokens_per_second"] > 0
    assert fam["benchmark"] == "decode_fam"
    assert fam["met"] == (fam["ratio"] <= fam["target"] == 1.1)
