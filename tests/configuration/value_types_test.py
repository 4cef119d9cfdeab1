"""famjax.configuration.value_types."""

from collections.abc import Mapping
from typing import Any, Literal

import pytest

from famjax.configuration.value_types import TypeMismatch, convert, describe


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (3, float | None, 3.0),
        (None, int | None, None),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([["a", None]], tuple[tuple[str, str | None], ...], (("a", None),)),
        ({"a": 1}, Mapping[str, float], {"a": 1.0}),
        ("min", Literal["min", "max"], "min"),
        (object, Any, object),
    ],
)
def test_fitting_values_take_the_type_of_the_hint(value, hint, expected):
    """An int left in a float field, or a list in a frozen dataclass, would surface far from here."""
    converted = convert(value, hint)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "where"),
    [
        (True, int, ""),
        (1, bool, ""),
        (1.0, int, ""),
        (None, int, ""),
        (1, str, ""),
        ("ab", tuple[str, ...], ""),
        ((1, 2, 3), tuple[int, int], ""),
        (((1, 2), (3, "a")), tuple[tuple[int, int], ...], "[1][1]"),
        ({"a": {"b": None}}, Mapping[str, Mapping[str, int]], "['a']['b']"),
        ({1: 1}, Mapping[str, int], "[1]"),
        (True, Literal[1, 2], ""),
    ],
)
def test_other_values_are_refused_with_their_place(value, hint, where):
    """gin itself accepts any value for any parameter."""
    with pytest.raises(TypeMismatch) as caught:
        convert(value, hint)
    assert caught.value.where == where


def test_descriptions_are_words():
    """`typing.Optional[typing.Tuple[str, ...]]` tells a user nothing."""
    assert describe(tuple[str, ...] | None) == "a tuple of a string or None"
    assert describe(Mapping[str, int]) == "a dict from a string to an int"
    assert describe(Literal["a", "b"]) == "'a' or 'b'"
