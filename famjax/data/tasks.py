"""From the settings of a task to its examples."""

import dataclasses

from famjax.data import document_rows
from famjax.data.batches import Rows, State
from famjax.data.corpus import Corpus
from famjax.data.corpus_files import SPLITS
from famjax.data.document_rows import BlockShape, DocumentRows, Source
from famjax.data.documents import DocumentExamples, StreamedDocuments
from famjax.data.examples import Examples, Reading
from famjax.data.instructions import InstructionExamples, StreamedRecords
from famjax.data.instructions_config import Instructions
from famjax.data.keys import KeyExamples
from famjax.data.mixing import MixedExamples
from famjax.data.questions.babilong import BabilongQuestions
from famjax.data.questions.babilong_config import Babilong
from famjax.data.questions.long_documents import open_long_documents
from famjax.data.questions.long_documents_config import LongDocuments
from famjax.data.questions.reading_comprehension import open_reading_comprehension
from famjax.data.questions.reading_config import Quality, ReadingComprehension
from famjax.data.questions.ruler import open_ruler
from famjax.data.questions.ruler_config import Ruler
from famjax.data.recall import RecallExamples
from famjax.data.shuffling import EpochOrder
from famjax.data.task_config import AssociativeRecall, Documents, Mixture, PassKey, PassKeyDocuments, TaskConfig
from famjax.errors import ConfigError


def open_examples(config: TaskConfig, reading: Reading) -> Examples:
    """Opens a task on one split.

    Raises:
      ConfigError: the settings do not fit together.
      DataError: files cannot be read as the settings say.
    """
    require_split(reading)
    match config:
        case Documents():
            return DocumentExamples(config, reading)
        case PassKey() | PassKeyDocuments():
            return KeyExamples(config, reading)
        case AssociativeRecall():
            return RecallExamples(config, reading)
        case Mixture():
            return _open_mixture(config, reading)
        case Instructions():
            return InstructionExamples(config, reading)
        case Babilong():
            return BabilongQuestions(config, reading)
        case _:
            return _open_questions(config, reading)


def cut_corpora(examples: Examples) -> tuple[Corpus, ...]:
    """The corpora that are cut into a task's examples, by their length; none where examples are made."""
    if isinstance(examples, MixedExamples):
        return tuple(dict.fromkeys(corpus for part in examples.parts for corpus in cut_corpora(part)))
    if isinstance(examples, DocumentExamples | InstructionExamples | KeyExamples) and examples.corpus is not None:
        return (examples.corpus,)
    return ()


def open_document_rows(
    config: Documents | Instructions,
    reading: Reading,
    rows: Rows,
    shape: BlockShape,
    identity: State,
    state: State | None,
) -> DocumentRows:
    """Opens a corpus for reading its documents, or its records, one after another in every row.

    Raises:
      ConfigError: there is no such split, or `state` is of another stream.
      DataError: files cannot be read as the settings say, or no document is long enough.
    """
    require_split(reading)
    documents = _streamed(config, reading)
    source = Source(
        documents=documents,
        order=EpochOrder(len(documents.lengths), reading.shuffle, *reading.key),
        ends=reading.ends,
        bos_id=reading.vocabulary.bos_id,
        pad_id=reading.vocabulary.pad_id,
    )
    return DocumentRows(source, rows, shape, identity, state)


def _streamed(config: Documents | Instructions, reading: Reading) -> document_rows.Documents:
    if isinstance(config, Instructions):
        return StreamedRecords(config, reading)
    return StreamedDocuments(config, reading)


def require_split(reading: Reading) -> None:
    """ConfigError unless famjax's tasks have the split."""
    if reading.split not in SPLITS:
        raise ConfigError(
            f"DataConfig.split = {reading.split!r}; the task {reading.name!r} has the splits {' and '.join(SPLITS)}."
        )


def generates_answers(config: TaskConfig) -> bool:
    """Whether a task asks questions that are answered by generating text."""
    return not isinstance(config, Documents | Instructions | Mixture | Quality | LongDocuments)


def _open_questions(config: Ruler | LongDocuments | ReadingComprehension, reading: Reading) -> Examples:
    if isinstance(config, Ruler):
        return open_ruler(config, reading)
    if isinstance(config, LongDocuments):
        return open_long_documents(config, reading)
    return open_reading_comprehension(config, reading)


def _open_mixture(config: Mixture, reading: Reading) -> MixedExamples:
    parts = []
    for name in config.rates:
        part = reading.task_config(name)
        if isinstance(part, Mixture):
            raise ConfigError(f"Mixture.rates names {name!r}, which is a mixture itself; allowed: tasks.")
        parts.append(open_examples(part, dataclasses.replace(reading, name=name)))
    return MixedExamples(parts, list(config.rates.values()), reading.shuffle, reading.key)
