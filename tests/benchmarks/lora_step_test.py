"""benchmarks/lora_step.py at a tiny size."""

import lora_step
from figures import TINY, figures_of


def test_figures(capsys):
    """The ratio is the figure that the target is about; the LoRA job must really train less."""
    (line,) = figures_of(lora_step.main, [*TINY, "--rounds=2", "--rank=2"], capsys)
    assert line["benchmark"] == "lora_step"
    assert line["full_seconds"] > 0
    assert line["lora_seconds"] > 0
    assert line["lora_optimizer_bytes"] < line["full_optimizer_bytes"]
    assert line["lora_checkpoint_bytes"] < line["full_checkpoint_bytes"]
    assert line["met"] == (line["ratio"] >= line["target"] == 1.25)
