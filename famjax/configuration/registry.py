"""Which dataclasses gin may set, and what their fields mean. Imports neither jax nor tensorflow."""

import dataclasses
import functools
import importlib
import inspect
import re
import types
import typing
from typing import Any

import gin

# Light modules whose dataclasses are settings.
CONFIG_MODULES = (
    "famjax.models.config",
    "famjax.models.lora_config",
    "famjax.data.config",
    "famjax.training.config",
    "famjax.training.curriculum_config",
    "famjax.training.finetuning_config",
    "famjax.training.merge_config",
    "famjax.training.optimizer_config",
    "famjax.training.streaming_config",
    "famjax.inference.config",
    "famjax.inference.job_config",
    "famjax.inference.attention_config",
    "famjax.evaluation.config",
    "famjax.evaluation.scan.config",
    "famjax.evaluation.report.config",
    "famjax.launch.config",
    "famjax.pods.config",
    "famjax.pods.hosts_config",
)


def configurables_of(module: types.ModuleType) -> tuple[type, ...]:
    """Returns the dataclasses that a module defines, and those that its tuple CONFIGURABLES names besides."""
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and dataclasses.is_dataclass(value) and value.__module__ == module.__name__
    ]
    return tuple(dict.fromkeys([*own, *getattr(module, "CONFIGURABLES", ())]))


_CONFIGURABLES: dict[str, type] = {}


@functools.cache
def register_all() -> None:
    """Makes every settings dataclass known to gin, once. The classes themselves stay as they are."""
    for name in CONFIG_MODULES:
        for cls in configurables_of(importlib.import_module(name)):
            if cls.__name__ in _CONFIGURABLES:
                continue  # exported by more than one module
            _CONFIGURABLES[cls.__name__] = cls
            gin.external_configurable(cls, module=cls.__module__)


def configurable_names() -> tuple[str, ...]:
    """Returns the names that may stand before the dot in `--gin.NAME.parameter`."""
    register_all()
    return tuple(_CONFIGURABLES)


def parameter_names(cls: type) -> tuple[str, ...]:
    """Returns the fields of a settings dataclass that gin may set."""
    return tuple(field.name for field in dataclasses.fields(cls) if field.init)


@functools.cache
def parameter_types(cls: type) -> dict[str, Any]:
    """Returns the type hint of each field."""
    return typing.get_type_hints(cls)


@functools.cache
def parameter_meanings(cls: type) -> dict[str, str]:
    """Returns the first sentence that the Attributes section of a class, or of a base class, has on each field."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        documentation = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, attributes = documentation.partition("Attributes:\n")
        for entry in re.finditer(r"^  ([\w, ]+): (.*(?:\n    .*)*)", attributes, re.MULTILINE):
            text = " ".join(entry[2].split())
            meaning = re.split(r"(?<=[.;]) ", text)[0].rstrip(".;")
            meanings |= {name.strip(): meaning for name in entry[1].split(",")}
    return meanings
