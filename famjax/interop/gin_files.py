"""A model's settings, and its vocabulary, as a gin file, to be included in a job like those of gin/models."""

import dataclasses
from typing import Any

from famjax.data.config import VocabularyConfig
from famjax.models.config import RopeScaling, TransformerConfig

_HEADER = """\
# {source}, imported by famjax.
# Required: MEMORY (a file of memory/). To be given behind the other files{why}.
# Commonly overridden: DROPOUT_RATE, TransformerConfig.dtype, .remat_policy ('full' for long sequences).
include 'models/base.gin'

MODEL = @TransformerConfig()

"""
# models/base.gin sets them by macros.
_BY_MACRO = ("memory", "dropout_rate")


def model_file(config: TransformerConfig, source: str, vocabulary: VocabularyConfig | None = None) -> str:
    """The text of a gin file that sets every field that differs from its default.

    Args:
      config: the model; its memory is left to the job.
      source: where the model is from, for the header.
      vocabulary: the macro VOCABULARY; None: it is left to the job.
    """
    lines, scaling = [], []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _BY_MACRO or value == field.default:
            continue
        if isinstance(value, RopeScaling):
            scaling = _fields_of(value)
            value = "@RopeScaling()"
            lines.append(f"TransformerConfig.{field.name} = {value}")
        else:
            lines.append(f"TransformerConfig.{field.name} = {value!r}")
    why = "" if vocabulary is None else ", which set another VOCABULARY"
    header = _HEADER.format(source=source, why=why) + _vocabulary_lines(vocabulary)
    return header + "\n".join(lines + scaling) + "\n"


def _vocabulary_lines(vocabulary: VocabularyConfig | None) -> str:
    if vocabulary is None:
        return ""
    name, fields = type(vocabulary).__name__, dataclasses.fields(vocabulary)
    values = {field.name: getattr(vocabulary, field.name) for field in fields}
    lines = [f"{name}.{field} = {value!r}" for field, value in values.items() if value is not None]
    return "\n".join([f"VOCABULARY = @{name}()", *lines]) + "\n\n"


def _fields_of(settings: Any) -> list[str]:
    name = type(settings).__name__
    return [f"{name}.{field.name} = {getattr(settings, field.name)!r}" for field in dataclasses.fields(settings)]
