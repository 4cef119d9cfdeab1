"""Tests of famjax.data.seqio_feeding: tasks and mixtures that famjax does not know."""

import json
import logging

import numpy as np
import pytest

from famjax.data import seqio_feeding
from famjax.data.config import DataConfig, SentencePieceVocabulary
from famjax.data.feeding import open_batches, open_vocabulary
from famjax.data.task_config import Documents, PassKey
from famjax.errors import ConfigError, DataError

LENGTHS = {"inputs": 16, "targets": 12}
COUNT = 37


def numbers(split, shuffle_files, seed=None):
    """The source of all foreign tasks: numbered questions."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices([f"question {i:02d}" for i in range(COUNT)]).map(
        lambda text: {"inputs": text, "targets": tf.strings.join([text, "!"])}
    )


def stateful(dataset):
    """A preprocessor with a stateful operation, as python tokenizers are."""
    import tensorflow as tf

    def apply(example):
        targets = tf.py_function(lambda ids: ids, [example["targets"]], tf.int32)
        return {**example, "targets": tf.ensure_shape(targets, [None])}

    return dataset.map(apply)


def noise(dataset):
    """A preprocessor with random numbers, seeded by seqio."""
    import seqio
    import tensorflow as tf

    @seqio.map_over_dataset(num_seeds=1)
    def apply(example, seed):
        drawn = tf.random.stateless_uniform([3], seed, 3, 250, tf.int32)
        return {**example, "targets": tf.concat([example["targets"][:8], drawn], 0)}

    return apply(dataset)


def broken(dataset):
    """A preprocessor that fails when it runs."""
    import tensorflow as tf

    def apply(example):
        with tf.control_dependencies([tf.debugging.assert_less(tf.size(example["targets"]), 3, message="too long")]):
            return {name: tf.identity(value) for name, value in example.items()}

    return dataset.map(apply)


def weigh(weights, answers):
    """A preprocessor that adds so many weights and answers, whatever the targets; None adds no answers."""
    import tensorflow as tf

    def apply(example):
        added = {} if answers is None else {"answers": tf.zeros(answers, tf.bool)}
        return {**example, "weights": tf.ones(weights), **added}

    return lambda dataset: dataset.map(apply)


def only(feature):
    """A preprocessor that leaves one feature."""
    return lambda dataset: dataset.map(lambda example: {feature: example[feature]})


@pytest.fixture(scope="module")
def seqio_names():
    """Registers foreign tasks, and mixtures with and without famjax tasks in them."""
    import seqio

    from famjax.data import seqio_tasks

    def add(name, features, *preprocessors):
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(numbers, splits=["train", "validation"]),
            preprocessors=[seqio.preprocessors.tokenize, *preprocessors],
            output_features={feature: seqio.Feature(seqio.ByteVocabulary()) for feature in features},
            shuffle_buffer_size=20,
        )

    both = ("inputs", "targets")
    add("foreign", both, seqio.preprocessors.append_eos)
    add("foreign_stateful", both, stateful)
    add("foreign_noise", both, noise)
    add("foreign_broken", both, broken)
    add("foreign_text", ("targets",), only("targets"))
    add("foreign_weighted", ("targets",), only("targets"), seqio_tasks.with_weights)
    add("foreign_cacheable", both, seqio.CacheDatasetPlaceholder())
    add("foreign_cached", both, seqio.CacheDatasetPlaceholder(required=True))
    add("foreign_inputs", ("inputs",), only("inputs"))
    add("foreign_many_weights", both, weigh(40, 12))
    add("foreign_few_answers", both, weigh(12, 3))
    add("foreign_no_answers", both, weigh(12, None))
    add("foreign_large_inputs", both)
    seqio.TaskRegistry.get("foreign_large_inputs").output_features["inputs"] = seqio.Feature(
        seqio.PassThroughVocabulary(5000)
    )
    seqio.MixtureRegistry.add("foreign_mixture", [("foreign", 1), ("foreign_noise", 2)])
    seqio.MixtureRegistry.add("keys_and_weighted", [("passkey", 1), ("foreign_weighted", 1)])
    seqio.MixtureRegistry.add("keys_and_text", [("passkey", 1), ("foreign_text", 1)])
    seqio.MixtureRegistry.add("keys_and_recall", [("passkey", 1), ("associative_recall", 1)])
    yield
    for name in [name for name in seqio.TaskRegistry.names() if name.startswith("foreign")]:
        seqio.TaskRegistry.remove(name)
    for name in ("foreign_mixture", "keys_and_weighted", "keys_and_text", "keys_and_recall"):
        seqio.MixtureRegistry.remove(name)


pytestmark = pytest.mark.usefixtures("seqio_names")


def config(name, lengths=None, batch_size=4, **settings):
    """Settings of a foreign task."""
    return DataConfig(name, lengths or LENGTHS, batch_size, **settings)


def take(batches, count):
    """The next batches."""
    return [next(batches) for _ in range(count)]


def assert_equal(some, others):
    """Compares lists of batches bit by bit."""
    for one, other in zip(some, others, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_inputs_and_targets_become_one_example():
    """Guards against inputs that train, answers that do not count, and an end token that counts as one."""
    settings = config("foreign", {"inputs": 16, "targets": 14}, shuffle=False)
    batch = next(open_batches(settings))
    decode = open_vocabulary(settings).decode
    assert batch["tokens"].shape == (4, 30)
    for row in range(4):
        targets, valid = batch["targets"][row], batch["valid"][row]
        assert decode(targets[valid]) == f"question {row:02d}question {row:02d}!"
        assert decode(targets[batch["answers"][row]]) == f"question {row:02d}!"
        assert batch["answers"][row].sum() == 12
        assert batch["weights"][row].tolist() == [0.0] * 12 + [1.0] * 13 + [0.0] * 5
        assert valid.tolist() == [True] * 25 + [False] * 5
        assert batch["tokens"][row, 0] == 0
        np.testing.assert_array_equal(batch["tokens"][row, 1:][valid[1:]], targets[:-1][valid[1:]])


@pytest.mark.parametrize("name", ["foreign", "foreign_stateful", "foreign_noise", "foreign_mixture"])
def test_resume_is_exact(name, caplog):
    """Guards against examples that a resume loses or repeats: shuffle buffers, epochs, mixing, random operations."""
    whole = take(open_batches(config(name, seed=5)), 40)
    first = open_batches(config(name, seed=5))
    head = take(first, 17)
    with caplog.at_level(logging.WARNING, "famjax.data.seqio_feeding"):
        state = json.loads(json.dumps(first.state()))
    assert ("iterator" in state) == (name != "foreign_stateful")
    assert ("saved as a count" in caplog.text) == (name == "foreign_stateful")
    first.close()
    assert_equal(head + take(open_batches(config(name, seed=5), state=state), 23), whole)
    assert not np.array_equal(whole[0]["tokens"], next(open_batches(config(name, seed=6)))["tokens"])


@pytest.mark.parametrize("name", ["foreign", "foreign_stateful"])
def test_a_resume_before_the_first_batch(name):
    """Guards against a state that is only good after the first batch."""
    fresh = open_batches(config(name))
    assert_equal(take(open_batches(config(name), state=fresh.state()), 3), take(fresh, 3))


HOSTS = ((0, 1), (2, 3))


def test_hosts_share_one_global_batch():
    """Guards against a global batch, or a place in the data, that depends on the number of hosts."""
    whole = take(open_batches(config("foreign", seed=5)), 9)
    hosts = [open_batches(config("foreign", seed=5), rows=rows) for rows in HOSTS]
    joined = [
        {name: np.concatenate([one[name], two[name]]) for name in one}
        for one, two in zip(*(take(host, 5) for host in hosts), strict=True)
    ]
    assert hosts[0].state()["read"] == hosts[1].state()["read"] == 20
    rest = take(open_batches(config("foreign", seed=5), state=hosts[0].state()), 4)
    assert_equal(joined + rest, whole)


@pytest.mark.parametrize("process_count", [1, 2])
def test_validation_ends_alike_for_all_hosts(process_count):
    """Guards against hosts with different numbers of batches, which would wait for each other for ever."""
    settings = config("foreign", split="validation")
    hosts = [list(open_batches(settings, rows=rows)) for rows in ([None], HOSTS)[process_count - 1]]
    assert {len(batches) for batches in hosts} == {10}
    rows = [bytes(row) for batches in hosts for batch in batches for row in batch["targets"][batch["valid"].any(1)]]
    assert len(rows) == len(set(rows)) == COUNT


def test_targets_alone_follow_the_curriculum():
    """Guards against a curriculum's length that a language-modelling task does not get, and wrong weights."""
    batches = open_batches(config("foreign_text", {"targets": 12}), (1, 6))
    first = next(batches)
    assert first["tokens"].shape == (4, 6)
    assert first["valid"].all()
    assert (first["weights"] == 1).all()
    assert not first["answers"].any()
    longer = next(open_batches(config("foreign_text", {"targets": 12}), (1, 9), state=batches.state()))
    assert longer["tokens"].shape == (4, 9)
    shorter = take(open_batches(config("foreign_text", {"targets": 12}), (1, 5), state=batches.state()), 8)
    assert {batch["tokens"].shape for batch in shorter} == {(4, 5)}


