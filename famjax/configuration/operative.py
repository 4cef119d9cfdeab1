"""The operative configuration, as text that gin reads: everything that a job depends on, defaults included.

`--gin_file=MODEL_DIR/config.gin` repeats the run. Macros and scopes stay: settings are overridden as in the run itself.
"""

import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from famjax.configuration.bindings import Key
from famjax.configuration.loading import Configuration
from famjax.configuration.resolving import Node, nodes_of

FILE_NAME = "config.gin"

_current: list[Configuration] = []


def remember(configuration: Configuration) -> None:
    """Makes a configuration the one that `write` writes. `famjax.main` calls it once for a process's job."""
    _current[:] = [configuration]


def write(model_dir: str | os.PathLike[str]) -> None:
    """Writes the configuration of this process's job to MODEL_DIR/config.gin, beside the checkpoints.

    A job that Python code has built, without gin, has no such configuration, and no file is written.
    """
    for configuration in _current:
        path = epath.Path(model_dir) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_text(configuration), encoding="utf-8")


def changes(model_dir: str | os.PathLike[str]) -> list[str]:
    """What `write` would change in MODEL_DIR/config.gin, as "BATCH_SIZE: 16, now 8"; nothing where there is no file."""
    path = epath.Path(model_dir) / FILE_NAME
    if not _current or not path.exists():
        return []
    before, now = _assignments(path.read_text(encoding="utf-8")), _assignments(to_text(_current[0]))
    return [
        f"{name}: {before.get(name, 'not set')}, now {now.get(name, 'not set')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _assignments(text: str) -> dict[str, str]:
    """The lines "name = value" of a configuration that `to_text` wrote."""
    parts = (line.partition(" = ") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in parts if equals}


def to_text(configuration: Configuration) -> str:
    """Returns the configuration as a gin file."""
    bindings = configuration.bindings
    lines = ["# Written by famjax: all settings of this run. --gin_file=<this file> repeats it."]
    lines += [f"import {module}" for module in bindings.imports]
    lines += ["", "# Macros"]
    lines += [f"{name} = {binding.value!r}" for name, binding in sorted(bindings.macros.items())]
    for cls, values in _by_class(configuration):
        lines += ["", f"# {cls.__name__}", *(f"{key} = {value!r}" for key, value in values)]
    return "\n".join(lines) + "\n"


def _by_class(configuration: Configuration) -> Iterator[tuple[type, list[tuple[Key, Any]]]]:
    """Yields, for each class in use, its bindings and, without a scope, the defaults it took.

    A default cannot hide a binding: where a class takes a default, all its bindings of that parameter have a scope.
    """
    values: dict[type, dict[Key, Any]] = {}
    for node in _walk(configuration.root):
        mine = values.setdefault(node.cls, {})
        for name, setting in node.settings.items():
            if setting.origin is None and _is_literal(setting.value):
                mine.setdefault(Key("", node.cls, name), setting.value)
    for key, binding in configuration.bindings.parameters.items():
        values[key.cls][key] = binding.value
    for cls, mine in values.items():
        order = [(key, mine[key]) for key in sorted(mine, key=lambda key: (key.scope, key.name))]
        yield cls, order


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for setting in node.settings.values():
        for child in nodes_of(setting.value):
            yield from _walk(child)


def _is_literal(value: Any) -> bool:
    """Whether gin can read repr(value): a default that is itself a dataclass is left to the class that has it."""
    if isinstance(value, dict):
        return all(_is_literal(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return all(_is_literal(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
