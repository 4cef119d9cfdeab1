"""Batches of any task or mixture of the seqio registry. Imports tensorflow only when called."""

import base64
import contextlib
import dataclasses
import importlib
import itertools
import json
import logging
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from famjax.data import registry
from famjax.data.batches import Batch, Rows, State, assemble, check_identity
from famjax.data.config import DataConfig
from famjax.data.examples import Example
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError, DataError

if TYPE_CHECKING:
    import seqio
    import tensorflow as tf

_log = logging.getLogger(__name__)

_MODULE_HINT = " seqio tasks of your own need --gin.MIXTURE_OR_TASK_MODULE."


def seqio_vocabulary(config: DataConfig) -> Vocabulary:
    """The vocabulary of a seqio task's targets, as large as its inputs' at least; ConfigError if there is no task."""
    provider = _provider(config)
    from famjax.data.seqio_vocabularies import FromSeqio

    read = [provider.output_features[name].vocabulary for name in _features(provider)]
    return FromSeqio(provider.output_features["targets"].vocabulary, *read)


def open_seqio_batches(
    config: DataConfig, lengths: tuple[int, int] | None, rows: Rows, state: State | None
) -> "SeqioBatches":
    """Opens a stream of batches of a seqio task or mixture; see `famjax.data.feeding.open_batches`.

    An example is its "inputs", where it has them, and its "targets", cut to their `task_feature_lengths`. Inputs have
    weight 0, targets 1; targets behind inputs are answers (but not their end token). Features "weights" and "answers"
    of the length of the targets, as famjax tasks have them, say otherwise. The length of an example is what the task
    makes it: of `lengths` only the longest matters.

    Raises:
      ConfigError: no such task, split or feature; a curriculum over inputs and targets.
    """
    provider = _provider(config)
    sequence_length = _sequence_length(config, provider, lengths)
    return SeqioBatches(config, provider, sequence_length, seqio_vocabulary(config), rows, state)