def test_mixtures_keep_weights_and_answers():
    """Guards against famjax tasks in a seqio mixture whose prompts suddenly train."""
    lengths = {"targets": 300}
    for name in ("keys_and_recall", "keys_and_weighted"):
        batches = take(open_batches(config(name, lengths)), 6)
        weights = np.concatenate([batch["weights"].sum(1) for batch in batches])
        assert {3.0, 5.0} >= set(weights) or name == "keys_and_weighted"
        assert (weights == 5).any()
        assert (weights != 5).any()
        assert np.concatenate([batch["answers"].any(1) for batch in batches]).any()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("forein_mixture", {}, r"'forein_mixture'.*did you mean foreign_mixture.*--gin\.MIXTURE_OR_TASK_NAME"),
        ("foreign", {"split": "dev"}, r"DataConfig\.split = 'dev'.*train, validation"),
        ("foreign", {"lengths": {"targets": 12}}, r"needs 'inputs' and 'targets' \(--gin\.TASK_FEATURE_LENGTHS"),
        ("foreign_inputs", {}, "no feature 'targets'"),
        ("foreign", {"use_cached": True}, r"no cached form.*--gin\.USE_CACHED_TASKS=False"),
        ("foreign_cacheable", {"use_cached": True}, r"'foreign_cacheable' is in none.*--gin\.USE_CACHED_TASKS=False"),
        ("foreign_cached", {}, r"from its cache only.*--gin\.USE_CACHED_TASKS=True"),
        ("keys_and_text", {"lengths": {"targets": 300}}, r"'foreign_text'.*with_weights"),
    ],
)
def test_errors(name, settings, message):
    """Guards against mistakes that end in seqio's traceback."""
    with pytest.raises(ConfigError, match=message):
        open_batches(config(name, **settings))


