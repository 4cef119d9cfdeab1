"""Every famjax task as a seqio task of the same name, with the same examples. Imports tensorflow.

Importing this module registers them all, so that it can serve as a t5x MIXTURE_OR_TASK_MODULE. An example has the
feature "targets", and beside it "weights" and "answers" of the same length, which seqio passes through. A task whose
answers are generated is registered a second time, as "<name>_eval", for seqio's Evaluator: with "inputs" and "targets",
the references and the metrics (`famjax.data.seqio_questions`).
"""

import dataclasses
import functools
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from famjax.data import registry
from famjax.data.config import ByteVocabulary, VocabularyConfig
from famjax.data.corpus_files import SPLITS
from famjax.data.examples import Examples, Reading
from famjax.data.seqio_questions import SUFFIX, Evaluation
from famjax.data.task_config import Mixture, TaskConfig
from famjax.data.tasks import generates_answers, open_examples
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import ConfigError

EXTRA_FEATURES = ("weights", "answers")
_registered: set[str] = set()
_openers: "weakref.WeakKeyDictionary[seqio.Task, _Opener]" = weakref.WeakKeyDictionary()


def register_tasks(tasks: Mapping[str, TaskConfig] | None = None, vocabulary: VocabularyConfig | None = None) -> None:
    """Registers every famjax task with seqio.

    One that was registered by an earlier call is replaced (a mixture keeps those it was made of). A name that somebody
    else has registered is left alone.

    Args:
      tasks: `DataConfig.tasks`.
      vocabulary: what they are encoded with; None: bytes.
    """
    tasks, vocabulary = dict(tasks or {}), vocabulary or ByteVocabulary()
    for name in registry.task_names(tasks):
        opener = _Opener(name, tasks, vocabulary)
        _register(name, opener, vocabulary, [functools.partial(_make_examples, opener=opener)], ["targets"])
        if generates_answers(registry.task_config(name, tasks)):
            evaluation = Evaluation(name + SUFFIX, opener.open)
            _register(
                name + SUFFIX,
                opener,
                vocabulary,
                [evaluation.make_questions],
                ["inputs", "targets"],
                postprocess_fn=evaluation.postprocess,
                metric_fns=[evaluation.metric],
            )


def _register(
    name: str,
    opener: "_Opener",
    vocabulary: VocabularyConfig,
    preprocessors: list[Any],
    features: list[str],
    **evaluation: Any,
) -> None:
    """Registers one task, unless somebody else has registered its name."""
    if name in _registered:
        seqio.TaskRegistry.remove(name)
    elif name in seqio.TaskRegistry.names():
        return
    _registered.add(name)
    feature = seqio.Feature(make_vocabulary(vocabulary).as_seqio(), add_eos=False)
    task = seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(_numbers, splits=SPLITS),
        preprocessors=preprocessors,
        output_features=dict.fromkeys(features, feature),
        shuffle_buffer_size=1,  # the examples are in their drawn order already; seqio is not to shuffle them again
        **evaluation,
    )
    _openers[task] = opener


def check_settings(task: seqio.Task, tasks: Mapping[str, TaskConfig], vocabulary: VocabularyConfig) -> None:
    """Checks that a famjax task, as it was registered, is what a run asks for; a foreign task always is.

    Settings that are the built-in defaults are not asked for: `register_tasks` may have set others.

    Args:
      task: of a mixture, which keeps the tasks that it was made of.
      tasks: `DataConfig.tasks`.
      vocabulary: `DataConfig.vocabulary`.

    Raises:
      ConfigError: names the settings that would have no effect.
    """
    opener = _openers.get(task)
    ignored = [] if opener is None else opener.ignored(tasks, vocabulary)
    if ignored:
        raise ConfigError(
            f"The seqio task {task.name!r} was registered with other settings of {', '.join(ignored)}. Leave them at "
            "their defaults,\n  or call famjax.data.seqio_tasks.register_tasks with them in "
            "--gin.MIXTURE_OR_TASK_MODULE, before the mixture is made."
        )


def is_famjax_task(name: str) -> bool:
    """Whether a task of seqio's registry is one of these, with weights and answers (those for evaluation have none)."""
    return name in _registered and "inputs" not in seqio.TaskRegistry.get(name).output_features


