"""Reads the records of a data set that TFDS has prepared on this machine, or in a bucket."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from famjax.data.json_objects import BadRecordError
from famjax.data.questions.dataset_files import Record, UnreadableError


def read_tfds(name: str, data_dir: str | None, split: str) -> Iterator[Record]:
    """Yields the records of one split of a data set, in its order.

    Args:
      name: of the data set, as "name", "name/config" or "name/config:version".
      data_dir: where it is prepared; None: TFDS's own default.
      split: in TFDS's notation.

    Raises:
      UnreadableError: TFDS is not installed, does not know the data set, has not prepared it, or cannot read it.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UnreadableError(
            f"the data set {name!r} of TFDS needs the package tensorflow-datasets: {error}"
        ) from error
    if tf.config.get_visible_devices("GPU"):  # tensorflow would take all of their memory; they are JAX's
        tf.config.set_visible_devices([], "GPU")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            raise UnreadableError(
                f"TFDS has not prepared the data set {name!r} in {builder.data_path}; run: tfds build {name} "
                f"--data_dir={data_dir or '~/tensorflow_datasets'}"
            )
        # One file after another, so that the order is the same each time.
        config = tfds.ReadConfig(interleave_cycle_length=1, add_tfds_id=False)
        examples = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
        for number, example in enumerate(tfds.as_numpy(examples)):
            yield Record(f"{name} of TFDS, {split}, record {number}", number, functools.partial(_decoded, example))
    except (tf.errors.OpError, OSError, ValueError, RuntimeError) as error:
        raise UnreadableError(f"TFDS cannot read {split!r} of the data set {name!r}: {_first_line(error)}") from error


def _decoded(example: Any) -> Any:
    """An example of TFDS with strings in place of bytes."""
    if isinstance(example, bytes):
        try:
            return example.decode()
        except UnicodeDecodeError as error:
            raise BadRecordError(
                f"a text that is not UTF-8: {error.reason}, byte {error.start}", "undecodable"
            ) from None
    if isinstance(example, Mapping):
        return {name: _decoded(value) for name, value in example.items()}
    return example


def _first_line(error: Exception) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
