"""A seqio task of a few short questions, for t5x's main in a process of its own (MIXTURE_OR_TASK_MODULE)."""

from typing import Any

import numpy as np
import seqio
import tensorflow as tf

NAME = "t5x_questions"
INPUTS = [f"box {number} holds {number * 37 % 100}. box {number}?" for number in range(16)]
TARGETS = [str(number * 37 % 100) for number in range(16)]


def _examples(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
    """The questions, in every split."""
    del split, shuffle_files, seed
    return tf.data.Dataset.from_tensor_slices({"inputs": INPUTS, "targets": TARGETS})


def exact_match(targets: list[str], predictions: list[str]) -> dict[str, Any]:
    """The share of right answers."""
    return {"exact_match": float(np.mean(np.array(targets) == np.array(predictions)))}


_FEATURE = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
_TEXT = seqio.Feature(seqio.ByteVocabulary(), add_eos=False)
seqio.TaskRegistry.add(
    NAME,
    source=seqio.FunctionDataSource(_examples, splits=("train", "validation")),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={"inputs": _TEXT, "targets": _FEATURE},
    metric_fns=[exact_match],
)
