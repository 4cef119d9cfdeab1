"""famjax.planning.page: what a plan shows, from stored values."""

import dataclasses
import json

from famjax.planning.compiling import ProgramPlan, Traffic
from famjax.planning.memory import Memory
from famjax.planning.page import as_json, render, render_others
from famjax.planning.plan import Layout, Plan, Trial
from famjax.planning.work import StepTime, Work
from famjax.pods.slices import GIB

LAYOUT = Layout(
    slice="v5e-32",
    num_slices=2,
    topology="4x8",
    chips=64,
    hosts=16,
    mesh={"data": 2, "fsdp": 32, "model": 1},
    batch_size=128,
    microbatches=4,
    remat="full",
    parameters=1_250_000_000,
    trained=40_000_000,
    versions={"jax": "0.10.2", "libtpu": "0.0.42.1"},
)
MEMORY = Memory(
    parameters=GIB,
    optimizer=2 * GIB,
    state=10,
    batch=GIB // 100,
    gradients=GIB,
    temporaries=5 * GIB,
    padding=0,
    program=GIB // 10,
    available=16 * GIB,
)
STEP = ProgramPlan(
    "train step, T = 8,704",
    MEMORY,
    (
        Traffic("all-gather", ("fsdp",), 3 * GIB, 36),
        Traffic("all-reduce", ("data",), 2 * GIB, 3),
        Traffic("all-reduce", ("data",), GIB, 2, between_slices=True),
    ),
    80.0,
)
WORK = Work(8704, 128 * 8704, 8 * 10**15, 12.6e15, 50_000, (StepTime(0.4, 1.5873, 701_890.0, 22.05),))
PLAN = Plan(LAYOUT, (STEP,), WORK)
PAGE = """\
Plan for 2 x v5e-32: 4x8, 64 chips, 16 hosts; mesh: data 2, fsdp 32, model 1
1,250,000,000 parameters, of which 40,000,000 are trained; batch of 128 rows in 4 microbatches; remat 'full'
jax 0.10.2, libtpu 0.0.42.1

HBM of one chip, GiB
                               train step, T = 8,704
  parameters                                    1.00
  optimizer state                               2.00
  gradients                                     1.00
  recurrent and saved state                    <0.01
  activations and temporaries                   5.00
  batch                                         0.01
  program                                       0.10
  total                                         9.11
  available                                    16.00
                                          fits (57%)

What one chip sends: train step, T = 8,704
              along        GiB  times
  all-gather  fsdp        3.00     36
  all-reduce  data        2.00      3
  all-reduce  data (DCN)  1.00      2

A step: 128 x 8,704 tokens, 8e+15 FLOPs; the chips' peak is 1.26e+16 FLOP/s
  MFU  s a step  tokens/s  hours for 50,000 steps
  40%      1.59   701,890                    22.1
"""


def without_spaces_at_the_end(text):
    """Lines, as the page's text above has them."""
    return [line.rstrip() for line in text.splitlines()]


def test_the_page():
    """Guards against a figure in the wrong row, unit or column."""
    assert without_spaces_at_the_end(render(PLAN)) == without_spaces_at_the_end(PAGE)


def test_what_does_not_fit_is_told_with_what_would():
    """Guards against a page that leaves a reader alone with a job that does not fit."""
    small = dataclasses.replace(STEP, memory=dataclasses.replace(MEMORY, available=8 * GIB), traffic=())
    refused = dataclasses.replace(PLAN, programs=(small,))
    assert "DOES NOT FIT" in render(refused)
    assert "none of the changes that were tried" in render_others(refused)
    trial = Trial("--gin.NUM_MICROBATCHES=8", 7 * GIB, 8 * GIB, fits=True, tokens_per_second=650_000.0)
    page = render_others(dataclasses.replace(refused, remedies=(trial,)))
    assert "--gin.NUM_MICROBATCHES=8  7.00  8.00  fits   650,000" in page
    by_shapes = dataclasses.replace(trial, fits=False, tokens_per_second=None, compiled=False)
    assert render_others(PLAN) == ""
    assert "over 7.00" in render_others(dataclasses.replace(PLAN, search=(by_shapes,)))


def test_an_estimate_is_labelled():
    """Guards against formulas that pass for a compiler's figures."""
    assert "an estimate by formulas; nothing was compiled" in render(dataclasses.replace(PLAN, estimated=True))


def test_the_json_says_the_same():
    """Guards against a JSON that lacks what the page shows."""
    value = json.loads(json.dumps(as_json(PLAN)))
    assert value["fits"] is True
    assert value["programs"][0]["memory"]["total"] == MEMORY.total
    between = {"kind": "all-reduce", "axes": ["data"], "bytes": GIB, "times": 2, "between_slices": True}
    assert value["programs"][0]["traffic"][2] == between
    assert value["work"]["times"][0]["utilization"] == 0.4
