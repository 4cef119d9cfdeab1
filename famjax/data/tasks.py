"""From the settings of a task to its examples."""

import dataclasses

from famjax.data.corpus_files import SPLITS
from famjax.data.documents import DocumentExamples
from famjax.data.examples import Examples, Reading
from famjax.data.instructions import InstructionExamples
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
from famjax.data.task_config import AssociativeRecall, Documents, Mixture, PassKey, PassKeyDocuments, TaskConfig
from famjax.errors import ConfigError


def open_examples(config: TaskConfig, reading: Reading) -> Examples:
    """Opens a task on one split.

    Raises:
      ConfigError: the settings do not fit together.
      DataError: files cannot be read as the settings say.
    """
    if reading.split not in SPLITS:
        raise ConfigError(
            f"DataConfig.split = {reading.split!r}; the task {reading.name!r} has the splits {' and '.join(SPLITS)}."
        )
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
