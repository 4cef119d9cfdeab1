"""`make imported`: a checkpoint that was pretrained with full attention gets a memory by LoRA, and BSWA does not."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from famjax.configuration.loading import load
from famjax.evaluation.scan.config import ScanJob
from famjax.interop.gin_files import model_file
from famjax.models.config import MemoryConfig
from famjax.training.config import TrainJob

ROOT = Path(__file__).parent.parent
PYTHON = ".venv/bin/python"


def commands():
    """The commands of `make imported` behind the installation, as they stand."""
    lines = subprocess.run(
        ["make", "--dry-run", "imported"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line for line in lines if line.startswith(f"{PYTHON} -m famjax")]


def test_its_recipes_fit_together(tmp_path, monkeypatch):
    """Guards against settings that a reader would find out about after half an hour."""
    monkeypatch.chdir(tmp_path)
    model_gin = Path("imported/base/model.gin")
    model_gin.parent.mkdir(parents=True)
    base, export, imports, *finetunings, evaluation = map(parsed, commands())
    assert [export[0], imports[0]] == [["export"], ["import"]]
    pretraining = load(TrainJob, *base[1:]).job
    assert pretraining.model.memory == MemoryConfig(block_size=pretraining.data.length, num_segments=0, fam_length=0)
    model_gin.write_text(model_file(pretraining.model, "imported/exported"))
    fam, bswa = (load(TrainJob, *finetuning[1:]).job for finetuning in finetunings)
    for job in (fam, bswa):
        assert dataclasses.replace(job.model, memory=pretraining.model.memory, lora=None) == pretraining.model
        assert job.model.lora.rank == 32
        assert job.restore.path == "imported/base"
    assert (fam.model.memory.fam_length, bswa.model.memory.fam_length) == (8, 0)
    assert fam.data == bswa.data
    scan = load(ScanJob, *evaluation[1:]).job
    assert scan.checkpoints == {"FAM": fam.model_dir, "BSWA": bswa.model_dir}


def parsed(command):
    """A command's words, gin files and gin settings."""
    words = shlex.split(command)[3:]
    files = [word.removeprefix("--gin_file=") for word in words if word.startswith("--gin_file=")]
    settings = [word.removeprefix("--gin.").split("=", 1) for word in words if word.startswith("--gin.")]
    return [word for word in words if not word.startswith("--")], files, list(map(tuple, settings))


@pytest.mark.slow
def test_a_memory_for_a_pretrained_checkpoint(tmp_path):
    """Guards against LoRA and FAM that learn nothing over an import, and against a task that BSWA solves as well."""
    # Not those of the tests, which compile fast and run slowly on eight devices.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    for line in commands():
        command = [sys.executable, *shlex.split(line.removeprefix(PYTHON))]
        process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, f"{line}\n{process.stdout[-2000:]}\n{process.stderr[-2000:]}"
    cells = [json.loads(line) for line in (tmp_path / "imported/scan/results.jsonl").read_text().splitlines()]
    exact = {(cell["model"], cell["length"]): cell["metrics"]["exact_match"]["value"] for cell in cells}
    for length, least in {256: 0.85, 512: 0.85, 1024: 0.85, 2048: 0.75}.items():
        assert exact["FAM", length] >= least
        assert exact["BSWA", length] <= 0.1
