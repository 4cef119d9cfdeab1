"""The command line: what it prints, and mistakes told in a line with an exit code."""

import importlib.util
import json

import numpy as np
import pytest
from hf_models import FIXTURES
from imported import copy_of
from safetensors.numpy import load_file, save_file

from famjax.interop import command_line, huggingface
from famjax.models.config import MemoryConfig
from famjax.training.restore import read_model_config


def test_import_and_export(tmp_path, capsys):
    """Guards against flags that do not arrive, and a next step that is not told."""
    source, output, back = FIXTURES / "llama", tmp_path / "out", tmp_path / "back"
    assert huggingface.main(["import", f"--source={source}", f"--output={output}", "--block_size=16"]) == 0
    printed = capsys.readouterr().out
    assert f"{output}/checkpoint_0: 21 tensors" in printed
    assert (
        f"unknown, as {source} has neither tokenizer.json nor tokenizer.model; a job reads bytes unless it" in printed
    )
    assert "family llama" in printed
    assert f"--gin_file={output}/model.gin --gin.INITIAL_CHECKPOINT_PATH=\"'{output}'\"" in printed
    flags = [f"--checkpoint={output}", f"--output={back}", "--shard_gigabytes=0.00001", "--family=llama"]
    assert huggingface.main(["export", *flags]) == 0
    assert "21 tensors in " in capsys.readouterr().out
    files = sorted(path.name for path in back.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert sum(len(load_file(back / file)) for file in files) == 21
    assert huggingface.main(["export", f"--checkpoint={output}", f"--output={tmp_path / 'whole'}"]) == 0
    assert "21 tensors in 1 file," in capsys.readouterr().out


def test_the_memory_of_an_export_is_told(tmp_path, capsys):
    """Guards against flags that are dropped in silence where fam.safetensors brings a memory of its own."""
    source = copy_of("qwen3", tmp_path)
    memory = {"block_size": 8, "num_segments": 1, "fam_length": 3}
    save_file({"fam_prompt": np.ones((3, 16), np.float32)}, source / "fam.safetensors", {"memory": json.dumps(memory)})
    flags = ["import", f"--source={source}", f"--output={tmp_path / 'out'}"]
    for flag, stored in (("--block_size=16", 8), ("--num_segments=0", 1)):
        assert huggingface.main([*flags, flag]) == 2
        assert capsys.readouterr().err == (
            f"{flag}; {source}/fam.safetensors has {stored}, the memory that its FAM was trained with. Leave the flag "
            "out; a job may set another memory.\n"
        )
    assert not (tmp_path / "out").exists()
    assert huggingface.main([*flags, "--block_size=8"]) == 0
    assert "\nMemory: C = 8, M = 1, F = 3, by fam.safetensors.\n" in capsys.readouterr().out
    assert read_model_config(tmp_path / "out").memory == MemoryConfig(**memory)


def test_mistakes_are_told_in_a_line(tmp_path, capsys, monkeypatch):
    """Guards against tracebacks, and against exit codes that a script cannot tell apart."""
    assert huggingface.main(["import", f"--source={tmp_path}", f"--output={tmp_path / 'out'}"]) == 4
    assert capsys.readouterr().err == (
        f"{tmp_path}/config.json cannot be read: No such file or directory. It is empty.\n"
    )
    flags = ["--block_size=0"], ["--num_segments=x"], ["--sauce=here"], ["--num_segments=-1"]
    for wrong in flags:
        try:
            code = huggingface.main(["import", f"--source={tmp_path}", f"--output={tmp_path / 'out'}", *wrong])
        except SystemExit as error:
            code = error.code
        assert code == 2, wrong
        assert "Traceback" not in capsys.readouterr().err
    for size in ("nan", "-1", "0", "inf"):
        with pytest.raises(SystemExit):
            huggingface.main(["export", "--checkpoint=a", "--output=b", f"--shard_gigabytes={size}"])
        assert "argument --shard_gigabytes: invalid positive_float value" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert huggingface.main(["import", f"--source={FIXTURES / 'qwen3'}", f"--output={tmp_path / 'out'}"]) == 0
    flags = [f"--source={FIXTURES / 'qwen3'}", f"--checkpoint={tmp_path / 'out'}"]
    assert huggingface.main(["verify", *flags]) == 2
    assert "needs torch and transformers, which is not installed; pip install torch" in capsys.readouterr().err


def test_help_names_the_families(capsys):
    """Guards against a family that nobody finds."""
    with pytest.raises(SystemExit) as stop:
        huggingface.main(["--help"])
    assert stop.value.code == 0
    assert "gemma3" in capsys.readouterr().out


def test_progress_is_shown(capsys, monkeypatch):
    """Guards against an import of an hour that says nothing, and one that prints a line for every tensor."""
    clock = iter([0.0, 1.0, 10.0, 12.0, 20.0])
    monkeypatch.setattr(command_line.time, "monotonic", lambda: next(clock))
    lines = command_line.ProgressLines()
    for done in (1, 2, 3, 4):
        lines(done * 10**9, 10 * 10**9)
    assert capsys.readouterr().err == (
        "2.0 of 10.0 GB (20%), 0.20 GB/s, eta 40 s\n4.0 of 10.0 GB (40%), 0.20 GB/s, eta 30 s\n"
    )
