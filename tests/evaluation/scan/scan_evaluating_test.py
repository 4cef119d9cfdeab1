"""One cell after the other: restored once a checkpoint, and whatever goes wrong is a line of the ledger."""

import dataclasses
import json
import shutil
from concurrent import futures
from typing import Any, ClassVar

import jax
import numpy as np
import pytest

from famjax.errors import CheckpointError, DataError, Stopped
from famjax.evaluation.scan import evaluating
from famjax.evaluation.scan.asking import Asked, Outcome
from famjax.evaluation.scan.checkpoints import find_checkpoints
from famjax.evaluation.scan.evaluating import Evaluator
from famjax.evaluation.scan.grid import make_cells
from famjax.evaluation.scan.results import samples_path
from famjax.evaluation.scan.scoring import estimate_mean
from famjax.inference.config import MemoryOverrides
from famjax.inference.language_model import LanguageModel
from famjax.inference.programs import Clock
from famjax.pods.config import MeshConfig
from finetuned import MEMORY_ONLY, write_base, write_finetuning
from scan_folders import make_scan, write_runs

NOTHING = Asked((), "generate_until", ("exact_match",))


class Model(LanguageModel):
    """Counts how often it is opened; its clock says half a second for each question."""

    opened: ClassVar[list] = []
    error: ClassVar[Exception | None] = None
    time: ClassVar[Clock] = Clock()

    @classmethod
    def open(cls, checkpoint, vocabulary=None, **settings):
        cls.opened.append((checkpoint.step, checkpoint.path.parent.name))
        if cls.error is not None:
            raise cls.error
        return object.__new__(cls)

    def with_memory(self, memory):
        return self

    @property
    def clock(self):
        return self.time


@pytest.fixture
def job(tmp_path):
    """Two runs of two checkpoints each, two memories, two lengths."""
    write_runs(tmp_path, 1, 2)
    memories = (MemoryOverrides(), MemoryOverrides(num_segments=0))
    return make_scan(tmp_path, every=1, memories=memories, depths=(None,))


@pytest.fixture
def cells(job):
    """The grid."""
    return make_cells(job, find_checkpoints(job.checkpoints, job.every), "bytes")


@pytest.fixture
def asked_of(monkeypatch):
    """The models that are asked; each answers with one right and one wrong."""
    monkeypatch.setattr(evaluating, "LanguageModel", Model)
    monkeypatch.setattr(Model, "opened", [])
    models = []

    def ask(model, asked, cell, job):
        models.append(model)
        model.clock.running += 0.5
        metrics = {"exact_match": estimate_mean([1.0, 0.0])}
        return Outcome("generate_until", "exact_match", metrics, 2, 10, samples=({"doc_id": 0},))

    monkeypatch.setattr(evaluating, "ask", ask)
    return models


def ready(value=NOTHING, error=None):
    """Questions that are made, or that could not be."""
    future = futures.Future[Any]()
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
    return future


def test_each_checkpoint_is_restored_once(job, cells, asked_of, tmp_path):
    """Guards against a restore for each memory or length."""
    evaluator = Evaluator(job, tmp_path)
    for cell in cells:
        assert evaluator.evaluate(cell, ready())["status"] == "done"
    assert len(asked_of) == len(cells) == 16
    assert Model.opened == [(1, "fam"), (2, "fam"), (1, "bswa"), (2, "bswa")]
    assert evaluator.restored == 4


def test_a_line_of_the_ledger(job, cells, asked_of, tmp_path):
    """Guards against a line that lacks its time or its cell, and against samples that are not there when it is."""
    entry = Evaluator(job, tmp_path).evaluate(cells[0], ready())
    json.dumps(entry)
    assert entry["key"] == cells[0].key
    assert entry["metrics"]["exact_match"]["value"] == 0.5
    assert entry["seconds_running"] == 0.5
    assert entry["seconds_compiling"] == 0.0
    assert {"seconds", "seconds_restoring", "seconds_waiting", "compilations", "host", "time"} <= set(entry)
    assert entry["restored"]
    assert samples_path(tmp_path, cells[0]).read_text() == '{"doc_id": 0}\n'
    quiet = Evaluator(dataclasses.replace(job, samples=False), tmp_path)
    quiet.evaluate(cells[1], ready())
    assert not samples_path(tmp_path, cells[1]).exists()


