"""A training's programs compile for TPU on a machine without one: a change that breaks that shows here."""

import dataclasses

import jax
import pytest

from famjax.errors import ConfigError
from famjax.planning import topology
from famjax.planning.compiling import compile_inference, compile_train_step
from famjax.planning.memory import AVAILABLE
from famjax.planning.topology import slice_devices
from famjax.planning.trials import Change, Trials, with_batch, with_microbatches
from famjax.pods.config import MeshConfig
from famjax.pods.slices import parse_slice
from famjax.training.program import make_program
from planned import JOB

# One slice of each kind; one of several hosts among them.
SLICES = {"v4-8": 4, "v5e-8": 8, "v5p-16": 8, "v6e-4": 4}
needs_libtpu = pytest.mark.skipif(
    topology.find_libtpu() is None, reason="libtpu, TPU's compiler, is not installed (pip install 'famjax[plan]')"
)


def train_step_for(name, **changes):
    """The plan of the small job's train step on a slice, and the job's program."""
    job = dataclasses.replace(JOB, **changes)
    tpu = parse_slice(name)
    program = make_program(job, slice_devices(tpu, job.mesh.num_slices))
    return compile_train_step(program, job.step_length, tpu), program


@needs_libtpu
@pytest.mark.parametrize("name", SLICES)
def test_every_kind_of_slice(name):
    """Guards against a model that TPU's compiler refuses, and against figures that are not the program's."""
    compiled, program = train_step_for(name)
    memory, chips = compiled.plan.memory, SLICES[name]
    assert program.mesh.devices.size == chips
    params = sum(leaf.size for leaf in jax.tree.leaves(program.abstract_state.params))
    # Cut over the chips, parameters in float32; AdamW has two moments.
    assert 4 * params / chips <= memory.parameters < 1.2 * 4 * params / chips
    assert memory.optimizer == pytest.approx(2 * memory.parameters, rel=0.01)
    assert memory.gradients + memory.temporaries > 0
    assert memory.program > 0
    assert memory.available == round(AVAILABLE[name.partition("-")[0]])
    assert memory.fits
    assert {traffic.axes for traffic in compiled.plan.traffic} == {("fsdp",)}
    assert any(traffic.kind == "all-gather" for traffic in compiled.plan.traffic)


@needs_libtpu
def test_prefill_and_decode():
    """Guards against steps of inference that TPU's compiler refuses, and against state that is counted nowhere."""
    tpu = parse_slice("v5e-4")
    devices = slice_devices(tpu)
    mesh = make_program(JOB, devices).mesh
    prefill, decode = compile_inference(JOB, devices, mesh, 4, tpu)
    assert (prefill.plan.name, decode.plan.name) == ("prefill, 4 rows x 64 tokens", "decode, 4 rows")
    for compiled in (prefill, decode):
        memory = compiled.plan.memory
        assert memory.fits
        assert memory.optimizer == memory.gradients == 0
        # One row a chip: FAM in float32 and the keys and values of M + 1 blocks and of FAM.
        model = JOB.model
        slots = 2 * model.memory.block_size + model.memory.fam_length
        kept = 4 * model.memory.fam_length * model.emb_dim + 2 * 4 * slots * model.num_kv_heads * model.head_dim
        assert memory.state >= model.num_layers * kept


@needs_libtpu
def test_too_large_a_step_is_divided_too():
    """Guards against a stack trace where a job does not fit, and against a message that is not understood."""
    model = dataclasses.replace(JOB.model, vocab_size=2**20, emb_dim=2048)
    compiled, _ = train_step_for("v5e-1", model=model)
    memory = compiled.plan.memory
    assert compiled.program is None
    assert not memory.fits
    assert memory.parameters >= 4 * 2**31
    assert memory.available == round(AVAILABLE["v5e"])


@needs_libtpu
def test_two_slices_are_joined_over_data():
    """Guards against a plan whose traffic between slices is that of a single one, or that within each of them."""
    compiled, program = train_step_for("v5e-4", mesh=MeshConfig(fsdp_parallelism=2, num_slices=2))
    assert dict(program.mesh.shape) == {"data": 4, "fsdp": 2, "model": 1}
    traffic = compiled.plan.traffic
    assert {axis for each in traffic for axis in each.axes} == {"data", "fsdp"}
    assert {(each.kind, each.axes) for each in traffic if each.between_slices} == {("all-reduce", ("data",))}
    (between,) = [each.bytes for each in traffic if each.between_slices]
    within = sum(each.bytes for each in traffic if not each.between_slices and each.axes == ("data",))
    # A chip has half of the gradients. They are summed over a slice's two copies into parts, these over the slices, and
    # the parts gathered again; small arrays are summed whole.
    half = 4 * sum(leaf.size for leaf in jax.tree.leaves(program.abstract_state.params)) / 2
    assert half / 2 <= between < half <= within < 2 * half


@needs_libtpu
def test_a_change_is_tried():
    """Guards against a remedy that nobody compiled, and against more compilations than were asked for."""
    tpu = parse_slice("v5e-4")
    base = Change("", JOB, tpu, 1)
    trials = Trials(base, JOB.step_length, 1, lambda message: None)
    assert trials.run(with_batch(base, 6)) is None  # it does not divide
    wide = dataclasses.replace(JOB, model=dataclasses.replace(JOB.model, vocab_size=2**24, emb_dim=2048))
    refused = trials.run(dataclasses.replace(base, job=wide))
    assert (refused.fits, refused.compiled) == (False, False)
    trial = trials.run(with_microbatches(base, 2))
    assert (trial.flags, trial.fits, trial.compiled) == ("--gin.NUM_MICROBATCHES=2", True, True)
    assert trial.tokens_per_second > 0
    assert trials.left == 0
    assert trials.run(with_microbatches(base, 4)) is None


def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
    """Guards against an import error, or an answer about TPUs that somebody without one cannot use."""
    monkeypatch.setattr(topology, "find_libtpu", lambda: None)
    with pytest.raises(ConfigError, match=r'pip install "famjax\[plan\]"'):
        slice_devices(parse_slice("v5e-8"))
