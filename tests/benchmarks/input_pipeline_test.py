"""benchmarks/input_pipeline.py at a tiny size."""

import input_pipeline
import pytest
from figures import figures_of

TINY_RECIPE = """
include 'recipes/demo_fam.gin'

Documents.paths = ['{folder}/*.txt']
Curriculum.stages = [
    {{'min_length': 128, 'max_length': 192, 'steps': 1}},
    {{'min_length': 128, 'max_length': 256}},
]
BATCH_SIZE = 8
TransformerConfig.num_layers = 1
TransformerConfig.emb_dim = 8
TransformerConfig.mlp_dim = 8
"""


def test_figures(capsys, tmp_path):
    """The lengths are those of the last stage, and memory is read twice."""
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"{number} " * 200)
    recipe = tmp_path / "recipe.gin"
    recipe.write_text(TINY_RECIPE.format(folder=tmp_path))
    arguments = [f"--recipe={recipe}", "--batches", "2", "6", "--steps", "1"]
    (line,) = figures_of(input_pipeline.main, arguments, capsys)
    assert line["benchmark"] == "input_pipeline"
    assert (line["length"], line["batch_size"], line["batches"]) == (256, 8, [2, 6])
    assert line["ratio"] == pytest.approx(line["data_tokens_per_second"] / line["training_tokens_per_second"])
    assert line["memory_growth"] == pytest.approx(line["memory_bytes"][1] / line["memory_bytes"][0])
    assert line["met"] == (line["ratio"] >= 20 and line["memory_growth"] <= 1.05)


def test_private_bytes_see_what_is_allocated():
    """A count that misses memory would be flat whatever leaks."""
    before = input_pipeline.private_bytes()
    kept = bytearray(b"x") * (1 << 25)
    assert input_pipeline.private_bytes() - before > len(kept) // 2
