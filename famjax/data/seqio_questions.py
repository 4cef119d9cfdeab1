"""The tasks that ask, as seqio tasks to evaluate on: inputs, targets, references, metrics. Imports tensorflow."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from famjax.data.examples import Examples
from famjax.data.questions.metrics import METRICS
from famjax.data.questions.question import Questions
from famjax.errors import ConfigError

SUFFIX = "_eval"
REFERENCES = "references"


# (split, whether shuffled, seed, longest example) -> the examples of a task
Opening = Callable[[str, bool, int, int], Examples]


class Evaluation:
    """What seqio.TaskRegistry.add needs beside the source: preprocessor, postprocessor, metric."""

    def __init__(self, name: str, opening: Opening) -> None:
        """Evaluates the task that `opening` opens; `name` is the seqio task's."""
        self._name, self._opening = name, opening
        self._metrics: tuple[str, ...] = ()

    def make_questions(self, dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None) -> tf.data.Dataset:
        """The preprocessor: from the number of a question to its features, until the split ends."""
        lengths = dict(sequence_length or {})
        if not {"inputs", "targets"} <= set(lengths):
            raise ConfigError(
                f"The seqio task {self._name!r} needs a sequence_length for 'inputs' (prompt and budget together) and "
                "'targets' (the budget)."
            )

        def within(index: np.int64, *reading: Any) -> np.bool_:
            size = self._open(lengths["inputs"], *reading).size
            return np.bool_(size is None or index < size)

        def make(index: np.int64, *reading: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return self._make(self._open(lengths["inputs"], *reading), int(index), lengths["targets"])

        def arguments(number: dict[str, tf.Tensor]) -> list[tf.Tensor]:
            return [number["index"], number["split"], number["shuffle"], number["seed"]]

        def is_within(number: dict[str, tf.Tensor]) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(within, arguments(number), tf.bool, stateful=False), [])

        def question(number: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            outputs = tf.numpy_function(make, arguments(number), [tf.int32, tf.int32, tf.string], stateful=False)
            names = ("inputs", "targets", REFERENCES)
            return {name: tf.ensure_shape(value, [None]) for name, value in zip(names, outputs, strict=True)}

        return dataset.take_while(is_within).map(question)

    def _open(self, longest: int, split: bytes, shuffle: np.bool_, seed: np.int64) -> Questions:
        questions = self._opening(split.decode(), bool(shuffle), int(seed), longest)
        if not isinstance(questions, Questions):
            raise ConfigError(f"The task behind {self._name!r} asks no questions.")
        self._metrics = tuple(name for name in questions.metrics if name in METRICS)
        return questions

    def _make(self, questions: Questions, index: int, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        question, example = questions.question(index), questions[index]
        if question.max_new_tokens > longest:
            raise ConfigError(
                f"The seqio task {self._name!r} has a question with a budget of {question.max_new_tokens} tokens; the "
                f"sequence_length of 'targets' is {longest}."
            )
        references = np.array([reference.encode() for reference in question.references], dtype=object)
        return question.prompt.astype(np.int32), example.targets[example.answers].astype(np.int32), references

    @staticmethod
    def postprocess(output: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
        """A prediction as it is; for a target, its references."""
        if not is_target or example is None:
            return output
        return tuple(reference.decode() for reference in example[REFERENCES])

    def metric(self, targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
        """Means of the task's metrics over all questions."""
        pairs = list(zip(predictions, targets, strict=True))
        return {name: statistics.fmean(METRICS[name](*pair) for pair in pairs) for name in self._metrics}
