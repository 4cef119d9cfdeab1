"""Tests of famjax.data.document_rows, through famjax.data.feeding."""

import dataclasses
import itertools

import numpy as np
import pytest

from famjax.data.config import DataConfig
from famjax.data.document_rows import BlockShape, counts_of
from famjax.data.feeding import open_document_batches
from famjax.data.task_config import Documents, PassKey
from famjax.errors import ConfigError, DataError

SHAPE = BlockShape(num_blocks=5, block_size=16)
BOS, PAD, OFFSET = 0, 0, 3  # of bytes


@pytest.fixture
def data(corpus_dir):
    """The twelve documents, 101 to 1201 tokens with their end token, in three rows, in both splits."""
    paths = (f"{corpus_dir}/*/*",)
    tasks = {"text": Documents(paths=paths, validation_paths=paths), "keys": PassKey()}
    return DataConfig("text", {"targets": SHAPE.length}, batch_size=3, tasks=tasks, seed=1, split="validation")


@pytest.fixture
def texts(corpus_dir):
    """The documents, as bytes, each with a 0 for its end token."""
    return sorted(path.read_bytes() + b"\0" for path in corpus_dir.glob("*/*"))


def take(data, steps=None, shape=SHAPE, **hosting):
    """The next batches, and the state behind each; all of them where no number is given."""
    batches, taken, states = open_document_batches(data, shape, **hosting), [], []
    for number, batch in enumerate(batches):
        taken.append(batch)
        states.append(batches.state())
        if number + 1 == steps:
            break
    batches.close()
    return taken, states


def documents_of(*runs):
    """What every row reads, document by document: its targets, as bytes; padding must lie at documents' ends only.

    Of several runs, each of which goes on where the one before has ended.
    """
    rows = [[] for _ in runs[0][0]["begins"]]
    for batch in itertools.chain(*runs):
        for row, targets, begins, lengths in zip(
            rows, batch["targets"], batch["begins"], batch["block_lengths"], strict=True
        ):
            for block, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
                if begin:
                    row.append(b"")
                first = block * SHAPE.block_size
                if length:
                    row[-1] += bytes((targets[first : first + length].clip(OFFSET) - OFFSET).astype(np.uint8))
    return rows


def assert_same(left, right):
    """The same batches, bit for bit."""
    assert len(left) == len(right)
    for one, two in zip(left, right, strict=True):
        assert one.keys() == two.keys()
        for name, array in one.items():
            assert array.dtype == two[name].dtype
            np.testing.assert_array_equal(array, two[name], err_msg=name)


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_document_is_read_once_in_order(data, corpus_dir, texts, shuffle):
    """Guards against documents that an epoch repeats, loses, cuts or reads in another order of tokens."""
    batches, states = take(dataclasses.replace(data, shuffle=shuffle))
    rows = documents_of(batches)
    assert sorted(text for row in rows for text in row) == texts
    in_order = [path.read_bytes() + b"\0" for path in sorted(corpus_dir.glob("*/*"))]
    assert ([row[0] for row in rows] == in_order[:3]) is not shuffle
    assert all(len(row) > 1 for row in rows)
    counts = counts_of(states[-1])
    assert (counts.documents, counts.tokens) == (12, sum(map(len, texts)))
    assert counts.slots == len(batches) * 3 * SHAPE.length
    assert counts.padding == pytest.approx(1 - np.mean([batch["valid"].mean() for batch in batches]))


