"""benchmarks/import_checkpoint.py on a model of a few numbers."""

import import_checkpoint
import pytest
from figures import figures_of

TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
}


def test_figures(tmp_path, capsys):
    """Both promises are measured, on a folder that is really imported, and nothing of it is left."""
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    memory, speed = figures_of(
        import_checkpoint.main, [*flags, "--rounds=1", f"--folder={tmp_path}", "--shard_megabytes=0.005"], capsys
    )
    assert (memory["benchmark"], speed["benchmark"]) == ("import_memory", "import_speed")
    assert memory["largest_tensor_bytes"] == 64 * 16 * 2
    assert 2048 < memory["largest_file_bytes"] < 6000 < memory["bytes"]
    assert memory["peak_bytes"] >= memory["idle_bytes"] > 1e7
    limit = 1.3 * memory["largest_file_bytes"] + memory["largest_tensor_bytes"]
    assert memory["ratio"] == pytest.approx(memory["peak_bytes"] / limit)
    assert speed["met"] == (speed["ratio"] >= 0.5)
    assert speed["ratio"] == pytest.approx(speed["copy_seconds"][0] / speed["import_seconds"][0])
    assert speed["startup_seconds"][0] > 0.1
    assert not list(tmp_path.iterdir())


def test_an_import_that_fails_is_no_measurement(tmp_path):
    """A command that fails early is fast, and small."""
    with pytest.raises(RuntimeError, match="import ended with 4"):
        import_checkpoint.run_command(["import", f"--source={tmp_path}", f"--output={tmp_path / 'out'}"])
