"""The door to the data: from a DataConfig to a stream of batches, or to the vocabulary."""

import functools
import importlib

from famjax.data import registry
from famjax.data.batches import CORPUS, LENGTH, BatchIterator, ExampleBatches, Rows, State
from famjax.data.config import DataConfig
from famjax.data.document_rows import BlockShape
from famjax.data.examples import Examples, Reading
from famjax.data.prefetching import Prefetching
from famjax.data.tasks import cut_corpora, open_document_rows, open_examples
from famjax.data.vocabularies import Vocabulary, make_vocabulary
from famjax.errors import ConfigError


def open_batches(
    config: DataConfig,
    lengths: tuple[int, int] | None = None,
    *,
    rows: tuple[int, ...] | None = None,
    state: State | None = None,
) -> BatchIterator:
    """Opens a stream of batches.

    The training split of a famjax task has no end; the validation split ends with StopIteration after one epoch, its
    last batch filled up with rows that are padding throughout.

    Args:
      config: what is read.
      lengths: tokens of the shortest and of the longest example; batches are [rows, longest]. None: from the task's own
        shortest to `config.length`.
      rows: of the global batch that this host reads; None: all.
      state: of an earlier stream, behind whose last batch this one goes on. Where `lengths` are asked for it may have
        had others, as another stage of a curriculum.

    Raises:
      ConfigError: no such task or split, settings that do not fit together, or a state of another stream.
      DataError: files that cannot be read as the settings say.
    """
    own = Rows(config.batch_size, rows)
    if not _is_own_task(config):
        from famjax.data.seqio_feeding import open_seqio_batches

        return open_seqio_batches(config, lengths, own, state)
    shortest, longest = lengths or (None, config.length)
    reading = _make_reading(config, shortest, longest)
    examples = open_examples(reading.task_config(reading.name), reading)
    bos_id, pad_id = reading.vocabulary.bos_id, reading.vocabulary.pad_id
    cut = _cut(examples, longest)
    if state is not None:
        # What an older famjax saved has nothing of `cut`; a curriculum's stage goes on from another one's length.
        state = {**cut, **state, **({} if lengths is None else {LENGTH: longest})}
    batches = ExampleBatches(examples, own, longest, bos_id, pad_id, {**_identity(reading), **cut}, state)
    return Prefetching(batches, config.prefetch) if config.prefetch else batches


def open_document_batches(
    config: DataConfig,
    shape: BlockShape,
    *,
    rows: tuple[int, ...] | None = None,
    state: State | None = None,
) -> BatchIterator:
    """Opens a stream of batches whose rows read whole documents (`famjax.data.document_rows`).

    Args:
      config: what is read: a task of type `Documents` or `Instructions`.
      shape: of a row of a batch, in place of `config.length`.
      rows: of the global batch that this host reads; None: all.
      state: of an earlier stream, behind whose last batch this one goes on.

    Raises:
      ConfigError: no such task or split, or settings that do not fit together.
      DataError: files that cannot be read as the settings say.
    """
    task = registry.streamed_task(config.mixture_or_task_name, config.tasks)
    _require_targets_only(config)
    reading = _make_reading(config, None, shape.length)
    own = Rows(config.batch_size, rows)
    batches = open_document_rows(task, reading, own, shape, _identity(reading), state)
    return Prefetching(batches, config.prefetch) if config.prefetch else batches


def _make_reading(config: DataConfig, shortest: int | None, longest: int) -> Reading:
    return Reading(
        name=config.mixture_or_task_name,
        split=config.split,
        shuffle=config.shuffle,
        seed=config.seed,
        shortest=shortest,
        longest=longest,
        vocabulary=make_vocabulary(config.vocabulary),
        task_config=functools.partial(registry.task_config, tasks=config.tasks),
    )


def _identity(reading: Reading) -> State:
    """What a saved place belongs to."""
    return {
        "task": reading.name,
        "split": reading.split,
        "seed": reading.seed,
        "shuffle": reading.shuffle,
        "vocabulary": reading.vocabulary.fingerprint,
    }


def _cut(examples: Examples, length: int) -> State:
    """What a saved place belongs to besides, where examples are cut from corpora: how long they are, and from what."""
    corpora = cut_corpora(examples)
    return {LENGTH: length, CORPUS: "; ".join(corpus.totals for corpus in corpora)} if corpora else {}


def open_vocabulary(config: DataConfig) -> Vocabulary:
    """Opens the vocabulary that batches are encoded with: a seqio task's own, otherwise `config.vocabulary`.

    Raises:
      ConfigError: no such task, or not such features; a special token that the vocabulary lacks.
      DataError: a missing or wrong file.
    """
    if _is_own_task(config):
        return make_vocabulary(config.vocabulary)
    from famjax.data.seqio_feeding import seqio_vocabulary

    return seqio_vocabulary(config)


def fingerprint_of_vocabulary(config: DataConfig) -> str | None:
    """Of `open_vocabulary`, as checkpoints keep it; None for a seqio task's own, which is not kept."""
    return make_vocabulary(config.vocabulary).fingerprint if _is_own_task(config) else None


def _is_own_task(config: DataConfig) -> bool:
    """Whether famjax makes the examples; otherwise seqio does, where the user's module may have registered the task."""
    import_module(config.module, "DataConfig.module")
    if not registry.is_task(config.mixture_or_task_name, config.tasks):
        return False
    _require_targets_only(config)
    return True


def _require_targets_only(config: DataConfig) -> None:
    """ConfigError where features or a cache are asked for that famjax's own tasks do not have."""
    if list(config.task_feature_lengths) != ["targets"]:
        raise ConfigError(
            f"DataConfig.task_feature_lengths = {dict(config.task_feature_lengths)}; the task "
            f"{config.mixture_or_task_name!r} has the feature 'targets' only, as "
            "--gin.TASK_FEATURE_LENGTHS=\"{'targets': 2048}\"."
        )
    if config.use_cached:
        raise ConfigError(
            f"DataConfig.use_cached = True; the task {config.mixture_or_task_name!r} is famjax's own, which seqio does "
            "not cache (--gin.USE_CACHED_TASKS=False)."
        )


def import_module(module: str | None, setting: str) -> None:
    """Imports the user's module, which may register tasks.

    Args:
      module: its name; None: there is none.
      setting: the field that names it, for the message.

    Raises:
      ConfigError: it cannot be imported.
    """
    if module is None:
        return
    try:
        importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"{setting} = {module!r} cannot be imported: {error} (--gin.MIXTURE_OR_TASK_MODULE)."
        ) from error
