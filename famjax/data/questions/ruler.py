"""From the settings of a task of RULER to its questions."""

from famjax.data.examples import Reading
from famjax.data.questions.question import Questions
from famjax.data.questions.ruler_config import (
    Ruler,
    RulerCommonWords,
    RulerFrequentWords,
    RulerNeedle,
    RulerVariableTracking,
)
from famjax.data.questions.ruler_needles import NeedleQuestions
from famjax.data.questions.ruler_variables import VariableQuestions
from famjax.data.questions.ruler_words import CommonWordQuestions, FrequentWordQuestions


def open_ruler(config: Ruler, reading: Reading) -> Questions:
    """Opens one of these tasks.

    Raises:
      ConfigError: a length too short for the task; a wrong task of documents.
      DataError: documents cannot be read.
    """
    match config:
        case RulerNeedle():
            return NeedleQuestions(config, reading)
        case RulerVariableTracking():
            return VariableQuestions(config, reading)
        case RulerCommonWords():
            return CommonWordQuestions(config, reading)
        case RulerFrequentWords():
            return FrequentWordQuestions(config, reading)
