"""A checkpoint of initial parameters, for tests that open one."""

import pathlib

from famjax.training.checkpoints import Checkpointer
from famjax.training.program import make_program
from tiny_job import make_job


def write_checkpoint(folder: pathlib.Path) -> str:
    """Saves a tiny model of bytes, with blocks of 8 tokens, after step 7; returns its MODEL_DIR."""
    training = make_job(folder, "run")
    with Checkpointer(training.model_dir, training.checkpoint, training.model) as checkpointer:
        checkpointer.save(7, make_program(training).init(), {"vocabulary": "bytes"}, force=True)
    return training.model_dir
