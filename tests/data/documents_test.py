"""Tests of famjax.data.documents."""

import collections
import dataclasses

import numpy as np
import pytest

from famjax.data.documents import DocumentExamples
from famjax.data.task_config import Documents
from famjax.errors import DataError


def config(corpus_dir, short_documents, split_paths=("*",)):
    """All of the corpus, in both splits."""
    paths = tuple(f"{corpus_dir}/*/{name}" for name in split_paths)
    return Documents(paths=paths, validation_paths=paths, short_documents=short_documents)


def epoch(examples, size, number=0):
    """The targets of one epoch, as bytes."""
    return [bytes((examples[number * size + i].targets.clip(3) - 3).astype(np.uint8)) for i in range(size)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_packed_windows_cover_the_corpus_once(corpus_dir, reading, shuffle):
    """Guards against text that an epoch repeats or loses, and against windows that are not consecutive tokens."""
    examples = DocumentExamples(config(corpus_dir, "pack"), reading(longest=64, split="validation", shuffle=shuffle))
    text = b"".join(path.read_bytes() + b"\0" for path in sorted(corpus_dir.glob("*/*")))
    windows = [text[start : start + 64] for start in range(0, len(text), 64)]
    assert examples.size == len(windows)
    seen = epoch(examples, len(windows))
    assert sorted(seen) == sorted(windows)
    assert (seen == windows) is not shuffle


def test_training_goes_on_in_another_order(corpus_dir, reading):
    """Guards against a training split that ends, or repeats one order."""
    examples = DocumentExamples(config(corpus_dir, "pack"), reading(longest=64))
    size = DocumentExamples(config(corpus_dir, "pack"), reading(longest=64, split="validation")).size
    first, second = epoch(examples, size), epoch(examples, size, 1)
    assert examples.size is None
    assert sorted(first) == sorted(second)
    assert first != second


def test_windows_inside_documents(corpus_dir, reading):
    """Guards against windows across documents where they are not to be joined, and against uncounted skips."""
    examples = DocumentExamples(config(corpus_dir, "skip"), reading(longest=450, split="validation", shuffle=False))
    texts = [path.read_bytes() + b"\0" for path in sorted(corpus_dir.glob("*/*"))]
    long = [text for text in texts if len(text) >= 450]
    assert examples.skipped == {"short_document": len(texts) - len(long)} == {"short_document": 4}
    expected = [text[start : start + 450] for text in long for start in range(0, len(text), 450)]
    assert epoch(examples, examples.size) == expected


def test_a_short_document_can_be_an_error(corpus_dir, reading):
    """Guards against an error without the place of the short document."""
    with pytest.raises(
        DataError, match=r"document00\.txt:1: a document of 101 tokens is shorter.*Documents\.short_documents"
    ):
        DocumentExamples(config(corpus_dir, "error"), reading(longest=450))
    assert DocumentExamples(config(corpus_dir, "error"), reading(longest=101)).size is None


def test_no_window_at_all_is_an_error(corpus_dir, reading):
    """Guards against an endless search for an example."""
    with pytest.raises(DataError, match="no window of 5000 tokens"):
        DocumentExamples(config(corpus_dir, "skip"), reading(longest=5000))


def test_every_target_counts_and_none_is_an_answer(corpus_dir, reading):
    """Guards against documents that do not train, or count as answers."""
    example = DocumentExamples(config(corpus_dir, "pack"), reading(longest=32))[0]
    assert example.weights.tolist() == [1.0] * 32
    assert not example.answers.any()
    light = dataclasses.replace(config(corpus_dir, "pack"), loss_weight=0.25)
    assert DocumentExamples(light, reading(longest=32))[0].weights.tolist() == [0.25] * 32


def test_seeds_and_names_give_other_orders(corpus_dir, reading):
    """Guards against a seed without effect."""
    orders = collections.Counter(
        tuple(epoch(DocumentExamples(config(corpus_dir, "pack"), reading(seed=seed, name=name)), 20))
        for seed in range(2)
        for name in ("a", "b")
    )
    assert len(orders) == 4
