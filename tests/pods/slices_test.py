"""TPU slices by name."""

import math
import subprocess
import sys

import pytest

from famjax.errors import ConfigError
from famjax.pods.slices import GENERATIONS, parse_slice

# Name, topology, chips, hosts, GKE machine type, accelerator type, libtpu's name: from the pages that slices.py cites.
PUBLISHED = (
    ("v4-8", "2x2x1", 4, 1, "ct4p-hightpu-4t", "v4-8", "v4:2x2x1"),
    ("v4-64", "2x4x4", 32, 8, "ct4p-hightpu-4t", "v4-64", "v4:2x4x4"),
    ("v4-384", "4x4x12", 192, 48, "ct4p-hightpu-4t", "v4-384", "v4:4x4x12"),
    ("v4-4096", "8x16x16", 2048, 512, "ct4p-hightpu-4t", "v4-4096", "v4:8x16x16"),
    ("v5e-1", "1x1", 1, 1, "ct5lp-hightpu-1t", "v5litepod-1", "v5e:1x1"),
    ("v5e-4", "2x2", 4, 1, "ct5lp-hightpu-4t", "v5litepod-4", "v5e:2x2"),
    ("v5e-8", "2x4", 8, 1, "ct5lp-hightpu-8t", "v5litepod-8", "v5e:2x4"),
    ("v5e-16", "4x4", 16, 4, "ct5lp-hightpu-4t", "v5litepod-16", "v5e:4x4"),
    ("v5e-256", "16x16", 256, 64, "ct5lp-hightpu-4t", "v5litepod-256", "v5e:16x16"),
    ("v5p-8", "2x2x1", 4, 1, "ct5p-hightpu-4t", "v5p-8", "v5:2x2x1"),
    ("v5p-32", "2x2x4", 16, 4, "ct5p-hightpu-4t", "v5p-32", "v5:2x2x4"),
    ("v5p-128", "4x4x4", 64, 16, "ct5p-hightpu-4t", "v5p-128", "v5:4x4x4"),
    ("v5p-1024", "8x8x8", 512, 128, "ct5p-hightpu-4t", "v5p-1024", "v5:8x8x8"),
    ("v5p-1280", "4x8x20", 640, 160, "ct5p-hightpu-4t", "v5p-1280", "v5:4x8x20"),
    ("v5p-3584", "8x8x28", 1792, 448, "ct5p-hightpu-4t", "v5p-3584", "v5:8x8x28"),
    ("v5p-12288", "16x16x24", 6144, 1536, "ct5p-hightpu-4t", "v5p-12288", "v5:16x16x24"),
    ("v6e-8", "2x4", 8, 1, "ct6e-standard-8t", "v6e-8", "v6e:2x4"),
    ("v6e-128", "8x16", 128, 32, "ct6e-standard-4t", "v6e-128", "v6e:8x16"),
)


@pytest.mark.parametrize(("name", "topology", "chips", "hosts", "machine", "accelerator", "libtpu"), PUBLISHED)
def test_published_slices(
    name: str, topology: str, chips: int, hosts: int, machine: str, accelerator: str, libtpu: str
) -> None:
    """A name is another slice than the documentation says: half the chips, another shape, another machine."""
    one = parse_slice(name)
    found = (one.name, one.topology_name, one.chips, one.hosts)
    assert found == (name, topology, chips, hosts)
    assert (one.gke_machine_type, one.accelerator_type, one.libtpu_topology) == (machine, accelerator, libtpu)


@pytest.mark.parametrize(
    ("name", "machine", "xpk_hosts"),
    [
        ("v5e-1", "ct5lp-hightpu-1t", 1),
        ("v5e-4", "ct5lp-hightpu-4t", 1),
        ("v5e-8", "ct5lp-hightpu-8t", 2),
        ("v6e-1", "ct6e-standard-1t", 1),
        ("v6e-4", "ct6e-standard-4t", 1),
        ("v6e-8", "ct6e-standard-8t", 2),
        ("v6e-16", "ct6e-standard-4t", 4),
    ],
)
def test_machines_of_small_slices(name: str, machine: str, xpk_hosts: int) -> None:
    """8 chips that are one machine for GKE and two for xpk, taken for the same."""
    one = parse_slice(name)
    assert (one.gke_machine_type, one.xpk_hosts) == (machine, xpk_hosts)
    assert machine.endswith(f"-{one.chips_per_host}t")
    assert one.hosts == (4 if one.chips == 16 else 1)


@pytest.mark.parametrize("generation", GENERATIONS.values(), ids=GENERATIONS)
def test_every_slice_adds_up(generation) -> None:
    """A name that the table offers is refused, or its chips are not hosts x chips a host and the topology's product."""
    for name in generation.names:
        one = parse_slice(name)
        assert one.chips == one.hosts * one.chips_per_host == math.prod(one.topology) <= generation.max_chips
    for topology in generation.topologies:
        name = f"{generation.name}-{'x'.join(str(side) for side in topology)}"
        assert parse_slice(parse_slice(name).name).topology == topology


def test_other_spellings() -> None:
    """gcloud's spelling, capitals, or a topology that is not the usual one are refused or lose the topology."""
    assert parse_slice("v5litepod-16") == parse_slice("V5E-16") == parse_slice("v5e-4x4")
    unusual = parse_slice("v5p-4x4x16")
    assert unusual.chips == parse_slice("v5p-512").chips
    assert (unusual.name, unusual.has_usual_topology) == ("v5p-4x4x16", False)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("v5e-250", "v5e-64, v5e-128, v5e-256"),
        ("v5e-512", "v5e-64, v5e-128, v5e-256"),
        ("v5p-4", "v5p-8, v5p-16, v5p-32"),
        ("v5p-many", "v5p-8, v5p-16, v5p-32"),
        ("v5p256", "v5p-256"),
        ("v7x-128", "v6e-128"),
        ("v5e-16x15", "v5e-16x16"),
        ("v5p-8x4x4", "v5p-4x4x8"),
        ("v4-4x4", "v4-2x2x4"),
        ("v4-4x4x-4", "v4-2x2x4"),
    ],
)
def test_wrong_names(name: str, nearest: str) -> None:
    """A wrong name passes, or its message does not name what the user may have meant."""
    with pytest.raises(ConfigError) as caught:
        parse_slice(name)
    assert repr(name) in str(caught.value)
    assert nearest in str(caught.value)


def test_imports_no_jax() -> None:
    """The table imports jax: a manifest is then rendered in seconds instead of at once."""
    code = "import sys, famjax.pods.slices; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