def with_weights(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A preprocessor for another seqio task that is to be mixed with famjax tasks: adds weights of 1 and no answers."""

    def add(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        targets = example["targets"]
        return {**example, "weights": tf.ones_like(targets, tf.float32), "answers": tf.zeros_like(targets, tf.bool)}

    return dataset.map(add)


class _Opener:
    """Opens a task's examples once for each way of reading it."""

    def __init__(self, name: str, tasks: Mapping[str, TaskConfig], vocabulary: VocabularyConfig) -> None:
        self._name, self._tasks, self._vocabulary = name, tasks, vocabulary
        self.open = functools.lru_cache(maxsize=8)(self._open)

    def ignored(self, tasks: Mapping[str, TaskConfig], vocabulary: VocabularyConfig) -> list[str]:
        """What is asked for by these settings, defaults aside, and is otherwise here."""
        found = [] if vocabulary in (ByteVocabulary(), self._vocabulary) else ["DataConfig.vocabulary"]
        for name in self._names():
            own = registry.task_config(name, self._tasks)
            asked = tasks.get(name, own)
            default = registry.BUILT_IN.get(name, own)
            if asked not in (own, default):
                found += _differences(name, own, asked)
        return found

    def _names(self) -> list[str]:
        """The task, and the tasks that it is made of."""
        names = [self._name]
        for name in names:  # grows meanwhile
            config = registry.task_config(name, self._tasks)
            parts = set(config.rates) if isinstance(config, Mixture) else {getattr(config, "documents", name)}
            names += sorted(parts.difference(names))
        return names

    def _open(self, split: str, shuffle: bool, seed: int, longest: int) -> Examples:
        task_config = functools.partial(registry.task_config, tasks=self._tasks)
        reading = Reading(
            name=self._name,
            split=split,
            shuffle=shuffle,
            seed=seed,
            shortest=None,
            longest=longest,
            vocabulary=make_vocabulary(self._vocabulary),
            task_config=task_config,
        )
        return open_examples(task_config(self._name), reading)


def _differences(name: str, one: TaskConfig, other: TaskConfig) -> list[str]:
    """The settings that differ, as gin names them."""
    if type(one) is not type(other):
        return [f"DataConfig.tasks[{name!r}]"]
    fields = [field.name for field in dataclasses.fields(one)]
    return [f"{type(one).__name__}.{field}" for field in fields if getattr(one, field) != getattr(other, field)]


def _numbers(split: str, shuffle_files: bool, seed: Any = None) -> tf.data.Dataset:
    """The source: the number of each example, and how it is to be read."""
    seed = tf.constant(0, tf.int64) if seed is None else tf.cast(seed, tf.int64)
    return tf.data.Dataset.range(np.iinfo(np.int64).max).map(
        lambda index: {"index": index, "split": tf.constant(split), "shuffle": tf.constant(shuffle_files), "seed": seed}
    )


def _make_examples(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None, opener: _Opener
) -> tf.data.Dataset:
    """The preprocessor: from the number of an example to the example, until the split ends."""
    if not sequence_length or "targets" not in sequence_length:
        raise ConfigError("A famjax task needs a sequence_length for 'targets' (--gin.TASK_FEATURE_LENGTHS).")
    longest = sequence_length["targets"]

    def examples(split: bytes, shuffle: np.bool_, seed: np.int64) -> Examples:
        return opener.open(split.decode(), bool(shuffle), int(seed), longest)

    def within(index: np.int64, *reading: Any) -> np.bool_:
        size = examples(*reading).size
        return np.bool_(size is None or index < size)

    def make(index: np.int64, *reading: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        example = examples(*reading)[int(index)]
        return example.targets.astype(np.int32), example.weights, example.answers

    def arguments(number: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        return [number["index"], number["split"], number["shuffle"], number["seed"]]

    def is_within(number: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(within, arguments(number), tf.bool, stateful=False), [])

    def example(number: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = tf.numpy_function(make, arguments(number), [tf.int32, tf.float32, tf.bool], stateful=False)
        return {
            name: tf.ensure_shape(value, [None])
            for name, value in zip(("targets", *EXTRA_FEATURES), outputs, strict=True)
        }

    return dataset.take_while(is_within).map(example)


register_tasks()
