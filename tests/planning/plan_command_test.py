"""`famjax --run_mode=plan`: flags, exit codes, and what is printed. GPUs are planned here: nothing is compiled."""

import json

import pytest

from command_line import COMPLETE, invoke
from famjax.planning import topology

PLAN = ("--run_mode=plan", "--gin.TransformerConfig.vocab_size=260", *COMPLETE)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (PLAN, "--run_mode=plan needs a slice to plan for"),
        ((*COMPLETE, "--slice=v5e-8"), "--slice belongs to --run_mode=plan, and this is --run_mode=train"),
        ((*PLAN, "--slice=v5e-7"), "Nearest: v5e-1, v5e-4, v5e-8"),
        ((*PLAN, "--slice=v5e-8"), 'pip install "famjax[plan]"'),
        ((*PLAN, "--slice=h100-12"), "Nearest: h100-8, h100-16"),
        ((*PLAN, "--slice=h100"), "with a number: h100-16."),
        ((*PLAN, "--slice=a100-8"), "Nearest: a100-40gb-8, a100-80gb-8."),
        (("--run_mode=plan", "--slice=h100-8", "--gin_file=runs/infer.gin"), "Plans are of trainings, as of"),
        ((*PLAN, "--slice=h100-8", "--plan.save=steps"), "--plan.save needs TPU's compiler"),
        ((*PLAN, "--slice=h100-8", "--num_slices=0"), "num_slices = 0"),
        ((*PLAN, "--slice=h100-8", "--plan.json=/nowhere/plan.json"), "/nowhere/plan.json cannot be written"),
        ((*PLAN, "--slice=h100-1", "--gin.BATCH_SIZE=1000000"), "The train step takes"),
    ],
)
def test_mistakes_are_told(capsys, monkeypatch, flags, words):
    """Guards against a stack trace, and against a flag that is left out without a word."""
    monkeypatch.setattr(topology, "find_libtpu", lambda: None)
    outcome = invoke(capsys, flags)
    assert outcome.code == 2
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_the_page_and_the_json(capsys, tmp_path):
    """Guards against a page or a file that is not written, and against a standard output that is no JSON."""
    file = tmp_path / "plan.json"
    page = invoke(capsys, (*PLAN, "--slice=h100-8", f"--plan.json={file}"))
    assert page.code == 0, page.stderr
    assert page.stdout.startswith("Plan for h100-8: 8 chips, 1 host; mesh: data 8, fsdp 1, model 1\n")
    only_json = invoke(capsys, (*PLAN, "--slice=h100-8", "--plan.json=-"))
    assert json.loads(only_json.stdout) == json.loads(file.read_text())
    assert json.loads(only_json.stdout)["estimated"] is True


def test_a_file_is_complete_or_not_there(capsys, tmp_path):
    """Guards against an empty file of a plan that was refused, or ended, which a script takes for one."""
    file = tmp_path / "plan.json"
    outcome = invoke(capsys, (*PLAN, "--slice=h100-8", f"--plan.json={file}", "--gin.BATCH_SIZE=7"))
    assert (outcome.code, file.exists()) == (2, False)


def test_gpus_that_are_too_small(capsys):
    """Guards against a refusal that leaves the user alone, and against advice that is taken already."""
    too_small = (*PLAN, "--slice=h100-8", "--gin.BATCH_SIZE=8000000")
    advice = ["remat_policy=\"'full'\"", "--gin.FSDP_PARALLELISM=None", "--gin.NUM_MICROBATCHES=2", "more GPUs"]
    outcome = invoke(capsys, too_small)
    assert outcome.code == 2
    assert "The train step does not fit, by the formulas. For GPUs no changes are tried" in outcome.stdout
    assert all(line in outcome.stdout for line in advice)
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in outcome.stdout
    done = ("--gin.TransformerConfig.remat_policy='full'", "--gin.FSDP_PARALLELISM=None", "--gin.NUM_MICROBATCHES=8")
    outcome = invoke(capsys, (*too_small, *done))
    assert outcome.code == 2
    assert not any(line in outcome.stdout for line in advice[:2])
    assert "--gin.NUM_MICROBATCHES=16" in outcome.stdout