def test_inputs_targets_and_weights(data):
    """Guards against a target of another document, an input from before a document's begin, and padding that counts."""
    batches, _ = take(data)
    before = [None] * 3
    for batch in batches:
        valid = (np.arange(SHAPE.block_size) < batch["block_lengths"][:, :, None]).reshape(3, SHAPE.length)
        np.testing.assert_array_equal(batch["valid"], valid)
        np.testing.assert_array_equal(batch["weights"], valid.astype(np.float32))
        assert not batch["answers"].any()
        assert not batch["targets"][~valid].any()
        for row in range(3):
            for slot in np.flatnonzero(valid[row]):
                begins = slot % SHAPE.block_size == 0 and batch["begins"][row, slot // SHAPE.block_size]
                assert batch["tokens"][row, slot] == (BOS if begins else before[row])
                before[row] = batch["targets"][row, slot]
    partial = [batch["block_lengths"] % SHAPE.block_size for batch in batches]
    assert sum((rest > 0).sum() for rest in partial) >= 10


def test_training_goes_on_with_another_epoch(data, texts):
    """Guards against a training split that ends, or repeats one order, or begins an epoch before all have been read."""
    data = dataclasses.replace(data, split="train")
    batches, _ = take(data, 90)
    documents = [text for row in documents_of(batches) for text in row]
    assert len(documents) > 2 * len(texts) + 3
    assert all((batch["block_lengths"] > 0).all() for batch in batches), "no block is left empty"
    assert all(documents.count(text) >= 2 for text in texts)
    firsts = {bytes(take(dataclasses.replace(data, seed=seed), 1)[0][0]["targets"]) for seed in range(4)}
    assert len(firsts) == 4


@pytest.mark.parametrize("num_hosts", [1, 3])
@pytest.mark.parametrize("stop", [1, 4, 11])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_goes_on_from_a_saved_place_on_any_number_of_hosts(data, num_hosts, stop, prefetch):
    """Guards against tokens that come again, or never, after a resume, or that change with the number of hosts."""
    data = dataclasses.replace(data, split="train", prefetch=prefetch)
    whole, states = take(data, 14)
    parts = [
        take(data, 14 - stop, rows=rows, state=states[stop - 1])
        for rows in {1: [(0, 1, 2)], 3: [(0,), (1,), (2,)]}[num_hosts]
    ]
    joined = [
        {name: np.concatenate([part[0][step][name] for part in parts]) for name in whole[0]}
        for step in range(14 - stop)
    ]
    assert_same(joined, whole[stop:])
    assert all(part[1][-1] == states[-1] for part in parts)


def test_a_state_serves_another_number_of_blocks(data, texts):
    """Guards against documents that are lost where the length of a step changes between two runs."""
    first, states = take(data, 3)
    rest, _ = take(data, shape=dataclasses.replace(SHAPE, num_blocks=2), state=states[-1])
    rows = documents_of(first, rest)
    assert sorted(text for row in rows for text in row) == texts


def test_short_documents_can_be_left_out_or_refused(data, texts):
    """Guards against documents shorter than an example where the user asked for none."""

    def with_short(mode):
        task = dataclasses.replace(data.tasks["text"], short_documents=mode)
        return dataclasses.replace(data, tasks={"text": task})

    shape = BlockShape(num_blocks=20, block_size=16)
    batches = open_document_batches(with_short("skip"), shape)
    assert sum(batch["begins"].sum() for batch in batches) == sum(len(text) >= 320 for text in texts) == 9
    assert batches.skipped == {"short_document": 3}
    batches.close()
    with pytest.raises(
        DataError, match=r"document00\.txt:1: a document of 101 tokens is shorter than an example of 320"
    ):
        open_document_batches(with_short("error"), shape)
    with pytest.raises(DataError, match=r"None of 12 documents has the 1600 tokens .*short_documents = 'pack'"):
        open_document_batches(with_short("skip"), BlockShape(100, 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 6}, "batch_size = 3, the settings have 6"),
        ({"seed": 5}, "seed = 1, the settings have 5"),
        ({"split": "train"}, "split = 'validation', the settings have 'train'"),
    ],
)
def test_a_state_of_another_stream_is_refused(data, change, message):
    """Guards against places in one stream that are taken for places in another."""
    _, states = take(data, 2)
    with pytest.raises(ConfigError, match=message):
        open_document_batches(dataclasses.replace(data, **change), SHAPE, state=states[-1])


def test_a_changed_corpus_is_refused(data, corpus_dir):
    """Guards against places in documents that have another length by now."""
    _, states = take(data, 2)
    (corpus_dir / "part0" / "document00.txt").write_text("rewritten")
    with pytest.raises(ConfigError, match="corpus = '12 documents, 7812 tokens', the settings have '12 documents"):
        open_document_batches(data, SHAPE, state=states[-1])
    with pytest.raises(ConfigError, match="block_size = 16, the settings have 8"):
        open_document_batches(data, BlockShape(5, 8), state=states[-1])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("keys", "is of type PassKey"), ("documents_and_passkeys", "is of type Mixture"), ("c4", "is no famjax task")],
)
def test_other_tasks_are_refused(data, name, kind):
    """Guards against examples that are no whole documents read as if they were."""
    allowed = "tasks of type Documents or Instructions, as documents, instructions, text"
    with pytest.raises(ConfigError, match=rf"the task '{name}' {kind}; allowed: {allowed}"):
        open_document_batches(dataclasses.replace(data, mixture_or_task_name=name), SHAPE)


def test_settings_of_other_tasks_are_refused(data):
    """Guards against features and splits that do not fit being passed over."""
    lengths = {"inputs": 8, "targets": 8}
    with pytest.raises(ConfigError, match="has the feature 'targets' only"):
        open_document_batches(dataclasses.replace(data, task_feature_lengths=lengths), SHAPE)
    with pytest.raises(ConfigError, match="has the splits train and validation"):
        open_document_batches(dataclasses.replace(data, split="test"), SHAPE)
