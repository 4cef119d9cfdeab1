"""benchmarks/collectives.py, with a stand-in for what the program moves."""

import collectives as benchmark
from figures import TINY, figures_of

LAYER = 4 * (4 * 8 * 8 + 3 * 8 * 32 + 2 * 8)


def test_figures(capsys, monkeypatch):
    """The ratio is that of what a layer adds to the least; what is there once does not count."""
    monkeypatch.setattr(
        benchmark,
        "_bytes_of",
        lambda program: {("all-reduce", ("data",)): 5 + program.job.model.num_layers * round(LAYER * 7 / 4)},
    )
    (line,) = figures_of(benchmark.main, [*TINY, "--tables", "data_parallel"], capsys)
    assert line["benchmark"] == "collectives"
    assert line["mesh"] == {"data": 8, "fsdp": 1, "model": 1}
    assert line["bytes_a_layer"] == {"all-reduce over data": LAYER * 7 / 4}
    assert (line["ratio"], line["met"]) == (1.0, True)


def test_least_of_each_table():
    """Counted again by hand: 8 rows of 16 + 2 x 2 tokens, D = 8, of which a device has its part."""
    sizes = benchmark.Sizes(
        block_size=8, fam_length=2, emb_dim=8, num_layers=1, length=16, batch_size=8, vocab_size=264
    )
    least = {table: benchmark.minimum_bytes(benchmark.step_program(table, sizes)) for table in benchmark.TABLES[:2]}
    assert least == {"data_parallel": LAYER * 7 / 4, "fully_sharded": 3 * LAYER * 7 / 8}
