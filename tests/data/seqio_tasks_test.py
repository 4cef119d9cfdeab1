"""Tests of famjax.data.seqio_tasks."""

import dataclasses

import numpy as np
import pytest

from famjax.data import registry
from famjax.data.config import ByteVocabulary, DataConfig, HuggingFaceVocabulary
from famjax.data.feeding import open_batches
from famjax.data.task_config import Documents, Mixture, PassKey
from famjax.errors import ConfigError


@pytest.fixture
def tasks(corpus_dir):
    """Tasks over the small corpus, registered with seqio for one test."""
    import seqio

    from famjax.data import seqio_tasks

    paths = (f"{corpus_dir}/*/*.txt",)
    tasks = {
        "documents": Documents(paths=paths, validation_paths=paths),
        "mine": Mixture({"documents": 1.0, "passkey": 1.0}),
    }
    seqio_tasks.register_tasks(tasks)
    yield tasks
    seqio_tasks.register_tasks()
    seqio.TaskRegistry.remove("mine")
    seqio_tasks._registered.remove("mine")


def test_all_are_registered():
    """Guards against a famjax task that seqio does not know."""
    import seqio

    import famjax.data.seqio_tasks

    assert famjax.data.seqio_tasks.is_famjax_task("passkey")
    assert set(registry.BUILT_IN) <= set(seqio.TaskRegistry.names())
    assert all(isinstance(seqio.get_mixture_or_task(name), seqio.Task) for name in registry.BUILT_IN)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("name", ["documents", "passkey", "passkey_documents", "associative_recall", "mine"])
def test_seqio_gives_the_same_examples(tasks, name, split):
    """Guards against a seqio task that differs from the famjax task of its name: in order, in content, in its end."""
    import seqio

    config = DataConfig(name, {"targets": 260}, 5, split=split, seed=3, tasks=tasks)
    batches = open_batches(config)
    dataset = seqio.get_mixture_or_task(name).get_dataset({"targets": 260}, split=split, shuffle=True, seed=3)
    theirs = list(dataset.take(30 if split == "train" else 1000).as_numpy_iterator())
    batch_list = [next(batches) for _ in range(6)] if split == "train" else list(batches)
    batches.close()
    ours = [
        {name: batch[name][row][batch["valid"][row]] for name in ("targets", "weights", "answers")}
        for batch in batch_list
        for row in range(5)
        if batch["valid"][row].any()
    ]
    assert len(theirs) == len(ours) >= 20
    for one, other in zip(theirs, ours, strict=True):
        for feature, value in other.items():
            np.testing.assert_array_equal(one[feature], value)


def test_seqio_shards_the_examples(tasks):
    """Guards against hosts of a t5x trainer that read the same examples."""
    import seqio

    task = seqio.get_mixture_or_task("documents")

    def read(shard_info):
        dataset = task.get_dataset({"targets": 64}, split="validation", shuffle=True, seed=0, shard_info=shard_info)
        return [tuple(example["targets"].tolist()) for example in dataset.as_numpy_iterator()]

    parts = [read(seqio.ShardInfo(index, 2)) for index in range(2)]
    assert not set(parts[0]) & set(parts[1])
    assert sorted(parts[0] + parts[1]) == sorted(read(None))


def test_another_vocabulary(tasks, tokenizer_path):
    """Guards against a vocabulary of register_tasks without effect."""
    import seqio

    from famjax.data import seqio_tasks

    seqio_tasks.register_tasks(tasks, HuggingFaceVocabulary(tokenizer_path))
    task = seqio.get_mixture_or_task("passkey")
    example = next(task.get_dataset({"targets": 400}, split="train", seed=0).as_numpy_iterator())
    assert (
        task.output_features["targets"].vocabulary.decode(example["targets"]).startswith("There is an important info")
    )
    assert ByteVocabulary()
    assert task.output_features["targets"].vocabulary.vocab_size > 259


def test_a_length_is_needed(tasks):
    """Guards against an example of any length where seqio is asked for none."""
    import seqio

    with pytest.raises(ConfigError, match=r"sequence_length for 'targets'"):
        seqio.get_mixture_or_task("passkey").get_dataset(None, split="train")


def test_others_names_are_left_alone():
    """Guards against a user's seqio task that is replaced by ours of the same name."""
    import seqio

    from famjax.data import seqio_tasks

    theirs = seqio.TaskRegistry.add(
        "their_keys",
        source=seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None, splits=["train"]),
        preprocessors=[],
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
    )
    try:
        seqio_tasks.register_tasks({"their_keys": PassKey()})
        assert seqio.TaskRegistry.get("their_keys") is theirs
        assert not seqio_tasks.is_famjax_task("their_keys")
    finally:
        seqio.TaskRegistry.remove("their_keys")


def test_registered_settings_may_be_asked_for(tasks):
    """Guards against settings refused that were registered, and against those of a task inside a task passed over."""
    import seqio

    from famjax.data import seqio_tasks

    task = seqio.TaskRegistry.get("mine")
    seqio_tasks.check_settings(task, tasks, ByteVocabulary())
    seqio_tasks.check_settings(task, {}, ByteVocabulary())
    changed = {**tasks, "documents": dataclasses.replace(tasks["documents"], loss_weight=0.5)}
    with pytest.raises(ConfigError, match=r"'mine' .* Documents\.loss_weight\. "):
        seqio_tasks.check_settings(task, changed, ByteVocabulary())
    # The text around the keys is that of the task "documents".
    with pytest.raises(ConfigError, match=r"Documents\.loss_weight\. "):
        seqio_tasks.check_settings(seqio.TaskRegistry.get("passkey_documents"), changed, ByteVocabulary())
    seqio_tasks.check_settings(seqio.TaskRegistry.get("passkey"), changed, ByteVocabulary())
