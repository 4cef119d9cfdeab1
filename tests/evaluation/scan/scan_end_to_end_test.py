"""A scan with a real model: what is compiled, and results that do not depend on who evaluated what."""

import dataclasses
import json
from pathlib import Path

import pytest

from famjax.data.questions.long_documents_config import WholeDocuments
from famjax.data.task_config import AssociativeRecall, Documents
from famjax.evaluation.scan import running
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.running import scan
from famjax.inference.config import MemoryOverrides
from famjax.pods.config import MeshConfig
from famjax.training.checkpoints import Checkpointer
from famjax.training.program import make_program
from tiny_job import make_job


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> ScanJob:
    """Two checkpoints of one training, two memories, a task that asks and one that reads, at two lengths."""
    folder = tmp_path_factory.mktemp("runs")
    training = make_job(folder, "fam", mesh=MeshConfig(num_devices=1))
    state = make_program(training).init()
    with Checkpointer(training.model_dir, training.checkpoint, training.model) as checkpointer:
        for step in (3, 6):
            checkpointer.save(step, state, {"vocabulary": "bytes"}, force=True)
    documents = str(folder / "documents" / "*.txt")
    return ScanJob(
        checkpoints=training.model_dir,
        tasks=("recall", "books"),
        lengths=(40, 100),
        output_dir=str(folder / "scan"),
        every=1,
        memories=(MemoryOverrides(), MemoryOverrides(with_fam=False)),
        examples=3,
        batch_size=2,
        chunk_blocks=2,
        position_buckets=4,
        mesh=MeshConfig(num_devices=1),
        task_configs={
            "recall": AssociativeRecall(num_pairs=1, key_letters=1, value_digits=1),
            "books": WholeDocuments(documents="text"),
            "text": Documents(paths=(documents,), validation_fraction=0.5),
        },
    )


@pytest.fixture(scope="module")
def whole(job) -> tuple[list, list]:
    """Results and ledger of a scan by one process."""
    returned = scan(job)
    (ledger,) = (Path(job.output_dir) / "ledger").iterdir()
    return returned, [json.loads(line) for line in ledger.read_text().splitlines()]


def test_results(job, whole):
    """Guards against a cell that measures another length, memory or task than its line says."""
    returned, _ = whole
    assert len(returned) == 16
    assert {result["status"] for result in returned} == {"done"}
    for result in returned:
        assert result["examples"] == 3
        if result["task"] == "recall":
            assert result["prompt_tokens"] + result["generated_tokens"] <= 3 * result["length"]
            assert 0 < result["generated_tokens"] <= 3
            assert 0 <= result["metrics"]["exact_match"]["value"] <= 1
        else:
            assert result["prompt_tokens"] == 3 * result["length"]
            assert 4 < result["metrics"]["loss"]["value"] < 8, "an untrained model of 259 ids"
            assert [part["tokens"] for part in result["by_position"]] == [3 * result["length"] // 4] * 4
    by_memory = {
        result["memory"]["fam_length"]: result["metrics"]["loss"]["value"]
        for result in returned
        if (result["task"], result["step"], result["length"]) == ("books", 3, 100)
    }
    assert by_memory[0] != by_memory[2], "beyond the window the memory shows"
    by_step = [result["metrics"] for result in returned if result["task"] == "books" and result["length"] == 40]
    assert by_step[0] == by_step[2], "both checkpoints hold the same parameters"


def test_each_shape_is_compiled_once(whole):
    """Guards against a compilation for each length or checkpoint, which would take most of a scan's time."""
    _, entries = whole
    compiled = [entry["seconds_compiling"] > 0 for entry in entries]
    # Of each memory: reading and decoding with the first cell of one task, scoring with that of the other.
    assert [index for index, was in enumerate(compiled) if was] == [0, 2, 4, 6]


def test_samples_and_report(job, whole):
    """Guards against a scan that leaves out what it promises."""
    output_dir = Path(job.output_dir)
    assert len(list((output_dir / "samples").iterdir())) == 16
    assert (output_dir / "report" / "report.html").stat().st_size > 1000
    assert len(list((output_dir / "harness").iterdir())) == 4


def test_two_processes_and_a_stop(job, whole, tmp_path, monkeypatch):
    """Guards against a result that depends on which cells a process has evaluated before, or in which batch."""
    monkeypatch.setattr(running, "write_report", lambda folders, output_dir, **settings: None)
    shared = dataclasses.replace(job, output_dir=str(tmp_path / "shared"))
    for shard in ("1/3", "0/3", "2/3"):
        scan(dataclasses.replace(shared, shard=shard))
    assert (tmp_path / "shared" / "results.jsonl").read_bytes() == (Path(job.output_dir) / "results.jsonl").read_bytes()
    for path in (Path(job.output_dir) / "samples").iterdir():
        assert (tmp_path / "shared" / "samples" / path.name).read_bytes() == path.read_bytes()
