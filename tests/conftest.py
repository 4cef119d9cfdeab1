"""What holds for every test: 8 CPU devices, no implicit rank promotion, shapes and types checked as the code runs.

Everything is set in the environment, before jax is first imported, so that a subprocess of a test inherits it and a
test that needs no jax does not pay for its import.
"""

import gc
import os
import shutil
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

NUM_DEVICES = 8

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Tests compile much and run little: without LLVM's expensive passes, with XLA's older emitters of fusions, and with one
# module for each program, they take a fraction of the time.
FLAGS = (
    f"--xla_force_host_platform_device_count={NUM_DEVICES}",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Threads of XLA's pool. A device that waits in an all-reduce holds one, and independent all-reduces may come in another
# order on another device: with one thread a device, that is a deadlock now and then.
os.environ["NPROC"] = str(4 * NUM_DEVICES)

# Installed for the whole session: modules of famjax that are imported from here on check their annotations.
install_import_hook("famjax", "typechecking.check")

_COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "compiled_programs"
_MOST_CACHE_BYTES = 4 * 2**30
# What jax says where another process has written an entry of the cache half: it compiles then.
_UNREADABLE_ENTRY = "ignore:Error reading persistent compilation cache entry"

# Compiled programs are kept, for all workers, for processes that tests start, and for the next run: most of the tests'
# time is compilation, and most programs recur.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_configure(config):
    """A cache that has grown large is begun anew, by the process that starts the workers."""
    config.addinivalue_line("filterwarnings", _UNREADABLE_ENTRY)
    if hasattr(config, "workerinput") or not _COMPILED.exists():
        return
    if sum(file.stat().st_size for file in _COMPILED.iterdir()) > _MOST_CACHE_BYTES:
        shutil.rmtree(_COMPILED)


_MAPS = Path("/proc/self/maps")
_MOST_MAPS = 5_000


@pytest.fixture(scope="module", autouse=True)
def few_compiled_programs():
    """Forgets a module's compiled programs if they are many; a test that needs one again finds it in the cache.

    Each takes memory, and memory maps, of which Linux allows a process 65,530: with one more, XLA's compiler ends the
    process.
    """
    yield
    if "jax" in sys.modules and _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        sys.modules["jax"].clear_caches()
        gc.collect()
