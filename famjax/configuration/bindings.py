"""Collects gin files and flags into one table of bindings, and checks every name in them.

Files are read in the order given, then the flags; a later binding replaces an earlier one, with one exception that
makes files commute: `NAME = %gin.REQUIRED` only declares that somebody must set NAME, and never replaces a value. A
file that is included again is not read again.
"""

import dataclasses
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin

from famjax.configuration.files import find_file, gin_root, own_files_with
from famjax.configuration.origin import Origin, nearest, suggestion
from famjax.configuration.registry import configurable_names, parameter_names, register_all
from famjax.configuration.statements import REQUIRED, Macro, Reference, Statement, parse_file, parse_flag
from famjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Binding:
    """A value as gin's parser gave it (literals, `Macro`, `Reference`, containers of them) and its place."""

    value: Any
    origin: Origin


@dataclasses.dataclass(frozen=True)
class Key:
    """What a parameter is called: scope/cls.name."""

    scope: str
    cls: type
    name: str

    def __str__(self) -> str:
        return f"{self.scope}{'/' if self.scope else ''}{self.cls.__name__}.{self.name}"


@dataclasses.dataclass
class Bindings:
    """All bindings of a run.

    Attributes:
      macros: by name.
      parameters: by key.
      imports: modules that gin files import.
      awaited: macros that a file declares as required and that nothing uses yet: what uses them comes with another
        missing setting (MEMORY with MODEL). With the place of the declaration.
      files: the gin files that were read, by the names that flags and includes asked for.
    """

    macros: dict[str, Binding] = dataclasses.field(default_factory=dict)
    parameters: dict[Key, Binding] = dataclasses.field(default_factory=dict)
    imports: list[str] = dataclasses.field(default_factory=list)
    awaited: dict[str, Origin] = dataclasses.field(default_factory=dict)
    files: dict[str, Path] = dataclasses.field(default_factory=dict)


def read_bindings(
    files: Sequence[str], flags: Sequence[tuple[str, str]], search_paths: Sequence[Path] = ()
) -> Bindings:
    """Reads gin files, then flags.

    Args:
      files: names, looked for as given, in `search_paths` and in famjax's own folder.
      flags: (name, value) of each `--gin.name=value`.
      search_paths: folders.

    Raises:
      ConfigError: a file is missing, a line is not gin, or a name is unknown; all of these at once.
    """
    register_all()
    reader = _Reader([*search_paths, gin_root()])
    for file in files:
        reader.read_file(file, f"--gin_file={file}")
    for name, value in flags:
        reader.read_flag(name, value)
    reader.check_macros()
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return reader.bindings


def references(value: Any) -> Iterator[Macro | Reference]:
    """Yields the macros and references in a value."""
    if isinstance(value, Macro | Reference):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from references(key)
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def find_configurable(selector: str) -> type | None:
    """Returns the class that gin knows by this name, possibly with (a part of) its module before it, or None."""
    try:
        return gin.config.ConfigurableReference(selector, evaluate=True).configurable.wrapped
    except (ValueError, KeyError):
        return None


