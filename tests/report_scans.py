"""Small results of scans, as scans write them, for the tests of the report."""

import json
import math
from pathlib import Path

from famjax.evaluation.scan.scoring import estimate_mean

FAM = {"block_size": 64, "num_segments": 0, "fam_length": 8}
BSWA = {"block_size": 64, "num_segments": 1, "fam_length": 0}


def estimate(right, n):
    """So many right answers of n, as a scan writes it."""
    return _finite(estimate_mean([1.0] * right + [0.0] * (n - right)).to_json())


def cell(right=16, *, n=16, **fields):
    """A finished cell of a passkey task."""
    return {
        "model": "FAM",
        "checkpoint": "runs/fam/checkpoint_100",
        "step": 100,
        "memory": FAM,
        "parameters": 123456,
        "task": "passkey",
        "output_type": "generate_until",
        "length": 256,
        "depth": None,
        "seed": 0,
        "examples": n,
        "metric": "exact_match",
        "metrics": {"exact_match": estimate(right, n)},
        "prompt_tokens": 4000,
        "generated_tokens": 80,
        "cut_examples": 0,
        "cut_tokens": 0,
        "status": "done",
        **fields,
    }


def bswa(right=0, **fields):
    """The same of a model that remembers nothing."""
    return cell(right, **{"model": "BSWA", "checkpoint": "runs/bswa/checkpoint_100", "memory": BSWA, **fields})


def failed(error, **fields):
    """A cell that failed."""
    dropped = ("metric", "metrics", "prompt_tokens", "generated_tokens", "cut_examples", "cut_tokens")
    kept = {name: value for name, value in cell(**fields).items() if name not in dropped}
    return {**kept, "status": "failed", "error": error}


def rolling(loss=2.0, *, length=1024, **fields):
    """A finished cell of a rolling task."""
    half = length // 2
    parts = [
        {"begin": 0, "end": half, "loss": loss + 0.5, "accuracy": 0.25, "tokens": 16 * half},
        {"begin": half, "end": length, "loss": loss - 0.5, "accuracy": 0.5, "tokens": 16 * half},
    ]
    metrics = {"token_accuracy": _normal(0.375), "loss": _normal(loss), "perplexity": _normal(math.exp(loss))}
    named = {"task": "books", "output_type": "loglikelihood_rolling", "metric": "token_accuracy", "metrics": metrics}
    return cell(length=length, **{**named, "by_position": parts, **fields})


def write_scan(folder: Path, cells, config="") -> Path:
    """Writes results.jsonl, and config.gin where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in cells), encoding="utf-8")
    if config:
        (folder / "config.gin").write_text(config, encoding="utf-8")
    return folder


def demo_cells():
    """Two models, two tasks, three lengths, two depths; a cell that failed, cut prompts, and two training steps."""
    cells = [
        maker(right, length=length, depth=depth)
        for maker, rights in ((cell, (16, 15, 14)), (bswa, (16, 1, 0)))
        for length, right in zip((256, 512, 1024), rights, strict=True)
        for depth in (0.0, 1.0)
    ]
    cells[-1] = failed("RuntimeError: out of memory", **{**cells[-1], "status": "failed"})
    cells[0] |= {"cut_examples": 12, "cut_tokens": 3100}
    earlier = {"step": 50, "checkpoint": "runs/fam/checkpoint_50"}
    cells += [cell(2, length=length, depth=depth, **earlier) for length in (256, 512) for depth in (0.0, 1.0)]
    return cells + [rolling(), rolling(2.5, model="BSWA", checkpoint="runs/bswa/checkpoint_100", memory=BSWA)]


def _normal(value):
    return {"value": value, "stderr": 0.01, "ci95": [value - 0.0196, value + 0.0196], "n": 16}


def _finite(estimate):
    return {
        name: "NaN" if isinstance(value, float) and math.isnan(value) else value for name, value in estimate.items()
    }
