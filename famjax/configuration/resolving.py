"""From bindings to a job: follows references and macros as gin does, checks every value, then builds the dataclasses.

gin's rules of scope: a parameter takes the binding with the longest scope that is a prefix of the current one; calling
`@scope/Class()` makes `scope` the current one, `@Class()` leaves it, and a macro's value is evaluated in a scope of the
macro's name. (gin could evaluate this itself, but tells neither where a value came from nor all that is missing.)
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from famjax.configuration.bindings import Binding, Bindings, Key, find_configurable
from famjax.configuration.origin import Origin, nearest
from famjax.configuration.registry import parameter_meanings, parameter_types
from famjax.configuration.statements import REQUIRED, Macro, Reference
from famjax.configuration.value_types import TypeMismatch, convert


@dataclasses.dataclass(frozen=True)
class Setting:
    """A parameter's resolved value.

    Attributes:
      value: literals, nodes, and containers of both.
      origin: the place that bound the value; None: the dataclass's default.
      macro: the macro that it came through, the last of them, or None.
    """

    value: Any
    origin: Origin | None = None
    macro: str | None = None

    @property
    def source(self) -> str:
        """The place, for people."""
        if self.origin is None:
            return "default"
        shown = self.macro is not None and not self.origin.is_flag
        return f"{self.origin} ({self.macro})" if shown else str(self.origin)


@dataclasses.dataclass(frozen=True)
class Node:
    """A dataclass that is to be built.

    Attributes:
      cls: its class.
      scope: what its reference says before the class.
      settings: every field that may be set, in order.
    """

    cls: type
    scope: tuple[str, ...]
    settings: dict[str, Setting]

    @property
    def name(self) -> str:
        """The class with its scope: what stands before the dot in `--gin.NAME.parameter`."""
        return "/".join([*self.scope, self.cls.__name__])

    def __repr__(self) -> str:
        return f"@{self.name}()"


@dataclasses.dataclass(frozen=True)
class Missing:
    """A required setting that nobody has set.

    Attributes:
      name: what follows `--gin.` in the flag that sets it.
      meaning: of the parameter that wants it.
      hint: the type hint of that parameter.
      wanted_at: where a gin file asks for it; None: a required field.
      depth: how deep below the job that parameter lies; of several that want it, the one nearest to the job explains
        it.
    """

    name: str
    meaning: str
    hint: Any
    wanted_at: Origin | None
    depth: int


class _Unresolved(Exception):
    """The value under way cannot be had, and the reason is recorded: control flow within this module."""


class Resolver:
    """One walk from a job's class down.

    Attributes:
      missing: required settings that are not set, by name.
      used_parameters: bindings that some node took its value from.
      used_macros: macros that some value came through.
    """

    def __init__(self, bindings: Bindings) -> None:
        self.missing: dict[str, Missing] = {}
        self.used_parameters: dict[Key, Binding] = {}
        self.used_macros: dict[str, Binding] = {}
        self._bindings = bindings
        self._problems: dict[Origin, tuple[int, str]] = {}  # with the depth of the parameter
        self._wanted: list[tuple[str, Any]] = []  # meaning and type of the parameters under way

    def resolve(self, cls: type, scope: tuple[str, ...] = (), reference_scope: tuple[str, ...] = ()) -> Node:
        """Returns the node of a class in a scope. Where `missing` or `problems` grow, settings are absent from it.

        Args:
          cls: the class.
          scope: the scope that its parameters are looked up in.
          reference_scope: the part of it that the reference to the class names.
        """
        settings: dict[str, Setting] = {}
        for field in dataclasses.fields(cls):
            if not field.init:
                continue
            try:
                settings[field.name] = self._resolve_field(cls, field, scope)
            except _Unresolved:
                continue
        return Node(cls, reference_scope, settings)

    @property
    def problems(self) -> list[str]:
        """Everything else that is wrong, once for each place: of several messages, the one nearest to the job."""
        return [f"{origin}: {message}" for origin, (_, message) in self._problems.items()]

    def find(self, cls: type, name: str, scope: tuple[str, ...]) -> tuple[Key, Binding] | None:
        """Returns the binding of a parameter with the longest scope that is a prefix of `scope`."""
        for length in range(len(scope), -1, -1):
            key = Key("/".join(scope[:length]), cls, name)
            if key in self._bindings.parameters:
                return key, self._bindings.parameters[key]
        return None

    def _resolve_field(self, cls: type, field: dataclasses.Field[Any], scope: tuple[str, ...]) -> Setting:
        hint = parameter_types(cls)[field.name]
        self._wanted.append((parameter_meanings(cls).get(field.name, ""), hint))
        try:
            found = self.find(cls, field.name, scope)
            if found is None:
                return self._default(cls, field)
            key, binding = found
            self.used_parameters[key] = binding
            setting = self._resolve_value(binding, scope, macros=(), asked_by=key)
            return self._checked(setting, hint, cls, field.name)
        finally:
            self._wanted.pop()

    def _default(self, cls: type, field: dataclasses.Field[Any]) -> Setting:
        if field.default is not dataclasses.MISSING:
            return Setting(field.default)
        if field.default_factory is not dataclasses.MISSING:
            return Setting(field.default_factory())
        self._miss(f"{cls.__name__}.{field.name}", None)
        raise _Unresolved

    def _resolve_value(
        self, binding: Binding, scope: tuple[str, ...], macros: tuple[str, ...], asked_by: Key
    ) -> Setting:
        """Follows a binding whose value is one macro to the binding that holds the value."""
        if isinstance(binding.value, Macro):
            name = binding.value.name
            target = self._macro(name, macros, binding.origin, asked_by)
            return self._resolve_value(target, tuple(name.split("/")), (*macros, name), asked_by)
        value = self._evaluate(binding.value, binding.origin, scope, macros, asked_by)
        return Setting(value, binding.origin, macros[-1] if macros else None)

    def _macro(self, name: str, macros: tuple[str, ...], origin: Origin, asked_by: Key) -> Binding:
        if name == REQUIRED.name:
            self._miss(macros[-1] if macros else str(asked_by), origin)
            raise _Unresolved
        if name in macros:
            self._problem(origin, f"the macro {name} refers to itself.")
            raise _Unresolved
        if name not in self._bindings.macros:
            if similar := nearest(name, self._bindings.macros):
                self._problem(origin, f"nothing sets the macro {name}.{similar}")
            else:
                self._miss(name, origin)
            raise _Unresolved
        self.used_macros[name] = self._bindings.macros[name]
        return self._bindings.macros[name]

    def _evaluate(
        self, value: Any, origin: Origin, scope: tuple[str, ...], macros: tuple[str, ...], asked_by: Key
    ) -> Any:
        """Returns a value with all macros and references in it replaced."""
        match value:
            case Macro():
                return self._resolve_value(Binding(value, origin), scope, macros, asked_by).value
            case Reference():
                return self._evaluate_reference(value, origin, scope)
            case dict():
                return {key: self._evaluate(item, origin, scope, macros, asked_by) for key, item in value.items()}
            case list() | tuple():
                return type(value)(self._evaluate(item, origin, scope, macros, asked_by) for item in value)
        return value

    def _evaluate_reference(self, reference: Reference, origin: Origin, scope: tuple[str, ...]) -> Node:
        if not reference.called:
            self._problem(origin, f"{reference!r} is a class, not a value; write {reference!r}().")
            raise _Unresolved
        cls = find_configurable(reference.selector)
        if cls is None:
            raise AssertionError(f"{reference!r} has passed the check of names")
        return self.resolve(cls, reference.scope or scope, reference.scope)

    def _miss(self, name: str, origin: Origin | None) -> None:
        meaning, hint = self._wanted[-1]
        depth = len(self._wanted)
        if name not in self.missing or depth < self.missing[name].depth:
            self.missing[name] = Missing(name, meaning, hint, origin, depth)

    def _problem(self, origin: Origin, message: str) -> None:
        depth = len(self._wanted)
        if origin not in self._problems or depth < self._problems[origin][0]:
            self._problems[origin] = (depth, message)

    def _checked(self, setting: Setting, hint: Any, cls: type, name: str) -> Setting:
        try:
            return dataclasses.replace(setting, value=convert(setting.value, hint))
        except TypeMismatch as mismatch:
            if setting.origin is None:
                raise AssertionError(f"the default of {cls.__name__}.{name} is of the wrong type") from mismatch
            self._problem(setting.origin, _mismatch_message(setting, mismatch, cls, name))
            raise _Unresolved from None


def _mismatch_message(setting: Setting, mismatch: TypeMismatch, cls: type, name: str) -> str:
    kind = "" if isinstance(mismatch.value, Node) or mismatch.value is None else f" ({type(mismatch.value).__name__})"
    parameter = f"{cls.__name__}.{name}{mismatch.where}"
    through = f" (through {setting.macro})" if setting.macro else ""
    message = f"{parameter}{through} is {mismatch.value!r}{kind}; expected {mismatch.expected}."
    if setting.origin is None or not setting.origin.is_flag:
        return message
    if mismatch.expected.startswith("a string"):
        message += f"\n  A string needs quotes that the shell leaves alone: {setting.origin}=\"'{mismatch.value}'\""
    elif mismatch.expected.startswith("a tuple"):
        message += f'\n  A list of one is {setting.origin}="[{mismatch.value!r}]"'
    return message


def map_nodes(value: Any, build: Callable[[Node], Any]) -> Any:
    """Returns a resolved value with each node in it, at any depth, replaced by what `build` makes of it."""
    match value:
        case Node():
            return build(value)
        case dict():
            return {key: map_nodes(item, build) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map_nodes(item, build) for item in value)
    return value


def nodes_of(value: Any) -> Iterator[Node]:
    """Yields the nodes in a resolved value, at any depth of containers, without descending into nodes."""
    found: list[Node] = []
    map_nodes(value, found.append)
    yield from found
