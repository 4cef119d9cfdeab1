"""Nobody holds a whole model that is cut: neither when it is initialised nor when it is restored."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from restoring_worker import big_job, state_bytes

from famjax.models.transformer import Transformer
from famjax.pods.mesh import use_mesh
from famjax.training.checkpoints import Checkpointer
from famjax.training.program import make_program
from famjax.training.state import init_train_state

WORKER = Path(__file__).parent / "restoring_worker.py"


def test_a_device_initialises_its_part_alone(tmp_path):
    """Guards against a state that every device makes whole and then cuts, which no pod has room for."""
    job = big_job(tmp_path)
    program = make_program(job)
    make = functools.partial(init_train_state, job, Transformer(job.model), program.optimizer)
    with use_mesh(program.mesh, job.mesh):
        compiled = jax.jit(make, out_shardings=program.shardings).lower().compile()
    analysis = compiled.memory_analysis()
    whole = state_bytes(program.abstract_state)
    assert whole > 3e8
    assert analysis.output_size_in_bytes < 1.1 * whole / 8
    # Two random words for every number of a parameter, and what is made of them.
    assert analysis.temp_size_in_bytes < 2 * whole / 8


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read as Linux shows it")
def test_restoring_takes_no_second_copy(tmp_path):
    """Guards against a checkpoint that is read whole and then cut, or that every device reads whole.

    All eight devices lie in the memory of this machine, so that one copy of everything is the least.
    """
    job = big_job(tmp_path)
    state = jax.tree.map(
        lambda leaf: jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index, leaf=leaf: np.ones(leaf.shape, leaf.dtype)[index]
        ),
        make_program(job).abstract_state,
    )
    with Checkpointer(tmp_path, job.checkpoint, job.model) as checkpointer:
        checkpointer.save(1, state, {}, force=True)
    run = subprocess.run([sys.executable, str(WORKER), str(tmp_path)], capture_output=True, text=True, check=False)
    shutil.rmtree(tmp_path)
    assert run.returncode == 0, run.stderr
    memory = json.loads(run.stdout.splitlines()[-1])
    assert memory["state"] == state_bytes(state)
    assert memory["grown"] < 1.5 * memory["state"]
