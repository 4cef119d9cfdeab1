"""Tests of famjax.data.feeding: whole streams of every famjax task."""

import json
import sys

import numpy as np
import pytest

from famjax.data import registry
from famjax.data.config import DataConfig, HuggingFaceVocabulary
from famjax.data.feeding import open_batches, open_vocabulary
from famjax.data.instructions_config import Instructions
from famjax.data.questions.long_documents_config import Isabelle
from famjax.data.questions.reading_config import PublishedData
from famjax.data.task_config import Documents, Mixture, PassKey, PassKeyDocuments
from famjax.errors import ConfigError, DataError


@pytest.fixture
def config(corpus_dir):
    """Makes settings whose documents are the small corpus."""
    paths = (f"{corpus_dir}/*/*.txt",)
    tasks = {
        "documents": Documents(paths=paths, validation_paths=paths),
        "mixed": Mixture({"documents": 1.0, "passkey_documents": 2.0, "associative_recall": 1.0}),
    }

    def make(name, length=160, batch_size=4, **settings):
        return DataConfig(name, {"targets": length}, batch_size, **({"tasks": tasks} | settings))

    return make


def take(batches, count):
    """The next batches; closes the stream."""
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def assert_equal(some, others):
    """Compares lists of batches bit by bit."""
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


NAMES = ["documents", "passkey_documents", "associative_recall", "mixed", "documents_and_passkeys"]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_resume_is_exact(config, name, prefetch):
    """Guards against examples lost or repeated by a resume, over several epochs, with batches made ahead."""
    whole = take(open_batches(config(name)), 60)
    first = open_batches(config(name, prefetch=prefetch))
    head = [next(first) for _ in range(23)]
    state = json.loads(json.dumps(first.state()))
    first.close()
    assert_equal(head + take(open_batches(config(name, prefetch=prefetch), state=state), 37), whole)


@pytest.mark.parametrize("name", NAMES)
def test_hosts_share_one_global_batch(config, name):
    """Guards against a global batch that depends on the number of hosts, also after a resume with another number."""
    whole = take(open_batches(config(name)), 6)
    hosts = [open_batches(config(name), rows=rows) for rows in ((0, 1), (2, 3))]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*(take(h, 3) for h in hosts), strict=True)
    ]
    states = [host.state() for host in hosts]
    assert states[0] == states[1]
    assert_equal(joined + take(open_batches(config(name), state=states[1]), 3), whole)


def test_a_longer_stage_counts_on(config):
    """Guards against a curriculum whose new stage starts the keys again, or draws lengths out of its range."""
    settings = config("passkey", length=300)
    first = open_batches(settings, (260, 280))
    head = [next(first) for _ in range(3)]
    assert head[0]["tokens"].shape == (4, 280)
    first.close()
    tail = take(open_batches(settings, (290, 400), state=first.state()), 3)
    assert tail[0]["tokens"].shape == (4, 400)
    lengths = np.concatenate([batch["valid"].sum(1) for batch in tail])
    assert lengths.min() >= 290
    assert len(set(lengths)) > 5
    keys = {
        tuple(row[mask]) for batch in head + tail for row, mask in zip(batch["targets"], batch["answers"], strict=True)
    }
    assert len(keys) == 24


@pytest.mark.parametrize("name", ["documents", "mixed", "passkey_documents"])
def test_a_place_at_another_length_is_refused(config, name):
    """Guards against text that comes again, or never, where a corpus is cut anew; a curriculum's stage may do so."""
    first = open_batches(config(name))
    next(first)
    state = json.loads(json.dumps(first.state()))
    first.close()
    message = r"has length = 160, the settings have 170 \(--gin.TASK_FEATURE_LENGTHS\)\. .* come again.*--gin.MODEL_DIR"
    with pytest.raises(ConfigError, match=message):
        open_batches(config(name, length=170), state=state)
    staged = open_batches(config(name, length=170), (160, 170), state=state)
    assert next(staged)["tokens"].shape == (4, 170)
    state = staged.state()
    staged.close()
    assert state["examples"] == 8
    take(open_batches(config(name, length=170), state=state), 1)
    old = {key: value for key, value in state.items() if key not in ("length", "corpus")}
    take(open_batches(config(name, length=180), state=old), 1)


def test_a_place_in_another_corpus_is_refused(config, corpus_dir):
    """Guards against text that comes again, or never, because a file was added; examples that are made do not care."""
    states = {name: open_batches(config(name, prefetch=0)).state() for name in ("documents", "associative_recall")}
    (corpus_dir / "part0" / "more.txt").write_text("x" * 1000)
    message = r"corpus = '12 documents, 7812 tokens', .*'13 documents, 8813 tokens' \(the files\)"
    with pytest.raises(ConfigError, match=message):
        open_batches(config("documents"), state=states["documents"])
    take(open_batches(config("associative_recall", length=400), state=states["associative_recall"]), 1)


@pytest.mark.parametrize("name", NAMES)
def test_batches_keep_their_contract(config, name):
    """Guards against inputs that are not the shifted targets, and against weights or answers on padding."""
    for batch in take(open_batches(config(name), (120, 160)), 5):
        assert all(value.shape == (4, 160) for value in batch.values())
        assert np.all(batch["tokens"][:, 0] == 0)
        both = batch["valid"][:, 1:] & batch["valid"][:, :-1]
        np.testing.assert_array_equal(batch["tokens"][:, 1:][both], batch["targets"][:, :-1][both])
        assert not batch["weights"][~batch["valid"]].any()
        assert not batch["answers"][~batch["valid"]].any()
        assert np.all(np.diff(batch["valid"].astype(int)) <= 0)
        assert np.all(batch["valid"].sum(1) >= 120)