def _provider(config: DataConfig) -> "seqio.Task | seqio.Mixture":
    """Finds a task or mixture in seqio's registry, where famjax's own are registered too."""
    name = config.mixture_or_task_name
    known = registry.task_names(config.tasks)
    if config.module is None and "seqio" not in sys.modules:  # Nobody can have registered a task: say so at once.
        raise ConfigError(registry.unknown_task_message(name, known, _MODULE_HINT))
    try:
        import seqio
        import tensorflow as tf

        importlib.import_module("famjax.data.seqio_tasks")  # registers famjax's own, of which a mixture may be made
    except ImportError as error:
        hint = f" seqio's tasks cannot be read here: {error}."
        raise ConfigError(registry.unknown_task_message(name, known, hint)) from error
    if tf.config.get_visible_devices("GPU"):  # tensorflow would take all of their memory; they are JAX's
        tf.config.set_visible_devices([], "GPU")
    known = sorted({*known, *seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
    if name not in known:
        raise ConfigError(registry.unknown_task_message(name, known, "" if config.module else _MODULE_HINT))
    provider = seqio.get_mixture_or_task(name)
    if config.split not in provider.splits:
        raise ConfigError(
            f"DataConfig.split = {config.split!r}; the task {name!r} has "
            f"{', '.join(sorted(map(str, provider.splits)))}."
        )
    if "targets" not in provider.output_features:
        raise ConfigError(f"The task {name!r} has no feature 'targets' (--gin.MIXTURE_OR_TASK_NAME).")
    return provider


def _features(provider: "seqio.Task | seqio.Mixture") -> list[str]:
    """The features that are read: "targets", and "inputs" where the task has them."""
    return [name for name in ("inputs", "targets") if name in provider.output_features]


def _sequence_length(
    config: DataConfig, provider: "seqio.Task | seqio.Mixture", lengths: tuple[int, int] | None
) -> dict[str, int]:
    """Tokens by feature."""
    features = _features(provider)
    if sorted(config.task_feature_lengths) != features:
        raise ConfigError(
            f"DataConfig.task_feature_lengths = {dict(config.task_feature_lengths)!r}; the task "
            f"{config.mixture_or_task_name!r} needs {' and '.join(map(repr, features))} (--gin.TASK_FEATURE_LENGTHS)."
        )
    longest = config.length if lengths is None else lengths[1]
    if features == ["targets"]:
        return {"targets": longest}
    if longest != config.length:
        raise ConfigError(
            f"The task {config.mixture_or_task_name!r} has inputs and targets: its examples have the {config.length} "
            f"tokens of --gin.TASK_FEATURE_LENGTHS together; {longest} are asked for (a curriculum, EvalJob.lengths)."
        )
    return dict(config.task_feature_lengths)


def _dataset(
    config: DataConfig, provider: "seqio.Task | seqio.Mixture", sequence_length: dict[str, int]
) -> "tf.data.Dataset":
    """The examples of a split: a training split without an end, one epoch of another one."""
    import seqio

    options: dict[str, Any] = {}
    _check_settings(config, provider)
    if isinstance(provider, seqio.Mixture):
        options["passthrough_features"] = _passed_through(config, provider, sequence_length)
        _check_caching(config, provider.tasks)
    else:
        _check_caching(config, [provider])
    return provider.get_dataset(
        sequence_length,
        split=config.split,
        use_cached=config.use_cached,
        shuffle=config.shuffle,
        seed=config.seed,
        num_epochs=None if config.split == "train" else 1,
        try_in_mem_cache=False,  # it would be part of every saved state
        **options,
    )


def _check_settings(config: DataConfig, provider: "seqio.Task | seqio.Mixture") -> None:
    """ConfigError where famjax tasks are asked for settings that they were not registered with."""
    import seqio

    from famjax.data.seqio_tasks import check_settings

    for task in provider.tasks if isinstance(provider, seqio.Mixture) else [provider]:
        check_settings(task, config.tasks, config.vocabulary)


def _check_caching(config: DataConfig, tasks: "Iterable[seqio.Task]") -> None:
    """ConfigError where seqio would stop, or go on without a cache, for want of cached examples."""
    able = [task for task in tasks if task.supports_caching]
    if config.use_cached and not able:
        raise ConfigError(
            f"The task {config.mixture_or_task_name!r} has no cached form: its preprocessors hold no "
            "seqio.CacheDatasetPlaceholder (--gin.USE_CACHED_TASKS=False)."
        )
    for task in able:
        if config.use_cached and not task.cache_dir:
            raise ConfigError(
                f"The task {task.name!r} is in none of seqio's cache folders: cache it, add its folder with "
                "seqio.add_global_cache_dirs, or set --gin.USE_CACHED_TASKS=False."
            )
        if task.requires_caching and not config.use_cached:
            raise ConfigError(f"The task {task.name!r} can be read from its cache only: --gin.USE_CACHED_TASKS=True.")


def _passed_through(
    config: DataConfig, mixture: "seqio.Mixture", sequence_length: dict[str, int]
) -> tuple[str, ...] | None:
    """The features beside the targets that a mixture is to keep: those of famjax tasks, where there are any in it."""
    from famjax.data.seqio_tasks import EXTRA_FEATURES, is_famjax_task

    foreign = [task for task in mixture.tasks if not is_famjax_task(task.name)]
    if len(foreign) == len(mixture.tasks):
        return None
    for task in foreign:
        dataset = task.get_dataset(sequence_length, split=config.split, shuffle=False, try_in_mem_cache=False)
        if not set(EXTRA_FEATURES) <= set(dataset.element_spec):
            raise ConfigError(
                f"The mixture {config.mixture_or_task_name!r} has famjax tasks, whose examples weigh their tokens, "
                f"and the task {task.name!r}, whose do not: append "
                "famjax.data.seqio_tasks.with_weights to its preprocessors."
            )
    return EXTRA_FEATURES


class SeqioBatches:
    """Batches of a seqio task or mixture.

    The state is that of the tf.data iterator, shuffle buffers included. A pipeline with a stateful operation (such as
    tf.py_function) has none that could be saved: its state is the number of examples read, and restoring reads
    these again, which is as exact but takes time.
    """

    def __init__(
        self,
        config: DataConfig,
        provider: "seqio.Task | seqio.Mixture",
        sequence_length: dict[str, int],
        vocabulary: Vocabulary,
        rows: Rows,
        state: State | None,
    ) -> None:
        """Opens the pipeline at its start, or at `state`."""
        self._name, self._rows = config.mixture_or_task_name, rows
        self._length, self._vocabulary = sum(sequence_length.values()), vocabulary
        self._identity: State = {
            "task": self._name,
            "split": config.split,
            "seed": config.seed,
            "shuffle": config.shuffle,
            "use_cached": config.use_cached,
        }
        self._count, self._replays = 0, False
        if state is not None:
            check_identity(self._identity, state)
            self._count = int(state["read"])
        with self._errors():
            dataset = _dataset(config, provider, sequence_length)
            saved = (state or {}).get("iterator")
            self._iterator = iter(dataset if saved else dataset.skip(self._count))
            if saved:
                self._load(saved)

    @property
    def skipped(self) -> dict[str, int]:
        """See `BatchIterator`; seqio counts none."""
        return {}

    def __iter__(self) -> Iterator[Batch]:
        """See `BatchIterator`."""
        return self

    def __next__(self) -> Batch:
        """See `BatchIterator`."""
        # Every host reads all rows and keeps its own: with seqio's shards a batch would depend on the number of hosts.
        rows = self._rows.local
        with self._errors():
            read = list(itertools.islice(self._iterator, self._rows.batch_size))
        self._count += len(read)
        if not read:
            raise StopIteration
        examples = [self._example(read[row]) for row in rows if row < len(read)]
        return assemble(examples, len(rows), self._length, self._vocabulary.bos_id, self._vocabulary.pad_id)

    def state(self) -> State:
        """See `BatchIterator`."""
        import tensorflow as tf

        state = {**self._identity, "read": self._count}
        if self._replays:
            return state
        try:
            return {**state, "iterator": _save(self._iterator)}
        except tf.errors.FailedPreconditionError as error:
            _log.warning("The place in the seqio task %r is saved as a count: %s", self._name, error.message)
            self._replays = True
            return state

    def close(self) -> None:
        """See `BatchIterator`; tensorflow ends its threads with the iterator."""
        del self._iterator

    def _load(self, saved: str) -> None:
        """Brings the iterator to a saved place; DataError where the pipeline is no longer the one it was saved of."""
        import tensorflow as tf

        try:
            _load(self._iterator, saved)
        except (AssertionError, tf.errors.OpError) as error:
            raise DataError(
                f"The saved place in the seqio task {self._name!r} does not fit its pipeline, which has changed since. "
                "Set it back,\n  or start in another --gin.MODEL_DIR from this run's parameters "
                "(--gin.INITIAL_CHECKPOINT_PATH)."
            ) from error

    def _example(self, features: dict[str, Any]) -> Example:
        """From seqio's features to an example."""
        inputs = features["inputs"].numpy() if "inputs" in features else np.zeros(0, np.int32)
        targets = features["targets"].numpy()
        if "weights" in features:
            weights, answers = self._passed_through(features, len(targets))
        else:
            weights = np.ones(len(targets), np.float32)
            answers = np.full(len(targets), "inputs" in features) & (targets != self._vocabulary.eos_id)
        before = len(inputs)
        example = Example(
            targets=np.concatenate([inputs, targets]),
            weights=np.concatenate([np.zeros(before, np.float32), weights]),
            answers=np.concatenate([np.zeros(before, np.bool_), answers]),
        )
        # A restored shuffle buffer may hold examples that were cut to another length.
        return Example(*(value[: self._length] for value in dataclasses.astuple(example)))

    def _passed_through(self, features: dict[str, Any], count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The task's own weights and answers, one for each of the targets; DataError otherwise."""
        weights = features["weights"].numpy()
        answers = features["answers"].numpy() if "answers" in features else np.zeros(0, np.bool_)
        if weights.shape != (count,) or answers.shape != (count,):
            raise DataError(
                f"The seqio task {self._name!r} gives weights of shape {weights.shape} and answers of shape "
                f"{answers.shape} for {count} targets (cut to --gin.TASK_FEATURE_LENGTHS); its preprocessors must make "
                "one of each for every target."
            )
        return weights, answers

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Tells of what fails inside tensorflow as a DataError."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            raise DataError(f"The seqio task {self._name!r} cannot be read: {error.message}") from error


def _save(iterator: Any) -> str:
    """A tf.data iterator's state, as text."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory(prefix="famjax-data-") as folder:
        tf.train.Checkpoint(iterator=iterator).write(f"{folder}/state")
        files = {path.name: base64.b64encode(path.read_bytes()).decode() for path in sorted(Path(folder).iterdir())}
    return base64.b64encode(zlib.compress(json.dumps(files).encode())).decode()


def _load(iterator: Any, state: str) -> None:
    """Brings a tf.data iterator to a state that `_save` gave."""
    import tensorflow as tf

    files = json.loads(zlib.decompress(base64.b64decode(state)))
    with tempfile.TemporaryDirectory(prefix="famjax-data-") as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(base64.b64decode(content))
        tf.train.Checkpoint(iterator=iterator).read(f"{folder}/state").assert_consumed()
