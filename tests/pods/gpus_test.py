"""GPUs by name."""

import pytest

from famjax.errors import ConfigError
from famjax.pods.gpus import KINDS, parse_gpus


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "chips_per_host"),
    [("h100-1", 1, 1, 1), ("h100-8", 8, 1, 8), ("A100-80gb-4", 4, 1, 4), ("h200-64", 64, 8, 8)],
)
def test_hosts(name, chips, hosts, chips_per_host):
    """A job that asks for more hosts than its GPUs are on, or for fewer."""
    gpus = parse_gpus(name)
    assert (gpus.name, gpus.chips, gpus.hosts, gpus.chips_per_host) == (name.lower(), chips, hosts, chips_per_host)
    assert gpus.hbm_bytes == chips * KINDS[gpus.gpu.name].hbm_bytes
    assert gpus.peak_flops == chips * KINDS[gpus.gpu.name].peak_flops


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100-12", "Nearest: h100-8, h100-16."),
        ("h300-8", "Nearest: h200-8, h100-8."),
        ("a100-8", "Nearest: a100-40gb-8, a100-80gb-8."),
        ("h100", "Nearest: h100-8"),
        ("h100-0", "with a number: h100-16."),
        ("tpu", "Kinds: a100-40gb, a100-80gb, h100, h200, b200"),
    ],
)
def test_wrong_names(name, message):
    """A wrong name passes, or its message does not name what the user may have meant."""
    with pytest.raises(ConfigError) as caught:
        parse_gpus(name)
    assert message in str(caught.value)
