"""Adapters for Hugging Face's library peft: what is written."""

import dataclasses
import json
import math
import os
import re

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hf_models import FIXTURES
from imported import IMAGE_NAMES, WITH_IMAGES, with_images
from safetensors.numpy import load_file

from famjax.errors import CheckpointError
from famjax.interop import peft
from famjax.interop.exporting import export_checkpoint
from famjax.interop.families import FAMILIES
from famjax.interop.importing import import_checkpoint
from famjax.models.config import MemoryConfig
from famjax.models.lora import merge_adapters
from famjax.models.lora_config import ADAPTABLE
from famjax.training.program import make_program
from famjax.training.restore import load_params
from finetuned import ADAPTED, LORA, MEMORY_ONLY, write_base, write_finetuning

PARTLY = dataclasses.replace(LORA, patterns=("layers/attention/(query|out)/.*", "layers/mlp/down/kernel"), dropout=0.1)
PLACE = "base_model.model.model.layers.0."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, and finetunings with adapters on all matrices, on some, and on none."""
    folder = tmp_path_factory.mktemp("peft")
    base = write_base(folder)
    write_finetuning(folder, "partly", base, model=dataclasses.replace(ADAPTED["model"], lora=PARTLY))
    write_finetuning(folder, "memory", base, **MEMORY_ONLY)
    return folder


@pytest.fixture(scope="module")
def lora_job(folder):
    """The finetuning with adapters on all matrices."""
    return write_finetuning(folder, "lora", str(folder / "base"), **ADAPTED)


def test_what_is_written(folder, tmp_path, capsys):
    """Guards against names, or settings, of another layout than peft's, and against a FAM prompt that is lost."""
    output = tmp_path / "out"
    flags = [f"--checkpoint={folder / 'partly'}", f"--output={output}", "--base_model=some/base"]
    assert peft.main(flags) == 0
    assert capsys.readouterr().out == f"{output}: adapters of 3 matrices.\n"
    assert json.loads((output / peft.CONFIG_FILE).read_text()) == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "some/base",
        "r": 2,
        "lora_alpha": 4.0,
        "lora_dropout": 0.1,
        "target_modules": ["q_proj", "o_proj", "down_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    shapes = {name: tensor.shape for name, tensor in load_file(output / peft.ADAPTER_FILE).items()}
    modules = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
    assert shapes == {
        f"{PLACE}{module}.lora_{matrix}.weight": shape
        for module in modules
        for matrix, shape in (("A", (2, 16)), ("B", (16, 2)))
    }
    assert load_file(output / "fam.safetensors")["fam_prompt"].shape == (2, 16)


def test_b_times_a_is_what_merging_adds(lora_job, tmp_path):
    """Guards against dimensions of heads that change places on the way, and against the matrices of another layer."""
    peft.export_adapter(lora_job.model_dir, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / peft.ADAPTER_FILE)
    assert len(tensors) == 2 * 7
    params = load_params(lora_job.model_dir, make_program(lora_job).abstract_state.params)
    before, merged = flatten_dict(params, sep="/"), flatten_dict(merge_adapters(LORA, params), sep="/")
    for ours, theirs, num_inputs in (
        ("layers/attention/key", "self_attn.k_proj", 1),
        ("layers/attention/out", "self_attn.o_proj", 2),
        ("layers/mlp/up", "mlp.up_proj", 1),
    ):
        change = np.asarray(merged[f"{ours}/kernel"][0]) - np.asarray(before[f"{ours}/kernel"][0])
        matrix = change.reshape(math.prod(change.shape[:num_inputs]), -1)
        a, b = (tensors[f"{PLACE}{theirs}.lora_{name}.weight"] for name in "AB")
        np.testing.assert_allclose(LORA.scale * (b @ a), matrix.T, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported(folder, lora_job, tmp_path, capsys):
    """Guards against empty adapters, a folder that is overwritten, and a whole model without its base."""
    with pytest.raises(CheckpointError, match=r"memory/checkpoint_3 \(--checkpoint\) has no adapters"):
        peft.export_adapter(str(folder / "memory"), tmp_path / "out")
    peft.export_adapter(lora_job.model_dir, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"holds adapters already; give another --output"):
        peft.export_adapter(lora_job.model_dir, tmp_path / "out")
    assert peft.main([f"--checkpoint={tmp_path / 'nowhere'}", f"--output={tmp_path / 'other'}"]) == 4
    assert "(--checkpoint) does not exist" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"lora/checkpoint_3 \(--checkpoint\) is itself a finetuning"):
        export_checkpoint(lora_job.model_dir, tmp_path / "whole")


def test_adapters_within_a_model_that_reads_images(folder, tmp_path, capsys):
    """Guards against names of the text model by itself, in which peft finds nothing, and against adapters elsewhere."""
    source = with_images(tmp_path)
    made = import_checkpoint(source, tmp_path / "base", MemoryConfig(block_size=8, num_segments=1, fam_length=0))
    memory = MemoryConfig(block_size=8, num_segments=1, fam_length=2)
    model = dataclasses.replace(made.config, memory=memory, lora=PARTLY, dtype="float32")
    job = write_finetuning(tmp_path, "lora", str(tmp_path / "base"), model=model)
    layers = model.num_layers
    # By what the base was imported from, and by what transformers will load.
    for number, (flag, text) in enumerate(
        (("--base_model=google/some-name", IMAGE_NAMES[0]), (f"--base_model={FIXTURES / 'gemma3'}", "model."))
    ):
        output = tmp_path / f"out{number}"
        assert peft.main([f"--checkpoint={job.model_dir}", f"--output={output}", flag]) == 0
        within = "" if text == "model." else f", those of the text model in {WITH_IMAGES}"
        assert capsys.readouterr().out == f"{output}: adapters of {3 * layers} matrices{within}.\n"
        names = {name.rpartition(".lora_")[0] for name in load_file(output / peft.ADAPTER_FILE)}
        assert {name.removeprefix("base_model.model.").partition("layers.")[0] for name in names} == {text}
    targets = json.loads((tmp_path / "out0" / peft.CONFIG_FILE).read_text())["target_modules"]
    assert re.fullmatch(targets, "model.language_model.layers.1.self_attn.q_proj")
    assert not re.fullmatch(targets, "model.language_model.layers.1.self_attn.k_proj")
    assert not re.fullmatch(targets, "model.vision_tower.encoder.layers.1.self_attn.q_proj")


def test_the_command_is_run_as_its_neighbours(folder, tmp_path, monkeypatch):
    """Guards against a wait for TPUs that are not there, and a traceback where nobody reads the output on."""
    called = []
    monkeypatch.setattr("famjax.interop.command_line.leave_absent_tpus", lambda: called.append("platforms"))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert peft.main([f"--checkpoint={folder / 'partly'}", f"--output={tmp_path / 'out'}"]) == 0
    assert called == ["platforms"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_has_these_names(family):
    """Guards against adapters that peft would not find, of a family that has other names than the first."""
    assert {path: family.tensors[path] for path in ADAPTABLE} == {path: FAMILIES[0].tensors[path] for path in ADAPTABLE}