def test_a_curriculum_over_inputs_is_refused():
    """Guards against a curriculum that cuts inputs and targets in unknown proportion."""
    with pytest.raises(ConfigError, match=r"inputs and targets.*28 tokens.*20 are asked for"):
        open_batches(config("foreign"), (1, 20))


def test_what_fails_inside_tensorflow_names_the_task():
    """Guards against tensorflow's traceback for bad data."""
    with pytest.raises(DataError, match=r"'foreign_broken' cannot be read"):
        next(open_batches(config("foreign_broken")))


def test_inputs_count_in_the_vocabulary():
    """Guards against a check of the embedding table that the ids of the inputs pass by."""
    assert open_vocabulary(config("foreign")).vocab_size < 1000
    vocabulary = open_vocabulary(config("foreign_large_inputs"))
    assert vocabulary.vocab_size == 5000
    assert vocabulary.decode(vocabulary.encode("text")) == "text", "the targets' own encoding"


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("foreign_many_weights", r"weights of shape \(40,\) and answers of shape \(12,\) for 12 targets"),
        ("foreign_few_answers", r"weights of shape \(12,\) and answers of shape \(3,\) for 12 targets"),
        ("foreign_no_answers", r"weights of shape \(12,\) and answers of shape \(0,\) for 12 targets"),
    ],
)
def test_weights_of_another_length(name, shapes):
    """Guards against numpy's broadcast error for weights that are not cut as the targets are."""
    with pytest.raises(DataError, match=rf"'{name}' gives {shapes}.*--gin\.TASK_FEATURE_LENGTHS"):
        next(open_batches(config(name)))


def test_a_place_in_another_pipeline(monkeypatch):
    """Guards against tensorflow's words, or its AssertionError, where a task has changed since the checkpoint."""
    import seqio
    import tensorflow as tf

    message = r"'foreign_noise' does not fit(?s:.*)--gin\.MODEL_DIR"
    batches = open_batches(config("foreign_noise"))
    next(batches)
    state = batches.state()
    with pytest.raises(DataError, match=message):
        open_batches(config("foreign_noise"), state={**state, "iterator": seqio_feeding._save(tf.Variable(1.0))})
    task = seqio.TaskRegistry.get("foreign_noise")
    monkeypatch.setitem(task.__dict__, "preprocessors", task.preprocessors[:1])
    with pytest.raises(DataError, match=message):
        open_batches(config("foreign_noise"), state=state)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tasks": {"passkey": PassKey(depth=0.5, digits=7)}}, r"'passkey'.*PassKey\.depth, PassKey\.digits\."),
        ({"tasks": {"associative_recall": PassKey()}}, r"DataConfig\.tasks\['associative_recall'\]"),
        ({"vocabulary": SentencePieceVocabulary("none.model")}, r"DataConfig\.vocabulary"),
    ],
)
def test_settings_that_a_mixture_would_ignore(settings, named):
    """Guards against --gin.PassKey.depth without effect: a seqio mixture keeps the tasks that it was made of."""
    with pytest.raises(ConfigError, match=rf"{named}(?s:.*)register_tasks"):
        open_batches(config("keys_and_recall", {"targets": 300}, **settings))


def test_settings_that_a_mixture_has():
    """Guards against a mixture refused for defaults, or for settings of tasks that it does not have."""
    tasks = {"passkey": PassKey(), "documents": Documents(loss_weight=0.5), "more": PassKey(depth=0.5)}
    assert next(open_batches(config("keys_and_recall", {"targets": 300}, tasks=tasks)))["valid"].any()
    elsewhere = {"tasks": {"passkey": PassKey(depth=0.5)}, "vocabulary": SentencePieceVocabulary("none.model")}
    assert next(open_batches(config("foreign_mixture", **elsewhere)))["valid"].any()
