"""famjax.training.compiled_steps: a step that was compiled before is the same step, or is not used."""

import dataclasses

import jax
import numpy as np
import pytest

from famjax.pods.config import MeshConfig
from famjax.training.compiled_steps import save_step, step_path
from famjax.training.feed import TrainingFeed
from famjax.training.program import make_program
from tiny_job import make_job

LENGTH = 32


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A job, and the folder with its compiled step."""
    folder = tmp_path_factory.mktemp("compiled")
    job = make_job(folder, "run")
    program = make_program(job)
    lowered = program.lower_step(LENGTH)
    save_step(str(folder / "steps"), LENGTH, lowered, lowered.compile(), program.mesh)
    return dataclasses.replace(job, compiled_steps=str(folder / "steps"))


def a_step(job, warnings):
    """One step of a job from its initial state; what was warned of goes to `warnings`."""
    program = make_program(job)
    step = program.compile_step(LENGTH, warnings.append)
    feed = TrainingFeed(job.data, job.curriculum.parsed, program.mesh, None)
    state, metrics = step(program.init(), feed.next_batch(0))
    feed.close()
    return jax.device_get((state.params, metrics))


def test_a_loaded_step_is_the_step(saved, monkeypatch):
    """Guards against a loaded program that is another, or that is compiled after all."""
    warnings = []
    expected = a_step(dataclasses.replace(saved, compiled_steps=None), warnings)
    compiled = []
    compile_lowered = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda self, *args: compiled.append(self) or compile_lowered(self, *args)
    )
    loaded = a_step(saved, warnings)
    assert not warnings
    assert not compiled
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"random_seed": 5, "num_microbatches": 1}, "of another program"),
        ({"mesh": MeshConfig(num_devices=4)}, "for other devices"),
    ],
)
def test_a_step_of_something_else_is_not_used(saved, change, words):
    """Guards against a training that runs a program of other settings, or one for another mesh."""
    warnings = []
    _, metrics = a_step(dataclasses.replace(saved, **change), warnings)
    assert np.isfinite(metrics["loss"])
    (warning,) = warnings
    assert warning.startswith("the train step is compiled anew: ")
    assert words in warning
    assert "\n" not in warning


def test_a_damaged_or_foreign_file_is_not_used(saved, tmp_path):
    """Guards against a crash at the start of a pod's job, which would come again at every restart."""
    whole = step_path(saved.compiled_steps, LENGTH).read_bytes()
    header, _, _ = whole.partition(b"}\n")
    for content, words in (
        (b"something else", "is no compiled step"),
        (whole[: len(whole) // 2], "is refused"),
        (whole.replace(b"jaxlib ", b"jaxlib 0."), "of other versions"),
        (header, "is no compiled step"),
        (None, "cannot be read"),
    ):
        path = step_path(str(tmp_path), LENGTH)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        warnings = []
        make_program(dataclasses.replace(saved, compiled_steps=str(tmp_path))).compile_step(LENGTH, warnings.append)
        assert words in warnings[0], content and content[:40]