def test_validation_is_one_epoch_in_one_order(config):
    """Guards against an evaluation that differs from time to time, or does not end."""
    settings = config("mixed", split="validation", batch_size=7)
    one, other = list(open_batches(settings)), list(open_batches(settings))
    assert_equal(one, other)
    rows = np.concatenate([batch["valid"].any(axis=1) for batch in one])
    assert len(rows) % 7 == 0
    assert 0 < (~rows).sum() < 7
    assert rows[: rows.sum()].all()
    assert not np.array_equal(one[0]["tokens"], take(open_batches(config("mixed", batch_size=7)), 1)[0]["tokens"])


@pytest.mark.parametrize("name", NAMES)
def test_seed_matters(config, name):
    """Guards against a seed without effect."""
    one, other = (take(open_batches(config(name, seed=seed)), 1)[0]["tokens"] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_default_corpus():
    """Guards against a machine without documents: the standard library's sources are read where no path is set."""
    batch = take(open_batches(DataConfig("documents_and_passkeys", {"targets": 2048}, 8)), 1)[0]
    assert batch["valid"].all()
    assert set(batch["answers"].sum(1)) == {0, 5}


def test_every_built_in_task_opens(config):
    """Guards against a name in the registry that cannot be read."""
    for name, task in registry.BUILT_IN.items():
        if not isinstance(task, Instructions | PublishedData | Isabelle):  # their data come with nobody's machine
            assert take(open_batches(config(name, length=4096)), 1)[0]["valid"].any()


def test_skipped_records_are_counted(tmp_path):
    """Guards against bad records that vanish unheard."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * 500 + b'"}\n{"text": "\xff"}\n{"body": ""}\n')
    documents = Documents(paths=(str(path),), validation_fraction=0.0, bad_records="skip")
    for prefetch in (0, 2):
        settings = DataConfig("mine", {"targets": 50}, 2, tasks={"mine": documents}, prefetch=prefetch)
        batches = open_batches(settings)
        assert batches.skipped == {"undecodable": 1, "missing_field": 1}
        batches.close()


def test_a_record_that_two_tasks_skip_counts_once(tmp_path):
    """Guards against documents_and_passkeys, both of whose tasks read the documents, counting bad records twice."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * 500 + b'"}\n{"text": "\xff"}\n{"text": "short"}\n')
    documents = Documents(
        paths=(str(path),), validation_fraction=0.0, bad_records="skip", short_documents="skip", loss_weight=0.5
    )
    for name in ("documents_and_passkeys", "documents", "passkey_documents"):
        batches = open_batches(DataConfig(name, {"targets": 200}, 2, tasks={"documents": documents}))
        assert batches.skipped == {"undecodable": 1, "short_document": 1}
        batches.close()


def test_vocabulary_of_the_settings(config, tokenizer_path):
    """Guards against tasks that are encoded with another vocabulary than the model is told of."""
    settings = config("passkey", vocabulary=HuggingFaceVocabulary(tokenizer_path), length=400)
    vocabulary = open_vocabulary(settings)
    batch = take(open_batches(settings), 1)[0]
    assert vocabulary.vocab_size > 259
    assert "Find it and memorize them." in vocabulary.decode(batch["targets"][0])


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("passkey", {"split": "test"}, ConfigError, r"DataConfig\.split = 'test'.*train and validation"),
        ("passkey", {"length": 20}, ConfigError, r"no room.*--gin\.TASK_FEATURE_LENGTHS"),
        ("passkey", {"module": "no.such.module"}, ConfigError, r"'no\.such\.module'.*--gin\.MIXTURE_OR_TASK_MODULE"),
        ("outer", {"tasks": {"outer": Mixture({"documents_and_passkeys": 1.0})}}, ConfigError, "a mixture itself"),
        ("outer", {"tasks": {"outer": Mixture({"pasky": 1.0})}}, ConfigError, "'pasky'.*did you mean passkey"),
        ("mine", {"tasks": {"mine": Documents(paths=("/nowhere/*",))}}, DataError, r"/nowhere/\*"),
    ],
)
def test_errors(config, name, settings, error, message):
    """Guards against mistakes that end in a traceback, or in batches."""
    with pytest.raises(error, match=message):
        open_batches(config(name, **settings))


def test_a_misspelled_name_without_seqio(config, monkeypatch):
    """Guards against an ImportError where tensorflow is not installed and a task's name is misspelled."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "seqio", None)
    for opener in (open_batches, open_vocabulary):
        with pytest.raises(ConfigError, match=r"'paskey'.*did you mean passkey.*seqio.*--gin\.MIXTURE_OR_TASK_NAME"):
            opener(config("paskey"))


def test_named_tasks_of_one_kind_differ(config):
    """Guards against two tasks of one kind in a mixture that draw the same keys."""
    tasks = {"one": PassKey(), "two": PassKey(), "both": Mixture({"one": 1.0, "two": 1.0}), "text": PassKeyDocuments()}
    batches = take(open_batches(config("both", tasks=tasks, length=260)), 20)
    keys = {tuple(row[mask]) for batch in batches for row, mask in zip(batch["targets"], batch["answers"], strict=True)}
    assert len(keys) > 75
