"""benchmarks/compile_time.py, with a stand-in for the compiler whose time is known."""

import time

import compile_time
import jax
from figures import TINY, figures_of

from famjax.training.program import Program


def test_figures(capsys, monkeypatch):
    """Each line compares two compilations of steps that differ as it says; a growth beyond the target shows."""
    compiled = []

    def compile_step(program, length):
        compiled.append((program.job.model.num_layers, length))
        time.sleep(0.2 * program.job.model.num_layers)

    monkeypatch.setattr(Program, "compile_step", compile_step)
    arguments = [*TINY, "--rounds=2", "--layers", "1", "3", "--blocks", "1", "5"]
    layers, blocks = figures_of(compile_time.main, arguments, capsys)
    assert compiled == [(1, 16), *[(1, 16), (3, 16)] * 2, *[(1, 8), (1, 40)] * 2]
    assert (layers["over"], layers["sizes"], layers["met"]) == ("layers", [1, 3], False)
    assert (blocks["over"], blocks["sizes"], blocks["met"]) == ("blocks", [1, 5], True)
    for line in (layers, blocks):
        assert line["benchmark"] == "compile_time"
        assert line["target"] == 1.3
        assert len(line["seconds"]) == 2


def test_every_compilation_is_a_cold_one(monkeypatch):
    """What jax keeps of an earlier compilation would make the second of a pair look fast."""
    traced = []
    jitted = jax.jit(traced.append)
    monkeypatch.setattr(Program, "compile_step", lambda program, length: jitted(1.0))
    sizes = compile_time.DEFAULTS
    compile_time.measure("layers", {1: sizes, 2: sizes}, rounds=2)
    assert len(traced) == 4
