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


@pytest.fixture
def feed(monkeypatch):
    """Puts a feeder in place whose batches are changed by a function."""

    def set_change(change):
        open_document_batches = leakage.open_document_batches

        class Changed:
            def __init__(self, *arguments, **settings):
                self._batches = open_document_batches(*arguments, **settings)
                self.close = self._batches.close

            def __iter__(self):
                return map(change, self._batches)

        monkeypatch.setattr(leakage, "open_document_batches", Changed)

    return set_change


def last_token_first(batch):
    """The last token of one document is shown to the next, and padding has weight."""
    tokens, (rows, blocks) = batch["tokens"].copy(), np.nonzero(batch["begins"])
    tokens[rows, 16 * blocks] = batch["targets"][rows, 16 * blocks - 1]
    return {**batch, "tokens": tokens, "weights": batch["weights"] + 1}


def only_first_blocks(batch):
    """Beginnings are said in the first block of a row only."""
    return {**batch, "begins": batch["begins"] & (np.arange(batch["begins"].shape[1]) == 0)}


FIRST, ORDER = "first inputs that are not the beginning token", "other inputs that are not the target before them"
UNSAID, PADDING = "beginnings that the batch does not say", "padding that counts in the loss"
FAULTS = {
    "last_token_first": (last_token_first, {FIRST, PADDING}),
    "targets_early": (lambda batch: {**batch, "targets": np.roll(batch["targets"], -1, axis=1)}, {ORDER}),
    "targets_of_another_row": (lambda batch: {**batch, "targets": np.roll(batch["targets"], 1, axis=0)}, {ORDER}),
    "only_first_blocks_begin": (only_first_blocks, {ORDER, UNSAID}),
    "nothing_begins": (lambda batch: {**batch, "begins": np.zeros_like(batch["begins"])}, {ORDER, UNSAID}),
}


@pytest.mark.parametrize(("change", "found"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_feeder_is_found(change, found, check, feed):
    """Guards against a check that trusts the batches: with inputs, targets or beginnings of other documents."""
    feed(change)
    code, output, errors = check("--steps=3")
    assert (code, output) == (3, "")
    assert errors.endswith("Something of a document reaches another.\n")
    counts = dict(
        line.rsplit(": ", 1) for line in errors.splitlines() if line.startswith((FIRST, ORDER, UNSAID, PADDING))
    )
    assert {name for name, count in counts.items() if count != "0"} == found


def test_a_fault_from_batch_to_batch_is_found(check, feed, tmp_path):
    """Guards against a row that goes on with the document of another one, whose own order is right."""
    numbers = iter(range(10**6))

    def roll(batch):
        number = next(numbers)
        return {name: np.roll(array, number, axis=0) for name, array in batch.items()}

    feed(roll)
    for letter in "abcdefgh":
        (tmp_path / f"{letter}.txt").write_text(letter * 300)
    code, _, errors = check(f"--gin.Documents.paths=['{tmp_path}/*.txt']", "--steps=3")
    assert code == 3
    assert f"{ORDER}: 0" not in errors


def test_documents_that_end_with_their_row(check, tmp_path):
    """Guards against a check that is blind, or says that it is, where every document begins with a batch."""
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text("x" * (16 * (1 + number % 3) - 1))  # and an end token
    rows = f"--gin.Documents.paths=['{tmp_path}/*.txt']", "--gin.TASK_FEATURE_LENGTHS={'targets': 16}"
    code, output, errors = check(*rows, "--steps=2")
    assert (code, errors) == (0, "")
    assert "(before it: 0)" not in output


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
    one = leakage.Findings(documents=1, batches=1, targets=5, output_difference=0.5, tokens_before=9, control=1.0)
    two = leakage.Findings(documents=2, batches=1, targets=7, wrong_order=4, unmarked=2, gradient=0.25, control=0.5)
    total = one + two
    assert dataclasses.astuple(total) == (3, 2, 12, 0, 4, 2, 0, 0.5, 0.25, 9, 1.0, 0.0)
    assert total.leaks
    assert not total.is_blind
    assert leakage.Findings(documents=3).is_blind
    assert leakage.Findings(wrong_order=1).leaks
    assert leakage.Findings(unmarked=1).leaks
    assert not leakage.Findings(documents=3, control=1.0).leaks
