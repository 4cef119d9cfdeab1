"""Checkpoints that hold no arrays, a small scan of them, and lines of a ledger that are made up."""

import dataclasses
import os
import time
import zlib
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import Cell
from famjax.evaluation.scan.ledger import DONE, FAILED, Entry
from famjax.models.config import TransformerConfig
from famjax.training import checkpoint_files as files
from famjax.training import model_settings
from tiny_job import MODEL


def write_checkpoint(
    model_dir: Path, step: int, config: TransformerConfig = MODEL, vocabulary: str = "bytes", salt: str = ""
) -> str:
    """Writes MODEL_DIR/checkpoint_<step>; another salt makes it another checkpoint. Returns its path."""
    folder = epath.Path(model_dir) / f"checkpoint_{step}"
    for item, values in (
        (files.MODEL, model_settings.to_json(config)),
        (files.DATA_STATE, {"vocabulary": vocabulary}),
    ):
        (folder / item).mkdir(parents=True)
        ocp.JsonCheckpointHandler().save(folder / item, values)
    (folder / files.STATE).mkdir()
    (folder / files.STATE / "arrays").write_text(f"{step} {salt}")
    files.seal(epath.Path(model_dir), step)
    return str(folder)


def make_scan(folder: Path, **changes: Any) -> ScanJob:
    """A scan of the two runs `fam` and `bswa` in a folder: eight cells of one checkpoint each."""
    job = ScanJob(
        checkpoints={"FAM": str(folder / "fam"), "BSWA": str(folder / "bswa")},
        tasks=("passkey",),
        lengths=(256, 320),
        depths=(0.0, 1.0),
        output_dir=str(folder / "scan"),
        examples=4,
    )
    return dataclasses.replace(job, **changes)


def write_runs(folder: Path, *steps: int) -> None:
    """The runs of `make_scan`, with these checkpoints each."""
    bswa = dataclasses.replace(MODEL, memory=dataclasses.replace(MODEL.memory, fam_length=0))
    for name, config in (("fam", MODEL), ("bswa", bswa)):
        for step in steps or (1,):
            write_checkpoint(folder / name, step, config, salt=name)


def fake_entry(cell: Cell, error: str = "") -> Entry:
    """A ledger's line of a cell, made up from its key, with a time and a machine that are never the same."""
    value = zlib.crc32(cell.key.encode()) % 1000 / 1000
    measured = {"value": value, "stderr": 0.0, "ci95": [value, value], "n": cell.examples}
    outcome = {
        "output_type": "generate_until",
        "metric": "exact_match",
        "metrics": {"exact_match": measured},
        "examples": cell.examples,
        "prompt_tokens": cell.tokens,
        "generated_tokens": 1,
        "cut_examples": 0,
        "cut_tokens": 0,
    }
    status = {"status": FAILED, "error": error} if error else {**outcome, "status": DONE}
    times = {"seconds": 0.5, "seconds_compiling": 0.0, "time": time.time(), "host": str(os.getpid())}
    return {"key": cell.key, **cell.describe(), **status, **times}
