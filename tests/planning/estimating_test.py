"""famjax.planning.estimating: GPUs, by formulas."""

import dataclasses

import pytest

from famjax.errors import ConfigError
from famjax.models.lora_config import LoraConfig
from famjax.planning.config import PlanSettings
from famjax.planning.running import make_plan
from famjax.pods.config import MeshConfig
from famjax.training.config import RestoreConfig
from famjax.training.flops import forward_flops
from planned import JOB


def memory_of(**changes):
    """The estimate for 4 GPUs of a host."""
    return make_plan(dataclasses.replace(JOB, **changes), PlanSettings(slice="h100-4")).programs[0].memory


def test_shapes_are_counted_exactly():
    """Guards against an estimate of what can be known; it needs neither GPUs nor libtpu."""
    plan = make_plan(JOB, PlanSettings(slice="h100-4"))
    memory = plan.programs[0].memory
    assert plan.estimated
    assert plan.layout.mesh == {"data": 1, "fsdp": 4, "model": 1}
    assert memory.parameters == pytest.approx(4 * plan.layout.parameters / 4, rel=0.1)
    assert memory.gradients == memory.parameters
    assert memory.optimizer == pytest.approx(2 * memory.parameters, rel=0.01)
    assert plan.work.peak_flops == pytest.approx(4 * 989e12)


def test_what_saves_memory_does():
    """Guards against a formula that a setting leaves alone, or moves the wrong way."""
    rich = memory_of()
    for policy in ("dots", "full"):
        lean = memory_of(model=dataclasses.replace(JOB.model, remat_policy=policy))
        assert lean.temporaries < rich.temporaries
    parts = memory_of(num_microbatches=2)
    assert parts.temporaries < rich.temporaries
    assert parts.gradients == 2 * rich.gradients
    assert memory_of(mesh=MeshConfig()).parameters > 3 * rich.parameters


def test_a_frozen_base_has_no_gradients():
    """Guards against a step of LoRA whose time is that of training everything."""
    model = dataclasses.replace(JOB.model, lora=LoraConfig(rank=2))
    job = dataclasses.replace(JOB, model=model, restore=RestoreConfig("base"))
    plan = make_plan(job, PlanSettings(slice="h100-4"))
    assert plan.layout.trained < plan.layout.parameters / 10
    forward = forward_flops(job.model, job.data.batch_size, job.step_length).total
    assert 2 * forward < plan.work.flops < 2.9 * forward
    everything = make_plan(JOB, PlanSettings(slice="h100-4")).work
    assert everything.flops == 3 * forward_flops(JOB.model, JOB.data.batch_size, JOB.step_length).total


def test_a_batch_that_does_not_divide_is_refused():
    """Guards against a job that fits by the plan, and that the training refuses."""
    job = dataclasses.replace(JOB, data=dataclasses.replace(JOB.data, batch_size=6))
    with pytest.raises(ConfigError, match=r"batch_size = 6 .* multiple of 4"):
        make_plan(job, PlanSettings(slice="h100-4"))


def test_flags_that_need_a_compiler_are_refused():
    """Guards against a flag that is silently left out."""
    with pytest.raises(ConfigError, match=r"--plan\.search needs TPU's compiler"):
        make_plan(JOB, PlanSettings(slice="h100-4", search=True))
    with pytest.raises(ConfigError, match=r"--num_slices = 2 joins TPU slices"):
        make_plan(JOB, PlanSettings(slice="h100-4", num_slices=2))
    with pytest.raises(ConfigError, match=r"h100-8, h100-16"):
        make_plan(JOB, PlanSettings(slice="h100-12"))