class _Reader:
    """The state of one reading. Problems are collected, so that one run tells all of them."""

    def __init__(self, search_paths: Sequence[Path]) -> None:
        self.bindings = Bindings()
        self.problems: list[str] = []
        self._search_paths = search_paths
        self._files_read: set[Path] = set()
        self._macros_used: dict[str, Origin] = {REQUIRED.name: Origin("gin", is_flag=False)}
        self._macros_declared: set[str] = set()
        self._lacks_files = False

    def read_file(self, name: str, asked_by: str) -> None:
        try:
            path = find_file(name, self._search_paths, asked_by)
            self.bindings.files[name] = path
            if path.resolve() not in self._files_read:
                self._files_read.add(path.resolve())
                self._read(parse_file(path))
        except ConfigError as error:
            self._lacks_files = True
            self.problems.append(str(error))

    def read_flag(self, name: str, value: str) -> None:
        try:
            self._read([parse_flag(name, value)])
        except ConfigError as error:
            hint = f"\n  The class of that name is --gin.{name}=@{value}()" if value in configurable_names() else ""
            self.problems.append(f"{error}{hint}")

    def check_macros(self) -> None:
        """A macro that is set but that nothing refers to has no effect: it is misspelled, or belongs to other files.

        One that a file declares as required is neither: the file that refers to it is what is missing.
        """
        if self._lacks_files:  # They might use it.
            return
        for name, binding in self.bindings.macros.items():
            if name in self._macros_used:
                continue
            if binding.value == REQUIRED:
                self.bindings.awaited[name] = binding.origin
            elif name not in self._macros_declared:
                problem = f"{binding.origin}: nothing in the gin files uses the macro {name}."
                self.problems.append(problem + self._nearest_setting(name))

    def _nearest_setting(self, macro: str) -> str:
        """A parameter without its class reads as a macro; otherwise it is a macro with another name."""
        classes = [cls for cls in map(find_configurable, configurable_names()) if cls is not None]
        parameters = [f"{cls.__name__}.{macro}" for cls in classes if macro in parameter_names(cls)]
        names = set(self._macros_used) - {REQUIRED.name}
        return suggestion(parameters) or nearest(macro, names) or _files_that_use(macro)

    def _read(self, statements: Iterable[Statement]) -> None:
        for statement in statements:
            match statement.kind:
                case "include":
                    self.read_file(statement.name, str(statement.origin))
                case "import":
                    self._import(statement)
                case "block":
                    self._configurable(statement.selector, statement.origin)
                case "macro":
                    self._bind_macro(statement)
                case "parameter":
                    self._bind_parameter(statement)

    def _import(self, statement: Statement) -> None:
        try:
            importlib.import_module(statement.name)
        except ImportError as error:
            self.problems.append(f"{statement.origin}: cannot import {statement.name}: {error}.")
        else:
            self.bindings.imports.append(statement.name)

    def _bind_macro(self, statement: Statement) -> None:
        self._check_value(statement)
        if statement.value == REQUIRED:
            self._macros_declared.add(statement.name)
        if statement.value != REQUIRED or statement.name not in self.bindings.macros:
            self.bindings.macros[statement.name] = Binding(statement.value, statement.origin)

    def _bind_parameter(self, statement: Statement) -> None:
        self._check_value(statement)
        cls = self._configurable(statement.selector, statement.origin)
        if cls is None:
            return
        names = parameter_names(cls)
        if statement.name not in names:
            hint = nearest(statement.name, names) or f" It has: {', '.join(names) or 'none'}."
            self.problems.append(f"{statement.origin}: {cls.__name__} has no parameter {statement.name!r}.{hint}")
            return
        key = Key(statement.scope, cls, statement.name)
        if statement.value != REQUIRED or key not in self.bindings.parameters:
            self.bindings.parameters[key] = Binding(statement.value, statement.origin)

    def _check_value(self, statement: Statement) -> None:
        for reference in references(statement.value):
            if isinstance(reference, Macro):
                self._macros_used.setdefault(reference.name, statement.origin)
            else:
                self._configurable(reference.selector, statement.origin)

    def _configurable(self, selector: str, origin: Origin) -> type | None:
        cls = find_configurable(selector)
        if cls is None:
            hint = nearest(selector, configurable_names())
            self.problems.append(f"{origin}: there is no configurable {selector!r}.{hint}")
        elif not dataclasses.is_dataclass(cls):
            self.problems.append(f"{origin}: {selector} is no dataclass; famjax's gin files set dataclasses only.")
            return None
        return cls


def _files_that_use(macro: str) -> str:
    """A hint at famjax's gin files that use a macro; empty where none does."""
    files = own_files_with(rf"%{re.escape(macro)}\b")
    return f" It is used in --gin_file={' or '.join(files)}." if files else ""
