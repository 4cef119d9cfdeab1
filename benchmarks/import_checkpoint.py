"""Import of a large Llama folder: memory and speed. Targets: 1.3 x one file + the largest tensor; half a copy's speed.

A folder of random bfloat16 weights is written, with the sizes of a 1B Llama unless flags say otherwise. Its files are
copied, and imported by `python -m famjax.interop.huggingface` in a process of its own, in turns; a first round of both
is not counted. Memory is that process's largest resident set, the interpreter and its libraries included. Seconds count
until everything is on the disk, without those of the same command that only starts (--help).

    python benchmarks/import_checkpoint.py [--folder=/tmp/import] [--rounds=3]
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from measuring import median_ratio, print_figures

from famjax.interop.config_values import read_settings
from famjax.interop.families import FAMILIES
from famjax.interop.layouts import slots_of
from famjax.interop.tensor_files import TensorWriter
from famjax.models.config import MemoryConfig

MEMORY_TARGET, SPEED_TARGET = 1.3, 0.5
# Llama 3.2 1B's.
DEFAULTS = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
}


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder to be imported.

    Attributes:
      path: of it.
      num_bytes: of its files of tensors.
      largest_file: bytes.
      largest_tensor: bytes.
    """

    path: Path
    num_bytes: int
    largest_file: int
    largest_tensor: int


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round measures.

    Attributes:
      copy_seconds: of the files, until they are on the disk.
      import_seconds: likewise, less `startup_seconds`.
      startup_seconds: of the interpreter, its libraries and the command without work.
      peak_bytes: largest resident set of the import.
      idle_bytes: that of the command without work.
    """

    copy_seconds: float
    import_seconds: float
    startup_seconds: float
    peak_bytes: int
    idle_bytes: int


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where both targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="a disk with three times the model's room; default: a temporary folder")
    parser.add_argument("--rounds", type=int, default=3, help="imports and copies; default: 3")
    parser.add_argument("--shard_megabytes", type=float, default=1000.0, help="of a file at most; default: 1000")
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    flags = parser.parse_args(arguments)
    sizes = {name: getattr(flags, name) for name in DEFAULTS}
    with tempfile.TemporaryDirectory(dir=flags.folder) as temporary:
        # In a process of its own: the memory of the process that starts another counts as that one's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            source = Path(temporary) / "source"
            folder = pool.apply(make_folder, (source, sizes, round(flags.shard_megabytes * 1e6)))
        rounds = [measure(folder, Path(temporary)) for _ in range(flags.rounds + 1)][1:]
    limit = MEMORY_TARGET * folder.largest_file + folder.largest_tensor
    common = {"sizes": sizes, "rounds": flags.rounds, "bytes": folder.num_bytes}
    peak = max(figures.peak_bytes for figures in rounds)
    memory: dict[str, Any] = {
        "peak_bytes": peak,
        "idle_bytes": max(figures.idle_bytes for figures in rounds),
        "largest_file_bytes": folder.largest_file,
        "largest_tensor_bytes": folder.largest_tensor,
        "ratio": peak / limit,
        "target": 1.0,
    }
    speed: dict[str, Any] = {
        "target": SPEED_TARGET,
        "copy_seconds": [figures.copy_seconds for figures in rounds],
        "import_seconds": [figures.import_seconds for figures in rounds],
        "startup_seconds": [figures.startup_seconds for figures in rounds],
        "ratio": median_ratio(
            [figures.copy_seconds for figures in rounds], [figures.import_seconds for figures in rounds]
        ),
    }
    fits = print_figures("import_memory", {**common, **memory}, met=memory["ratio"] <= memory["target"])
    fast = print_figures("import_speed", {**common, **speed}, met=speed["ratio"] >= speed["target"])
    return 0 if fits and fast else 1


def make_folder(path: Path, sizes: dict[str, int], shard_bytes: int) -> Folder:
    """A Llama folder with random weights."""
    path.mkdir()
    family = FAMILIES[0]
    hf = {**sizes, "architectures": [family.architecture], "tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    (path / "config.json").write_text(json.dumps(hf))
    config = read_settings(family, hf, MemoryConfig(block_size=1024, num_segments=3, fam_length=0), "config.json")
    writer, random, largest = TensorWriter(path, shard_bytes), np.random.default_rng(0), 0
    for name, slot in slots_of(family, config).items():
        # Finite numbers whose bits are random: what a compressor would make of zeros says nothing.
        bits = random.integers(0x3C00, 0x3F00, slot.tensor_shape, np.uint16)
        tensor = bits.view(ml_dtypes.bfloat16)
        largest = max(largest, tensor.nbytes)
        writer.add(name, tensor)
    files = [file.stat().st_size for file in writer.finish()]
    return Folder(path, sum(files), max(files), largest)


def measure(folder: Folder, temporary: Path) -> Round:
    """One copy and one import."""
    copy, output = temporary / "copy", temporary / "output"
    begin = time.perf_counter()
    shutil.copytree(folder.path, copy)
    os.sync()
    copied = time.perf_counter() - begin
    shutil.rmtree(copy)
    startup, idle = run_command(["--help"])
    imported, peak = run_command(["import", f"--source={folder.path}", f"--output={output}"])
    shutil.rmtree(output)
    return Round(copied, imported - startup, startup, peak, idle)


def run_command(arguments: Sequence[str]) -> tuple[float, int]:
    """Runs the command in a process of its own; returns its seconds and its largest resident set in bytes."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "famjax.interop.huggingface", *arguments], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    os.sync()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} ended with {process.returncode}.")
    return time.perf_counter() - begin, usage.ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