def test_a_failing_cell(job, cells, asked_of, tmp_path):
    """Guards against one cell that ends a scan of hours; a user's mistake is told without a traceback."""
    evaluator = Evaluator(job, tmp_path)
    entry = evaluator.evaluate(cells[0], ready(error=DataError("books/3.txt:\n  no UTF-8")))
    assert (entry["status"], entry["error"]) == ("failed", "DataError: books/3.txt: no UTF-8")
    assert "traceback" not in entry
    entry = evaluator.evaluate(cells[1], ready(error=RuntimeError("RESOURCE_EXHAUSTED: " + "x" * 1000)))
    assert entry["error"].startswith("RuntimeError: RESOURCE_EXHAUSTED: xxx")
    assert len(entry["error"]) < 500
    assert "Traceback" in entry["traceback"]
    assert evaluator.evaluate(cells[2], ready())["status"] == "done"


def test_a_checkpoint_that_cannot_be_restored(job, cells, asked_of, tmp_path, monkeypatch):
    """Guards against a broken checkpoint that is read once for each of its cells, or that breaks the next one's."""
    monkeypatch.setattr(Model, "error", CheckpointError("broken"))
    evaluator = Evaluator(job, tmp_path)
    first = [evaluator.evaluate(cell, ready())["error"] for cell in cells[:4]]
    assert set(first) == {"CheckpointError: broken"}
    assert len(Model.opened) == 1
    monkeypatch.setattr(Model, "error", None)
    assert evaluator.evaluate(cells[4], ready())["status"] == "done"


def test_a_checkpoint_that_was_deleted(job, cells, asked_of, tmp_path):
    """Guards against a scan that ends where the training has deleted a checkpoint."""
    shutil.rmtree(tmp_path / "fam" / "checkpoint_1")
    entry = Evaluator(job, tmp_path).evaluate(cells[0], ready())
    assert entry["error"].endswith("fam/checkpoint_1 was deleted before it was evaluated.")
    assert Model.opened == []


def test_a_damaged_checkpoint(job, cells, asked_of, tmp_path):
    """Guards against scores of parameters that a disk has altered."""
    (tmp_path / "fam" / "checkpoint_1" / "state" / "arrays").write_text("other")
    entry = Evaluator(job, tmp_path).evaluate(cells[0], ready())
    assert "Damaged" in entry["error"]
    assert Model.opened == []


def test_ctrl_c_is_no_failure(job, cells, asked_of, tmp_path):
    """Guards against an interrupt that is recorded as a failed cell, after which the scan goes on."""
    with pytest.raises(KeyboardInterrupt):
        Evaluator(job, tmp_path).evaluate(cells[0], ready(error=KeyboardInterrupt()))


def test_a_stopped_compilation_is_no_failure(job, cells, asked_of, tmp_path, monkeypatch):
    """Guards against a cell that counts as failed because a scheduler stopped the scan."""

    def ask(*_):
        raise Stopped("SIGTERM arrived during compilation.")

    monkeypatch.setattr(evaluating, "ask", ask)
    with pytest.raises(Stopped):
        Evaluator(job, tmp_path).evaluate(cells[0], ready())


def test_a_base_that_moved(tmp_path, monkeypatch):
    """Guards against a scan of finetunings that looks for their base where it was, or reads another one."""
    job = write_finetuning(tmp_path, "user", write_base(tmp_path), **MEMORY_ONLY)
    there = LanguageModel.open(job.model_dir, mesh=MeshConfig(num_devices=1))
    (tmp_path / "base").rename(tmp_path / "moved")
    asked = []
    outcome = Outcome("generate_until", "exact_match", {"exact_match": estimate_mean([1.0])}, 1, 5)
    monkeypatch.setattr(evaluating, "ask", lambda model, *_: asked.append(model) or outcome)
    scanned = make_scan(tmp_path, checkpoints=job.model_dir, mesh=MeshConfig(num_devices=1))
    cell, *_ = make_cells(scanned, find_checkpoints(scanned.checkpoints, None), "bytes")
    failed = Evaluator(scanned, tmp_path).evaluate(cell, ready())
    assert "is a finetuning of" in failed["error"]
    assert "does not exist" in failed["error"]
    with_base = dataclasses.replace(scanned, base=str(tmp_path / "moved"))
    assert Evaluator(with_base, tmp_path).evaluate(cell, ready())["status"] == "done"
    (model,) = asked
    jax.tree.map(np.testing.assert_array_equal, model.params, there.params)
