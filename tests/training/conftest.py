"""Compiled programs that tests of one session share: a train step takes seconds to compile, and is the same in many."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache as cache


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
    """Switches jax's persistent compilation cache on; gives the variables that switch it on in a subprocess."""
    folder = tmp_path_factory.mktemp("compilation_cache")
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    cache.reset_cache()
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    cache.reset_cache()
