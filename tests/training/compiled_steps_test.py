"""famjax.training.compiled_steps: a step that was compiled before is the same step, or is not used."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from famjax.pods.config import MeshConfig
from famjax.training import compiled_steps
from famjax.training.compiled_steps import NotLoaded, load_step, save_step, step_path
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


@pytest.mark.slow  # Alone: among many other programs XLA may miss functions of a loaded one (on CPU).
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


def test_a_step_of_something_else_is_not_used(saved):
    """Guards against a training that runs a program of other settings, or that ends where it could compile."""
    warnings = []
    _, metrics = a_step(dataclasses.replace(saved, num_microbatches=1), warnings)
    assert np.isfinite(metrics["loss"])
    (warning,) = warnings
    assert warning.startswith("the train step is compiled anew: ")
    assert "of another program" in warning
    assert "\n" not in warning


def test_a_step_for_other_devices_is_not_used(saved):
    """Guards against a program that runs on a mesh that it was not partitioned for."""
    program = make_program(dataclasses.replace(saved, mesh=MeshConfig(num_devices=4)))
    with pytest.raises(NotLoaded, match="for other devices, 8 x cpu"):
        load_step(saved.compiled_steps, LENGTH, program.lower_step(LENGTH), program.mesh)


def test_a_damaged_or_foreign_file_is_not_used(saved, tmp_path):
    """Guards against a crash at the start of a pod's job, which would come again at every restart."""
    whole = step_path(saved.compiled_steps, LENGTH).read_bytes()
    header, _, _ = whole.partition(b"}\n")
    program = make_program(saved)
    lowered = program.lower_step(LENGTH)
    for content, words in (
        (None, "cannot be read"),
        (b"something else", "is no compiled step"),
        (whole[: len(whole) // 2], "is damaged"),
        (header, "is damaged"),
        (whole[:-9] + b"x" + whole[-8:], "is damaged"),
        (whole.replace(b"jaxlib ", b"jaxlib 0.", 1), "of other versions"),
    ):
        path = step_path(str(tmp_path), LENGTH)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(NotLoaded, match=words):
            load_step(str(tmp_path), LENGTH, lowered, program.mesh)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([["process 1 of 2 (b)", "", "the file cannot be read"]], r"^process 1 of 2 \(b\): the file cannot be read$"),
        ([["one", "", "damaged"], ["two", "", "gone"]], r"^one: damaged \(1 other process has none either\)$"),
        ([["process 1 of 2 (b)", "f00d", ""]], r"train_step_32.* of process 1 of 2 \(b\) is another file than that of"),
    ],
)
def test_all_processes_load_or_none(tmp_path, monkeypatch, others, words):
    """Guards against a process that runs what it has loaded beside one that has compiled or has loaded another file."""
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    lowered = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((), np.float32))
    save_step(str(tmp_path), LENGTH, lowered, lowered.compile(), mesh)
    monkeypatch.setattr(compiled_steps, "_deserialize", lambda path, payload, lowered, mesh: lowered.compile())
    monkeypatch.setattr(compiled_steps, "from_each", lambda mine, channel: [mine, *others])
    with pytest.raises(NotLoaded, match=words):
        load_step(str(tmp_path), LENGTH, lowered, mesh)
