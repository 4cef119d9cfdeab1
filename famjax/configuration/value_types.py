"""Holds a value against a type hint, and says in a user's words what was expected."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin


class TypeMismatch(Exception):
    """A value does not fit.

    Attributes:
      where: which part of the value, as "[0]['steps']"; empty for all of it.
      value: that part.
      expected: what was expected there.
    """

    def __init__(self, value: object, expected: str, where: str = "") -> None:
        super().__init__(f"{where}: {value!r} is not {expected}")
        self.value, self.expected, self.where = value, expected, where


def convert(value: Any, hint: Any) -> Any:
    """Returns the value as the hint's type.

    An int passes for a float and a list for a tuple, and both are converted; a bool is no number. An object that is
    still to be built is represented by its class (`famjax.configuration.resolving.Node` has a `cls`).

    Raises:
      TypeMismatch: it does not fit.
    """
    if hint is Any or hint is object:
        return value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(hint)):
            raise TypeMismatch(value, describe(hint))
        return value
    if origin is tuple:
        return _convert_tuple(value, hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _convert_mapping(value, hint)
    return _convert_plain(value, hint)


def describe(hint: Any) -> str:
    """Returns what a hint accepts, as "an int or None"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (None, type(None)):
        return "None"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin is tuple:
        inner = [describe(argument) for argument in arguments if argument is not Ellipsis]
        return f"a tuple of {inner[0]}" if Ellipsis in arguments else f"a tuple ({', '.join(inner)})"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a dict from {describe(arguments[0])} to {describe(arguments[1])}"
    if hint is Any or hint is object:
        return "anything"
    if dataclasses.is_dataclass(hint):
        return f"@{getattr(hint, '__name__', hint)}()"
    return {"str": "a string", "int": "an int", "float": "a float", "bool": "True or False"}.get(
        hint.__name__, hint.__name__
    )


def _convert_union(value: Any, hint: Any) -> Any:
    nested: TypeMismatch | None = None
    for argument in get_args(hint):
        try:
            return convert(value, argument)
        except TypeMismatch as mismatch:
            nested = mismatch if mismatch.where else nested
    raise nested or TypeMismatch(value, describe(hint))


def _convert_tuple(value: Any, hint: Any) -> tuple[Any, ...]:
    arguments = get_args(hint)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeMismatch(value, describe(hint))
    if Ellipsis in arguments:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise TypeMismatch(value, describe(hint))
    return tuple(
        _inside(f"[{i}]", item, argument) for i, (item, argument) in enumerate(zip(value, arguments, strict=True))
    )


def _convert_mapping(value: Any, hint: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeMismatch(value, describe(hint))
    key_hint, value_hint = get_args(hint)
    return {
        _inside(f"[{key!r}]", key, key_hint): _inside(f"[{key!r}]", item, value_hint) for key, item in value.items()
    }


def _inside(where: str, value: Any, hint: Any) -> Any:
    try:
        return convert(value, hint)
    except TypeMismatch as mismatch:
        raise TypeMismatch(mismatch.value, mismatch.expected, where + mismatch.where) from None


def _convert_plain(value: Any, hint: Any) -> Any:
    cls = getattr(value, "cls", type(value))
    if hint is float and cls is int:
        return float(value)
    if hint is None:
        hint = type(None)
    fits = issubclass(cls, hint) and not (cls is bool and hint is not bool)
    if not fits:
        raise TypeMismatch(value, describe(hint))
    return value
