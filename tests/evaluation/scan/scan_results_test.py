"""Results: in grid order, with nothing that changes from run to run, also in lm-evaluation-harness's schema."""

import json

import pytest

from famjax.evaluation.scan.checkpoints import find_checkpoints
from famjax.evaluation.scan.grid import make_cells
from famjax.evaluation.scan.results import (
    results_of,
    samples_path,
    write_results,
    write_samples,
)
from scan_folders import fake_entry, make_scan, write_runs


@pytest.fixture
def job(tmp_path):
    """A scan of two checkpoints."""
    write_runs(tmp_path, 3)
    return make_scan(tmp_path, harness_tasks=("lambada",))


@pytest.fixture
def cells(job):
    """Its grid."""
    return make_cells(job, find_checkpoints(job.checkpoints, job.every), "bytes")


def test_order_and_content(cells):
    """Guards against results in the order in which they came, or with times and machines in them."""
    entries = {cell.key: fake_entry(cell) for cell in reversed(cells)}
    results = results_of(cells, entries)
    assert [(result["model"], result["task"], result["length"]) for result in results] == [
        (cell.checkpoint.name, cell.task, cell.length) for cell in cells
    ]
    assert list(results[0]) == [
        "model",
        "checkpoint",
        "step",
        "memory",
        "parameters",
        "task",
        "length",
        "depth",
        "seed",
        "output_type",
        "examples",
        "metric",
        "metrics",
        "prompt_tokens",
        "generated_tokens",
        "cut_examples",
        "cut_tokens",
        "status",
    ]
    failed = results_of(cells[:1], {cells[0].key: fake_entry(cells[0], "DataError: no")})
    assert (failed[0]["status"], failed[0]["error"]) == ("failed", "DataError: no")
    assert "metrics" not in failed[0]
    assert results_of(cells, {}) == []


def test_a_run_that_was_renamed(cells, job):
    """Guards against results under the name that a run had when it was evaluated."""
    entries = {cell.key: fake_entry(cell) for cell in cells}
    renamed = {"memory and more": job.checkpoints["FAM"]}
    others = make_cells(job, find_checkpoints(renamed, None), "bytes")
    assert {result["model"] for result in results_of(others, entries)} == {"memory and more"}


def test_written_results(cells, job, tmp_path):
    """Guards against files that differ though the results are the same."""
    entries = {cell.key: fake_entry(cell) for cell in cells}
    results = results_of(cells, entries)
    write_results(tmp_path / "a", results, job)
    write_results(tmp_path / "b", results_of(cells, dict(reversed(entries.items()))), job)
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.json*")}
    assert {str(file) for file in files} == {
        "results.jsonl",
        "harness/FAM_3_C8_M1_F2/results.json",
        "harness/BSWA_3_C8_M1_F0/results.json",
    }
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    lines = (tmp_path / "a" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == results


def test_harness_schema(cells, job, tmp_path):
    """Guards against files that the harness's readers do not find their way in; a failed cell has no result."""
    entries = {cell.key: fake_entry(cell, "no" if cell.length == 320 else "") for cell in cells}
    write_results(tmp_path, results_of(cells, entries), job)
    values = json.loads((tmp_path / "harness" / "FAM_3_C8_M1_F2" / "results.json").read_text())
    names = ["passkey_length256_depth0_seed0", "passkey_length256_depth1_seed0", "lambada"]
    for field in ("results", "configs", "versions", "higher_is_better", "n-samples", "group_subtasks"):
        assert list(values[field]) == names
    metrics = values["results"][names[0]]
    assert metrics["alias"] == "passkey length256 depth0 seed0"
    assert set(metrics) == {"name", "alias", "sample_len", "exact_match,none", "exact_match_stderr,none"}
    assert values["n-samples"][names[0]] == {"original": 4, "effective": 4}
    assert values["config"]["model_args"]["fam_length"] == 2
    assert values["higher_is_better"][names[0]] == {"exact_match": True}


def test_samples(cells, tmp_path):
    """Guards against samples of one cell that replace another's, and against letters written as escapes."""
    paths = {samples_path(tmp_path, cell) for cell in cells}
    assert len(paths) == len(cells)
    path = min(paths)
    write_samples(path, [{"doc_id": 0, "target": "für"}, {"doc_id": 1}])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == '{"doc_id": 0, "target": "für"}'
    assert len(lines) == 2
