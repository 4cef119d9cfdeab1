"""What the benchmarks share: times taken in turns, and figures printed as JSON lines."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax


def in_turns(
    functions: Mapping[str, Callable[[], Any]], rounds: int, before: Callable[[], Any] | None = None
) -> dict[str, list[float]]:
    """Times functions one after the other, round after round, so that a slow minute of the machine hits all alike.

    Args:
      functions: by name; what each returns is waited for (`jax.block_until_ready`).
      rounds: how often each is called.
      before: called before each call, outside its time.

    Returns:
      The seconds of each call, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            if before is not None:
                before()
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median, over rounds, of one time over the other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def print_figures(benchmark: str, figures: Mapping[str, Any], *, met: bool) -> bool:
    """Prints a JSON line: the benchmark, its figures, whether the target is met, and the machine. Returns `met`."""
    print(json.dumps({"benchmark": benchmark, **figures, "met": met, "machine": machine()}), flush=True)
    return met


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
