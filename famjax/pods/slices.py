"""TPU slices by name: chips, topology, hosts, memory, speed, and what each platform calls them. Imports no jax.

A slice is written as Google Cloud writes it, `v5e-256` or `v5p-128`, or with its topology, `v5p-4x4x4`. Names of v4 and
v5p count TensorCores, of which a chip has 2; names of v5e and v6e count chips.

Slices of up to 8 chips, as node pools of GKE (machines x machine type). Those of 8 chips GKE also makes of two machines
of 4; Cloud TPU's API and this table have one of 8. xpk has machines of 8 chips for neither generation, and makes two:

                   GKE, Cloud TPU         xpk
  v5e-1    1x1     1 x ct5lp-hightpu-1t   -
  v5e-4    2x2     1 x ct5lp-hightpu-4t   -
  v5e-8    2x4     1 x ct5lp-hightpu-8t   2 x ct5lp-hightpu-4t
  v6e-1    1x1     1 x ct6e-standard-1t   1 x ct6e-standard-1t
  v6e-4    2x2     1 x ct6e-standard-4t   1 x ct6e-standard-4t
  v6e-8    2x4     1 x ct6e-standard-8t   2 x ct6e-standard-4t

Sources, all of Google's public documentation:
  https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e: chips, memory, peak compute, bandwidths, supported shapes
  https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus: accelerator labels, machine types, topologies
  https://cloud.google.com/tpu/docs/runtimes: runtime versions of TPU VMs
  https://github.com/AI-Hypercomputer/xpk, src/xpk/core/system_characteristics.py: the topology that a name stands for,
    xpk's machines
  https://github.com/AI-Hypercomputer/maxtext, src/maxtext/utils/accelerator_to_spec_map.py: libtpu's names
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Iterable, Sequence

from famjax.errors import ConfigError

GIB = 2**30
# The edge of a cube of 64 chips: v4 and v5p slices beyond one cube are made of whole cubes.
_CUBE_EDGE = 4


@dataclasses.dataclass(frozen=True)
class Generation:
    """One TPU generation as Cloud TPU offers it.

    Attributes:
      name: what stands before the dash in a slice's name.
      cores_per_chip: what one chip counts for in a slice's name.
      hbm_bytes: of one chip, as the documentation gives it (a program has a little less).
      hbm_bytes_per_second: of one chip.
      peak_flops: of one chip, dense bfloat16.
      ici_bytes_per_second: what one chip can send to its neighbours over all its links at once.
      ici_links: neighbours of a chip, on a torus.
      dcn_bytes_per_second: one chip's share of its hosts' network; None where the documentation does not say.
      max_chips: of one slice.
      gke_accelerator: the value of the node label cloud.google.com/gke-tpu-accelerator.
      gke_machine_family: the machine type of GKE without its number of chips.
      accelerator_prefix: what stands before the dash in `gcloud ... --accelerator-type`.
      tpu_vm_type: the value of `gcloud ... --type`, with which a topology can be asked for.
      runtime_version: the software version of TPU VMs for JAX.
      libtpu_name: what stands before the colon in a topology's name for ahead-of-time compilation.
    """

    name: str
    cores_per_chip: int
    hbm_bytes: int
    hbm_bytes_per_second: float
    peak_flops: float
    ici_bytes_per_second: float
    ici_links: int
    dcn_bytes_per_second: float | None
    max_chips: int
    gke_accelerator: str
    gke_machine_family: str
    accelerator_prefix: str
    tpu_vm_type: str
    runtime_version: str
    libtpu_name: str

    @property
    def dimensions(self) -> int:
        """Of the torus: 2 or 3."""
        return self.ici_links // 2

    @functools.cached_property
    def topologies(self) -> tuple[tuple[int, ...], ...]:
        """Every shape that a slice can have, by number of chips; the one that the slice's name means comes first."""
        shapes = _CUBOIDS if self.dimensions == 3 else _RECTANGLES
        fitting = [shape for shape in shapes if math.prod(shape) <= self.max_chips]
        return tuple(sorted(fitting, key=lambda shape: (math.prod(shape), sum(shape), shape)))

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all slices, the smallest first."""
        sizes = sorted({math.prod(shape) for shape in self.topologies})
        return tuple(f"{self.name}-{size * self.cores_per_chip}" for size in sizes)

    @property
    def names_of_one_host(self) -> tuple[str, ...]:
        """Names of the slices that one machine holds."""
        return tuple(name for name in self.names if parse_slice(name).hosts == 1)


_RECTANGLES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))


def _cuboids(max_cubes: int) -> tuple[tuple[int, ...], ...]:
    """The parts of a cube, and every A <= B <= C of whole cubes."""
    cubes = (
        (a * _CUBE_EDGE, b * _CUBE_EDGE, c * _CUBE_EDGE)
        for a in range(1, max_cubes + 1)
        for b in range(a, max_cubes // a + 1)
        for c in range(b, max_cubes // (a * b) + 1)
    )
    # No side is longer than 64 cubes (256 chips).
    return ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), *(shape for shape in cubes if shape[-1] <= 256))


_CUBOIDS = _cuboids(max_cubes=96)

V4 = Generation(
    name="v4",
    cores_per_chip=2,
    hbm_bytes=32 * GIB,
    hbm_bytes_per_second=1200e9,
    peak_flops=275e12,
    ici_bytes_per_second=300e9,
    ici_links=6,
    dcn_bytes_per_second=None,
    max_chips=4096,
    gke_accelerator="tpu-v4-podslice",
    gke_machine_family="ct4p-hightpu",
    accelerator_prefix="v4",
    tpu_vm_type="v4",
    runtime_version="tpu-ubuntu2204-base",
    libtpu_name="v4",
)
V5E = Generation(
    name="v5e",
    cores_per_chip=1,
    hbm_bytes=16 * GIB,
    hbm_bytes_per_second=819e9,
    peak_flops=197e12,
    ici_bytes_per_second=200e9,
    ici_links=4,
    dcn_bytes_per_second=3.125e9,
    max_chips=256,
    gke_accelerator="tpu-v5-lite-podslice",
    gke_machine_family="ct5lp-hightpu",
    accelerator_prefix="v5litepod",
    tpu_vm_type="v5litepod",
    runtime_version="v2-alpha-tpuv5-lite",
    libtpu_name="v5e",
)
V5P = Generation(
    name="v5p",
    cores_per_chip=2,
    hbm_bytes=95 * GIB,
    hbm_bytes_per_second=2765e9,
    peak_flops=459e12,
    ici_bytes_per_second=600e9,
    ici_links=6,
    dcn_bytes_per_second=6.25e9,
    max_chips=6144,
    gke_accelerator="tpu-v5p-slice",
    gke_machine_family="ct5p-hightpu",
    accelerator_prefix="v5p",
    tpu_vm_type="v5p",
    runtime_version="v2-alpha-tpuv5",
    libtpu_name="v5",
)
V6E = Generation(
    name="v6e",
    cores_per_chip=1,
    hbm_bytes=32 * GIB,
    hbm_bytes_per_second=1640e9,
    peak_flops=918e12,
    ici_bytes_per_second=400e9,
    ici_links=4,
    dcn_bytes_per_second=12.5e9,
    max_chips=256,
    gke_accelerator="tpu-v6e-slice",
    gke_machine_family="ct6e-standard",
    accelerator_prefix="v6e",
    tpu_vm_type="v6e",
    runtime_version="v2-alpha-tpuv6e",
    libtpu_name="v6e",
)
GENERATIONS = {generation.name: generation for generation in (V4, V5E, V5P, V6E)}


@dataclasses.dataclass(frozen=True)
class TpuSlice:
    """One slice: chips joined by ICI. `parse_slice` makes it, of shapes that exist.

    Attributes:
      generation: of its chips.
      topology: chips along each axis of the torus.
    """

    generation: Generation
    topology: tuple[int, ...]

    @property
    def name(self) -> str:
        """As a user writes it: v5e-256; with its topology where the name alone means another one."""
        short = f"{self.generation.name}-{self.chips * self.generation.cores_per_chip}"
        return short if self.has_usual_topology else f"{self.generation.name}-{self.topology_name}"

    @property
    def topology_name(self) -> str:
        """As GKE and gcloud write it: 16x16, 4x4x8."""
        return "x".join(str(side) for side in self.topology)

    @property
    def has_usual_topology(self) -> bool:
        """Whether it is the shape that the number of chips stands for."""
        return self.topology == _usual_topology(self.generation, self.chips)

    @property
    def chips(self) -> int:
        """Of the slice; JAX has one device for each (the 2 TensorCores of a v4 or v5p chip work as one)."""
        return math.prod(self.topology)

    @property
    def chips_per_host(self) -> int:
        """That one host, and one process, has."""
        # A rectangle of 8 chips is one host of 8; larger ones are made of hosts of 4.
        return self.chips if self.chips <= 4 or (self.generation.dimensions == 2 and self.chips == 8) else 4

    @property
    def hosts(self) -> int:
        """Machines, and processes."""
        return self.chips // self.chips_per_host

    @property
    def xpk_hosts(self) -> int:
        """Machines, and processes, where xpk makes them: it has none of 8 chips."""
        return max(1, self.chips // 4)

    @property
    def hbm_bytes(self) -> int:
        """Of all chips."""
        return self.chips * self.generation.hbm_bytes

    @property
    def peak_flops(self) -> float:
        """Of all chips, dense bfloat16."""
        return self.chips * self.generation.peak_flops

    @property
    def gke_machine_type(self) -> str:
        """The machine type of a GKE node pool."""
        return f"{self.generation.gke_machine_family}-{self.chips_per_host}t"

    @property
    def accelerator_type(self) -> str:
        """What `gcloud compute tpus ... --accelerator-type` takes; it means the usual topology."""
        return f"{self.generation.accelerator_prefix}-{self.chips * self.generation.cores_per_chip}"

    @property
    def libtpu_topology(self) -> str:
        """What `jax.experimental.topologies.get_topology_desc` takes for platform "tpu"."""
        return f"{self.generation.libtpu_name}:{self.topology_name}"


def names_tpus(name: str) -> bool:
    """Whether a name means a TPU slice, one that exists or not."""
    return _generation(name.strip().lower().partition("-")[0]) is not None


def parse_slice(name: str) -> TpuSlice:
    """Turns a slice's name, v5e-256 or v5p-4x4x8, into the slice.

    A generation may also be written as gcloud's accelerator types have it (v5litepod-256).

    Raises:
      ConfigError: there is no such generation, size or topology; the message names the nearest that exist.
    """
    prefix, dash, size = name.strip().lower().partition("-")
    generation = _generation(prefix)
    if generation is None or not dash or not size:
        raise ConfigError(_unknown_name(name))
    if "x" in size:
        return _with_topology(name, generation, size)
    cores = int(size) if size.isascii() and size.isdigit() else 0
    topology = _usual_topology(generation, cores / generation.cores_per_chip)
    if topology is None:
        raise ConfigError(_unknown_size(name, generation, cores))
    return TpuSlice(generation, topology)


def _generation(prefix: str) -> Generation | None:
    by_prefix = {generation.accelerator_prefix: generation for generation in GENERATIONS.values()}
    return GENERATIONS.get(prefix) or by_prefix.get(prefix)


def _usual_topology(generation: Generation, chips: float) -> tuple[int, ...] | None:
    """The shape that so many chips have unless another one is asked for: the one nearest a cube."""
    return next((shape for shape in generation.topologies if math.prod(shape) == chips), None)


def _with_topology(name: str, generation: Generation, text: str) -> TpuSlice:
    parts = text.split("x")
    sides = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(sides) == len(parts) and sides in generation.topologies:
        return TpuSlice(generation, sides)
    raise ConfigError(_unknown_topology(name, generation, sides, text))


def _unknown_name(name: str) -> str:
    every = [slice_name for generation in GENERATIONS.values() for slice_name in generation.names]
    found = difflib.get_close_matches(name.lower(), every, n=3, cutoff=0.5)
    return (
        f"{name!r} is no TPU slice.{_nearest(found)} A slice is a generation ({', '.join(GENERATIONS)}) with a size "
        "or a topology: v5e-256, v5p-128, v5p-4x4x8."
    )


def _unknown_size(name: str, generation: Generation, cores: int) -> str:
    sizes = [int(other.rpartition("-")[2]) for other in generation.names]
    closest = sorted(sorted(sizes, key=lambda size: abs(size - cores))[:3]) if cores else sizes[:3]
    counted = (
        f"{generation.name} names count TensorCores, {generation.cores_per_chip} a chip"
        if generation.cores_per_chip > 1
        else f"{generation.name} names count chips"
    )
    return (
        f"{name!r} is no TPU slice.{_nearest(f'{generation.name}-{size}' for size in closest)} "
        f"{counted}; the largest is {generation.names[-1]}."
    )


def _unknown_topology(name: str, generation: Generation, sides: Sequence[int], text: str) -> str:
    """The nearest shapes: the same sides in another order, then those of about as many chips."""
    chips = math.prod(sides) or 1
    size_first = sorted(generation.topologies, key=lambda shape: (abs(math.log(math.prod(shape) / chips)), sum(shape)))
    same_sides = [shape for shape in generation.topologies if sorted(shape) == sorted(sides)]
    closest = list(dict.fromkeys([*same_sides, *size_first]))[:3]
    listed = ("x".join(str(side) for side in shape) for shape in closest)
    rule = (
        "A v4 or v5p topology is 2x2x1, 2x2x2, 2x2x4, 2x4x4, or AxBxC with A <= B <= C, all multiples of 4"
        if generation.dimensions == 3
        else f"{generation.name} has {', '.join('x'.join(map(str, shape)) for shape in generation.topologies)}"
    )
    return (
        f"{name!r}: {generation.name} has no topology {text}.{_nearest(f'{generation.name}-{one}' for one in listed)} "
        f"{rule}; at most {generation.max_chips} chips."
    )


def _nearest(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f" Nearest: {listed}." if listed else ""
