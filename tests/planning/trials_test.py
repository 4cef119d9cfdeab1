"""famjax.planning.remedies and searching: which changes are tried, and which are shown. Nothing is compiled here."""

import dataclasses

import pytest

from famjax.errors import ConfigError
from famjax.planning import trials as trials_module
from famjax.planning.plan import Trial
from famjax.planning.remedies import find_remedies
from famjax.planning.searching import search
from famjax.planning.speed import recomputed_flops, tokens_per_second
from famjax.planning.trials import Change, Trials
from famjax.pods.slices import parse_slice
from famjax.training.flops import forward_flops
from planned import JOB

V5E = parse_slice("v5e-16")


class Pretended(Trials):
    """Trials that a rule decides, and that remember what was asked."""

    def __init__(self, job, fits, most=100, tpu=V5E):
        super().__init__(Change("", job, tpu, 1), job.step_length, most, lambda message: None)
        self.fits, self.asked = fits, []

    def estimate(self, change):
        """Nothing is left out."""
        return 0

    def run(self, change):
        """Says what the rule says."""
        if not self.left:
            return None
        self.left -= 1
        self.asked.append(change)
        fits = self.fits(change)
        speed = tokens_per_second(change.job, self.length, change.tpu, 1, ()) if fits else None
        return Trial(change.flags, 10, 16 if fits else 8, fits, speed)


def lean(**changes):
    """The small job with everything at its leanest but the batch."""
    model = dataclasses.replace(JOB.model, remat_policy="full")
    return dataclasses.replace(JOB, model=model, data=dataclasses.replace(JOB.data, batch_size=64), **changes)


def test_the_nearest_changes_are_found():
    """Guards against a remedy larger than it need be, and against one that was not tried."""
    trials = Pretended(lean(), lambda change: change.job.data.batch_size // change.job.num_microbatches <= 16)
    found = find_remedies(trials)
    assert {"--gin.NUM_MICROBATCHES=4", "--gin.BATCH_SIZE=16"} <= {trial.flags for trial in found}
    assert all(trial.fits for trial in found)
    assert {trial.flags for trial in found} <= {change.flags for change in trials.asked}
    assert len({change.flags for change in trials.asked}) == len(trials.asked)


def test_a_larger_slice_and_more_memory_are_remedies():
    """Guards against no word of the slice, where the parameters alone are too many."""
    trials = Pretended(lean(), lambda change: change.tpu.hbm_bytes > 2 * V5E.hbm_bytes)
    assert [trial.flags for trial in find_remedies(trials)] == ["--slice=v5e-64", "--slice=v5p-32"]


@pytest.mark.parametrize("name", ["v5e-1", "v5e-4", "v5e-8"])
def test_a_slice_of_few_chips_has_remedies(name):
    """Guards against a stack trace for model parallelism over more chips than there are, and against gaps in sizes.

    There is no v5e-2, but a v5e-4 and a v5e-8.
    """
    trials = Pretended(lean(), lambda change: change.tpu.chips > 2 * parse_slice(name).chips, tpu=parse_slice(name))
    larger = f"--slice=v5e-{4 * parse_slice(name).chips}"
    assert larger in {trial.flags for trial in find_remedies(trials)}
    assert all(change.job.mesh.model_parallelism <= change.tpu.chips for change in trials.asked)


def test_the_flags_of_a_remedy_say_everything():
    """Guards against a remedy that fits only together with what its flags leave out."""
    mesh = dataclasses.replace(JOB.mesh, fsdp_parallelism=1)
    trials = Pretended(dataclasses.replace(JOB, mesh=mesh), lambda change: False)
    assert find_remedies(trials) == ()
    for change in trials.asked:
        assert ("FSDP_PARALLELISM" in change.flags) == (change.job.mesh.fsdp_parallelism != 1)
        assert ("remat_policy" in change.flags) == (change.job.model.remat_policy != "none")
        assert ("NUM_MICROBATCHES" in change.flags) == (change.job.num_microbatches != 1)


def test_a_trial_that_the_compiler_refuses_is_left_out(monkeypatch):
    """Guards against one change that cannot be compiled, which ends the plan and loses all others."""

    def refuse(program, length, tpu):
        raise ConfigError("the train step does not compile: Mosaic")

    monkeypatch.setattr(trials_module, "compile_train_step", refuse)
    monkeypatch.setattr(trials_module, "slice_devices", lambda tpu, num_slices: None)
    lines = []
    base = Change("", JOB, V5E, 1)
    assert Trials(base, JOB.step_length, 3, lines.append).run(base) is None
    assert lines[-1] == "left out: the train step does not compile: Mosaic"


def test_the_search_orders_what_fits_by_speed():
    """Guards against a best that is not the fastest that fits, and against trying what cannot fit."""

    def fits(change):
        kept = {"none": 8, "dots": 4, "dots_without_batch": 3, "full": 1}[change.job.model.remat_policy]
        return kept * change.job.data.batch_size / change.job.num_microbatches <= 32

    trials = Pretended(JOB, fits)
    found = search(trials)
    speeds = [trial.tokens_per_second for trial in found if trial.fits]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds
    assert [trial.fits for trial in found] == sorted((trial.fits for trial in found), reverse=True)
    assert trials.asked[0].flags == ""
    # Nothing that was refused is followed by as many rows or more under the same policy on the same mesh.
    refused = {}
    for change in trials.asked:
        setting = (change.job.mesh, change.job.model.remat_policy)
        rows = change.job.data.batch_size / change.job.num_microbatches
        assert rows < refused.get(setting, float("inf"))
        if not fits(change):
            refused[setting] = min(rows, refused.get(setting, rows))


def test_the_search_ends():
    """Guards against hours of compilation that nobody asked for."""
    trials = Pretended(JOB, lambda change: True, most=5)
    assert len(search(trials)) == 5


@pytest.mark.parametrize("policy", ["none", "full"])
def test_what_is_computed_again(policy):
    """Guards against an order of remat policies that counts their work wrongly."""
    job = dataclasses.replace(JOB, model=dataclasses.replace(JOB.model, remat_policy=policy))
    forward = forward_flops(job.model, job.data.batch_size, job.step_length)
    again = {"none": forward.logits + forward.token_attention, "full": forward.total}[policy]
    assert recomputed_flops(job, job.step_length) == again
