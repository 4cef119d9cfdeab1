"""GPUs by name, as a Slurm job asks for them: h100-16 is 16 GPUs, on 2 hosts of 8. Imports no jax.

Sources, NVIDIA's data sheets: https://www.nvidia.com/en-us/data-center/a100/, /h100/, /h200/, /dgx-b200/. Peak compute
is that of dense matrices (the sheets give twice as much, with sparsity); a host has 8 GPUs on one NVLink domain.
"""

import dataclasses
import difflib

from famjax.errors import ConfigError

GPUS_PER_HOST = 8


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
      name: what stands before the dash in the name of a set of them.
      hbm_bytes: of one GPU.
      hbm_bytes_per_second: of one GPU.
      peak_flops: of one GPU, dense bfloat16.
      nvlink_bytes_per_second: what one GPU can send to the others of its host.
    """

    name: str
    hbm_bytes: int
    hbm_bytes_per_second: float
    peak_flops: float
    nvlink_bytes_per_second: float


KINDS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40gb", 40 * 10**9, 1555e9, 312e12, 300e9),
        Gpu("a100-80gb", 80 * 10**9, 2039e9, 312e12, 300e9),
        Gpu("h100", 80 * 10**9, 3350e9, 989e12, 450e9),
        Gpu("h200", 141 * 10**9, 4800e9, 989e12, 450e9),
        Gpu("b200", 180 * 10**9, 8000e9, 2250e12, 900e9),
    )
}


@dataclasses.dataclass(frozen=True)
class GpuSlice:
    """GPUs on one host, or all GPUs of several. `parse_gpus` makes it.

    Attributes:
      gpu: of which kind.
      chips: how many.
    """

    gpu: Gpu
    chips: int

    @property
    def name(self) -> str:
        """As a user writes it: h100-16."""
        return f"{self.gpu.name}-{self.chips}"

    @property
    def chips_per_host(self) -> int:
        """GPUs of one host."""
        return min(self.chips, GPUS_PER_HOST)

    @property
    def hosts(self) -> int:
        """Machines."""
        return self.chips // self.chips_per_host

    @property
    def hbm_bytes(self) -> int:
        """Of all GPUs."""
        return self.chips * self.gpu.hbm_bytes

    @property
    def peak_flops(self) -> float:
        """Of all GPUs, dense bfloat16."""
        return self.chips * self.gpu.peak_flops


def names_gpus(name: str) -> bool:
    """Whether a name means GPUs, spelled rightly or not, and no TPU slice: h100-16, h100, a100-8."""
    return name.strip().lower().partition("-")[0] in {kind.partition("-")[0] for kind in KINDS}


def parse_gpus(name: str) -> GpuSlice:
    """Turns h100-16 into its GPUs.

    Raises:
      ConfigError: there is no such kind, or so many GPUs are neither part of a host nor whole hosts; the message names
        the nearest that exist.
    """
    kind, _, size = name.strip().lower().rpartition("-")
    count = int(size) if size.isascii() and size.isdigit() else 0
    if kind not in KINDS or not count:
        sizes = [one for one in KINDS if one.startswith(f"{kind}-")]
        nearest = sizes or difflib.get_close_matches(kind or size, KINDS, n=2, cutoff=0.3)
        hint = f" Nearest: {', '.join(f'{one}-{count or GPUS_PER_HOST}' for one in nearest)}." if nearest else ""
        raise ConfigError(f"{name!r} is no set of GPUs.{hint} Kinds: {', '.join(KINDS)}, with a number: h100-16.")
    if count < GPUS_PER_HOST or count % GPUS_PER_HOST == 0:
        return GpuSlice(KINDS[kind], count)
    below = count // GPUS_PER_HOST * GPUS_PER_HOST
    raise ConfigError(
        f"{name!r}: {count} GPUs are no whole number of hosts with {GPUS_PER_HOST}. "
        f"Nearest: {kind}-{below}, {kind}-{below + GPUS_PER_HOST}."
    )
