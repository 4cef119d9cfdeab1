"""`python -m famjax.data.check_leakage`: it finds nothing where nothing leaks, and finds what does."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from famjax.data import check_leakage
from famjax.training import leakage
from published_fixtures import write_rows

FILES = ("--gin_file=runs/pretrain.gin", "--gin_file=models/tiny.gin", "--gin_file=memory/fam.gin")
SETTINGS = (
    "--gin.MODEL_DIR='not-written'",
    "--gin.MIXTURE_OR_TASK_NAME='documents'",
    "--gin.TASK_FEATURE_LENGTHS={'targets': 64}",
    "--gin.TRAIN_STEPS=1",
    "--gin.BLOCK_SIZE=16",
    "--gin.NUM_SEGMENTS=1",
    "--gin.FAM_LENGTH=2",
    "--gin.BATCH_SIZE=4",
)


@pytest.fixture
def check(capsys, corpus_dir):
    """Runs the command on the corpus, in which documents end after two batches and more; gives exit code and output."""

    def run(*more):
        paths = f"--gin.Documents.paths=['{corpus_dir}/*/*']"
        code = check_leakage.main([*FILES, *SETTINGS, paths, "--gin.Documents.validation_fraction=0.0", *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_nothing_leaks(check):
    """Guards against a check that finds leaks where there are none, or says so without having seen a beginning."""
    layers = ("--gin.TransformerConfig.layer_pattern=('local', 'global')", "--gin.TransformerConfig.local_window=8")
    code, output, errors = check("--steps=16", *layers)
    assert (code, errors) == (0, "")
    first, *_, last = output.splitlines()
    assert last == "Nothing leaks."
    assert first.startswith("documents, split 'train': ")
    assert int(first.split(": ")[1].split()[0]) >= 2
    assert "everything before it replaced: 0.0 (before it: " in output
    assert "to the carried state: 0.0 (from before it: " in output
    assert "before it: 0)" not in output, "the replacement changes what it should"


def test_nothing_leaks_between_records(check, tmp_path):
    """Guards against records of instructions that see each other, and a check that streams documents alone."""
    records = [{"inputs": f"q{n}", "targets": "a" * n} for n in range(20, 120, 5)]
    path = write_rows(tmp_path / "records.jsonl", records)
    code, output, errors = check(
        "--steps=6",
        "--gin.MIXTURE_OR_TASK_NAME='instructions'",
        f"--gin.Instructions.paths=['{path}']",
        "--gin.Instructions.validation_fraction=0.0",
        "--gin.Instructions.repeat_length=16",
    )
    assert (code, errors) == (0, "")
    first, *_, last = output.splitlines()
    assert last == "Nothing leaks."
    assert int(first.removeprefix("instructions, split 'train': ").split()[0]) >= 8
    assert "everything before it replaced: 0.0 (before it: " in output
    assert "to the carried state: 0.0 (from before it: " in output
    assert "before it: 0)" not in output


def test_a_memory_that_is_not_reset_is_found(check, monkeypatch):
    """Guards against a check that is blind: here no beginning but a batch's first blocks resets anything."""
    texts = leakage.Texts

    def without_resets(begins, lengths, start):
        return texts(begins=jnp.zeros_like(begins), lengths=lengths, start=start)

    monkeypatch.setattr(leakage, "Texts", without_resets)
    code, output, errors = check("--steps=4")
    assert (code, output) == (3, "")
    assert errors.endswith("Something of a document reaches another.\n")


def test_a_first_input_of_the_document_before_is_found(check, monkeypatch):
    """Guards against a feeder that shows the last token of one document to the next."""
    open_document_batches = leakage.open_document_batches

    def shifted(*arguments, **settings):
        batches = open_document_batches(*arguments, **settings)

        class Shifted:
            def __iter__(self):
                return self

            def __next__(self):
                batch = next(batches)
                tokens, (rows, blocks) = batch["tokens"].copy(), np.nonzero(batch["begins"])
                tokens[rows, 16 * blocks] = batch["targets"][rows, 16 * blocks - 1]
                return {**batch, "tokens": tokens, "weights": batch["weights"] + 1}

            close = batches.close

        return Shifted()

    monkeypatch.setattr(leakage, "open_document_batches", shifted)
    code, _, errors = check("--steps=3")
    assert code == 3
    assert "first inputs that are not the beginning token: 0" not in errors
    assert "padding that counts in the loss: 0" not in errors


def test_what_cannot_be_checked_is_told(check):
    """Guards against "nothing leaks" about batches in which no document ends, and against other tasks."""
    code, output, errors = check("--steps=1")
    assert code == 0, errors
    beginnings = int(re.search(r"(\d+) beginnings of documents behind others", output)[1])
    assert beginnings > 0, "the batches before, in which none ends, are passed over"
    code, _, errors = check(
        "--gin.Documents.validation_fraction=0.5", "--gin.train/DataConfig.split='validation'", "--steps=1000"
    )
    assert code == 3
    assert "split 'validation', ended after" in errors
    code, _, errors = check("--gin.MIXTURE_OR_TASK_NAME='passkey'")
    assert code == 2
    assert "the task 'passkey' is of type PassKey; allowed: tasks of type Documents or Instructions" in errors
    code, _, errors = check("--steps=0")
    assert (code, errors) == (2, "--steps=0; allowed: 1 or more.\n")


def test_findings_add_up():
    """Guards against a leak of one batch that the next batch hides."""
    one = leakage.Findings(documents=1, targets=5, output_difference=0.5, tokens_before=9, control=1.0)
    two = leakage.Findings(documents=2, targets=7, gradient=0.25, control=0.5)
    total = one + two
    assert dataclasses.astuple(total) == (3, 12, 0, 0, 0.5, 0.25, 9, 1.0, 0.0)
    assert total.leaks
    assert not total.is_blind
    assert leakage.Findings(documents=3, tokens_before=9).is_blind
    assert not leakage.Findings(documents=3, control=1.0).leaks
